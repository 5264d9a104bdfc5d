using System.Numerics.Tensors;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Sqlite;
using Xunit;

namespace Diptych.Tests.Index;

/// <summary>The store against an in-memory model: random operations, compared, reopened, compared again.</summary>
public sealed class SqliteStoreTests : IDisposable
{
    private const int TextDimensions = 8, CrossDimensions = 4;
    private readonly string _directory = Directory.CreateTempSubdirectory("diptych-test-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Random_operations_match_the_model_before_and_after_reopening(int seed)
    {
        var random = new Random(seed);
        var model = new Dictionary<(string Collection, string Source), IngestedDocument>();
        SqliteStore store = Open();
        for (int step = 0; step < 120; step++)
        {
            string collection = random.Next(2) == 0 ? "left" : "right", source = $"doc{random.Next(12)}";
            if (random.Next(4) == 0 && store.Document(collection, source) is { } present)
            {
                Assert.True(store.Delete(present.Id));
                model.Remove((collection, source));
            }
            else
            {
                IngestedDocument document = RandomDocument(random, collection, source, step);
                store.Commit([document]);
                model[(collection, source)] = document;
            }
            if (step % 30 == 29)
            {
                AssertEqual(model, store, random);
                store.Dispose();
                store = Open();
                AssertEqual(model, store, random);
            }
        }
        store.Dispose();
    }

    [Fact]
    public void A_replaced_version_is_never_found_again()
    {
        using SqliteStore store = Open();
        var random = new Random(5);
        store.Commit([RandomDocument(random, "c", "a", 1) with { Passages = [Text("old walrus", random)] }]);
        store.Commit([RandomDocument(random, "c", "a", 2) with { Passages = [Text("new heron", random)] }]);
        Assert.Empty(store.SearchLexical("c", "walrus", 10, null, Modality.Text));
        Assert.Single(store.SearchLexical("c", "heron", 10, null, Modality.Text));
        Assert.Single(store.SearchText("c", Unit(random, TextDimensions), 10, null, Modality.Text));
    }

    [Fact]
    public async Task Many_passages_move_into_graphs_that_outlive_the_process_and_follow_the_database()
    {
        var random = new Random(11);
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        SqliteStore store = Open();
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
        store = Open();
        Assert.Equal(5000, store.GraphCounts("c")["text"]);
        AssertNearest([replaced, .. documents[2..]]);
        store.Delete(store.Document("c", "doc2")!.Id);
        store.Dispose();

        string file = Directory.GetFiles(_directory, "*-text.hnsw", SearchOption.AllDirectories).First(f => !f.Contains("image", StringComparison.Ordinal));
        byte[] bytes = File.ReadAllBytes(file);
        bytes[^100] ^= 1;
        File.WriteAllBytes(file, bytes);
        store = Open();
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

    [Fact]
    public void Another_process_sees_commits_through_the_log()
    {
        using SqliteStore first = Open(), second = Open();
        var random = new Random(6);
        first.Commit([RandomDocument(random, "c", "a", 1) with { Passages = [Text("osprey", random)] }]);
        second.Refresh();
        Assert.Single(second.SearchText("c", Unit(random, TextDimensions), 10, null, Modality.Text));
        second.Delete(second.Documents("c").Single().Id);
        first.Refresh();
        Assert.Empty(first.SearchText("c", Unit(random, TextDimensions), 10, null, Modality.Text));
    }

    [Fact]
    public void Filters_apply_inside_every_channel()
    {
        using SqliteStore store = Open();
        var random = new Random(7);
        foreach (int year in new[] { 1999, 2005, 2020 })
        {
            IngestedDocument document = RandomDocument(random, "c", $"{year}", year) with { Passages = [Text("harbour", random)] };
            store.Commit([document with { Document = document.Document with { Metadata = Metadata.Empty.With("year", $"{year}") } }]);
        }
        Filter since2000 = Filter.Parse("year>=2000");
        Assert.Equal(["2005", "2020"], store.SearchText("c", Unit(random, TextDimensions), 10, since2000, Modality.Text).Select(c => c.Key.Document.Source).Order());
        Assert.Equal(["2005", "2020"], store.SearchCross("c", Unit(random, CrossDimensions), 10, since2000, Modality.Text).Select(c => c.Key.Document.Source).Order());
        Assert.Equal(["2005", "2020"], store.SearchLexical("c", "harbour", 10, since2000, Modality.Text).Select(c => c.Key.Document.Source).Order());
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(0f)]
    [InlineData(1e20f)]
    public void A_vector_that_is_not_of_unit_length_is_refused(float value)
    {
        using SqliteStore store = Open();
        var passage = new IngestedPassage(new Passage { Modality = Modality.Text, Text = "x" }, null, [value, value, value, value]);
        Assert.Throws<InvalidRequestException>(() => store.Commit([RandomDocument(new Random(1), "c", "a", 1) with { Passages = [passage] }]));
        Assert.Empty(store.Documents("c"));
    }

    [Fact]
    public void Vectors_of_another_model_are_refused_at_open()
    {
        Open().Dispose();
        Assert.Throws<InvalidRequestException>(() => Open(revision: "2"));
    }

    [Fact]
    public void Readers_see_whole_documents_while_a_writer_commits()
    {
        using SqliteStore store = Open();
        var random = new Random(8);
        using var done = new CancellationTokenSource();
        Task reader = Task.Run(
            () =>
            {
                var query = Unit(new Random(9), TextDimensions);
                while (!done.IsCancellationRequested)
                {
                    foreach (var document in store.SearchText("c", query, 1000, null, Modality.Text).GroupBy(c => c.Key.Document.Id))
                    {
                        Assert.Equal(3, document.Count());
                    }
                }
            },
            TestContext.Current.CancellationToken);
        for (int i = 0; i < 150; i++)
        {
            store.Commit([RandomDocument(random, "c", $"{i % 20}", i) with { Passages = [Text("a", random), Text("b", random), Text("c", random)] }]);
        }
        done.Cancel();
        reader.GetAwaiter().GetResult();
    }

    private SqliteStore Open(string revision = "1") => SqliteStore.Open(
        Path.Combine(_directory, "d.db"), new EmbeddingSpace("text", TextDimensions, "t", revision), new EmbeddingSpace("cross", CrossDimensions, "i", "1"), TimeProvider.System);

    private static void AssertEqual(Dictionary<(string Collection, string Source), IngestedDocument> model, SqliteStore store, Random random)
    {
        foreach (string collection in new[] { "left", "right" })
        {
            var expected = model.Where(m => m.Key.Collection == collection).Select(m => m.Value).ToList();
            Assert.Equal(expected.Select(e => e.Document.Source).Order(), store.Documents(collection).Select(d => d.Source).Order());
            float[] query = Unit(random, TextDimensions);
            var best = expected.SelectMany(e => e.Passages).Where(p => p.Passage.Modality == Modality.Text)
                .Select(p => (double)p.TextVector!.Zip(query, (a, b) => a * b).Sum()).OrderDescending().Take(5).ToList();
            var found = store.SearchText(collection, query, 5, null, Modality.Text);
            Assert.Equal(best.Count, found.Count);
            for (int i = 0; i < best.Count; i++)
            {
                Assert.Equal(best[i], found[i].Score, 1e-5);
            }
            foreach (string word in new[] { "apple", "river" })
            {
                Assert.Equal(
                    expected.SelectMany(e => e.Passages).Count(p => p.Passage.Modality == Modality.Text && p.Passage.Text.Contains(word, StringComparison.Ordinal)),
                    store.SearchLexical(collection, word, 1000, null, Modality.Text).Count);
            }
            Assert.Equal(expected.Sum(e => e.Passages.Count(p => p.Passage.Modality == Modality.Image)), store.ImageCount(collection));
        }
    }

    private static IngestedDocument RandomDocument(Random random, string collection, string source, int version)
    {
        var passages = Enumerable.Range(0, random.Next(1, 5)).Select(i => random.Next(3) == 0
            ? new IngestedPassage(new Passage { Ordinal = i, Modality = Modality.Image }, null, Unit(random, CrossDimensions), [1])
            : Text(random.Next(2) == 0 ? "an apple a day" : "down the river", random)).ToList();
        return new IngestedDocument(
            new Document { Collection = collection, Source = source, ContentHash = $"{version}", MediaType = "text/plain", Title = "untitled" }, "", null, passages);
    }

    private static IngestedPassage Text(string text, Random random) =>
        new(new Passage { Modality = Modality.Text, Text = text }, Unit(random, TextDimensions), Unit(random, CrossDimensions));

    private static float[] Unit(Random random, int dimensions)
    {
        float[] v = [.. Enumerable.Range(0, dimensions).Select(_ => (float)(random.NextDouble() - 0.5))];
        float norm = MathF.Sqrt(v.Sum(x => x * x));
        return [.. v.Select(x => x / norm)];
    }
}
