using System.Globalization;
using Diptych.Core;
using MimeKit;

namespace Diptych.Reading.Readers;

/// <summary>An e-mail message: headers as metadata, the body, and attachments by their own readers.</summary>
internal sealed class EmailReader(Func<string, IFormatReader?> readerFor) : IFormatReader
{
    public ReadDocument Read(SourceFile file, CancellationToken cancellation)
    {
        MimeMessage message;
        try
        {
            message = MimeMessage.Load(new MemoryStream(file.Bytes, writable: false), cancellation);
        }
        catch (FormatException error)
        {
            throw new UnreadableException("The message is damaged: it has no valid headers.", error);
        }
        if (message.Headers.Count == 0)
        {
            throw new UnreadableException("The file is no e-mail message: it has no headers.");
        }
        Metadata metadata = Metadata.Empty
            .With("from", message.From.Mailboxes.Select(m => m.ToString()))
            .With("to", message.To.Mailboxes.Select(m => m.ToString()))
            .With("date", message.Date == default ? null : message.Date.ToString("yyyy-MM-ddTHH:mm:sszzz", CultureInfo.InvariantCulture));
        var blocks = new List<Block>();
        if (!string.IsNullOrWhiteSpace(message.Subject))
        {
            blocks.Add(new Block(BlockKind.Heading, message.Subject, 1));
        }
        blocks.AddRange(message.TextBody is { Length: > 0 } text
            ? PlainTextReader.Paragraphs(text).Select(p => new Block(BlockKind.Paragraph, p))
            : HtmlReader.Parse(message.HtmlBody ?? "", null, null, cancellation).Blocks);
        foreach (MimePart part in message.BodyParts.OfType<MimePart>())
        {
            if (part.Content is not null && (part.IsAttachment || part.ContentType.IsMimeType("image", "*")))
            {
                blocks.AddRange(Attachment(part, cancellation));
            }
        }
        return new ReadDocument(message.Subject, metadata, blocks);
    }

    private IEnumerable<Block> Attachment(MimePart part, CancellationToken cancellation)
    {
        using var content = new MemoryStream();
        part.Content!.DecodeTo(content, cancellation);
        string name = part.FileName ?? part.ContentId ?? "attachment", label = $"attachment {name}";
        byte[] bytes = content.ToArray();
        try
        {
            string mediaType = MediaTypes.Detect(name, bytes, part.ContentType.MimeType);
            return readerFor(mediaType) is { } reader
                ? reader.Read(new SourceFile(name, bytes), cancellation).Blocks.Select(b => b with { Label = b.Label is null ? label : $"{label}, {b.Label}", Page = null, Box = null })
                : [];
        }
        catch (UnreadableException error)
        {
            // The message is worth having without it; the reader of the answer learns that it was there.
            return [new Block(BlockKind.Paragraph, $"[{label}: {error.Message}]", Label: label)];
        }
    }
}
