using System.Text;
using System.Text.RegularExpressions;
using Diptych.App;
using Diptych.Core;
using Diptych.Engine.Answering;
using Diptych.Engine.Ingestion;
using Diptych.Inference;
using Diptych.Runtimes.Decoding;
using Microsoft.Extensions.AI;
using Xunit;

namespace Diptych.Tests.Engine;

/// <summary>Ingest, search and answer over the samples, with the real models and store.</summary>
public sealed class EndToEndTests(EndToEndTests.Samples samples) : IClassFixture<EndToEndTests.Samples>
{
    private static readonly CancellationToken None = CancellationToken.None;
    private Product Product => samples.Product;

    [Fact]
    public void Every_sample_is_ingested() => Assert.Equal((29, 0), (samples.Totals.Added, samples.Totals.Failed));

    [Theory]
    [InlineData("a cat", "chelsea.png")]
    [InlineData("a pink flower", "flower.jpg")]
    [InlineData("a man with a camera on a tripod", "camera.png")]
    [InlineData("green grass", "grass.png")]
    public async Task A_text_finds_the_photo(string text, string photo)
    {
        SearchResult result = await SearchAsync(new QueryPart { Text = text }, q => q with { Modality = Modality.Image });
        Assert.Equal(photo, Path.GetFileName(result.Hits[0].Document.Source));
    }

    [Fact]
    public async Task A_photo_finds_text_about_it_and_itself()
    {
        byte[] photo = File.ReadAllBytes(Path.Combine(Shared.Samples, "photos", "coffee.png"));
        SearchResult result = await SearchAsync(new QueryPart { Image = photo });
        Assert.Equal(Modality.Image, result.Hits[0].Passage.Modality);
        Assert.Contains(result.Hits.Take(4), h => h.Passage.Modality == Modality.Text && h.Document.Source.EndsWith("brewing-coffee.md", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_passage_is_a_query_too_and_a_negative_part_pushes_away()
    {
        Hit cat = (await SearchAsync(new QueryPart { Text = "a cat" })).Hits[0];
        SearchResult like = await SearchAsync(new QueryPart { PassageId = cat.Passage.Id });
        Assert.Equal(cat.Passage.Id, like.Hits[0].Passage.Id);
        SearchResult away = await Product.Searcher.SearchAsync(
            new Query { Collection = "samples", Parts = [new QueryPart { Text = "space" }, new QueryPart { Text = "astronaut woman shuttle", Weight = -0.8 }] }, None);
        SearchResult plain = await SearchAsync(new QueryPart { Text = "space" });
        Assert.NotEqual(plain.Hits.Select(h => h.Passage.Id), away.Hits.Select(h => h.Passage.Id));
    }

    [Theory]
    [InlineData("asdkjh qwe")]
    [InlineData("income tax law of Norway")]
    public async Task Nothing_is_found_for_what_is_not_there(string text)
    {
        SearchResult result = await SearchAsync(new QueryPart { Text = text }, q => q with { MinConfidence = 0.2 });
        Assert.Empty(result.Hits);
        Answer answer = await AskAsync(Product.Answerer, text);
        Assert.Equal((AnswerKind.Abstained, 0), (answer.Kind, answer.Citations.Count));
    }

    [Fact]
    public async Task Paging_grouping_filters_and_explanations_hold_together()
    {
        SearchResult all = await SearchAsync(new QueryPart { Text = "photo of the moon" }, q => q with { Limit = 20 });
        SearchResult second = await SearchAsync(new QueryPart { Text = "photo of the moon" }, q => q with { Limit = 5, Offset = 5 });
        Assert.Equal(all.Hits.Skip(5).Take(5).Select(h => h.Passage.Id), second.Hits.Select(h => h.Passage.Id));
        SearchResult grouped = await SearchAsync(new QueryPart { Text = "photo of the moon" }, q => q with { GroupByDocument = true, Limit = 20 });
        Assert.Equal(grouped.Hits.Count, grouped.Hits.Select(h => h.Document.Id).Distinct().Count());
        SearchResult pdf = await SearchAsync(new QueryPart { Text = "moon" }, q => q with { Filter = Filter.Parse("media_type=application/pdf") });
        Assert.All(pdf.Hits, h => Assert.EndsWith(".pdf", h.Document.Source, StringComparison.Ordinal));
        Assert.All(all.Hits, h => Assert.NotEmpty(h.Evidence));
        Snippet snippet = all.Hits.First(h => h.Passage.Text.Contains("the moon", StringComparison.Ordinal)).Snippet!;
        Assert.Contains(snippet.Highlights, r => snippet.Text[r.Start..r.End].Contains("oon", StringComparison.OrdinalIgnoreCase));
        SearchResult diverse = await SearchAsync(new QueryPart { Text = "moon" }, q => q with { MmrLambda = 0.5, Limit = 6 });
        Assert.Equal(6, diverse.Hits.Select(h => h.Passage.Id).Distinct().Count());
    }

    [Theory]
    [InlineData("How hot should the water be for brewing coffee?", "between 92 and 96 degrees", "brewing-coffee.md")]
    [InlineData("Who was the first woman to pilot the Space Shuttle?", "Eileen Collins", "women-in-space.pdf")]
    [InlineData("How often should the clock be wound?", "Wind the clock every eight days", "clock-repair.json")]
    public async Task A_question_is_answered_in_the_words_of_its_source(string question, string words, string source)
    {
        Answer answer = await AskAsync(Product.Answerer, question);
        Assert.Equal(AnswerKind.Extractive, answer.Kind);
        Citation citation = answer.Citations.First(c => c.Quote.Contains(words, StringComparison.Ordinal));
        Assert.Equal(source, Path.GetFileName(citation.Document.Source));
        Assert.Contains($"[{citation.Number}]", answer.Text, StringComparison.Ordinal);
        if (citation.Anchor is { Start: { } start, End: { } end })
        {
            Assert.Contains(words, Product.Store.DocumentText(citation.Document.Id)[start..end], StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task A_language_model_sees_evidence_with_images_and_what_it_writes_is_held_to_it()
    {
        const string asked = "Who was the first woman to pilot the Space Shuttle?";
        var model = new ScriptedModel(
            "Answer:\n", "Eileen Collins was the first woman to pilot", " the Space Shuttle [", "1", "] in 1995 [99]. ",
            // What it makes up, a number that stands nowhere, a heading said back, and itself again.
            "Her dog Pilot barked at Mission Control in Paris [1]. ", "She flew 97 missions [1].\n", "(Women who flew the Space Shuttle, page 1)\n",
            "[1] Eileen Collins piloted the shuttle. ", "Eileen Collins was the first woman to pilot the Space Shuttle [2] in 1995.");
        Answer answer = await AskAsync(new Answerer(Product.Searcher, Product.Store, Product.Embedder, model), asked);
        Assert.Equal(AnswerKind.Generated, answer.Kind);
        Assert.Equal("Answer:\nEileen Collins was the first woman to pilot the Space Shuttle [1] in 1995. Eileen Collins piloted the shuttle. [1]", answer.Text);
        Assert.Equal([1], answer.Citations.Select(c => c.Number));
        Assert.Equal("left out: 2 sentences of the language model's that the evidence does not support", answer.Degraded.Single());
        Assert.Contains(model.Seen.SelectMany(m => m.Contents), c => c is DataContent { MediaType: "image/jpeg" });

        var lenient = new Answerer(Product.Searcher, Product.Store, Product.Embedder, new ScriptedModel("She flew 97 missions [1]."), strict: false);
        Assert.Equal("She flew 97 missions.", (await AskAsync(lenient, asked)).Text);

        // A photo supports what it shows, where no words do.
        var seeing = new Answerer(Product.Searcher, Product.Store, Product.Embedder, new ScriptedModel($"{new string('=', 60)}\nA cat looks into the camera.", " A cat of 97 years. A bus stops."));
        Answer seen = await AskAsync(seeing, "photo of a cat");
        Assert.Contains("A cat looks into the camera. [", seen.Text, StringComparison.Ordinal);
        Assert.DoesNotContain("97", seen.Text, StringComparison.Ordinal);
        Assert.DoesNotContain("bus", seen.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_language_model_that_repeats_itself_is_stopped_and_one_that_says_nothing_of_the_evidence_gives_way_to_extracts()
    {
        const string asked = "Who was the first woman to pilot the Space Shuttle?";
        var endless = new ScriptedModel([.. Enumerable.Repeat("Eileen Collins was the first. ", 1000)]);
        Assert.Equal("Eileen Collins was the first. [1]", (await AskAsync(new Answerer(Product.Searcher, Product.Store, Product.Embedder, endless), asked)).Text);
        Assert.InRange(endless.Given, 1, 10);
        var stuck = new ScriptedModel(["Eileen Collins: pilot", .. Enumerable.Repeat(", pilot", 1000)]);
        Assert.Equal("Eileen Collins: pilot [1]", (await AskAsync(new Answerer(Product.Searcher, Product.Store, Product.Embedder, stuck), asked)).Text);
        Assert.InRange(stuck.Given, 1, 20);

        Answer extract = await AskAsync(new Answerer(Product.Searcher, Product.Store, Product.Embedder, new ScriptedModel("Bananas grow in 77 countries. ", "They are yellow. ", "I like them.")), asked);
        Assert.Equal(AnswerKind.Extractive, extract.Kind);
        Assert.Contains("nothing that the language model wrote is supported", extract.Degraded.Single(), StringComparison.Ordinal);
    }

    /// <summary>As it says with 135 million parameters: in a sentence of its own that the evidence supports, or in the evidence's.</summary>
    [Fact]
    [Trait("Needs", "shared")]
    public async Task A_small_model_answers_the_samples_questions_from_the_samples()
    {
        using LocalModel model = LocalModel.Open("smollm2", Shared.Require("models", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"), 64 << 20, TimeProvider.System);
        var answerer = new Answerer(Product.Searcher, Product.Store, Product.Embedder, model);
        int right = 0, written = 0;
        foreach (var (question, words) in new[]
        {
            ("How hot should the water be for brewing coffee?", "9[26]"), ("Who was the first woman to pilot the Space Shuttle?", "Collins"), ("How often should the clock be wound?", "(8|eight) days"),
            ("How heavy is Chelsea?", "four and a half"), ("What colour are Chelsea's eyes?", "green"), ("How long did the Hubble telescope look at one spot?", "(10|ten) days"),
            ("How many galaxies does the Hubble Deep Field show?", "(three thousand|3,?000)"), ("How much does the orange suit weigh?", "12"), ("When was the Hubble Deep Field taken?", "1995"),
            ("How many minutes a day does the wall clock lose?", "4|four"), ("How often should the clock be oiled?", "(5|five) years"), ("What is the orange suit worn for?", "launch"),
        })
        {
            Answer answer = await AskAsync(answerer, question);
            Assert.NotEmpty(answer.Citations);
            right += Regex.IsMatch(answer.Text, words, RegexOptions.NonBacktracking) ? 1 : 0;
            written += answer.Kind == AnswerKind.Generated ? 1 : 0;
        }
        Assert.True(right >= 9 && written >= 9, $"{right} right, {written} in its own words");
    }

    [Fact]
    public async Task A_language_model_that_abstains_or_fails_is_told_apart()
    {
        var abstains = new Answerer(Product.Searcher, Product.Store, Product.Embedder, new ScriptedModel("NOT_IN_", "EVIDENCE"));
        Assert.Equal(AnswerKind.Abstained, (await AskAsync(abstains, "Who was the first woman to pilot the Space Shuttle?")).Kind);
        var fails = new Answerer(Product.Searcher, Product.Store, Product.Embedder, new ScriptedModel());
        Answer answer = await AskAsync(fails, "Who was the first woman to pilot the Space Shuttle?");
        Assert.Equal(AnswerKind.Extractive, answer.Kind);
        Assert.Contains("language model failed", answer.Degraded.Single(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(4096, 8)]
    [InlineData(700, 7)]
    [InlineData(150, 0)]
    public async Task A_language_model_is_given_the_evidence_that_its_context_takes_and_cites_no_other(int context, int mostGiven)
    {
        var model = new ScriptedModel("Women flew the Space Shuttle [1], and more women [8].") { Window = new Window(context) };
        Answer answer = await AskAsync(new Answerer(Product.Searcher, Product.Store, Product.Embedder, model), "Who was the first woman to pilot the Space Shuttle?");
        int given = model.Seen.SelectMany(m => m.Contents).OfType<TextContent>().Count(c => c.Text.StartsWith('['));
        Assert.InRange(given, Math.Min(1, mostGiven), mostGiven);
        // A quarter of a small context is the answer's.
        Assert.True(model.Seen.Sum(m => model.Window.CountTokens(m.Text)) <= context - Math.Min(512, context / 4));
        Assert.DoesNotContain(model.Seen.SelectMany(m => m.Contents), c => c is DataContent);
        Assert.Equal(given == 0 ? AnswerKind.Extractive : AnswerKind.Generated, answer.Kind);
        Assert.All(given == 0 ? [] : answer.Citations, c => Assert.InRange(c.Number, 1, given));
        Assert.Equal(given == 0, answer.Degraded.Any(d => d.Contains("fits into its context", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task Ingestion_skips_replaces_recognises_and_prunes()
    {
        string folder = Directory.CreateTempSubdirectory("diptych-ingest-").FullName;
        try
        {
            Directory.CreateDirectory(Path.Combine(folder, "skip"));
            await File.WriteAllTextAsync(Path.Combine(folder, "a.txt"), "The heron stands in the reeds.", None);
            await File.WriteAllTextAsync(Path.Combine(folder, "b.txt"), "The kingfisher dives.", None);
            await File.WriteAllTextAsync(Path.Combine(folder, "skip", "c.txt"), "Ignored words.", None);
            await File.WriteAllTextAsync(Path.Combine(folder, FileSources.IgnoreFile), "skip/\n", None);
            await File.WriteAllBytesAsync(Path.Combine(folder, "broken.pdf"), [1, 2, 3], None);

            IngestTotals first = await IngestAsync(folder);
            Assert.Equal((2, 1, 0), (first.Added, first.Failed, first.Unchanged));
            IngestTotals again = await IngestAsync(folder);
            Assert.Equal((0, 1, 2), (again.Added, again.Failed, again.Unchanged));

            await File.WriteAllTextAsync(Path.Combine(folder, "a.txt"), "The stork stands on the roof.", None);
            File.Copy(Path.Combine(folder, "b.txt"), Path.Combine(folder, "copy-of-b.txt"));
            IngestTotals changed = await IngestAsync(folder);
            Assert.Equal((1, 1, 1), (changed.Replaced, changed.Unchanged, changed.Duplicates));
            Assert.Empty(Product.Store.SearchLexical("birds", "heron", 5, null, Modality.Text));

            File.Delete(Path.Combine(folder, "a.txt"));
            IngestTotals pruned = await IngestAsync(folder, prune: true);
            Assert.Equal(1, pruned.Pruned);
            Assert.Empty(Product.Store.SearchLexical("birds", "stork", 5, null, Modality.Text));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public async Task Cancelling_an_ingest_stops_it_and_keeps_what_was_committed()
    {
        using var cancel = new CancellationTokenSource();
        var endless = Enumerable.Range(0, int.MaxValue).Select(i => IngestSource.Bytes($"n{i}", "n.txt", Encoding.UTF8.GetBytes($"Number {i} is a number.")));
        IngestTotals? last = null;
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Product.Ingestor.RunAsync(
            endless,
            new IngestOptions { Collection = "endless" },
            (_, totals) =>
            {
                last = totals;
                if (totals.Added == 40)
                {
                    cancel.Cancel();
                }
            },
            cancel.Token));
        Assert.True(Product.Store.Documents("endless").Count >= last!.Added);
    }

    [Fact]
    public async Task Bad_queries_say_what_to_change()
    {
        await Assert.ThrowsAsync<InvalidRequestException>(() => SearchAsync(new QueryPart { Text = " " }));
        await Assert.ThrowsAsync<InvalidRequestException>(() => SearchAsync(new QueryPart { Text = "a", Weight = -1 }));
        await Assert.ThrowsAsync<InvalidRequestException>(() => SearchAsync(new QueryPart { Image = [1, 2, 3] }));
        await Assert.ThrowsAsync<InvalidRequestException>(() => SearchAsync(new QueryPart { Text = "a" }, q => q with { Limit = 0 }));
        await Assert.ThrowsAsync<NotFoundException>(() => SearchAsync(new QueryPart { Text = "a" }, q => q with { Collection = "nowhere" }));
        await Assert.ThrowsAsync<NotFoundException>(() => SearchAsync(new QueryPart { PassageId = 999_999 }));
    }

    private Task<IngestTotals> IngestAsync(string folder, bool prune = false) => Product.Ingestor.RunAsync(
        FileSources.Find([folder], [], []), new IngestOptions { Collection = "birds", PruneUnder = prune ? [folder] : [] }, null, None);

    private Task<SearchResult> SearchAsync(QueryPart part, Func<Query, Query>? with = null)
    {
        var query = new Query { Collection = "samples", Parts = [part] };
        return Product.Searcher.SearchAsync(with?.Invoke(query) ?? query, None);
    }

    private static async Task<Answer> AskAsync(Answerer answerer, string question)
    {
        Answer? answer = null;
        await foreach (AnswerPart part in answerer.AskAsync(new Question { Collection = "samples", Text = question }, None))
        {
            answer = part.Final ?? answer;
        }
        return answer!;
    }

    public sealed class Samples : IAsyncLifetime
    {
        private readonly string _data = Directory.CreateTempSubdirectory("diptych-samples-").FullName;

        public Product Product { get; private set; } = null!;

        public IngestTotals Totals { get; private set; } = null!;

        public async ValueTask InitializeAsync()
        {
            Product = await Product.OpenAsync(new DiptychOptions { Data = _data, StarterModel = Shared.Starter }, TimeProvider.System, None);
            Totals = await Product.Ingestor.RunAsync(FileSources.Find([Shared.Samples], [], []), new IngestOptions { Collection = "samples" }, null, None);
        }

        public async ValueTask DisposeAsync()
        {
            await Product.DisposeAsync();
            Directory.Delete(_data, recursive: true);
        }
    }

    /// <summary>A blind model's context: a token is four characters.</summary>
    private sealed record Window(int MaxTokens) : IContextWindow
    {
        public int PictureTokens => 0;

        public long Parameters => 8_000_000_000;

        public int CountTokens(string text) => text.Length / 4;
    }

    /// <summary>Says its pieces; with none it fails as an unreachable server does.</summary>
    private sealed class ScriptedModel(params string[] pieces) : IChatClient
    {
        public List<ChatMessage> Seen { get; } = [];

        /// <summary>Pieces that were taken.</summary>
        public int Given { get; private set; }

        public Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default) =>
            throw new NotSupportedException();

        public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
            IEnumerable<ChatMessage> messages, ChatOptions? options = null, [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellationToken = default)
        {
            Seen.AddRange(messages);
            await Task.Yield();
            if (pieces.Length == 0)
            {
                throw new HttpRequestException("Connection refused");
            }
            foreach (string piece in pieces)
            {
                Given++;
                yield return new ChatResponseUpdate(ChatRole.Assistant, piece);
            }
        }

        public Window? Window { get; init; }

        public object? GetService(Type serviceType, object? serviceKey = null) => serviceType == typeof(IContextWindow) ? Window : null;

        public void Dispose()
        {
        }
    }
}
