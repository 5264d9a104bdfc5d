using System.Collections.Concurrent;
using System.Numerics.Tensors;
using Diptych.Core;
using Diptych.Engine.Tuning;
using Diptych.Index;
using Diptych.Index.Fusion;
using Diptych.Index.Lexical;
using Diptych.Inference;

namespace Diptych.Engine.Search;

/// <summary>
/// Finds passages. Each channel ranks texts and images apart; fusion makes one list of each modality; the two lists are merged by
/// calibrated confidence, which never reorders a list within itself (see <see cref="Merge"/>).
/// </summary>
public sealed class Searcher(IDocumentStore store, Embedder embedder)
{
    /// <summary>Candidates of each channel and modality, at least.</summary>
    private const int PoolDepth = 100;

    /// <summary>Calibrated score from which the words of an image take part in its ranking.</summary>
    private const double NearCaption = 0.2;

    /// <summary>Cosine above which two images are the same picture, perhaps at another size.</summary>
    private const double SameImage = 0.99;

    /// <summary>The deepest page that can be asked for.</summary>
    private const int MaxDepth = 10_000;

    /// <summary>For diversity each hit is compared with each: so many take a tenth of a second.</summary>
    private const int MaxDiverse = 1_000;

    private const int MaxWords = 32_768;

    private readonly ConcurrentDictionary<string, (long Sequence, int? Version, QueryAdapter? Adapter)> _adapters = new(StringComparer.Ordinal);

    /// <exception cref="InvalidRequestException">The query cannot be carried out as it stands.</exception>
    /// <exception cref="NotFoundException">The collection, or a passage that the query names, does not exist.</exception>
    /// <exception cref="OverloadedException">The query would be late.</exception>
    public async Task<SearchResult> SearchAsync(Query query, CancellationToken cancellation)
    {
        store.Refresh();
        Check(query);
        return await SearchAsync(query, Adapter(query.Collection), cancellation).ConfigureAwait(false);
    }

    /// <summary>What searches of the collection have learnt; null where they have not.</summary>
    internal QueryAdapter? Adapter(string collection)
    {
        long sequence = store.Sequence;
        if (!_adapters.TryGetValue(collection, out var known) || known.Sequence != sequence)
        {
            int? version = known.Version;
            Index.Tuning? active = store.ActiveTuning(collection);
            known = (sequence, active?.Version, active is null ? null : active.Version == version ? known.Adapter : QueryAdapter.Read(active.Adapter));
            _adapters[collection] = known;
        }
        return known.Adapter;
    }

    /// <summary>What helped near queries and is still there, best first.</summary>
    private List<Candidate> Helped(Query query, FeedbackMemory? memory, float[]? vector, int depth)
    {
        var found = new List<Candidate>();
        foreach (var (hit, score) in vector is null ? [] : memory?.Near(vector, depth) ?? [])
        {
            if (store.Document(query.Collection, hit.Source) is not { } document)
            {
                continue;
            }
            found.AddRange(store.Passages(document.Id).Where(p => hit.Ordinal < 0 || p.Ordinal == hit.Ordinal)
                .Select(p => new PassageKey(p.Id, document, p.Modality, p.Anchor.Page)).Where(k => k.Passes(query.Filter)).Select(k => new Candidate(k, score)));
        }
        return found;
    }

    /// <param name="query">One that can be carried out.</param>
    internal async Task<SearchResult> SearchAsync(Query query, QueryAdapter? adapter, CancellationToken cancellation)
    {
        QueryVectors vectors = (await QueryVectors.EmbedAsync(query, store, embedder, cancellation).ConfigureAwait(false)).Turned(adapter);
        if (adapter is not null && !query.ChannelWeights.ContainsKey(Channel.Text))
        {
            query = query with { ChannelWeights = new Dictionary<Channel, double>(query.ChannelWeights) { [Channel.Text] = adapter.MeaningWeight, [Channel.Feedback] = adapter.MemoryWeight } };
        }
        int depth = Math.Max(PoolDepth, (query.Offset + query.Limit) * (query.GroupByDocument ? 4 : 2));
        var words = new WordWeights(store, query.Collection, vectors.Words);
        var lists = new List<List<Ranked>>();
        // Looked up once for both modalities.
        List<Candidate> helped = Helped(query, adapter?.Memory, vectors.Text, depth);
        foreach (Modality modality in query.Modality is { } only ? [only] : new[] { Modality.Text, Modality.Image })
        {
            lists.Add(Rank(query, vectors, helped, words, modality, depth));
        }
        List<Ranked> merged = DistinctImages(DistinctContent(Merge(lists)));
        double confidence = lists.Max(Confidence);
        if (query.MinConfidence > 0)
        {
            merged.RemoveAll(r => r.Confidence < query.MinConfidence);
        }
        if (query.GroupByDocument)
        {
            merged = [.. merged.DistinctBy(r => r.Key.Document.Id)];
        }
        if (query.MmrLambda is { } lambda)
        {
            merged = Diversify(merged, lambda, query.Offset + query.Limit);
        }
        return new SearchResult(Hits(merged, query, vectors.Words), merged.Count, confidence);
    }

    private void Check(Query query)
    {
        if (query.Limit is < 1 or > 1000 || query.Offset < 0 || (long)query.Offset + query.Limit > MaxDepth)
        {
            throw new InvalidRequestException($"limit is 1 to 1000, offset at least 0, and their sum at most {MaxDepth}.");
        }
        if (query.MmrLambda is not null && query.Offset + query.Limit > MaxDiverse)
        {
            throw new InvalidRequestException($"With mmr_lambda the sum of offset and limit is at most {MaxDiverse}.");
        }
        if (query.Parts.Sum(p => (long)(p.Text?.Length ?? 0)) > MaxWords)
        {
            throw new InvalidRequestException($"A query has at most {MaxWords} characters; to look for a whole document's like, send the id of one of its passages.");
        }
        if (query.MmrLambda is < 0 or > 1 || query.MinConfidence is < 0 or > 1)
        {
            throw new InvalidRequestException("mmr_lambda and min_confidence lie between 0 and 1.");
        }
        if (!store.CollectionExists(query.Collection))
        {
            throw new NotFoundException($"There is no collection '{query.Collection}'. Ingest something into it first.");
        }
    }

    /// <summary>One modality: the channels' candidates, fused, each with its calibrated confidence.</summary>
    private List<Ranked> Rank(Query query, QueryVectors vectors, List<Candidate> helped, WordWeights words, Modality modality, int depth)
    {
        bool Wants(Channel channel) => query.Channels.Count == 0 || query.Channels.Contains(channel);
        var channels = new Dictionary<Channel, IReadOnlyList<Candidate>>();
        // Among texts the text space is the better judge of a text; the shared space is for what has no vector there: an image.
        if (Wants(Channel.Cross) && (modality == Modality.Image || vectors.HasImage || query.Channels.Count > 0))
        {
            channels[Channel.Cross] = store.SearchCross(query.Collection, vectors.LookCross, depth, query.Filter, modality);
        }
        if (Wants(Channel.Text) && vectors.LookText is not null)
        {
            var found = store.SearchText(query.Collection, vectors.LookText, depth, query.Filter, modality);
            // Few images have words. A rank among those few says nothing, so their words count only where they come near at all.
            channels[Channel.Text] = modality == Modality.Text ? found : [.. found.TakeWhile(c => Calibration.TextToText(c.Score, 0) >= NearCaption)];
        }
        if (Wants(Channel.Lexical) && vectors.Words.Length > 0)
        {
            var found = store.SearchLexical(query.Collection, vectors.Words, depth, query.Filter, modality);
            channels[Channel.Lexical] = modality == Modality.Text ? found : MostWords(found, words);
        }
        if (Wants(Channel.Feedback) && helped.FindAll(h => h.Key.Modality == modality) is { Count: > 0 } ofModality)
        {
            channels[Channel.Feedback] = ofModality;
        }
        Dictionary<long, PassageKey> keys = [];
        foreach (Candidate candidate in channels.Values.SelectMany(c => c))
        {
            keys.TryAdd(candidate.Key.Id, candidate.Key);
        }
        var inputs = channels.Select(c => (
            (IReadOnlyList<(long, double)>)[.. c.Value.Select(x => (x.Key.Id, x.Score))], query.ChannelWeights.GetValueOrDefault(c.Key, 1)));
        var fused = query.Fusion == Fusion.ReciprocalRank ? RankFusion.ReciprocalRank(inputs) : RankFusion.Weighted(inputs);
        var ranks = channels.ToDictionary(c => c.Key, c => c.Value.Select((x, i) => (x.Key.Id, Rank: i + 1, x.Score, x.Plan)).ToDictionary(x => x.Id));

        int imageCount = store.ImageCount(query.Collection);
        List<(long Id, double Score)> kept = fused.Take(depth).ToList();
        var stored = store.Vectors(kept.Select(k => k.Id));
        var texts = store.PassagesById(kept.Select(k => k.Id));
        var ranked = new List<Ranked>(kept.Count);
        foreach (var (id, score) in kept)
        {
            // A passage that left since the candidates were found is not shown.
            if (!stored.TryGetValue(id, out var vector) || !texts.TryGetValue(id, out Passage? passage))
            {
                continue;
            }
            double coverage = words.Coverage(passage, keys[id].Document);
            var evidence = ranks.Where(r => r.Value.ContainsKey(id)).Select(r => new ChannelEvidence(
                r.Key, r.Value[id].Rank, r.Value[id].Score, Calibrated(r.Key, r.Value[id].Score, coverage, modality, vectors, imageCount), r.Value[id].Plan)).ToArray();
            ranked.Add(new Ranked(keys[id], passage, score, Confidence(vectors, vector, coverage, modality, imageCount), vector.Text, vector.Cross, evidence));
        }
        return ranked;
    }

    /// <summary>The images whose words hold at least half of the query, by weight; one shared word is no reason to rank a photo first.</summary>
    private IReadOnlyList<Candidate> MostWords(IReadOnlyList<Candidate> images, WordWeights words)
    {
        var passages = store.PassagesById(images.Select(c => c.Key.Id));
        return [.. images.Where(c => passages.TryGetValue(c.Key.Id, out Passage? passage) && words.Coverage(passage, c.Key.Document) >= 0.5)];
    }

    /// <summary>
    /// The confidence that a list answers the query: its best hit's, lessened where the channels do not agree on the first hits or those
    /// hits are not about one thing. An answer that is there is found by meaning and by words alike, and its neighbours say much the same.
    /// </summary>
    private static double Confidence(List<Ranked> list)
    {
        double best = list.Select(r => r.Confidence).DefaultIfEmpty(0).Max();
        // That something helped others says nothing of whether this query has an answer here.
        int channels = list.SelectMany(r => r.Evidence).Select(e => e.Channel).Where(c => c != Channel.Feedback).Distinct().Count();
        Ranked[] dense = [.. list.Where(r => r.Text is not null).OrderByDescending(r => r.Evidence.FirstOrDefault(e => e.Channel == Channel.Text)?.Score ?? -1).Take(3)];
        if (channels < 2 || dense.Length < 3 || list[0].Key.Modality == Modality.Image)
        {
            return best;
        }
        double sum = 0, ideal = 0;
        for (int i = 0; i < Math.Min(Calibration.AgreementDepth, list.Count); i++)
        {
            ideal += channels / (double)(Calibration.AgreementK + i + 1);
            sum += list[i].Evidence.Where(e => e.Channel != Channel.Feedback).Sum(e => 1.0 / (Calibration.AgreementK + e.Rank));
        }
        double coherence = (TensorPrimitives.Dot(dense[0].Text, dense[1].Text) + TensorPrimitives.Dot(dense[0].Text, dense[2].Text)
            + TensorPrimitives.Dot(dense[1].Text, dense[2].Text)) / 3;
        return best * Calibration.Support(sum / ideal, coherence);
    }

    /// <summary>The weighted mean over the parts that pull, lessened by those that push.</summary>
    private static double Confidence(QueryVectors query, (float[]? Text, float[] Cross) passage, double coverage, Modality modality, int images)
    {
        double sum = 0, weights = 0, keep = 1;
        foreach (PartVectors part in query.Parts)
        {
            double cross = TensorPrimitives.Dot(part.Cross, passage.Cross);
            double? text = part.Text is null || passage.Text is null ? null : TensorPrimitives.Dot(part.Text, passage.Text);
            double p = (part.IsImage, modality) switch
            {
                (false, Modality.Text) => Calibration.TextToText(text ?? 0, coverage),
                // A photo may answer by what it shows or by the words that stand with it.
                (false, Modality.Image) => Math.Max(Calibration.TextToImage(cross, images), text is null ? 0 : Calibration.TextToText(text.Value, coverage)),
                (true, Modality.Text) => Calibration.ImageToText(cross),
                _ => Calibration.ImageToImage(cross),
            };
            if (part.Source.Weight > 0)
            {
                sum += p * part.Source.Weight;
                weights += part.Source.Weight;
            }
            else
            {
                keep *= 1 - Math.Min(1, p * -part.Source.Weight);
            }
        }
        return sum / weights * keep;
    }

    private static double Calibrated(Channel channel, double score, double coverage, Modality modality, QueryVectors query, int images) => channel switch
    {
        Channel.Text => Calibration.TextToText(score, 0),
        Channel.Lexical => coverage,
        Channel.Feedback => Math.Min(1, score),
        _ => (query.HasImage, modality) switch
        {
            (true, Modality.Image) => Calibration.ImageToImage(score),
            (true, _) => Calibration.ImageToText(score),
            _ => Calibration.TextToImage(score, images),
        },
    };

    /// <summary>
    /// Merges lists that are each in their order already. Fusion knows the order within a modality better than one calibrated number
    /// does, so each list's confidences are first made to fall along it (pool adjacent violators); then the higher goes first.
    /// </summary>
    internal static List<Ranked> Merge(IReadOnlyList<List<Ranked>> lists)
    {
        var all = new List<(Ranked Item, double Key, int Position)>();
        foreach (List<Ranked> list in lists)
        {
            double[] falling = Isotonic.Decreasing([.. list.Select(r => r.Confidence)]);
            all.AddRange(list.Select((r, i) => (r, falling[i], i)));
        }
        return [.. all.OrderByDescending(a => a.Key).ThenBy(a => a.Position).ThenBy(a => a.Item.Key.Id).Select(a => a.Item)];
    }

    /// <summary>Documents with the same content have the same passages: each is shown once, where it ranks first.</summary>
    private static List<Ranked> DistinctContent(List<Ranked> ranked) => [.. ranked.DistinctBy(r => (r.Key.Document.ContentHash, r.Passage.Ordinal))];

    /// <summary>A photo that also stands in a document is shown once: where it ranks first.</summary>
    private static List<Ranked> DistinctImages(List<Ranked> ranked)
    {
        var kept = new List<Ranked>(ranked.Count);
        foreach (Ranked next in ranked)
        {
            bool copy = next.Key.Modality == Modality.Image
                && kept.Exists(k => k.Key.Modality == Modality.Image && TensorPrimitives.Dot(k.Cross, next.Cross) > SameImage);
            if (!copy)
            {
                kept.Add(next);
            }
        }
        return kept;
    }

    private static List<Ranked> Diversify(List<Ranked> ranked, double lambda, int count)
    {
        // Images and texts are compared where both have a vector: in the shared space.
        var rest = ranked.Take(Math.Max(PoolDepth, count)).ToList();
        var chosen = new List<Ranked>(count);
        var nearest = new Dictionary<long, double>();
        while (chosen.Count < count && rest.Count > 0)
        {
            Ranked best = rest.MaxBy(r => (lambda * r.Confidence) - ((1 - lambda) * nearest.GetValueOrDefault(r.Key.Id)))!;
            chosen.Add(best);
            rest.Remove(best);
            foreach (Ranked other in rest)
            {
                nearest[other.Key.Id] = Math.Max(nearest.GetValueOrDefault(other.Key.Id), TensorPrimitives.Dot(best.Cross, other.Cross));
            }
        }
        return chosen;
    }

    private static IReadOnlyList<Hit> Hits(List<Ranked> ranked, Query query, string words) =>
    [
        .. ranked.Skip(query.Offset).Take(query.Limit).Select((r, i) => new Hit
        {
            Document = r.Key.Document,
            Passage = r.Passage,
            Rank = query.Offset + i + 1,
            Score = r.Score,
            Confidence = r.Confidence,
            Evidence = r.Evidence,
            Snippet = Snippets.Of(r.Passage.Text, words),
        }),
    ];

    internal sealed record Ranked(
        PassageKey Key, Passage Passage, double Score, double Confidence, float[]? Text, float[] Cross, IReadOnlyList<ChannelEvidence> Evidence);
}

/// <summary>How much each word of a query weighs in a collection, and how many of them a passage has.</summary>
internal sealed class WordWeights
{
    private readonly Dictionary<string, double> _weights = new(StringComparer.Ordinal);
    private readonly double _total;

    public WordWeights(IDocumentStore store, string collection, string words)
    {
        IReadOnlyList<string> terms = FullTextQuery.Terms(words);
        var (frequencies, passages) = store.WordFrequencies(collection, terms);
        foreach (string term in terms)
        {
            // A word that the collection lacks weighs most of all: nothing there can answer for it.
            double weight = Math.Log(1 + ((passages - frequencies[term] + 0.5) / (frequencies[term] + 0.5)));
            string stem = FullTextQuery.Stem(term);
            _weights[stem] = Math.Max(_weights.GetValueOrDefault(stem), weight);
        }
        _total = _weights.Values.Sum();
    }

    /// <returns>0 to 1.</returns>
    public double Coverage(Passage passage, Document document)
    {
        if (_total <= 0)
        {
            return 0;
        }
        var found = new HashSet<string>(StringComparer.Ordinal);
        foreach (string text in new[] { passage.Text, passage.HeadingPath, document.Title })
        {
            foreach (var (start, end) in FullTextQuery.Words(text))
            {
                string stem = FullTextQuery.Stem(text[start..end]);
                if (_weights.ContainsKey(stem))
                {
                    found.Add(stem);
                }
            }
        }
        return found.Sum(s => _weights[s]) / _total;
    }
}

/// <summary>Isotonic regression by pooling adjacent violators (Ayer et al. 1955).</summary>
internal static class Isotonic
{
    /// <returns>The non-increasing sequence nearest to <paramref name="values"/> in least squares.</returns>
    public static double[] Decreasing(double[] values)
    {
        var pools = new List<(double Sum, int Count)>();
        foreach (double value in values)
        {
            pools.Add((value, 1));
            while (pools.Count > 1 && pools[^2].Sum / pools[^2].Count < pools[^1].Sum / pools[^1].Count)
            {
                pools[^2] = (pools[^2].Sum + pools[^1].Sum, pools[^2].Count + pools[^1].Count);
                pools.RemoveAt(pools.Count - 1);
            }
        }
        return [.. pools.SelectMany(p => Enumerable.Repeat(p.Sum / p.Count, p.Count))];
    }
}
