using Diptych.Core;
using Diptych.Reading.Images;

namespace Diptych.Reading;

/// <summary>
/// Reads in this process: for whoever trusts the files, and within the processes that read for a server. A parser that never ends, or ends
/// its process, is not held off here.
/// </summary>
public sealed class InProcessReader : IDocumentReader
{
    private readonly ReaderLimits _limits;
    private readonly SkiaImageDecoder _images;

    public InProcessReader(ReaderLimits? limits = null)
    {
        _limits = limits ?? new ReaderLimits();
        _images = new SkiaImageDecoder(_limits.Pixels);
    }

    public IEnumerable<ReadPart> Read(SourceFile file, string mediaType, int fullSide, CancellationToken cancellation) =>
        Attachments.Read((f, type) => ReadOne(f, type, fullSide, cancellation), file, mediaType, cancellation);

    /// <summary>Reads a file, and leaves its attachments as they are.</summary>
    internal IEnumerable<ReadPart> ReadOne(SourceFile file, string mediaType, int fullSide, CancellationToken cancellation)
    {
        var meter = new OutputMeter(_limits);
        foreach (ReadPart part in Parts(DocumentReaders.Read(mediaType, file, _limits, cancellation), MediaTypes.IsImage(mediaType), fullSide, cancellation))
        {
            meter.Count(part);
            yield return part;
        }
    }

    private IEnumerable<ReadPart> Parts(ReadDocument read, bool isImage, int fullSide, CancellationToken cancellation)
    {
        foreach (Block block in read.Blocks)
        {
            cancellation.ThrowIfCancellationRequested();
            yield return block.Image is null ? new ReadPart.Content(block) : Decode(block, isImage, fullSide, cancellation);
        }
        foreach (Attachment attachment in read.Attachments)
        {
            yield return new ReadPart.Attached(attachment);
        }
        foreach (string warning in read.Warnings)
        {
            yield return new ReadPart.Warning(warning);
        }
        yield return new ReadPart.End(read.Title, read.Metadata, read.PageCount);
    }

    /// <summary>A file that is an image must decode; a broken picture inside a document is left out of it.</summary>
    private ReadPart Decode(Block picture, bool required, int fullSide, CancellationToken cancellation)
    {
        try
        {
            return new ReadPart.Content(picture with { Prepared = _images.Prepare(picture.Image!, fullSide: fullSide, cancellation: cancellation) });
        }
        catch (UnreadableException error) when (!required)
        {
            return new ReadPart.Warning($"A picture{(picture.Page is { } page ? $" on page {page}" : "")} is left out. {error.Message}");
        }
    }
}
