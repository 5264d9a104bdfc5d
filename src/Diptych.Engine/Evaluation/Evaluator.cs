using System.Net;
using System.Text;
using System.Text.Json;
using Diptych.Core;
using Diptych.Engine.Ingestion;
using Diptych.Engine.Search;
using Diptych.Inference;

namespace Diptych.Engine.Evaluation;

/// <summary>Measures the product's own ingest and search on a test collection.</summary>
public sealed class Evaluator(Ingestor ingestor, Searcher searcher)
{
    private const int Depth = 100;

    /// <summary>Ingests documents, each under the source <c>eval:id</c>, its title as a heading.</summary>
    public Task IngestTextsAsync(string collection, IEnumerable<(string Id, string Title, string Text)> documents, CancellationToken cancellation) =>
        IngestAsync(
            collection,
            documents.Where(d => d.Title.Length + d.Text.Length > 0).Select(d => IngestSource.Bytes($"eval:{d.Id}", "document.html", Encoding.UTF8.GetBytes(
                $"<h1>{WebUtility.HtmlEncode(d.Title)}</h1>{string.Concat(Paragraphs(d.Text).Select(p => $"<p>{WebUtility.HtmlEncode(p)}</p>"))}"))),
            cancellation);

    /// <summary>Ingests the photos that the captions name, each under the source <c>eval:file</c>.</summary>
    public Task IngestPhotosAsync(string collection, string directory, IEnumerable<string> files, CancellationToken cancellation) =>
        IngestAsync(
            collection,
            files.Select(f => IngestSource.File(Path.Combine(directory, f)) with { Source = $"eval:{f}", Directory = null }),
            cancellation);

    /// <summary>Ingests each photo's captions as one document, a passage each.</summary>
    public Task IngestCaptionsAsync(string collection, IEnumerable<(string File, string Caption)> captions, CancellationToken cancellation) =>
        IngestAsync(
            collection,
            captions.GroupBy(c => c.File).Select(g => IngestSource.Bytes(
                $"eval:{g.Key}", "captions.jsonl", Encoding.UTF8.GetBytes(string.Join('\n', g.Select(c => JsonSerializer.Serialize(c.Caption)))))),
            cancellation);

    /// <summary>Runs the queries and gives each one's ranking of document ids, at most <paramref name="depth"/> long.</summary>
    public async Task<IReadOnlyDictionary<string, IReadOnlyList<string>>> RankAsync(
        IReadOnlyList<(string Id, Query Query)> queries, CancellationToken cancellation, int depth = Depth, bool group = true)
    {
        var rankings = new Dictionary<string, IReadOnlyList<string>>(StringComparer.Ordinal);
        await Parallel.ForEachAsync(queries, cancellation, async (query, token) =>
        {
            // Nobody waits for one query of many: none is to be refused.
            new RequestTerms { Lane = Lane.Bulk }.Begin();
            SearchResult result = await searcher.SearchAsync(query.Query with { GroupByDocument = group, Limit = depth }, token).ConfigureAwait(false);
            lock (rankings)
            {
                rankings[query.Id] = [.. result.Hits.Select(h => h.Document.Source["eval:".Length..])];
            }
        }).ConfigureAwait(false);
        return rankings;
    }

    /// <summary>Text to image and image to text, over photos and captions ingested into collections of their own.</summary>
    /// <returns>Recall@1/5/10 each way: the caption's photo; any of the photo's captions.</returns>
    public async Task<(int Images, int Captions, Measures TextToImage, Measures ImageToText)> ImagesAsync(
        string directory, string captionsFile, CancellationToken cancellation)
    {
        var captions = TestCollections.Captions(captionsFile);
        string[] files = [.. captions.Select(c => c.File).Distinct(StringComparer.Ordinal)];
        if (files.FirstOrDefault(f => !File.Exists(Path.Combine(directory, f))) is { } missing)
        {
            throw new NotFoundException($"{captionsFile} names {missing}, which is not in {directory}.");
        }
        await IngestPhotosAsync("photos", directory, files, cancellation).ConfigureAwait(false);
        await IngestCaptionsAsync("captions", captions, cancellation).ConfigureAwait(false);
        var toImage = await RankAsync(
            [.. captions.Select((c, i) => ($"{i}", Ask("photos", new QueryPart { Text = c.Caption }, Modality.Image)))], cancellation, 10).ConfigureAwait(false);
        var toText = await RankAsync(
            [.. files.Select(f => (f, Ask("captions", new QueryPart { Image = File.ReadAllBytes(Path.Combine(directory, f)) }, Modality.Text)))],
            cancellation,
            10,
            group: false).ConfigureAwait(false);
        return (
            files.Length,
            captions.Count,
            HitRates(captions.Select((c, i) => (toImage[$"{i}"], c.File))),
            HitRates(files.Select(f => (toText[f], f))));
    }

    /// <summary>Dense, lexical and default search over a text collection.</summary>
    public async Task<(int Queries, Measures Dense, Measures Lexical, Measures Default)> TextAsync(
        string corpus, string queries, string qrels, CancellationToken cancellation)
    {
        var judgements = TestCollections.Qrels(qrels);
        var asked = TestCollections.Queries(queries);
        await IngestTextsAsync("texts", TestCollections.Corpus(corpus), cancellation).ConfigureAwait(false);
        async Task<Measures> Measure(params Channel[] channels) => Measures.OfRankings(
            await RankAsync([.. asked.Select(q => (q.Id, Ask("texts", new QueryPart { Text = q.Text }, null) with { Channels = channels }))], cancellation).ConfigureAwait(false),
            judgements);
        return (
            asked.Count,
            await Measure(Channel.Text).ConfigureAwait(false),
            await Measure(Channel.Lexical).ConfigureAwait(false),
            await Measure().ConfigureAwait(false));
    }

    /// <summary>Share of rankings that have the wanted id among their first 1, 5 and 10.</summary>
    public static Measures HitRates(IEnumerable<(IReadOnlyList<string> Ranking, string Wanted)> results)
    {
        var all = results.ToList();
        return new Measures(all.Count, new[] { 1, 5, 10 }.ToDictionary(
            k => $"recall@{k}", k => Estimate.Of([.. all.Select(r => r.Ranking.Take(k).Contains(r.Wanted) ? 1.0 : 0.0)])));
    }

    public static Query Ask(string collection, QueryPart part, Modality? modality) => new() { Collection = collection, Parts = [part], Modality = modality };

    private static string[] Paragraphs(string text) =>
        text.ReplaceLineEndings("\n").Split("\n\n", StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);

    private async Task IngestAsync(string collection, IEnumerable<IngestSource> sources, CancellationToken cancellation)
    {
        IngestEvent? failure = null;
        await ingestor.RunAsync(
            sources,
            new IngestOptions { Collection = collection },
            (e, _) => failure ??= e.Outcome == IngestOutcome.Failed ? e : null,
            cancellation).ConfigureAwait(false);
        if (failure is not null)
        {
            throw new InvalidRequestException($"{failure.Source} could not be ingested: {failure.Reason}");
        }
    }
}
