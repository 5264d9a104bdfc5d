using Diptych.Core;
using Diptych.Engine.Evaluation;
using Diptych.Engine.Search;
using Diptych.Index;
using Diptych.Inference;

namespace Diptych.Engine.Tuning;

/// <summary>What came of a tuning.</summary>
/// <param name="Queries">Queries with feedback that were learnt from.</param>
/// <param name="HeldBack">Queries with feedback that were not learnt from, and judge.</param>
/// <param name="Before">nDCG@10 on those, as searches are now.</param>
/// <param name="After">The same with what was learnt.</param>
/// <param name="Version">The version that was taken up; null where it was not better and nothing changed.</param>
public sealed record TuningReport(string Collection, int Queries, int HeldBack, double Before, double After, int? Version);

/// <summary>
/// Learns from what people said of hits: to rank what helped near queries beside the other channels, a low-rank turn of the query's vector,
/// and how much meaning counts beside words, each as far as parts of the feedback that were left out in turn say. The whole is judged by
/// feedback that was held back, and taken up only where nDCG rises there. Documents are not embedded again.
/// </summary>
public sealed class Tuner(IDocumentStore store, Embedder embedder, Searcher searcher)
{
    /// <summary>Queries with an answer below which nothing is learnt: what is held back of fewer says nothing.</summary>
    public const int LeastQueries = 20;

    /// <summary>Judged by so many parts in turn while it is chosen how strongly to learn.</summary>
    private const int Folds = 3;

    private const int Rank = 16, Mistaken = 48, Depth = 10, Seed = 1;
    private const float Decay = 0.01f;
    private static readonly double[] MeaningWeights = [0.5, 0.75, 1, 1.5, 2, 3];
    private static readonly int[] Epochs = [3, 10];
    private static readonly (float Threshold, double Weight)[] Memories = [.. new[] { 0.2f, 0.4f, 0.5f, 0.6f }.SelectMany(t => new[] { 0.5, 1, 2 }.Select(w => (t, w)))];

    /// <param name="progress">Told what is being done.</param>
    /// <exception cref="InvalidRequestException">There is too little feedback to learn from.</exception>
    public async Task<TuningReport> TuneAsync(string collection, Action<string>? progress, CancellationToken cancellation)
    {
        List<Judgement> judged = Judgements(collection);
        if (judged.Count < LeastQueries)
        {
            throw new InvalidRequestException(
                $"'{collection}' has feedback on {judged.Count} queries with a hit that helped; {LeastQueries} are needed. Say of hits whether they help: diptych feedback, or POST /v1/feedback.");
        }
        // Nobody waits for one query of many: none is to be refused.
        new RequestTerms { Lane = Lane.Bulk }.Begin();
        Judgement[] shuffled = [.. judged];
        new Random(Seed).Shuffle(shuffled);
        int held = Math.Max(LeastQueries / 4, shuffled.Length / 5);
        Judgement[] judges = shuffled[..held], learnt = shuffled[held..];
        progress?.Invoke($"reading {learnt.Length} queries");
        Prepared[] prepared = await Task.WhenAll(learnt.Select(j => PrepareAsync(collection, j, cancellation))).ConfigureAwait(false);

        progress?.Invoke("choosing how strongly to learn");
        var chosen = new Strength(null, 0, 1);
        double best = await CrossAsync(collection, learnt, prepared, chosen, cancellation).ConfigureAwait(false);
        foreach (Func<Strength, IEnumerable<Strength>> ways in new Func<Strength, IEnumerable<Strength>>[]
        {
            s => Memories.Select(m => s with { Memory = m }), s => MeaningWeights.Select(w => s with { Weight = w }), s => Epochs.Select(e => s with { Epochs = e }),
        })
        {
            foreach (Strength strength in ways(chosen).ToList())
            {
                double score = await CrossAsync(collection, learnt, prepared, strength, cancellation).ConfigureAwait(false);
                if (score > best)
                {
                    (chosen, best) = (strength, score);
                }
            }
        }

        progress?.Invoke($"judging by {judges.Length} queries");
        QueryAdapter learned = Learn(prepared, chosen, cancellation);
        double before = await ScoreAsync(collection, judges, searcher.Adapter(collection), cancellation).ConfigureAwait(false);
        double after = await ScoreAsync(collection, judges, learned, cancellation).ConfigureAwait(false);
        return new TuningReport(
            collection, learnt.Length, judges.Length, before, after, after > before ? store.SaveTuning(collection, learned.Write(), before, after, active: true).Version : null);
    }

    private static QueryAdapter Learn(Prepared[] prepared, Strength strength, CancellationToken cancellation)
    {
        LowRankTurn? Turn(Func<Prepared, TuningExample?> of)
        {
            TuningExample[] examples = [.. prepared.Select(of).OfType<TuningExample>()];
            return strength.Epochs == 0 || examples.Length < LeastQueries / 2 ? null : TurnTrainer.Train(examples, Rank, strength.Epochs, Decay, Seed, cancellation);
        }
        FeedbackMemory? memory = strength.Memory is { } m
            ? new FeedbackMemory(prepared[0].Query.Length, [.. prepared.SelectMany(p => p.Query)], [.. prepared.Select(p => p.Helped)], m.Threshold)
            : null;
        return new QueryAdapter(memory, strength.Memory?.Weight ?? 0, Turn(p => p.Text), Turn(p => p.Cross), strength.Weight);
    }

    /// <summary>nDCG@10, each part by what the others taught.</summary>
    private async Task<double> CrossAsync(string collection, Judgement[] judgements, Prepared[] prepared, Strength strength, CancellationToken cancellation)
    {
        double sum = 0;
        for (int f = 0; f < Folds; f++)
        {
            Judgement[] part = [.. judgements.Where((_, i) => i % Folds == f)];
            QueryAdapter others = Learn([.. prepared.Where((_, i) => i % Folds != f)], strength, cancellation);
            sum += part.Length * await ScoreAsync(collection, part, others, cancellation).ConfigureAwait(false);
        }
        return sum / judgements.Length;
    }

    private async Task<double> ScoreAsync(string collection, Judgement[] judgements, QueryAdapter? adapter, CancellationToken cancellation)
    {
        double[] scores = new double[judgements.Length];
        await Parallel.ForAsync(0, judgements.Length, cancellation, async (i, token) =>
        {
            new RequestTerms { Lane = Lane.Bulk }.Begin();
            var query = new Query { Collection = collection, Parts = [new QueryPart { Text = judgements[i].Query }], GroupByDocument = true, Limit = Depth };
            SearchResult found = await searcher.SearchAsync(query, adapter, token).ConfigureAwait(false);
            scores[i] = RankingMetrics.Ndcg([.. found.Hits.Select(h => h.Document.Source)], judgements[i].Positive.Select(p => p.Source).ToHashSet(StringComparer.Ordinal), Depth);
        }).ConfigureAwait(false);
        return scores.Average();
    }

    /// <summary>By query, whatever its case; the latest word on a hit counts. Only queries that something helped.</summary>
    private List<Judgement> Judgements(string collection) =>
    [
        .. store.Feedback(collection).GroupBy(f => f.Query.Trim().ToUpperInvariant(), StringComparer.Ordinal).Select(group =>
        {
            var last = group.GroupBy(f => (f.Source, f.Ordinal)).Select(g => g.Last()).ToList();
            return new Judgement(group.Last().Query.Trim(), [.. last.Where(f => f.Positive).Select(f => (f.Source, f.Ordinal))], [.. last.Where(f => !f.Positive).Select(f => (f.Source, f.Ordinal))]);
        }).Where(j => j.Positive.Count > 0),
    ];

    private async Task<Prepared> PrepareAsync(string collection, Judgement judgement, CancellationToken cancellation)
    {
        TextEmbedding query = await embedder.EmbedTextAsync(judgement.Query, Lane.Bulk, cancellation).ConfigureAwait(false);
        var sources = judgement.Positive.Select(p => p.Source).ToHashSet(StringComparer.Ordinal);
        var positive = Passages(collection, judgement.Positive);
        var negative = Passages(collection, judgement.Negative);
        // What is found now and was not said to help is what the answers are mistaken for.
        long[] Near(IReadOnlyList<Candidate> found) => [.. found.Where(c => !sources.Contains(c.Key.Document.Source)).Select(c => c.Key.Id)];
        var texts = store.Vectors(Near(store.SearchText(collection, query.Text, Mistaken, null, Modality.Text)));
        var images = store.Vectors(Near(store.SearchCross(collection, query.Cross, Mistaken, null, Modality.Image)));
        return new Prepared(
            query.Text, [.. judgement.Positive.Select(p => new HelpfulHit(p.Source, p.Ordinal))],
            Example(query.Text, positive.Where(p => p.Modality == Modality.Text).Select(p => p.Text), negative.Where(p => p.Modality == Modality.Text).Select(p => p.Text).Concat(texts.Values.Select(v => v.Text))),
            Example(query.Cross, positive.Where(p => p.Modality == Modality.Image).Select(p => p.Cross), negative.Where(p => p.Modality == Modality.Image).Select(p => p.Cross).Concat(images.Values.Select(v => v.Cross))));
    }

    private static TuningExample? Example(float[] query, IEnumerable<float[]?> positives, IEnumerable<float[]?> negatives) =>
        (positives.OfType<float[]>().ToList(), negatives.OfType<float[]>().ToList()) is { Item1.Count: > 0, Item2.Count: > 0 } both ? new TuningExample(query, both.Item1, both.Item2) : null;

    private List<(Modality Modality, float[]? Text, float[] Cross)> Passages(string collection, IReadOnlyList<(string Source, int Ordinal)> hits)
    {
        var passages = hits.Select(h => (Document: store.Document(collection, h.Source), h.Ordinal)).Where(h => h.Document is not null)
            .SelectMany(h => store.Passages(h.Document!.Id).Where(p => h.Ordinal < 0 || p.Ordinal == h.Ordinal)).ToList();
        var vectors = store.Vectors(passages.Select(p => p.Id));
        return [.. passages.Where(p => vectors.ContainsKey(p.Id)).Select(p => (p.Modality, vectors[p.Id].Text, vectors[p.Id].Cross))];
    }

    private sealed record Judgement(string Query, IReadOnlyList<(string Source, int Ordinal)> Positive, IReadOnlyList<(string Source, int Ordinal)> Negative);

    private sealed record Prepared(float[] Query, IReadOnlyList<HelpfulHit> Helped, TuningExample? Text, TuningExample? Cross);

    private sealed record Strength((float Threshold, double Weight)? Memory, int Epochs, double Weight);
}
