using Diptych.Core;
using Diptych.Index.Jobs;

namespace Diptych.Index;

/// <summary>A document ready to be committed: what was read of it, with vectors.</summary>
/// <param name="Text">The extracted text that anchors' character ranges count in.</param>
/// <param name="Original">The bytes as they came, when no file on this machine holds them; else null.</param>
public sealed record IngestedDocument(Document Document, string Text, byte[]? Original, IReadOnlyList<IngestedPassage> Passages)
{
    /// <summary>The title that the content itself gives; null where it gives none and the document is called by its source's name.</summary>
    public string? ReadTitle { get; init; }

    /// <summary>What the content itself says; the document's metadata has what its sender said besides.</summary>
    public Metadata ReadMetadata { get; init; } = Metadata.Empty;

    /// <summary>The job's item that ends with the commit. Where it cannot end, since its job was cancelled or its lease passed on, nothing is stored.</summary>
    public ItemLease? Item { get; init; }
}

/// <summary>
/// A source whose content another document has: it is stored without being read or embedded again. Where that document is itself, it
/// moves to the source and keeps its passages; else it gets passages of its own, and the id that the source has, or a new one.
/// </summary>
/// <param name="Name">What the document is called where its content gives no title.</param>
/// <param name="ContentOf">The document whose content it takes, as that is before anything is placed.</param>
/// <param name="ContentHash">What that content must be.</param>
/// <param name="Moves">Whether that document moves here; the source must then be free.</param>
/// <param name="Given">What the sender says of it.</param>
/// <param name="Original">The bytes, where the store keeps them.</param>
public sealed record Placement(string Source, string Name, long ContentOf, string ContentHash, bool Moves, Metadata Given, byte[]? Original, DateTimeOffset At)
{
    /// <summary>As <see cref="IngestedDocument.Item"/>.</summary>
    public ItemLease? Item { get; init; }
}

/// <summary>A passage with everything that is stored beside it.</summary>
/// <param name="TextVector">[384] unit length, or null where there is no text.</param>
/// <param name="CrossVector">[256] unit length.</param>
/// <param name="Thumbnail">JPEG, for an image.</param>
/// <param name="Image">The encoded image, for one inside a document; null where the document itself is the image.</param>
public sealed record IngestedPassage(Passage Passage, float[]? TextVector, float[] CrossVector, byte[]? Thumbnail = null, byte[]? Image = null);

/// <summary>The least that ranking and filters need of a passage; held in memory for every passage.</summary>
public sealed record PassageKey(long Id, Document Document, Modality Modality, int? Page)
{
    public bool Passes(Filter? filter) => filter is null || filter.Matches(
        Document, new Passage { Id = Id, Modality = Modality, Anchor = Page is null ? Anchor.None : new Anchor(Page) });
}

/// <summary>A passage that a channel found.</summary>
/// <param name="Score">A cosine, or BM25 (higher is better).</param>
/// <param name="Plan">How the index came upon it; null for words.</param>
public readonly record struct Candidate(PassageKey Key, double Score, string? Plan = null);

/// <summary>A named set of documents that are searched together.</summary>
public sealed record Collection(string Name, DateTimeOffset CreatedAt, int Documents, int Passages, int Images, string Language);
