namespace Diptych.Core;

/// <summary>What kind of thing a block is; the chunker keeps some whole and joins others.</summary>
public enum BlockKind
{
    Heading,
    Paragraph,
    ListItem,

    /// <summary>One row of a table; consecutive rows are one table.</summary>
    TableRow,
    Code,
    Picture,
}

/// <summary>A piece of a document in reading order.</summary>
/// <param name="Text">The words; for a picture its alternative text or caption.</param>
/// <param name="Level">1 to 6 for a heading.</param>
/// <param name="Label">What a person calls the place, where the format names places.</param>
/// <param name="Image">The encoded picture.</param>
public sealed record Block(BlockKind Kind, string Text, int Level = 0, int? Page = null, Box? Box = null, string? Label = null, byte[]? Image = null)
{
    /// <summary>The region on the page. What a file gives that is no region (an edge that is no number) is none.</summary>
    public Box? Box { get; init => field = Valid(value); } = Valid(Box);

    /// <summary>What the picture was decoded to; null until it is.</summary>
    public PreparedImage? Prepared { get; init; }

    private static Box? Valid(Box? box) => box is { } b && double.IsFinite(b.X) && double.IsFinite(b.Y) && double.IsFinite(b.Width) && double.IsFinite(b.Height) ? b.Clamp() : null;
}

/// <summary>A file within a file, such as what a mail carries: it is read as a file of its own.</summary>
/// <param name="MediaType">What its sender said it is.</param>
public sealed record Attachment(string Name, string? MediaType, byte[] Bytes);

/// <summary>A document as its reader understood it.</summary>
/// <param name="Title">Null where the format has none; the file's name is used then.</param>
public sealed record ReadDocument(string? Title, Metadata Metadata, IReadOnlyList<Block> Blocks, int PageCount = 0)
{
    public IReadOnlyList<Attachment> Attachments { get; init; } = [];

    /// <summary>What could not be read of it: a sentence each.</summary>
    public IReadOnlyList<string> Warnings { get; init; } = [];
}

/// <summary>What a reader gets.</summary>
/// <param name="Name">File name, with extension.</param>
/// <param name="Directory">Where relative references are looked up; null when the bytes came without a folder.</param>
/// <param name="Root">The folder that such references may not leave; by default <paramref name="Directory"/>.</param>
public sealed record SourceFile(string Name, byte[] Bytes, string? Directory = null, string? Root = null);
