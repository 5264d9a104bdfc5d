namespace Diptych.Core;

/// <summary>
/// One weighted part of a query. Exactly one of <see cref="Text"/>, <see cref="Image"/> and <see cref="PassageId"/> is set.
/// A negative weight pushes away from what the part describes.
/// </summary>
public sealed record QueryPart
{
    public string? Text { get; init; }

    /// <summary>The encoded bytes of an image file.</summary>
    public byte[]? Image { get; init; }

    public long? PassageId { get; init; }

    public double Weight { get; init; } = 1;
}

/// <summary>How the ranked lists of the channels become one.</summary>
public enum Fusion
{
    /// <summary>Reciprocal rank fusion, 1 / (k + rank) (Cormack, Clarke, Buettcher 2009), k = 20.</summary>
    ReciprocalRank,

    /// <summary>A weighted sum of scores, each channel scaled to [0, 1] over its candidates.</summary>
    Weighted,
}

/// <summary>A way of finding candidates.</summary>
public enum Channel
{
    /// <summary>Cosine in the space that text and images share.</summary>
    Cross,

    /// <summary>Cosine in the text space.</summary>
    Text,

    /// <summary>BM25 over words.</summary>
    Lexical,

    /// <summary>What helped those who asked nearly the same, where that was learnt.</summary>
    Feedback,
}

/// <summary>What is looked for, where, and how the answer is shaped.</summary>
public sealed record Query
{
    public required string Collection { get; init; }

    public required IReadOnlyList<QueryPart> Parts { get; init; }

    /// <summary>Channels to use; empty means all that apply to the parts.</summary>
    public IReadOnlyList<Channel> Channels { get; init; } = [];

    public Fusion Fusion { get; init; } = Fusion.ReciprocalRank;

    /// <summary>Weight by channel; one that is absent counts 1.</summary>
    public IReadOnlyDictionary<Channel, double> ChannelWeights { get; init; } = new Dictionary<Channel, double>();

    public Filter? Filter { get; init; }

    public Modality? Modality { get; init; }

    public int Limit { get; init; } = 10;

    public int Offset { get; init; }

    /// <summary>At most one hit a document, its best.</summary>
    public bool GroupByDocument { get; init; }

    /// <summary>
    /// Maximal marginal relevance (Carbonell, Goldstein 1998): 1 ranks by relevance alone, 0 by novelty alone. Null leaves it off.
    /// </summary>
    public double? MmrLambda { get; init; }

    /// <summary>Hits whose calibrated confidence is lower are left out; 0 keeps all.</summary>
    public double MinConfidence { get; init; }
}

/// <summary>What one channel said of a hit.</summary>
/// <param name="Rank">From 1, among the channel's candidates of the same modality.</param>
/// <param name="Score">The channel's own: a cosine, or BM25 (higher is better).</param>
/// <param name="Calibrated">The score as a probability of relevance, comparable across channels and modalities.</param>
/// <param name="Plan">How the index went about it: <c>exact</c>, <c>graph</c>, <c>over-fetch</c>, <c>two-hop</c>, <c>pgvector</c>; null for words.</param>
public sealed record ChannelEvidence(Channel Channel, int Rank, double Score, double Calibrated, string? Plan = null);

/// <summary>A passage that was found, and why.</summary>
public sealed record Hit
{
    public required Document Document { get; init; }

    public required Passage Passage { get; init; }

    /// <summary>From 1, over all pages of the result.</summary>
    public required int Rank { get; init; }

    /// <summary>The fused score; comparable within one result only.</summary>
    public required double Score { get; init; }

    /// <summary>Calibrated probability that the passage is relevant, comparable between text and images and between queries.</summary>
    public required double Confidence { get; init; }

    public required IReadOnlyList<ChannelEvidence> Evidence { get; init; }

    /// <summary>The part of the text that matches best, with ranges of matching words.</summary>
    public Snippet? Snippet { get; init; }
}

/// <summary>A piece of a passage's text.</summary>
/// <param name="Highlights">Ranges [start, end) within <paramref name="Text"/> of words that the query has.</param>
public sealed record Snippet(string Text, IReadOnlyList<TextRange> Highlights);

/// <summary>A half-open range of characters.</summary>
public readonly record struct TextRange(int Start, int End);

/// <summary>A page of hits.</summary>
/// <param name="Total">Candidates that passed the filters and the confidence bar; paging ends there.</param>
/// <param name="Confidence">The result's calibrated confidence that anything here answers the query.</param>
public sealed record SearchResult(IReadOnlyList<Hit> Hits, int Total, double Confidence);

/// <summary>What a claim of an answer rests on.</summary>
/// <param name="Number">The marker in the answer, from 1.</param>
/// <param name="Quote">The cited words; empty for an image.</param>
/// <param name="Anchor">Page and box, or character range, of the quote itself where it is known, else of the passage.</param>
public sealed record Citation(int Number, Document Document, Passage Passage, string Quote, Anchor Anchor, double Confidence);
