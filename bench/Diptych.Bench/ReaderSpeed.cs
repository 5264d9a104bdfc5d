using Diptych.App;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Reading;
using Diptych.Reading.Processes;

namespace Diptych.Bench;

/// <summary>Reading in processes of their own against reading in this one: the same files.</summary>
internal static class ReaderSpeed
{
    private const double Share = 0.95;
    private const int Files = 1_000;
    private const int Rounds = 3;

    public static async Task RunAsync(Report report)
    {
        SourceFile[] kinds = [.. Directory.GetFiles(Path.Combine(AppContext.BaseDirectory, "samples"), "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal)
            .Select(f => new SourceFile(Path.GetFileName(f), File.ReadAllBytes(f), Path.GetDirectoryName(f), Path.Combine(AppContext.BaseDirectory, "samples")))];
        SourceFile[] files = [.. Enumerable.Range(0, Files).Select(i => kinds[i % kinds.Length])];
        using ReaderPool pool = Open();
        var own = new InProcessReader();
        // Both run compiled code, and take turns, since the machine's speed drifts.
        await SecondsAsync(own, files);
        await SecondsAsync(pool, files);
        var rounds = new List<(double Own, double Pool)>();
        for (int round = 0; round < Rounds; round++)
        {
            rounds.Add((Files / await SecondsAsync(own, files), Files / await SecondsAsync(pool, files)));
        }
        double ratio = Report.Median(rounds.Select(r => r.Pool / r.Own));
        report.Row("Reading 1,000 mixed files, files/s", $"{Report.Number(Report.Median(rounds.Select(r => r.Pool)), "0")} ({Report.Number(ratio, "0.00")} of reading in the process)",
            $">= {Share} of {Report.Number(Report.Median(rounds.Select(r => r.Own)), "0")}", ratio >= Share);
    }

    /// <summary>As ingestion reads: from as many threads, of the same rank.</summary>
    private static async Task<double> SecondsAsync(IDocumentReader reader, SourceFile[] files)
    {
        long start = TimeProvider.System.GetTimestamp();
        var parallel = new ParallelOptions { MaxDegreeOfParallelism = 2 * Environment.ProcessorCount };
        await Parallel.ForEachAsync(files, parallel, async (file, cancellation) =>
            await PreparationPool.OnOwnThread(() => reader.Read(file, MediaTypes.Detect(file.Name, file.Bytes), 0, cancellation).Count(), cancellation));
        return TimeProvider.System.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>The processes of the program itself, as the product starts them.</summary>
    public static ReaderPool Open(ReaderLimits? limits = null) => new(
        ReaderCommand.Of(typeof(Product).Assembly.Location, Product.ReaderArgument), limits ?? new ReaderLimits(), TimeProvider.System, Environment.ProcessorCount);
}
