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
    public async Task What_moves_while_its_vectors_are_in_a_graph_or_on_the_way_there_is_found_where_it_is()
    {
        var random = new Random(21);
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        var store = (SqliteStore)Open();
        IngestedDocument[] documents = [.. Enumerable.Range(0, 10).Select(d => RandomDocument(random, "c", $"doc{d}", d) with
        {
            Passages = [.. Enumerable.Range(0, 450).Select(i => Text($"word{i}", random))],
        })];
        long[] ids = [.. store.Commit(documents).Select(d => d.Id)];
        for (int round = 0; round < 6; round++)
        {
            // The first rounds race the mover; later ones move what stands in the graph.
            string name = $"round{round}";
            Assert.NotNull(store.Place("c", [new Placement(name, name, ids[round], documents[round].Document.ContentHash, true, Metadata.Empty, null, DateTimeOffset.UnixEpoch)])[0]);
            if (round >= 3)
            {
                await store.SettleAsync(TimeProvider.System, cancellation);
            }
            IngestedPassage asked = documents[round].Passages[7];
            Assert.Equal((ids[round], name), store.SearchText("c", asked.TextVector!, 1, null, Modality.Text).Select(c => (c.Key.Document.Id, c.Key.Document.Source)).Single());
        }
        await store.SettleAsync(TimeProvider.System, cancellation);
        for (int reopened = 0; reopened < 2; reopened++)
        {
            Assert.Equal(4500, store.SearchText("c", documents[0].Passages[0].TextVector!, 5000, null, Modality.Text).Select(c => c.Key.Id).Distinct().Count());
            for (int round = 0; round < 6; round++)
            {
                Candidate found = store.SearchText("c", documents[round].Passages[9].TextVector!, 1, Filter.Parse($"source=round{round}"), Modality.Text).Single();
                Assert.Equal((ids[round], $"round{round}"), (found.Key.Document.Id, found.Key.Document.Source));
            }
            store.Dispose();
            store = (SqliteStore)Open();
        }
        store.Dispose();
    }

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

        // Where many have gone those that are left move together, and follow the database as before.
        foreach (IngestedDocument document in documents[3..9])
        {
            store.Delete(store.Document("c", document.Document.Source)!.Id);
        }
        await store.SettleAsync(TimeProvider.System, cancellation);
        Assert.Equal(1501, store.GraphCounts("c")["text"]);
        // A mend in the middle of the deletes keeps the room of those after it, until they are many again.
        Assert.InRange(store.GraphSlots("c")["text"], 1501, 1501 + 1024);
        AssertNearest([replaced, .. documents[9..]]);
        store.Delete(store.Document("c", documents[9].Document.Source)!.Id);
        IngestedDocument late = RandomDocument(random, "c", "late", 99) with { Passages = [Text("late", random)] };
        store.Commit([late]);
        AssertNearest([replaced, .. documents[10..], late]);
        store.Dispose();
        store = (SqliteStore)Open();
        AssertNearest([replaced, .. documents[10..], late]);
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

    [Theory]
    [InlineData("harbuor", "harbour")]
    [InlineData("sattelite", "satellite")]
    [InlineData("galxy", "galaxy")]
    [InlineData("zzzzqq", null)]
    public void A_mistyped_word_finds_what_was_meant(string typed, string? meant)
    {
        using IDocumentStore store = Open();
        var random = new Random(23);
        foreach (string word in new[] { "harbour", "satellite", "galaxy", "gravel" })
        {
            store.Commit([RandomDocument(random, "c", word, 1) with { Passages = [Text($"A {word} here", random)] }]);
        }
        Assert.Equal(meant is null ? [] : [meant], store.SearchLexical("c", typed, 10, null, Modality.Text).Select(c => c.Key.Document.Source));
    }

    [Fact]
    public void Words_are_kept_in_files_that_follow_the_database_and_are_made_anew_where_they_are_damaged()
    {
        var random = new Random(24);
        IDocumentStore store = Open();
        store.Commit([.. Enumerable.Range(0, 30).Select(d => RandomDocument(random, "c", $"doc{d}", d) with { Passages = [.. Enumerable.Range(0, 40).Select(i => Text($"osprey word{d}x", random))] })]);
        Assert.Equal(1200, Found("osprey"));
        store.Dispose();
        string words = Path.Combine(_directory, "d.words");
        string[] files = Directory.GetFiles(words, "*", SearchOption.AllDirectories);
        Assert.NotEmpty(files);

        store = Open();
        Assert.Equal((1200, 40), (Found("osprey"), Found("word7x")));
        store.Delete(store.Document("c", "doc7")!.Id);
        store.Commit([RandomDocument(random, "c", "doc8", 1) with { Passages = [Text("heron", random)] }]);
        Assert.Equal((1120, 0, 0, 1), (Found("osprey"), Found("\"osprey word7x\""), Found("\"osprey word8x\""), Found("heron")));
        Assert.Equal(1120, store.WordFrequencies("c", ["osprey"]).Frequencies["osprey"]);
        store.Dispose();

        // What left and came while nobody kept the files.
        store = Open();
        Assert.Equal((1120, 0, 1), (Found("osprey"), Found("\"osprey word7x\""), Found("heron")));
        Assert.Empty(store.CheckIntegrity());
        store.Dispose();

        foreach (string file in files.Where(f => f.EndsWith(".cfs", StringComparison.Ordinal)))
        {
            byte[] bytes = File.ReadAllBytes(file);
            Array.Fill(bytes, (byte)0xAA, bytes.Length / 2, 16);
            File.WriteAllBytes(file, bytes);
        }
        store = Open();
        Assert.Equal((1120, 1), (Found("osprey"), Found("heron")));
        store.DeleteCollection("c");
        Assert.Equal(0, Found("osprey"));
        store.Dispose();
        Assert.Empty(Directory.GetFileSystemEntries(words));

        int Found(string query) => store.SearchLexical("c", query, 10_000, null, Modality.Text).Count;
    }

    [Fact]
    public void Two_that_share_a_database_keep_one_set_of_files()
    {
        var random = new Random(25);
        IDocumentStore first = Open(), second = Open();
        IngestedDocument[] batch = [.. Enumerable.Range(0, 20).Select(d => RandomDocument(random, "c", $"doc{d}", d) with { Passages = [.. Enumerable.Range(0, 50).Select(i => Text("osprey", random))] })];
        first.Commit(batch);
        second.Refresh();
        Assert.Equal(1000, second.SearchLexical("c", "osprey", 10_000, null, Modality.Text).Count);
        first.Commit([RandomDocument(random, "c", "late", 1) with { Passages = [Text("heron", random)] }]);
        first.Dispose();
        second.Refresh();
        Assert.Single(second.SearchLexical("c", "heron", 10, null, Modality.Text));
        second.Dispose();
        using IDocumentStore third = Open();
        Assert.Equal(1000, third.SearchLexical("c", "osprey", 10_000, null, Modality.Text).Count);
        Assert.Single(third.SearchLexical("c", "heron", 10, null, Modality.Text));
    }

    [Fact]
    public void Repair_brings_back_what_is_derived()
    {
        var random = new Random(22);
        var store = (SqliteStore)Open();
        IngestedDocument document = RandomDocument(random, "c", "a", 1) with { Passages = [Text("walrus", random), Text("heron", random)] };
        store.Commit([document]);
        using (var raw = new Microsoft.Data.Sqlite.SqliteConnection($"Data Source={Path.Combine(_directory, "d.db")};Pooling=False"))
        {
            raw.Open();
            using Microsoft.Data.Sqlite.SqliteCommand spoil = raw.CreateCommand();
            spoil.CommandText = "INSERT INTO passages (document_id, ordinal, modality, text, heading_path, width_px, height_px) VALUES (999, 0, 0, 'orphan', '', 0, 0)";
            spoil.ExecuteNonQuery();
        }
        store.Repair();
        Assert.Single(store.SearchLexical("c", "walrus", 10, null, Modality.Text));
        Assert.Equal(2, store.SearchText("c", document.Passages[0].TextVector, 10, null, Modality.Text).Count);
        Assert.Equal(2, store.Collections().Single().Passages);
        store.Dispose();
    }

    protected override IDocumentStore Open(EmbeddingSpace text, EmbeddingSpace cross) =>
        SqliteStore.Open(Path.Combine(_directory, "d.db"), text, cross, TimeProvider.System);
}
