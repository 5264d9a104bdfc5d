using System.Globalization;
using Diptych.Core;
using MimeKit;

namespace Diptych.Reading.Readers;

/// <summary>An e-mail message: headers as metadata, the body, and what is attached.</summary>
internal sealed class EmailReader : IFormatReader
{
    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation)
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
        return new ReadDocument(message.Subject, metadata, blocks)
        {
            Attachments =
            [
                .. message.BodyParts.OfType<MimePart>()
                    .Where(p => p.Content is not null && (p.IsAttachment || p.ContentType.IsMimeType("image", "*")))
                    .Select(p => Content(p, cancellation)),
            ],
        };
    }

    private static Attachment Content(MimePart part, CancellationToken cancellation)
    {
        using var content = new MemoryStream();
        part.Content!.DecodeTo(content, cancellation);
        return new Attachment(part.FileName ?? part.ContentId ?? "attachment", part.ContentType.MimeType, content.ToArray());
    }
}
