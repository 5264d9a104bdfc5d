using System.Numerics.Tensors;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Sqlite;
using Xunit;

namespace Diptych.Tests.Index;

public sealed class SqliteStoreTests : DocumentStoreConformance, IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("diptych-test-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public async Task Many_passages_move_into_graphs_that_outlive_the_process_and_follow_the_database()
    {
        var random = new Random(11);
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        var store = (SqliteStore)Open();
        IngestedDocument[] documents = [.. Enumerable.Range(0, 12).Select(d => RandomDocument(random, "c", $"doc{d}", d) with
        {
            Passages = [.. Enumerable.Range(0, 500).Select(i => Text($"word{i}", random))],
        })];
        IReadOnlyList<Document> committed = store.Commit(documents);
        await store.SettleAsync(TimeProvider.System, cancellation);
        Assert.Equal(6000, store.GraphCounts("c")["text"]);
        Assert.Equal(6000, store.GraphCounts("c")["cross-text"]);
        AssertNearest(documents);

        // A deleted and a replaced document leave the graph at once, and what comes is found beside it.
        store.Delete(committed[0].Id);
        IngestedDocument replaced = documents[1] with { Passages = [Text("new", random)] };
        store.Commit([replaced]);
        Assert.Equal(5000, store.GraphCounts("c")["text"]);
        AssertNearest([replaced, .. documents[2..]]);
        store.Dispose();

        // The file holds what has gone since; the database decides.
        store = (SqliteStore)Open();
        Assert.Equal(5000, store.GraphCounts("c")["text"]);
        AssertNearest([replaced, .. documents[2..]]);
        store.Delete(store.Document("c", "doc2")!.Id);
        store.Dispose();

        string file = Directory.GetFiles(_directory, "*-text.hnsw", SearchOption.AllDirectories).First(f => !f.Contains("image", StringComparison.Ordinal));
        byte[] bytes = File.ReadAllBytes(file);
        bytes[^100] ^= 1;
        File.WriteAllBytes(file, bytes);
        store = (SqliteStore)Open();
        AssertNearest([replaced, .. documents[3..]]);
        await store.SettleAsync(TimeProvider.System, cancellation);
        Assert.Equal(4501, store.GraphCounts("c")["text"]);
        AssertNearest([replaced, .. documents[3..]]);
        store.Dispose();

        void AssertNearest(IngestedDocument[] there)
        {
            var vectors = there.SelectMany(d => d.Passages.Select(p => (d.Document.Source, Vector: p.TextVector!))).ToList();
            int hits = 0, wanted = 0;
            for (int q = 0; q < 40; q++)
            {
                float[] query = Unit(random, TextDimensions);
                foreach (string? source in new[] { null, there[^1].Document.Source })
                {
                    Filter? filter = source is null ? null : new Filter.In("source", [source]);
                    double[] expected = [.. vectors.Where(v => source is null || v.Source == source)
                        .Select(v => (double)TensorPrimitives.Dot<float>(v.Vector, query)).OrderDescending().Take(10)];
                    IReadOnlyList<Candidate> found = store.SearchText("c", query, 10, filter, Modality.Text);
                    Assert.All(found, f => Assert.Contains(there, d => d.Document.Source == f.Key.Document.Source));
                    hits += found.Count(f => f.Score >= expected[^1] - 1e-3);
                    wanted += expected.Length;
                }
            }
            Assert.True(hits >= wanted * 0.98, $"{hits} of {wanted}");
        }
    }

    protected override IDocumentStore Open(EmbeddingSpace text, EmbeddingSpace cross) =>
        SqliteStore.Open(Path.Combine(_directory, "d.db"), text, cross, TimeProvider.System);
}
