using Diptych.Core;
using Diptych.Reading;
using Diptych.Reading.Processes;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>Mutated real files: whatever a file holds, a reader gives a document or says why not, soon and within its memory.</summary>
public sealed class ReaderFuzzTests
{
    private const int MutationsEach = 12;
    private const long MaxGrowth = 512L << 20;
    private static readonly TimeSpan Slow = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(5);

    [Fact]
    public async Task No_mutation_crashes_hangs_or_fills_the_memory()
    {
        string gnuplot = await Host.DebianAsync("gnuplot-doc", "/usr/share/doc/gnuplot/gnuplot.pdf");
        string manuals = await Host.DebianAsync("r-doc-pdf", "/usr/share/doc/r-doc-pdf/manual");
        string[] pdfs = [.. Directory.GetFiles(manuals, "*.pdf").Append(gnuplot).Select(f => (File: f, File.ReadAllBytes(f).Length)).OrderBy(f => f.Length).Select(f => f.File)];
        string office = Directory.CreateTempSubdirectory("diptych-office-").FullName;
        string[] seeds =
        [
            .. await OfficeFilesAsync(pdfs[0], office),
            .. Directory.GetFiles(Path.Combine(Host.Samples, "documents")),
            .. Directory.GetFiles(Path.Combine(Host.Samples, "photos")),
            .. pdfs[..3],
        ];
        using ReaderPool readers = Open();
        var random = new Random(17);
        int read = 0, refused = 0;
        foreach (string seed in seeds)
        {
            byte[] original = await File.ReadAllBytesAsync(seed);
            // A long document takes its time; what a mutation may add to that is bounded.
            long start = TimeProvider.System.GetTimestamp();
            Assert.True(Read(Path.GetFileName(seed), original, readers, CancellationToken.None), $"{seed} itself is not readable");
            TimeSpan whole = TimeProvider.System.GetElapsedTime(start), limit = whole + Limit;
            for (int i = 0; i < (whole > Slow ? MutationsEach / 4 : MutationsEach); i++)
            {
                byte[] mutated = Mutate(original, random);
                GC.Collect();
                long before = GC.GetTotalMemory(false);
                using var cancel = new CancellationTokenSource();
                Task<bool> work = Task.Run(() => Read(Path.GetFileName(seed), mutated, readers, cancel.Token));
                if (await Task.WhenAny(work, Task.Delay(limit, TimeProvider.System)) != work)
                {
                    await cancel.CancelAsync();
                    Assert.Fail($"{seed}, mutation {i}: longer than {limit.TotalSeconds:0.0} s");
                }
                (read, refused) = await work ? (read + 1, refused) : (read, refused + 1);
                Assert.True(GC.GetTotalMemory(false) - before < MaxGrowth, $"{seed}, mutation {i}: grew by more than {MaxGrowth >> 20} MB");
            }
        }
        Assert.True(read > 20 && refused > 20, $"{read} read, {refused} refused");
    }

    [Fact]
    public async Task A_manual_of_thousands_of_pages_is_read_within_the_memory()
    {
        byte[] manual = await File.ReadAllBytesAsync(Path.Combine(await Host.DebianAsync("r-doc-pdf", "/usr/share/doc/r-doc-pdf/manual"), "refman.pdf"));
        long before = GC.GetTotalMemory(true), peak = 0;
        using var done = new CancellationTokenSource();
        Task watch = Task.Run(async () =>
        {
            using var timer = new PeriodicTimer(TimeSpan.FromMilliseconds(500));
            while (!done.IsCancellationRequested && await timer.WaitForNextTickAsync())
            {
                peak = Math.Max(peak, GC.GetTotalMemory(true));
            }
        });
        using ReaderPool readers = Open();
        ReadDocument document = readers.Read(new SourceFile("refman.pdf", manual), "application/pdf", 0, CancellationToken.None).ToDocument();
        await done.CancelAsync();
        await watch;
        Assert.True(document.PageCount > 2000, $"{document.PageCount} pages");
        Assert.True(peak - before < MaxGrowth, $"grew by {(peak - before) >> 20} MB");
    }

    /// <summary>What LibreOffice makes of a PDF (text document, presentation) and of a table (workbook).</summary>
    private static async Task<string[]> OfficeFilesAsync(string pdf, string folder)
    {
        await Host.DebianAsync("libreoffice-draw-nogui", "/usr/lib/libreoffice/program/libsdlo.so");
        await Host.DebianAsync("libreoffice-impress-nogui", "/usr/lib/libreoffice/share/registry/impress.xcd");
        await Host.DebianAsync("libreoffice-writer-nogui", "/usr/lib/libreoffice/program/libswlo.so");
        await Host.DebianAsync("libreoffice-calc-nogui", "/usr/lib/libreoffice/program/libsclo.so");
        string table = Directory.GetFiles(Path.Combine(Host.Samples, "documents"), "*.csv").First();
        string profile = $"-env:UserInstallation=file://{folder}/profile";
        foreach (string[] conversion in (string[][])[["--infilter=writer_pdf_import", "docx", pdf], ["--infilter=impress_pdf_import", "pptx", pdf], ["--calc", "xlsx", table]])
        {
            var made = await Host.RunAsync("soffice", [profile, "--headless", conversion[0], "--convert-to", conversion[1], "--outdir", folder, conversion[2]]);
            Assert.True(made.ExitCode == 0, made.Error);
        }
        string[] files = [.. Directory.GetFiles(folder)];
        Assert.Equal([".docx", ".pptx", ".xlsx"], files.Select(Path.GetExtension).Order(StringComparer.Ordinal));
        return files;
    }

    /// <summary>The processes of the program itself.</summary>
    private static ReaderPool Open() => new(ReaderCommand.Of(Host.Program, "reader"), new ReaderLimits(), TimeProvider.System, 2);

    private static bool Read(string name, byte[] bytes, ReaderPool readers, CancellationToken cancellation)
    {
        try
        {
            _ = readers.Read(new SourceFile(name, bytes), MediaTypes.Detect(name, bytes), 0, cancellation).ToDocument();
            return true;
        }
        catch (UnreadableException refusal)
        {
            Assert.NotEmpty(refusal.Message);
            return false;
        }
    }

    private static byte[] Mutate(byte[] original, Random random)
    {
        byte[] bytes = [.. original];
        switch (random.Next(4))
        {
            case 0:
                return bytes[..random.Next(1, bytes.Length)];
            case 1:
                for (int i = random.Next(1, 30); i > 0; i--)
                {
                    bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
                }
                return bytes;
            case 2:
                int from = random.Next(bytes.Length), length = random.Next(1, Math.Min(4096, bytes.Length - from) + 1);
                return [.. bytes[..from], .. bytes.AsSpan(from, length), .. bytes.AsSpan(from, length), .. bytes[(from + length)..]];
            default:
                int at = random.Next(bytes.Length), count = random.Next(1, Math.Min(2048, bytes.Length - at) + 1);
                bytes.AsSpan(at, count).Fill((byte)random.Next(256));
                return bytes;
        }
    }
}
