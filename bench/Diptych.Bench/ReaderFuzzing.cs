using Diptych.SystemTests;

namespace Diptych.Bench;

/// <summary>Twenty thousand mutated files of all formats: no fault, nothing beyond the limits, and the memory back where it was.</summary>
internal static class ReaderFuzzing
{
    private const int Mutations = 20_000;
    private const double Growth = 0.1;

    public static async Task RunAsync(Report report)
    {
        long before = GC.GetTotalMemory(forceFullCollection: true);
        ReaderFuzz.Result result = await ReaderFuzz.RunAsync([.. ReaderFuzz.OwnSeeds()], Mutations, seed: 23, done => Console.Error.WriteLine($"{done} of {Mutations}"), default);
        foreach (string fault in result.Faults.Take(20))
        {
            await Console.Error.WriteLineAsync(fault);
        }
        report.Row("Mutated files of all formats: read, refused, beyond a limit", $"{result.Read}, {result.Refused}, {result.Ended}", "0 faults", result.Faults.Count == 0);
        report.Row("The slowest of them, s", Report.Number(result.SlowestSeconds, "0.0"), "<= its limit + 2 s", result.Faults.Count == 0);
        double growth = result.GrowthBytes / (double)Math.Max(before, 64 << 20);
        report.Row("Memory after them", $"{Report.Number(100 * growth, "0")} % more", $"<= {100 * Growth:0} %", growth <= Growth);
    }
}
