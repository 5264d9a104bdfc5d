using System.IO.Compression;
using System.Text;
using Diptych.Core;
using Diptych.Reading;
using Diptych.Reading.Processes;
using Diptych.Tests;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>
/// Files that were made, or went wrong, so that a reader loops, recurses or fills the memory: each is read or refused with its reason,
/// within 500 MB and five seconds of processor time, and the next file is read.
/// </summary>
public sealed class HostileFilesTests : IDisposable
{
    private static readonly ReaderLimits Limits = new() { MemoryBytes = 500L << 20, CpuTime = TimeSpan.FromSeconds(5) };

    private readonly ReaderPool _pool = Open(Limits);

    public void Dispose() => _pool.Dispose();

    [Theory]
    [InlineData("control_ok.pdf", "hello pdf world", "")]
    [InlineData("form_loop2.pdf", "", "")]
    [InlineData("jpegflate.pdf", "hello", "A picture on page 1 is left out. It unpacks to 1,901 MB, above the limit of 256 MB.")]
    [InlineData("carrier.eml", "x\nhello", "attachment a.docx: The document is nested too deeply: more than 1000 elements within each other.")]
    public void What_is_sound_in_it_is_read_and_the_rest_named(string name, string text, string warning)
    {
        ReadDocument read = Read(name);
        Assert.Equal(text, string.Join('\n', read.Blocks.Select(b => b.Text)));
        Assert.Equal(warning, string.Join('\n', read.Warnings));
    }

    [Theory]
    [InlineData("nested_unknown.docx", "nested too deeply")]
    [InlineData("nested_div.html", "nested too deeply")]
    public void What_cannot_be_read_fails_alone_with_its_reason(string name, string words)
    {
        Assert.Contains(words, Assert.Throws<UnreadableException>(() => Read(name)).Message, StringComparison.Ordinal);
        Assert.Equal("hello pdf world", Read("control_ok.pdf").Blocks.Single().Text);
    }

    [Fact]
    public void Cells_far_out_cost_no_more_than_others()
    {
        ReadDocument read = Read("farcol.xlsx");
        Assert.Equal(100_001, read.Blocks.Count);
        Assert.All(read.Blocks.Skip(1), b => Assert.Equal("1", b.Text));
    }

    [Fact]
    public void A_log_keeps_its_lines() =>
        Assert.Equal(4_273, string.Join('\n', Read("log400.log").Blocks.Select(b => b.Text)).Split('\n').Length);

    [Fact]
    public void Runs_of_backticks_that_close_nothing_are_text() =>
        Assert.Equal(1_499, Read("backticks.md").Blocks.Sum(b => b.Text.Count(c => c == 'a')));

    [Fact]
    public void A_picture_is_read_without_the_metadata_that_its_reader_cannot_read()
    {
        ReadDocument read = Read("xmp20k.png");
        Assert.True(read.Blocks.Single().Prepared is { WidthPx: 300, HeightPx: 300, Thumbnail.Length: > 0 });
        Assert.Contains("could not be read", read.Warnings.Single(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_canvas_of_196_megapixels_is_refused_before_it_is_drawn_in_files_and_in_queries()
    {
        using ReaderPool small = Open(Limits with { MemoryBytes = 200L << 20, CpuTime = TimeSpan.FromSeconds(2) });
        byte[] gif = Bytes("gif_big.gif");
        Assert.Contains("14000 x 14000", Assert.Throws<UnreadableException>(() => Read(small, "gif_big.gif", gif)).Message, StringComparison.Ordinal);
        Assert.Contains("14000 x 14000", Assert.Throws<UnreadableException>(() => small.Prepare(gif, cancellation: TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Forms_that_draw_each_other_are_drawn_once_within_themselves()
    {
        string Form(string next) => TinyPdf.Stream("BT /F 12 Tf 50 700 Td (Hello world) Tj ET 0.5 0 0 0.5 25 25 cm /X Do", $"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<</Font<</F 5 0 R>>/XObject<</X {next}>>>>");
        ReadDocument read = Read("loop.pdf", TinyPdf.Page("/X Do", "/XObject<</X 6 0 R>>", Form("7 0 R"), Form("6 0 R")));
        Assert.Equal(2, Count("Hello world", read));
    }

    [Fact]
    public void Forms_without_end_that_no_circle_explains_fail_alone()
    {
        // Neither has resources of its own: both find the other in the page's.
        byte[] pdf = TinyPdf.Page("/A Do", "/XObject<</A 6 0 R/B 7 0 R>>", TinyPdf.Stream("/B Do", "/Type/XObject/Subtype/Form/BBox[0 0 600 800]"), TinyPdf.Stream("/A Do", "/Type/XObject/Subtype/Form/BBox[0 0 600 800]"));
        Assert.Contains("nested too deeply", Assert.Throws<UnreadableException>(() => Read("loop.pdf", pdf)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_field_of_the_cross_references_that_is_wider_than_the_stack_is_refused()
    {
        byte[] pdf = Encoding.Latin1.GetBytes("%PDF-1.5\n7 0 obj<</Type/XRef/Size 8/W[1 2 166666666666666666666]/Root 8 0 R/Length 4>>stream\nabcd\nendstream endobj\nstartxref\n9\n%%EOF");
        Assert.Contains("cross-reference", Assert.Throws<UnreadableException>(() => Read("wide.pdf", pdf)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_page_without_an_area_gives_no_box_that_is_no_number()
    {
        byte[] pdf = Encoding.Latin1.GetBytes(Encoding.Latin1.GetString(TinyPdf.Page("BT /F 12 Tf 50 700 Td (Empty box) Tj ET", "")).Replace("[0 0 600 800]", "[0 0   0   0]", StringComparison.Ordinal));
        AssertBoxes(Read("box.pdf", pdf), 1);
    }

    [Fact]
    public void A_cell_that_stands_in_every_row_counts_in_every_row()
    {
        string rows = string.Concat(Enumerable.Range(1, 500).Select(_ => "<row><c t=\"s\"><v>0</v></c><c t=\"s\"><v>0</v></c></row>"));
        byte[] book = TinyWorkbook(rows, new string('x', 1_000_000));
        Assert.Contains("50,000,000 characters", Assert.Throws<UnreadableException>(() => Read("shared.xlsx", book)).Message, StringComparison.Ordinal);
        byte[] table = Encoding.UTF8.GetBytes(new string('x', 1_000_000) + string.Concat(Enumerable.Repeat("\n1", 500)));
        Assert.Contains("50,000,000 characters", Assert.Throws<UnreadableException>(() => Read("header.csv", table)).Message, StringComparison.Ordinal);
    }

    /// <summary>Files of others, where they lie beside the repository, after one that lies in it.</summary>
    public static IEnumerable<TheoryDataRow<string, string?>> Foreign() => (
        from row in new (string Name, string? Failure)[]
        {
            ("REDHAT-1531897-0.pdf", "no readable cross-reference table"),
            ("issue19800.pdf", null),
            ("boundingBox_invalid.pdf", null),
            ("poc-shared-strings.xlsx.danger", "50,000,000 characters"),
            ("crash-2020-10-test.tif", ""),
            ("separate_planar_extra_samples.tiff", ""),
        }
        where File.Exists(Path.Combine(Shared.Root, "cases", "hostile", row.Name))
        select new TheoryDataRow<string, string?>(row.Name, row.Failure).WithTrait("Needs", "shared")).Prepend(new TheoryDataRow<string, string?>("gif_big.gif", "megapixels"));

    [Theory]
    [MemberData(nameof(Foreign))]
    public void Files_that_ended_other_readers_are_read_or_refused(string name, string? failure)
    {
        string sound = Path.ChangeExtension(name, null) is var stem && stem.EndsWith(".xlsx", StringComparison.Ordinal) ? stem : name;
        if (failure is not null)
        {
            Assert.Contains(failure, Assert.Throws<UnreadableException>(() => Read(sound, Bytes(name))).Message, StringComparison.Ordinal);
            return;
        }
        ReadDocument read = Read(sound, Bytes(name));
        AssertBoxes(read, name == "issue19800.pdf" ? 1 : 3);
        Assert.Equal(name == "issue19800.pdf" ? 2 : 0, Count("Hello world", read));
    }

    /// <summary>Texts and pages made to be nested, repeated or circular beyond measure, by the name that tells their type.</summary>
    public static TheoryData<string, string> Beyond() => new()
    {
        { "quotes.md", new string('>', 200_000) + " x" },
        { "lists.md", string.Concat(Enumerable.Repeat("- ", 100_000)) + "x" },
        { "brackets.md", new string('[', 100_000) + "x" },
        { "links.md", string.Concat(Enumerable.Repeat("[a](", 50_000)) },
        { "stars.md", string.Concat(Enumerable.Repeat("*a **b ", 50_000)) },
        { "pipes.md", string.Concat(Enumerable.Repeat("|a", 50_000)) + "\n" + string.Concat(Enumerable.Repeat("|-", 50_000)) },
        { "bold.html", string.Concat(Enumerable.Repeat("<b><p>x", 20_000)) },
        { "tables.html", string.Concat(Enumerable.Repeat("<table><tr><td>", 20_000)) },
        { "attributes.html", "<p " + string.Concat(Enumerable.Range(0, 100_000).Select(i => $"a{i}=1 ")) + ">x</p>" },
        { "comments.html", string.Concat(Enumerable.Repeat("<!--", 100_000)) },
        { "nested.json", new string('[', 500_000) },
        { "keys.json", string.Concat(Enumerable.Repeat("{\"a\":", 60)) + "1" + new string('}', 60) },
        { "lines.jsonl", string.Concat(Enumerable.Repeat("{\"a\":1}\n", 300_000)) },
        { "quote.csv", "a,b\n\"" + new string('x', 3_000_000) },
        { "columns.csv", new string(',', 2_000_000) + "\nx" },
        { "parts.eml", "Subject: a\r\nMIME-Version: 1.0\r\n" + string.Concat(Enumerable.Range(0, 20_000).Select(i => $"Content-Type: multipart/mixed; boundary=\"b{i}\"\r\n\r\n--b{i}\r\n")) },
        { "mails.eml", string.Concat(Enumerable.Repeat("Subject: a\r\nMIME-Version: 1.0\r\nContent-Type: message/rfc822\r\n\r\n", 20_000)) + "Subject: last\r\n\r\nx" },
        { "headers.eml", string.Concat(Enumerable.Range(0, 200_000).Select(i => $"X-{i}: a\r\n")) + "\r\nx" },
        { "arrays.pdf", Latin(TinyPdf.Page($"{new string('[', 100_000)} TJ", "")) },
        { "pages.pdf", Latin(TinyPdf.Page("", "")).Replace("/Kids[3 0 R]", "/Kids[2 0 R]", StringComparison.Ordinal) },
        { "parents.pdf", Latin(TinyPdf.Page("", "")).Replace("/Type/Pages/", "/Type/Pages/Parent 2 0 R/", StringComparison.Ordinal) },
        { "previous.pdf", Latin(TinyPdf.Page("", "")).Replace("/Root 1 0 R", "/Prev 400/Root 1 0 R", StringComparison.Ordinal) },
        { "count.pdf", Latin(TinyPdf.Page("", "")).Replace("/Count 1", "/Count 2147483647", StringComparison.Ordinal) },
        { "states.pdf", Latin(TinyPdf.Page(string.Concat(Enumerable.Repeat("q ", 500_000)), "")) },
        { "letters.pdf", Latin(TinyPdf.Page($"BT /F 12 Tf ({new string('x', 200_000)}) Tj ET", "")) },
        { "doubling.pdf", Doubling() },
        { "mask.pdf", Latin(TinyPdf.Page("/I Do", "/XObject<</I 6 0 R>>", TinyPdf.Stream("x", "/Type/XObject/Subtype/Image/Width 64/Height 64/ColorSpace/DeviceRGB/BitsPerComponent 8/SMask 6 0 R"))) },
    };

    [Theory]
    [MemberData(nameof(Beyond))]
    public void Whatever_is_nested_repeated_or_circular_is_read_or_refused_and_the_next_file_read(string name, string content)
    {
        Exception? error = Record.Exception(() => Read(name, Encoding.Latin1.GetBytes(content)));
        Assert.True(error is null or UnreadableException { Message.Length: > 0 }, $"{error}");
        TestContext.Current.TestOutputHelper?.WriteLine($"{name}: {error?.Message ?? "read"}");
        Assert.Equal("hello pdf world", Read("control_ok.pdf").Blocks.Single().Text);
    }

    [Fact]
    public async Task A_folder_that_holds_them_is_ingested_but_for_what_is_named()
    {
        string folder = Directory.CreateTempSubdirectory("diptych-hostile-").FullName, data = Directory.CreateTempSubdirectory("diptych-hostile-data-").FullName;
        try
        {
            foreach (string name in (string[])["control_ok.pdf", "form_loop2.pdf", "jpegflate.pdf", "nested_unknown.docx", "nested_div.html", "carrier.eml", "gif_big.gif"])
            {
                await File.WriteAllBytesAsync(Path.Combine(folder, name), Bytes(name), TestContext.Current.CancellationToken);
            }
            var (exit, output, error) = await Host.DiptychAsync(data, "ingest", folder);
            Assert.Equal(3, exit);
            Assert.Contains("3 added", output, StringComparison.Ordinal);
            foreach (string failed in (string[])["form_loop2.pdf: Nothing to read", "nested_unknown.docx: The document is nested", "nested_div.html: The page is nested", "gif_big.gif: The image has 14000"])
            {
                Assert.Contains($"failed {Path.Combine(folder, failed)}", output + error, StringComparison.Ordinal);
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
            Directory.Delete(data, recursive: true);
        }
    }

    /// <summary>Forms that each draw the next one twice: a thousand times a thousand times a thousand drawings.</summary>
    private static string Doubling() => Latin(TinyPdf.Page("/X Do", "/XObject<</X 6 0 R>>", [.. Enumerable.Range(7, 40).Select(next =>
        TinyPdf.Stream("/X Do /X Do", $"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<</XObject<</X {next} 0 R>>>>"))]));

    private static string Latin(byte[] bytes) => Encoding.Latin1.GetString(bytes);

    private static int Count(string words, ReadDocument read) => string.Join('\n', read.Blocks.Select(b => b.Text)).Split(words).Length - 1;

    private static void AssertBoxes(ReadDocument read, int pages)
    {
        Assert.Equal(pages, read.PageCount);
        Assert.All(read.Blocks, b => Assert.True(b.Box is not { } box || (double.IsFinite(box.X) && double.IsFinite(box.Y) && double.IsFinite(box.Width) && double.IsFinite(box.Height)), $"{b.Box}"));
    }

    private static ReaderPool Open(ReaderLimits limits) => new(ReaderCommand.Of(Host.Program, "reader"), limits, TimeProvider.System, 1);

    private ReadDocument Read(string name) => Read(name, Bytes(name));

    private ReadDocument Read(string name, byte[] bytes) => Read(_pool, name, bytes);

    private static ReadDocument Read(ReaderPool pool, string name, byte[] bytes) =>
        pool.Read(new SourceFile(name, bytes), MediaTypes.Detect(name, bytes), 0, TestContext.Current.CancellationToken).ToDocument();

    /// <summary>Those that are large for what they hold are kept packed.</summary>
    private static byte[] Bytes(string name)
    {
        string file = Path.Combine(Host.Repository, "tests", "cases", "hostile", name);
        if (File.Exists(file))
        {
            return File.ReadAllBytes(file);
        }
        if (!File.Exists($"{file}.gz"))
        {
            return File.ReadAllBytes(Shared.Require("cases", "hostile", name));
        }
        using var packed = new GZipStream(File.OpenRead($"{file}.gz"), CompressionMode.Decompress);
        using var bytes = new MemoryStream();
        packed.CopyTo(bytes);
        return bytes.ToArray();
    }

    private static byte[] TinyWorkbook(string rows, string shared)
    {
        const string Types = "application/vnd.openxmlformats-officedocument.spreadsheetml.", Package = "http://schemas.openxmlformats.org/package/2006/";
        const string Main = "xmlns=\"http://schemas.openxmlformats.org/spreadsheetml/2006/main\"", Office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
        using var bytes = new MemoryStream();
        using (var zip = new ZipArchive(bytes, ZipArchiveMode.Create, leaveOpen: true))
        {
            void Add(string name, string xml)
            {
                using var part = new StreamWriter(zip.CreateEntry(name).Open());
                part.Write(xml);
            }
            Add("[Content_Types].xml", $"<Types xmlns=\"{Package}content-types\"><Default Extension=\"rels\" ContentType=\"application/vnd.openxmlformats-package.relationships+xml\"/><Override PartName=\"/xl/workbook.xml\" ContentType=\"{Types}sheet.main+xml\"/><Override PartName=\"/xl/sheet1.xml\" ContentType=\"{Types}worksheet+xml\"/><Override PartName=\"/xl/shared.xml\" ContentType=\"{Types}sharedStrings+xml\"/></Types>");
            Add("_rels/.rels", $"<Relationships xmlns=\"{Package}relationships\"><Relationship Id=\"r1\" Type=\"{Office}/officeDocument\" Target=\"xl/workbook.xml\"/></Relationships>");
            Add("xl/workbook.xml", $"<workbook {Main} xmlns:r=\"{Office}\"><sheets><sheet name=\"S\" sheetId=\"1\" r:id=\"r1\"/></sheets></workbook>");
            Add("xl/_rels/workbook.xml.rels", $"<Relationships xmlns=\"{Package}relationships\"><Relationship Id=\"r1\" Type=\"{Office}/worksheet\" Target=\"sheet1.xml\"/><Relationship Id=\"r2\" Type=\"{Office}/sharedStrings\" Target=\"shared.xml\"/></Relationships>");
            Add("xl/sheet1.xml", $"<worksheet {Main}><sheetData>{rows}</sheetData></worksheet>");
            Add("xl/shared.xml", $"<sst {Main}><si><t>{shared}</t></si></sst>");
        }
        return bytes.ToArray();
    }
}
