using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Jobs;
using Diptych.Index.Sqlite;

namespace Diptych.Tests.Index;

public sealed class SqliteJobQueueTests : JobQueueConformance, IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("diptych-jobs-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    protected override IDocumentStore Open()
    {
        SqliteStore store = SqliteStore.Open(Path.Combine(_directory, "store.db"), new EmbeddingSpace("text", 8, "t", "1"), new EmbeddingSpace("cross", 4, "c", "1"), TimeProvider.System);
        store.EnsureCollection("c");
        return store;
    }

    protected override ISpool Spool(IDocumentStore store, long capacityBytes) => new FolderSpool(Path.Combine(_directory, "spool"), capacityBytes, TimeProvider.System);
}
