using Diptych.Core;
using Diptych.Reading;
using Diptych.Reading.Processes;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>Mutated files of every format: whatever a file holds, a reader gives a document or says why not, soon and within its memory.</summary>
public sealed class ReaderFuzzTests
{
    /// <summary>A twentieth of what the bench runs.</summary>
    private const int Mutations = 1_000;

    private const long MaxGrowth = 512L << 20;

    [Fact]
    public async Task No_mutation_ends_a_reader_beyond_its_limits_or_leaves_memory_behind()
    {
        ReaderFuzz.Result result = await ReaderFuzz.RunAsync(await SeedsAsync(), Mutations, seed: 17, _ => { }, TestContext.Current.CancellationToken);
        TestContext.Current.TestOutputHelper?.WriteLine($"{result}");
        Assert.Empty(result.Faults);
        Assert.True(result.Read > Mutations / 20 && result.Refused > Mutations / 20, $"{result}");
        // What ends a process is for limits to catch, and seldom.
        Assert.True(result.Ended <= Mutations / 50, $"{result}");
        Assert.True(result.GrowthBytes < MaxGrowth / 8, $"{result}");
    }

    private static async Task<IReadOnlyList<SourceFile>> SeedsAsync()
    {
        string gnuplot = await Host.DebianAsync("gnuplot-doc", "/usr/share/doc/gnuplot/gnuplot.pdf");
        string manuals = await Host.DebianAsync("r-doc-pdf", "/usr/share/doc/r-doc-pdf/manual");
        string[] pdfs = [.. Directory.GetFiles(manuals, "*.pdf").Append(gnuplot).OrderBy(f => new FileInfo(f).Length)];
        string office = Directory.CreateTempSubdirectory("diptych-office-").FullName;
        try
        {
            return [.. ReaderFuzz.OwnSeeds(), .. (await OfficeFilesAsync(pdfs[0], office)).Append(pdfs[0]).Select(f => new SourceFile(Path.GetFileName(f), File.ReadAllBytes(f)))];
        }
        finally
        {
            Directory.Delete(office, recursive: true);
        }
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
}
