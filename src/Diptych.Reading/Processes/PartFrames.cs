using Diptych.Core;
using Diptych.Reading.Images;

namespace Diptych.Reading.Processes;

/// <summary>Requests and parts as frames. A picture that is the file itself is not sent back.</summary>
internal static class PartFrames
{
    private const byte Absent = 0, Own = 1, Sent = 2;

    public static void Write(this FrameWriter writer, ReadPart part, byte[] file)
    {
        switch (part)
        {
            case ReadPart.Content { Block: var b }:
                writer.Begin(FrameKind.Content).Byte((byte)b.Kind).Text(b.Text).Int(b.Level).Int(b.Page ?? int.MinValue).Text(b.Label);
                WriteBox(writer, b.Box);
                WriteFile(writer, b.Image, file);
                writer.Byte(b.Prepared is null ? Absent : Sent);
                if (b.Prepared is { } prepared)
                {
                    WriteImage(writer, prepared, b.Image ?? file);
                }
                break;
            case ReadPart.Attached { Attachment: var a }:
                writer.Begin(FrameKind.Attached).Text(a.Name).Text(a.MediaType).Bytes(a.Bytes);
                break;
            case ReadPart.Warning { Text: var text }:
                writer.Begin(FrameKind.Warning).Text(text);
                break;
            case ReadPart.End end:
                writer.Begin(FrameKind.End).Text(end.Title).Int(end.PageCount).Int(end.Metadata.Count);
                foreach (var (key, values) in end.Metadata)
                {
                    writer.Text(key).Int(values.Count);
                    foreach (string value in values)
                    {
                        writer.Text(value);
                    }
                }
                break;
        }
        writer.Send(flush: part is ReadPart.End or ReadPart.Content { Block.Image: not null });
    }

    /// <returns>Null where the frame holds no part.</returns>
    /// <exception cref="FrameException">The frame holds what no reader sends.</exception>
    public static ReadPart? Part(this FrameReader reader, FrameKind kind, byte[] file)
    {
        switch (kind)
        {
            case FrameKind.Content:
                var blockKind = (BlockKind)reader.Byte();
                string text = reader.Text() ?? "";
                int level = reader.Int(), page = reader.Int();
                string? label = reader.Text();
                Box? box = ReadBox(reader);
                byte[]? image = ReadFile(reader, file);
                PreparedImage? prepared = reader.Byte() == Absent ? null : ReadImage(reader, image ?? file);
                if (!Enum.IsDefined(blockKind) || (blockKind == BlockKind.Picture) != (image is not null && prepared is not null))
                {
                    throw new FrameException("A block that cannot be.");
                }
                return new ReadPart.Content(new Block(blockKind, text, level, page == int.MinValue ? null : page, box, label, image) { Prepared = prepared });
            case FrameKind.Attached:
                return new ReadPart.Attached(new Attachment(reader.Text() ?? "", reader.Text(), reader.Bytes() ?? []));
            case FrameKind.Warning:
                return new ReadPart.Warning(reader.Text() ?? "");
            case FrameKind.End:
                string? title = reader.Text();
                int pages = reader.Int(), keys = reader.Int();
                var metadata = new List<KeyValuePair<string, IReadOnlyList<string>>>();
                for (int i = 0; i < keys; i++)
                {
                    string key = reader.Text() ?? "";
                    var values = new List<string>();
                    for (int left = reader.Int(); left > 0; left--)
                    {
                        values.Add(reader.Text() ?? "");
                    }
                    metadata.Add(new(key, values));
                }
                return new ReadPart.End(title, new Metadata(metadata), pages);
            default:
                return null;
        }
    }

    public static void Write(this FrameWriter writer, ReaderLimits limits) => writer.Begin(FrameKind.Limits)
        .Number(limits.Pixels).Number(limits.Characters).Int(limits.Blocks).Int(limits.Images).Number(limits.OutputBytes).Send();

    public static ReaderLimits ReadLimits(this FrameReader reader) => new()
    {
        Pixels = (long)reader.Number(),
        Characters = (long)reader.Number(),
        Blocks = reader.Int(),
        Images = reader.Int(),
        OutputBytes = (long)reader.Number(),
    };

    /// <param name="file">What was decoded.</param>
    public static void WriteImage(FrameWriter writer, PreparedImage image, byte[] file)
    {
        writer.Int(image.WidthPx).Int(image.HeightPx).Bytes(image.Pixels);
        WriteFile(writer, image.Thumbnail, file);
        writer.Int(image.Full?.Width ?? 0).Int(image.Full?.Height ?? 0).Bytes(image.Full?.Pixels);
    }

    public static PreparedImage ReadImage(FrameReader reader, byte[] file)
    {
        int width = reader.Int(), height = reader.Int();
        byte[] pixels = reader.Bytes() ?? [], thumbnail = ReadFile(reader, file) ?? [];
        int fullWidth = reader.Int(), fullHeight = reader.Int();
        byte[]? full = reader.Bytes();
        if (width <= 0 || height <= 0 || pixels.Length != 3 * SkiaImageDecoder.ModelSide * SkiaImageDecoder.ModelSide
            || (full is not null && (fullWidth <= 0 || fullHeight <= 0 || full.LongLength != 3L * fullWidth * fullHeight)))
        {
            throw new FrameException("A picture that cannot be.");
        }
        return new PreparedImage(pixels, thumbnail, width, height, full is null ? null : new RgbImage(full, fullWidth, fullHeight));
    }

    private static void WriteFile(FrameWriter writer, byte[]? bytes, byte[] file)
    {
        writer.Byte(bytes is null ? Absent : ReferenceEquals(bytes, file) ? Own : Sent);
        if (bytes is not null && !ReferenceEquals(bytes, file))
        {
            writer.Bytes(bytes);
        }
    }

    private static byte[]? ReadFile(FrameReader reader, byte[] file) => reader.Byte() switch
    {
        Absent => null,
        Own => file,
        _ => reader.Bytes(),
    };

    private static void WriteBox(FrameWriter writer, Box? box)
    {
        writer.Byte(box is null ? Absent : Sent);
        if (box is { } b)
        {
            writer.Number(b.X).Number(b.Y).Number(b.Width).Number(b.Height);
        }
    }

    private static Box? ReadBox(FrameReader reader) =>
        reader.Byte() == Absent ? null : new Box(reader.Number(), reader.Number(), reader.Number(), reader.Number());
}
