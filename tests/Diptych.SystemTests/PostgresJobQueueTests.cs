using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Jobs;
using Diptych.Index.Postgres;
using Diptych.Tests.Index;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>The job queue's conformance suite over PostgreSQL.</summary>
public sealed class PostgresJobQueueTests(PostgresServer server) : JobQueueConformance, IClassFixture<PostgresServer>, IAsyncLifetime
{
    private string _address = "";

    public async ValueTask InitializeAsync() => _address = await server.DatabaseAsync();

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    protected override IDocumentStore Open()
    {
        PostgresStore store = PostgresStore.Open(_address, new EmbeddingSpace("text", 8, "t", "1"), new EmbeddingSpace("cross", 4, "c", "1"), TimeProvider.System);
        store.EnsureCollection("c");
        return store;
    }

    protected override ISpool Spool(IDocumentStore store, long capacityBytes) => ((PostgresStore)store).Spool(capacityBytes);
}
