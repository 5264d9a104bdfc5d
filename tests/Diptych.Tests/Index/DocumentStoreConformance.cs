using Diptych.Core;
using Diptych.Index;
using Xunit;

namespace Diptych.Tests.Index;

/// <summary>What every store does: random operations against an in-memory model, compared, reopened, compared again; and the promises one by one.</summary>
public abstract class DocumentStoreConformance
{
    protected const int TextDimensions = 8, CrossDimensions = 4;

    /// <summary>How far a score may be from the dot product in single precision.</summary>
    protected virtual double ScoreTolerance => 1e-5;

    /// <summary>Opens the store of this test: the same one each time.</summary>
    protected abstract IDocumentStore Open(EmbeddingSpace text, EmbeddingSpace cross);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Random_operations_match_the_model_before_and_after_reopening(int seed)
    {
        var random = new Random(seed);
        var model = new Dictionary<(string Collection, string Source), IngestedDocument>();
        IDocumentStore store = Open();
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
        using IDocumentStore store = Open();
        var random = new Random(5);
        store.Commit([RandomDocument(random, "c", "a", 1) with { Passages = [Text("old walrus", random)] }]);
        store.Commit([RandomDocument(random, "c", "a", 2) with { Passages = [Text("new heron", random)] }]);
        Assert.Empty(store.SearchLexical("c", "walrus", 10, null, Modality.Text));
        Assert.Single(store.SearchLexical("c", "heron", 10, null, Modality.Text));
        Assert.Single(store.SearchText("c", Unit(random, TextDimensions), 10, null, Modality.Text));
    }

    [Fact]
    public void A_document_keeps_its_id_through_replacements_moves_and_exchanges_and_everybody_sees_it()
    {
        using IDocumentStore store = Open(), other = Open();
        var random = new Random(15);
        IngestedDocument Named(string source, int version, string text) => RandomDocument(random, "c", source, version) with
        {
            Passages = [Text(text, random) with { Thumbnail = [9] }, Text($"{text} again", random)],
            Text = text,
            ReadMetadata = Metadata.Empty.With("read", text),
        };
        long a = store.Commit([Named("a", 1, "walrus")])[0].Id, b = store.Commit([Named("b", 2, "boiler")])[0].Id;
        Assert.Equal(a, store.Commit([Named("a", 3, "heron")])[0].Id);
        store.AddFeedback("c", [new Feedback(DateTimeOffset.UnixEpoch, "bird", "a", 0, true)]);
        long[] passages = [.. store.Passages(a).Select(p => p.Id)];

        // It moves with its passages and what was said of it; a taken place, other content and a document that is gone are refused.
        Placement Of(string source, long content, string hash, bool moves) => new(source, $"called {source}", content, hash, moves, Metadata.Empty.With("given", source), null, DateTimeOffset.UnixEpoch);
        var moved = store.Place("c", [Of("z", a, "3", true), Of("b", a, "3", true), Of("y", a, "1", true), Of("y", 12345, "3", false)]);
        Assert.Equal((a, "z", "called z"), (moved[0]!.Id, moved[0]!.Source, moved[0]!.Title));
        Assert.Equal([null, null, null], moved.Skip(1));
        Assert.Equal(passages, store.Passages(a).Select(p => p.Id));
        Assert.All(store.Passages(a), p => Assert.Equal(a, p.DocumentId));
        Assert.Equal("z", Assert.Single(store.Feedback("c")).Source);
        Assert.Equal(["heron", "z"], store.Document(a)!.Metadata.SelectMany(m => m.Value).Order());
        foreach (IDocumentStore each in new[] { store, other })
        {
            each.Refresh();
            Assert.Equal((a, "z"), each.SearchLexical("c", "heron", 10, null, Modality.Text).Select(c => (c.Key.Document.Id, c.Key.Document.Source)).Distinct().Single());
            Assert.Equal(4, each.SearchText("c", Unit(random, TextDimensions), 10, null, Modality.Text).Count);
            Assert.Equal(2, each.SearchText("c", Unit(random, TextDimensions), 10, Filter.Parse("source=z"), Modality.Text).Count);
            Assert.Empty(each.SearchText("c", Unit(random, TextDimensions), 10, Filter.Parse("source=a"), Modality.Text));
        }

        // Two change places, and a third takes a copy, all as it was before.
        var placed = store.Place("c", [Of("z", b, "2", false), Of("b", a, "3", false), Of("copy", a, "3", false)]);
        Assert.Equal([a, b], placed.Take(2).Select(p => p!.Id));
        Assert.Equal(["boiler", "heron", "heron"], placed.Select(p => store.DocumentText(p!.Id)));
        Assert.DoesNotContain(placed[2]!.Id, new[] { a, b });
        foreach (IDocumentStore each in new[] { store, other })
        {
            each.Refresh();
            Assert.Equal([b, placed[2]!.Id], each.SearchLexical("c", "heron", 10, null, Modality.Text).Select(c => c.Key.Document.Id).Distinct().Order());
            Assert.Equal(6, each.SearchText("c", Unit(random, TextDimensions), 10, null, Modality.Text).Count);
            Assert.Equal(3, each.Documents("c").Count);
            Assert.Equal(2, each.DocumentsByHash("c", "3").Count);
        }
        Passage first = store.Passages(placed[2]!.Id)[0];
        Assert.Equal([9], store.Thumbnail(first.Id)!);
        Assert.Equal(store.Vectors([store.Passages(b)[0].Id]).Single().Value.Text, store.Vectors([first.Id]).Single().Value.Text);
        Assert.True(store.Delete(b));
        Assert.Equal("heron", store.DocumentText(placed[2]!.Id));
        Assert.Empty(store.CheckIntegrity());
        Assert.Equal([null], store.Place("nowhere", [Of("a", a, "2", false)]));
    }

    [Fact]
    public void Another_process_sees_commits_through_the_log()
    {
        using IDocumentStore first = Open(), second = Open();
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
        using IDocumentStore store = Open();
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
    [InlineData("year>=2000", "2005,2020")]
    [InlineData("year=1999,2020", "1999,2020")]
    [InlineData("year=2005.0", "2005")]
    [InlineData("year!=2005", "1999,2020")]
    [InlineData("Tag=RED", "1999,2020")]
    [InlineData("tag^=bl", "2005")]
    [InlineData("has:place", "2020")]
    [InlineData("source^=20", "2005,2020")]
    [InlineData("title=untitled", "1999,2005,2020")]
    [InlineData("page=3", "2020")]
    [InlineData("modality=image", "")]
    [InlineData("media_type=text/plain", "1999,2005,2020")]
    public void A_filter_means_the_same_everywhere(string filter, string expected)
    {
        using IDocumentStore store = Open();
        var random = new Random(12);
        foreach (var (year, metadata, page) in new[]
        {
            (1999, Metadata.Empty.With("tag", "red", "small"), 1),
            (2005, Metadata.Empty.With("tag", "blue"), 2),
            (2020, Metadata.Empty.With("tag", "Red").With("place", "Łódź's \"old\" town"), 3),
        })
        {
            IngestedPassage passage = Text("harbour", random);
            passage = passage with { Passage = passage.Passage with { Anchor = new Anchor(page) } };
            IngestedDocument document = RandomDocument(random, "c", $"{year}", year) with { Passages = [passage] };
            store.Commit([document with { Document = document.Document with { Metadata = metadata.With("year", $"{year}") } }]);
        }
        string[] sources = expected.Split(',', StringSplitOptions.RemoveEmptyEntries);
        Filter parsed = Filter.Parse(filter);
        Assert.Equal(sources, store.SearchText("c", Unit(random, TextDimensions), 10, parsed, Modality.Text).Select(c => c.Key.Document.Source).Order());
        Assert.Equal(sources, store.SearchLexical("c", "harbour", 10, parsed, Modality.Text).Select(c => c.Key.Document.Source).Order());
        Filter none = new Filter.And([parsed, new Filter.Not(parsed)]), all = new Filter.Or([parsed, new Filter.Not(parsed)]);
        Assert.Empty(store.SearchText("c", Unit(random, TextDimensions), 10, none, Modality.Text));
        Assert.Equal(3, store.SearchText("c", Unit(random, TextDimensions), 10, all, Modality.Text).Count);
    }

    [Theory]
    [InlineData("v2.0.1-rc3", "a")]
    [InlineData("CS1591", "b")]
    [InlineData("harb*", "c")]
    [InlineData("\"deep field\"", "d")]
    [InlineData("\"field deep\"", "")]
    [InlineData("HARBOURS", "c")]
    [InlineData("naive", "d")]
    [InlineData("zeb*", "")]
    public void Words_phrases_prefixes_and_identifiers_are_found_whole(string query, string expected)
    {
        using IDocumentStore store = Open();
        var random = new Random(14);
        foreach (var (source, text) in new[]
        {
            ("a", "Fixed in v2.0.1-rc3 of the library"), ("b", "Warning CS1591 was raised, and v2.0.1-rc4 came"), ("c", "The harbour at rc3 noon, 2 boats and 0 or 1"), ("d", "A naïve deep field"),
        })
        {
            store.Commit([RandomDocument(random, "c", source, 1) with { Passages = [Text(text, random)] }]);
        }
        Assert.Equal(expected, string.Join(',', store.SearchLexical("c", query, 10, null, Modality.Text).Select(c => c.Key.Document.Source)));
    }

    [Theory]
    [InlineData("english", "the ferries were leaving", "ferry leaves")]
    [InlineData("french", "les chevaux mangeaient des pommes", "manger une pomme")]
    [InlineData("german", "die Häuser standen am Fluss", "Haus Hauses")]
    [InlineData("spanish", "los niños cantaban canciones", "cantar canción")]
    [InlineData("italian", "le ragazze leggevano libri antichi", "libro antico")]
    public void Words_are_stemmed_in_the_collections_language(string language, string stored, string asked)
    {
        using IDocumentStore store = Open();
        var random = new Random(6);
        string collection = $"in-{language}";
        store.EnsureCollection(collection, language);
        store.Commit([RandomDocument(random, collection, "a", 1) with { Passages = [Text(stored, random)] }]);
        foreach (string word in asked.Split(' ').Where(w => w.Length > 3))
        {
            Assert.True(store.SearchLexical(collection, word, 10, null, Modality.Text).Count == 1, $"'{word}' did not find '{stored}'");
        }
        Assert.Equal(language, store.Collections().Single(c => c.Name == collection).Language);
        Assert.Throws<InvalidRequestException>(() => store.EnsureCollection(collection, language == "dutch" ? "danish" : "dutch"));
        Assert.Throws<InvalidRequestException>(() => store.EnsureCollection("other", "klingon"));
        store.EnsureCollection(collection);
    }

    [Fact]
    public void A_typing_error_stands_for_the_nearest_word()
    {
        using IDocumentStore store = Open();
        var random = new Random(8);
        store.Commit([RandomDocument(random, "c", "a", 1) with { Passages = [Text("the lighthouse keeper rows", random)] }, RandomDocument(random, "c", "b", 2) with { Passages = [Text("an apple a day", random)] }]);
        Candidate hit = Assert.Single(store.SearchLexical("c", "lighthuose", 10, null, Modality.Text));
        Assert.Equal("a", hit.Key.Document.Source);
        Assert.Empty(store.SearchLexical("c", "xylophone", 10, null, Modality.Text));
    }

    [Fact]
    public void What_was_stored_comes_back_as_it_was()
    {
        var random = new Random(13);
        const string hostile = "naïve Ω 漢字 🙂 'quote' \"double\" \\ %_ ; DROP TABLE documents; --";
        IngestedDocument first = RandomDocument(random, hostile, hostile, 1) with
        {
            Text = hostile,
            Original = [0, 1, 255],
            Passages =
            [
                new IngestedPassage(
                    new Passage
                    {
                        Ordinal = 0, Modality = Modality.Text, Text = hostile, HeadingPath = "a › b", Anchor = new Anchor(2, new Box(0.1, 0.2, 0.3, 0.4), 5, 9, "slide 2"),
                    },
                    Unit(random, TextDimensions), Unit(random, CrossDimensions)),
                new IngestedPassage(new Passage { Ordinal = 1, Modality = Modality.Image, WidthPx = 640, HeightPx = 480 }, null, Unit(random, CrossDimensions), [1, 2], [3, 4, 5]),
            ],
        };
        first = first with { Document = first.Document with { Metadata = Metadata.Empty.With("k", "1", "zwei").With("Date", "2020-01-02"), SizeBytes = 1L << 40, PageCount = 7 } };
        Document committed;
        using (IDocumentStore store = Open())
        {
            committed = store.Commit([first]).Single();
        }
        using (IDocumentStore store = Open())
        {
            Document document = store.Document(committed.Id)!;
            Assert.Equal(document, store.Document(hostile, hostile)! with { Metadata = document.Metadata });
            Assert.Equal((hostile, hostile, 1L << 40, 7, 2), (document.Collection, document.Source, document.SizeBytes, document.PageCount, document.PassageCount));
            Assert.Equal(["1", "zwei"], document.Metadata["k"]);
            Assert.Equal(document.Id, store.DocumentsByHash(hostile, "1").Single().Id);
            Assert.Equal(hostile, store.DocumentText(document.Id));
            Assert.Equal([0, 1, 255], store.DocumentOriginal(document.Id)!);
            IReadOnlyList<Passage> passages = store.Passages(document.Id);
            Assert.Equal([first.Passages[0].Passage with { Id = passages[0].Id, DocumentId = document.Id }, first.Passages[1].Passage with { Id = passages[1].Id, DocumentId = document.Id }], passages);
            Assert.Equal([1, 2], store.Thumbnail(passages[1].Id)!);
            Assert.Equal([3, 4, 5], store.Image(passages[1].Id)!);
            Assert.Null(store.Image(passages[0].Id));
            Assert.Equal(passages.Select(p => p.Id), store.PassagesById([.. passages.Select(p => p.Id), 999_999]).Keys.Order());
            var vectors = store.Vectors([passages[0].Id, passages[1].Id]);
            Assert.Null(vectors[passages[1].Id].Text);
            for (int i = 0; i < TextDimensions; i++)
            {
                Assert.Equal(first.Passages[0].TextVector![i], vectors[passages[0].Id].Text![i], ScoreTolerance);
            }
            Collection collection = Assert.Single(store.Collections());
            Assert.Equal((hostile, 1, 2, 1), (collection.Name, collection.Documents, collection.Passages, collection.Images));
            Assert.Single(store.SearchLexical(hostile, "\"漢字\" naive", 10, null, Modality.Text));
            Assert.Empty(store.SearchLexical(hostile, "'; DROP", 10, new Filter.In("x'y", ["z'"]), Modality.Text));
            Assert.Empty(store.CheckIntegrity());
            Assert.True(store.DeleteCollection(hostile));
            Assert.False(store.DeleteCollection(hostile));
            Assert.Null(store.Document(committed.Id));
            Assert.Empty(store.SearchText(hostile, Unit(random, TextDimensions), 10, null, Modality.Text));
        }
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(0f)]
    [InlineData(1e20f)]
    public void A_vector_that_is_not_of_unit_length_is_refused(float value)
    {
        using IDocumentStore store = Open();
        var passage = new IngestedPassage(new Passage { Modality = Modality.Text, Text = "x" }, null, [value, value, value, value]);
        Assert.Throws<InvalidRequestException>(() => store.Commit([RandomDocument(new Random(1), "c", "a", 1) with { Passages = [passage] }]));
        Assert.Empty(store.Documents("c"));
    }

    [Fact]
    public void Feedback_and_what_was_learnt_are_kept_by_collection_and_version()
    {
        var random = new Random(31);
        var at = new DateTimeOffset(2026, 11, 25, 1, 2, 3, TimeSpan.Zero);
        Feedback[] said = [new(at, "Where is \u00e9 'it'?", "a", 0, true), new(at.AddSeconds(1), "Where is \u00e9 'it'?", "b", -1, false)];
        using (IDocumentStore store = Open())
        {
            store.Commit([RandomDocument(random, "c", "a", 1), RandomDocument(random, "d", "a", 1)]);
            long sequence = store.Sequence;
            store.AddFeedback("c", said);
            Assert.True(store.Sequence > sequence);
            Assert.Equal(said, store.Feedback("c"));
            Assert.Empty(store.Feedback("d"));
            Assert.Null(store.ActiveTuning("c"));
            Assert.Equal(1, store.SaveTuning("c", [1, 2], 0.25, 0.5, active: true).Version);
            Assert.Equal(2, store.SaveTuning("c", [3], 0.5, 0.75, active: true).Version);
            Assert.Equal(3, store.SaveTuning("c", [4], 0.5, 0.4, active: false).Version);
            Assert.Throws<NotFoundException>(() => store.AddFeedback("nowhere", said));
            Assert.Throws<NotFoundException>(() => store.ActivateTuning("c", 9));
        }
        using (IDocumentStore store = Open())
        {
            Assert.Equal([(3, false), (2, true), (1, false)], store.Tunings("c").Select(t => (t.Version, t.IsActive)));
            Tuning active = store.ActiveTuning("c")!;
            Assert.Equal([3], active.Adapter);
            Assert.Equal((0.5, 0.75), (active.Before, active.After));
            store.ActivateTuning("c", 1);
            Assert.Equal([1, 2], store.ActiveTuning("c")!.Adapter);
            store.ActivateTuning("c", 0);
            Assert.Null(store.ActiveTuning("c"));
            Assert.Empty(store.Tunings("d"));
            store.DeleteCollection("c");
            store.EnsureCollection("c");
            Assert.Empty(store.Feedback("c"));
            Assert.Empty(store.Tunings("c"));
        }
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
        using IDocumentStore store = Open();
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

    protected IDocumentStore Open(string revision = "1") =>
        Open(new EmbeddingSpace("text", TextDimensions, "t", revision), new EmbeddingSpace("cross", CrossDimensions, "i", "1"));

    private void AssertEqual(Dictionary<(string Collection, string Source), IngestedDocument> model, IDocumentStore store, Random random)
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
                Assert.Equal(best[i], found[i].Score, ScoreTolerance);
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

    protected static IngestedDocument RandomDocument(Random random, string collection, string source, int version)
    {
        var passages = Enumerable.Range(0, random.Next(1, 5)).Select(i => random.Next(3) == 0
            ? new IngestedPassage(new Passage { Ordinal = i, Modality = Modality.Image }, null, Unit(random, CrossDimensions), [1])
            : Text(random.Next(2) == 0 ? "an apple a day" : "down the river", random)).ToList();
        return new IngestedDocument(
            new Document { Collection = collection, Source = source, ContentHash = $"{version}", MediaType = "text/plain", Title = "untitled" }, "", null, passages);
    }

    protected static IngestedPassage Text(string text, Random random) =>
        new(new Passage { Modality = Modality.Text, Text = text }, Unit(random, TextDimensions), Unit(random, CrossDimensions));

    protected static float[] Unit(Random random, int dimensions)
    {
        float[] v = [.. Enumerable.Range(0, dimensions).Select(_ => (float)(random.NextDouble() - 0.5))];
        float norm = MathF.Sqrt(v.Sum(x => x * x));
        return [.. v.Select(x => x / norm)];
    }
}
