using System.IO.Compression;
using System.Text;
using Diptych.Core;
using Diptych.Reading;
using Diptych.Reading.Images;
using SkiaSharp;
using Xunit;

namespace Diptych.Tests.Reading;

public sealed class ReaderTests
{
    [Fact]
    public void Markdown_keeps_structure_front_matter_and_pictures_beside_it()
    {
        ReadDocument read = Sample("brewing-coffee.md", Shared.Samples);
        Assert.Equal("Brewing coffee by hand", read.Title);
        Assert.Equal(["coffee", "kitchen", "guide"], read.Metadata["keywords"]);
        Assert.Contains(read.Blocks, b => b is { Kind: BlockKind.Heading, Level: 2, Text: "Water" });
        Assert.Contains(read.Blocks, b => b is { Kind: BlockKind.TableRow, Text: "Espresso | fine | 25 seconds" });
        Assert.Contains(read.Blocks, b => b.Kind == BlockKind.Picture && b.Image!.Length == new FileInfo(Path.Combine(Shared.Samples, "photos", "coffee.png")).Length);
    }

    [Fact]
    public void A_picture_outside_the_ingested_folder_is_not_read()
    {
        ReadDocument read = Sample("brewing-coffee.md", root: null);
        Assert.DoesNotContain(read.Blocks, b => b.Kind == BlockKind.Picture);
    }

    [Fact]
    public void Html_leaves_out_what_surrounds_the_content()
    {
        ReadDocument read = Sample("chelsea-the-cat.html");
        Assert.DoesNotContain(read.Blocks, b => b.Text.Contains("Contact", StringComparison.Ordinal) || b.Text.Contains("neighbours", StringComparison.Ordinal));
        Assert.Equal(["cat", "pets", "care"], read.Metadata["keywords"]);
    }

    [Fact]
    public void Pdf_gives_each_block_its_page_and_box_and_each_picture_too()
    {
        ReadDocument read = Sample("women-in-space.pdf");
        Assert.Equal(2, read.PageCount);
        Assert.All(read.Blocks, b => Assert.True(b.Page is 1 or 2 && b.Box is { Width: > 0, Height: > 0 }));
        Block collins = read.Blocks.First(b => b.Text.Contains("Collins was the first woman", StringComparison.Ordinal));
        Assert.True(collins is { Page: 1, Box: { Y: > 0.1 and < 0.3, X: > 0.1 and < 0.2 } }, $"{collins.Box}");
        Block picture = read.Blocks.Single(b => b.Kind == BlockKind.Picture);
        Assert.True(picture.Page == 1 && picture.Box!.Value.Y > collins.Box!.Value.Y);
        Assert.Contains(read.Blocks, b => b is { Kind: BlockKind.Heading, Text: "The orange suit", Page: 2 });
    }

    [Fact]
    public void Word_gives_headings_lists_tables_and_pictures()
    {
        ReadDocument read = Sample("ancient-coins.docx");
        Assert.Contains(read.Blocks, b => b is { Kind: BlockKind.Heading, Text: "Cleaning", Level: 1 });
        Assert.Contains(read.Blocks, b => b.Kind == BlockKind.ListItem && b.Text.StartsWith("The metal", StringComparison.Ordinal));
        Assert.Contains(read.Blocks, b => b is { Kind: BlockKind.TableRow, Text: "Gold | Paper envelope | any" });
        Assert.Single(read.Blocks, b => b.Kind == BlockKind.Picture);
    }

    [Fact]
    public void PowerPoint_gives_slides_as_pages_with_boxes()
    {
        ReadDocument read = Sample("deep-field-talk.pptx");
        Assert.Equal(3, read.PageCount);
        Assert.Contains(read.Blocks, b => b is { Kind: BlockKind.Picture, Page: 3, Label: "slide 3", Box: not null });
    }

    [Fact]
    public void Excel_names_columns_and_reads_dates()
    {
        ReadDocument read = Sample("photographers-equipment.xlsx");
        Assert.Contains(read.Blocks, b => b.Text.Contains("Item: Film camera", StringComparison.Ordinal) && b.Text.Contains("Bought: 2019-05-04", StringComparison.Ordinal) && b.Page == 1);
        Assert.Contains(read.Blocks, b => b.Text.Contains("Scene: Full moon", StringComparison.Ordinal) && b.Page == 2);
    }

    [Fact]
    public void Csv_json_and_mail_keep_what_a_value_is()
    {
        Assert.Contains(Sample("rocket-launch-log.csv").Blocks, b => b.Text == "Time to launch: -3 s; Event: Ignition; Note: All nine engines of the first stage light");
        Assert.Contains(Sample("telescopes.jsonl").Blocks, b => b.Label == "line 2" && b.Text.Contains("mirror_metres: 6.5", StringComparison.Ordinal));
        ReadDocument mail = Sample("trip-to-china.eml");
        Assert.Equal("The temple outside Beijing", mail.Title);
        Assert.StartsWith("2024-09-14", mail.Metadata.First("date"), StringComparison.Ordinal);
    }

    [Fact]
    public void Mail_reads_its_attachments()
    {
        byte[] photo = File.ReadAllBytes(Path.Combine(Shared.Samples, "photos", "clock_motion.png"));
        string mail = $"Subject: Clock\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nSee the picture.\n--b\nContent-Type: image/png; name=clock.png\nContent-Disposition: attachment; filename=clock.png\nContent-Transfer-Encoding: base64\n\n{Convert.ToBase64String(photo, Base64FormattingOptions.InsertLineBreaks)}\n--b--\n";
        ReadDocument read = Read("a.eml", Encoding.UTF8.GetBytes(mail));
        Assert.Contains(read.Blocks, b => b is { Kind: BlockKind.Picture, Label: "attachment clock.png" } && b.Image!.SequenceEqual(photo));
    }

    [Theory]
    [InlineData("latin.txt", new byte[] { (byte)'c', (byte)'a', (byte)'f', 0xE9 })]
    [InlineData("utf16.txt", new byte[] { 0xFF, 0xFE, (byte)'c', 0, (byte)'a', 0, (byte)'f', 0, 0xE9, 0 })]
    [InlineData("utf8.txt", new byte[] { 0xEF, 0xBB, 0xBF, (byte)'c', (byte)'a', (byte)'f', 0xC3, 0xA9 })]
    public void Text_is_read_in_the_encoding_it_has(string name, byte[] bytes) => Assert.Equal("café", Read(name, bytes).Blocks.Single().Text);

    [Fact]
    public void Exif_orientation_is_applied_and_iptc_and_exif_text_kept()
    {
        byte[] jpeg = WithExif(Jpeg(40, 20), orientation: 6, description: "Two boats", date: "2021:07:08 09:10:11");
        var image = Runtimes.SkiaDecoder.Prepare(jpeg);
        Assert.Equal((20, 40), (image.WidthPx, image.HeightPx));
        ReadDocument read = Read("boats.jpg", jpeg);
        Assert.Equal("Two boats", read.Metadata.First("caption"));
        Assert.Equal("2021-07-08T09:10:11", read.Metadata.First("date"));
    }

    public static TheoryData<string, byte[], string> Bad() => new()
    {
        { "empty.pdf", [], "empty" },
        { "not.pdf", Encoding.UTF8.GetBytes("plain words"), "wrong extension" },
        { "photo.pdf", Jpeg(8, 8), "content is JPEG" },
        { "truncated.pdf", File.ReadAllBytes(Path.Combine(Shared.Samples, "documents", "women-in-space.pdf"))[..3000], "damaged" },
        { "truncated.docx", File.ReadAllBytes(Path.Combine(Shared.Samples, "documents", "ancient-coins.docx"))[..20_000], "damaged" },
        { "locked.docx", [0xD0, 0xCF, 0x11, 0xE0, 0xA1, 0xB1, 0x1A, 0xE1], "encrypted" },
        { "bomb.docx", ZipBomb(), "zip bomb" },
        { "broken.json", Encoding.UTF8.GetBytes("{\"a\": "), "not valid JSON" },
        { "binary.txt", [1, 0, 2, 0, 0, 0, 7], "binary" },
        { "thing.xyz", [0, 1, 2, 3], "not known" },
        { "program.zip", Zip("a.txt", 10), "not supported" },
    };

    [Theory]
    [MemberData(nameof(Bad))]
    public void A_bad_file_is_refused_with_its_reason(string name, byte[] bytes, string reason)
    {
        var error = Assert.Throws<UnreadableException>(() => Read(name, bytes));
        Assert.Contains(reason, error.Message, StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public void An_encrypted_pdf_says_so()
    {
        // A standard security handler whose password is not empty.
        const string pdf = "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\n4 0 obj<</Filter/Standard/V 1/R 2/O<0011223344556677889900112233445566778899001122334455667788990011>/U<0011223344556677889900112233445566778899001122334455667788990011>/P -4>>endobj\nxref\n0 5\n0000000000 65535 f \n0000000009 00000 n \n0000000052 00000 n \n0000000101 00000 n \n0000000162 00000 n \ntrailer<</Size 5/Root 1 0 R/Encrypt 4 0 R/ID[<00112233445566778899001122334455><00112233445566778899001122334455>]>>\nstartxref\n374\n%%EOF";
        var error = Assert.Throws<UnreadableException>(() => Read("secret.pdf", Encoding.Latin1.GetBytes(pdf)));
        Assert.Contains("encrypted", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(30_000, 30_000)]
    [InlineData(60_000, 60_000)]
    public void A_pixel_bomb_is_refused_before_it_is_decoded(int width, int height)
    {
        var error = Assert.Throws<UnreadableException>(() => Runtimes.SkiaDecoder.Prepare(PngHeader(width, height)));
        Assert.Contains("megapixels", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("coins.png")]
    [InlineData("china.jpg")]
    public void A_truncated_image_says_so(string photo)
    {
        byte[] whole = File.ReadAllBytes(Path.Combine(Shared.Samples, "photos", photo));
        Assert.Throws<UnreadableException>(() => Runtimes.SkiaDecoder.Prepare(whole[..(whole.Length / 2)]));
    }

    private static ReadDocument Sample(string name, string? root = null)
    {
        string path = Path.Combine(Shared.Samples, "documents", name);
        byte[] bytes = File.ReadAllBytes(path);
        return new InProcessReader().Read(new SourceFile(name, bytes, Path.GetDirectoryName(path), root), MediaTypes.Detect(name, bytes), 0, CancellationToken.None).ToDocument();
    }

    private static ReadDocument Read(string name, byte[] bytes) =>
        new InProcessReader().Read(new SourceFile(name, bytes), MediaTypes.Detect(name, bytes), 0, CancellationToken.None).ToDocument();

    internal static byte[] Jpeg(int width, int height)
    {
        using var bitmap = new SKBitmap(width, height);
        bitmap.Erase(SKColors.SteelBlue);
        using SKData data = bitmap.Encode(SKEncodedImageFormat.Jpeg, 90);
        return data.ToArray();
    }

    /// <summary>Puts an APP1 segment with three tags after the JPEG's start.</summary>
    private static byte[] WithExif(byte[] jpeg, ushort orientation, string description, string date)
    {
        byte[] text = Encoding.ASCII.GetBytes(description + "\0"), when = Encoding.ASCII.GetBytes(date + "\0");
        using var tiff = new MemoryStream();
        using var writer = new BinaryWriter(tiff);
        const int count = 3, data = 8 + 2 + (count * 12) + 4;
        writer.Write("II*\0"u8);
        writer.Write(8);
        writer.Write((ushort)count);
        void Tag(ushort id, ushort type, int length, int value)
        {
            writer.Write(id);
            writer.Write(type);
            writer.Write(length);
            writer.Write(value);
        }
        Tag(0x010E, 2, text.Length, data);
        Tag(0x0112, 3, 1, orientation);
        Tag(0x0132, 2, when.Length, data + text.Length);
        writer.Write(0);
        writer.Write(text);
        writer.Write(when);
        byte[] exif = [.. "Exif\0\0"u8, .. tiff.ToArray()];
        return [0xFF, 0xD8, 0xFF, 0xE1, (byte)((exif.Length + 2) >> 8), (byte)(exif.Length + 2), .. exif, .. jpeg[2..]];
    }

    private static byte[] PngHeader(int width, int height)
    {
        byte[] chunk = [.. "IHDR"u8, .. BigEndian(width), .. BigEndian(height), 8, 2, 0, 0, 0];
        return [0x89, .. "PNG\r\n\x1a\n"u8, 0, 0, 0, 13, .. chunk, .. BigEndian((int)Crc(chunk)), 0, 0, 16, 0, .. "IDAT"u8, 0x78, 0x9C, .. new byte[64]];
    }

    private static byte[] BigEndian(int value) => [(byte)(value >> 24), (byte)(value >> 16), (byte)(value >> 8), (byte)value];

    private static uint Crc(byte[] bytes)
    {
        uint crc = 0xFFFFFFFF;
        foreach (byte b in bytes)
        {
            crc ^= b;
            for (int i = 0; i < 8; i++)
            {
                crc = (crc & 1) != 0 ? (crc >> 1) ^ 0xEDB88320 : crc >> 1;
            }
        }
        return ~crc;
    }

    private static byte[] ZipBomb() => Zip("word/document.xml", 600L << 20);

    private static byte[] Zip(string name, long zeros)
    {
        using var stream = new MemoryStream();
        using (var zip = new ZipArchive(stream, ZipArchiveMode.Create, leaveOpen: true))
        {
            using Stream entry = zip.CreateEntry(name, CompressionLevel.Fastest).Open();
            byte[] block = new byte[1 << 16];
            for (long written = 0; written < zeros; written += block.Length)
            {
                entry.Write(block);
            }
        }
        return stream.ToArray();
    }
}

internal static class Runtimes
{
    public static IImageDecoder SkiaDecoder { get; } = new SkiaImageDecoder();
}
