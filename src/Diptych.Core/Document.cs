namespace Diptych.Core;

/// <summary>Whether a passage is read or looked at.</summary>
public enum Modality
{
    Text,
    Image,
}

/// <summary>
/// One source as it was ingested. It is identified by (<see cref="Collection"/>, <see cref="Source"/>);
/// <see cref="ContentHash"/> (SHA-256, lower-case hex) is its version. Any number of documents may have the same content.
/// </summary>
public sealed record Document
{
    /// <summary>Assigned by the store at the first commit and the document's for life, whatever its content and wherever it moves; 0 before.</summary>
    public long Id { get; init; }

    public required string Collection { get; init; }

    /// <summary>A file path, a URL, or <c>upload:name</c> / <c>stdin:name</c>.</summary>
    public required string Source { get; init; }

    public required string ContentHash { get; init; }

    public required string MediaType { get; init; }

    public required string Title { get; init; }

    public long SizeBytes { get; init; }

    public DateTimeOffset IngestedAt { get; init; }

    public int PageCount { get; init; }

    public int PassageCount { get; init; }

    public Metadata Metadata { get; init; } = Metadata.Empty;
}

/// <summary>
/// The unit that is found: a piece of text, or an image. An image passage may carry text too (caption, alt text,
/// surrounding paragraph), which makes it findable by words.
/// </summary>
public sealed record Passage
{
    /// <summary>Assigned by the store; 0 before the commit.</summary>
    public long Id { get; init; }

    public long DocumentId { get; init; }

    /// <summary>Position in reading order, from 0.</summary>
    public int Ordinal { get; init; }

    public required Modality Modality { get; init; }

    public string Text { get; init; } = "";

    /// <summary>The headings above the passage, outermost first, joined by " › ".</summary>
    public string HeadingPath { get; init; } = "";

    public Anchor Anchor { get; init; } = Anchor.None;

    /// <summary>Pixel size of an image passage; 0 for text.</summary>
    public int WidthPx { get; init; }

    public int HeightPx { get; init; }
}

/// <summary>Where in its document a passage stands. Every part is optional, since formats differ in what they know.</summary>
/// <param name="Page">Page, slide or sheet number, from 1.</param>
/// <param name="Box">The region on the page, in fractions of its width and height, origin top left.</param>
/// <param name="Start">First character in the document's extracted text.</param>
/// <param name="End">One past the last character.</param>
/// <param name="Label">What a person would call the place: "slide 3", "Sheet1 rows 2-9", "attachment plan.pdf".</param>
public sealed record Anchor(int? Page = null, Box? Box = null, int? Start = null, int? End = null, string? Label = null)
{
    public static Anchor None { get; } = new();
}

/// <summary>A rectangle in fractions (0 to 1) of the page, origin top left.</summary>
public readonly record struct Box(double X, double Y, double Width, double Height)
{
    /// <summary>The smallest box that holds both.</summary>
    public Box Union(Box other)
    {
        double x = Math.Min(X, other.X), y = Math.Min(Y, other.Y);
        return new Box(x, y, Math.Max(X + Width, other.X + other.Width) - x, Math.Max(Y + Height, other.Y + other.Height) - y);
    }

    /// <summary>The box with every edge moved inside the page.</summary>
    public Box Clamp()
    {
        double x0 = Math.Clamp(X, 0, 1), y0 = Math.Clamp(Y, 0, 1);
        return new Box(x0, y0, Math.Clamp(X + Width, 0, 1) - x0, Math.Clamp(Y + Height, 0, 1) - y0);
    }
}

/// <summary>
/// A vector space that embeddings are comparable in. <see cref="Model"/> and <see cref="Revision"/> say what made the vectors:
/// vectors of different makers are never mixed in one collection.
/// </summary>
public sealed record EmbeddingSpace(string Name, int Dimensions, string Model, string Revision);
