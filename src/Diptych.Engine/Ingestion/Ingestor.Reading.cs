using Diptych.Core;
using Diptych.Inference;
using Diptych.Reading;

namespace Diptych.Engine.Ingestion;

/// <summary>From bytes to passages with their pixels.</summary>
public sealed partial class Ingestor
{
    /// <summary>Warnings that are kept of one file.</summary>
    private const int MaxWarnings = 100;

    private Readied Ready(IngestSource source, byte[] bytes, string hash, string mediaType, bool replaces, CancellationToken cancellation)
    {
        var file = new SourceFile(source.Name, bytes, source.Directory, source.Root);
        ReadDocument read = WithPictureText(reader.Read(file, mediaType, pictures?.MaxSide ?? 0, cancellation), cancellation).ToDocument();
        var (text, chunks) = _chunker.Cut(read, cancellation);
        if (chunks.Count == 0)
        {
            throw new UnreadableException(string.Join(' ', read.Warnings.Take(1).Prepend("Nothing to read in it: neither text nor a picture.")));
        }
        var document = new Document
        {
            Collection = "",
            Source = source.Source,
            ContentHash = hash,
            MediaType = mediaType,
            Title = read.Title ?? Path.GetFileNameWithoutExtension(source.Name),
            SizeBytes = bytes.LongLength,
            IngestedAt = time.GetUtcNow(),
            PageCount = read.PageCount,
            Metadata = read.Metadata.With(source.Metadata ?? Metadata.Empty),
        };
        return new Readied(document, text, source.KeepOriginal ? bytes : null, chunks, MediaTypes.IsImage(mediaType), replaces)
        {
            ReadTitle = read.Title,
            ReadMetadata = read.Metadata,
            Lease = source.Lease,
            Warnings = [.. read.Warnings.Take(MaxWarnings)],
        };
    }

    /// <summary>The parts, and after each picture the text in it. Full pictures are let go as soon as they are read.</summary>
    private IEnumerable<ReadPart> WithPictureText(IEnumerable<ReadPart> parts, CancellationToken cancellation)
    {
        foreach (ReadPart part in parts)
        {
            if (part is not ReadPart.Content { Block: { Prepared: { Full: { } full } prepared } picture })
            {
                yield return part;
                continue;
            }
            yield return new ReadPart.Content(picture with { Prepared = prepared with { Full = null } });
            IReadOnlyList<TextLine> lines = pictures!.ReadAsync(full, Lane.Bulk, cancellation).GetAwaiter().GetResult();
            foreach (Block line in PictureText.Blocks(picture, lines, full.Width, full.Height))
            {
                yield return new ReadPart.Content(line);
            }
        }
    }
}
