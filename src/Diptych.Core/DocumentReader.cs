namespace Diptych.Core;

/// <summary>What a reader gives, one after the other: blocks, attachments and warnings in the order of the document, the end last.</summary>
public abstract record ReadPart
{
    private ReadPart()
    {
    }

    /// <summary>A block; a picture is decoded.</summary>
    public sealed record Content(Block Block) : ReadPart;

    /// <summary>A file within the file, not read yet.</summary>
    public sealed record Attached(Attachment Attachment) : ReadPart;

    /// <summary>A sentence about what could not be read.</summary>
    public sealed record Warning(string Text) : ReadPart;

    /// <summary>Nothing follows.</summary>
    public sealed record End(string? Title, Metadata Metadata, int PageCount) : ReadPart;
}

/// <summary>Reads files of every known format: in this process, or in others that may fail without harm to this one.</summary>
public interface IDocumentReader
{
    /// <summary>Reads while the parts are taken, on the calling thread, which waits. Attachments have been read: their blocks are among the parts.</summary>
    /// <param name="mediaType">What the file is.</param>
    /// <param name="fullSide">Above 0: pictures come in full too, the longer side at most this many pixels.</param>
    /// <exception cref="UnreadableException">The file cannot be read, or went beyond a limit; the message says which.</exception>
    IEnumerable<ReadPart> Read(SourceFile file, string mediaType, int fullSide, CancellationToken cancellation);
}

/// <summary>Why a file could not be read.</summary>
public enum ReadFailure
{
    /// <summary>Damaged, encrypted, or of a format that is not known.</summary>
    Content,

    /// <summary>Its reader took more memory than it may.</summary>
    Memory,

    /// <summary>Its reader computed for longer than it may.</summary>
    CpuTime,

    /// <summary>Its reader took longer than it may.</summary>
    Time,

    /// <summary>More came out of it than may.</summary>
    Output,

    /// <summary>It is nested more deeply than its reader can follow.</summary>
    Depth,

    /// <summary>Its reader ended without an answer, or with one that cannot be.</summary>
    Crash,
}

/// <summary>A file that cannot be read, with the reason as its message.</summary>
public sealed class UnreadableException(string message, Exception? inner = null, ReadFailure failure = ReadFailure.Content) : Exception(message, inner)
{
    public ReadFailure Failure => failure;
}

/// <summary>Parts taken together.</summary>
public static class ReadParts
{
    /// <summary>The whole document.</summary>
    public static ReadDocument ToDocument(this IEnumerable<ReadPart> parts)
    {
        var blocks = new List<Block>();
        var attachments = new List<Attachment>();
        var warnings = new List<string>();
        ReadPart.End end = new(null, Metadata.Empty, 0);
        foreach (ReadPart part in parts)
        {
            switch (part)
            {
                case ReadPart.Content content:
                    blocks.Add(content.Block);
                    break;
                case ReadPart.Attached attached:
                    attachments.Add(attached.Attachment);
                    break;
                case ReadPart.Warning warning:
                    warnings.Add(warning.Text);
                    break;
                case ReadPart.End last:
                    end = last;
                    break;
            }
        }
        return new ReadDocument(end.Title, end.Metadata, blocks, end.PageCount) { Attachments = attachments, Warnings = warnings };
    }
}
