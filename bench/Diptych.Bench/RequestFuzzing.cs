using System.Diagnostics;
using System.Text.Json;
using Diptych.SystemTests;

namespace Diptych.Bench;

/// <summary>Twenty thousand mutated requests to a server: no fault, and its memory is back where it was after the first two thousand.</summary>
internal static class RequestFuzzing
{
    private const int Mutations = 20_000, Warmups = 2_000;
    private const double Growth = 0.1;

    public static async Task RunAsync(Report report)
    {
        string data = Directory.CreateTempSubdirectory("diptych-requests-").FullName;
        await Host.DiptychAsync(data, "ingest", Host.Samples, "-c", "samples");
        using Process server = Process.Start(new ProcessStartInfo("dotnet", [Host.Program, "serve", "--json", "--url", "http://127.0.0.1:0", "--data", data])
        {
            RedirectStandardOutput = true,
            Environment = { ["DIPTYCH__LOGLEVEL"] = "Warning" },
        })!;
        try
        {
            using var line = JsonDocument.Parse((await server.StandardOutput.ReadLineAsync())!);
            using var client = new HttpClient { BaseAddress = new Uri(line.RootElement.GetProperty("url").GetString()!) };
            RequestFuzz.Result warm = await RequestFuzz.RunAsync(client, Warmups, seed: 1, _ => { }, default);
            long before = Resident(server);
            RequestFuzz.Result result = await RequestFuzz.RunAsync(client, Mutations, seed: 29, done => Console.Error.WriteLine($"{done} of {Mutations}"), default);
            string[] faults = [.. warm.Faults, .. result.Faults];
            foreach (string fault in faults.Take(20))
            {
                await Console.Error.WriteLineAsync(fault);
            }
            report.Row("Mutated requests to all addresses: taken, refused", $"{result.Taken}, {result.Refused}", "0 faults", faults.Length == 0);
            double growth = (Resident(server) - before) / (double)before;
            report.Row("Resident memory after them", $"{Report.Number(100 * growth, "0")} % more", $"<= {100 * Growth:0} %", growth <= Growth);
        }
        finally
        {
            server.Kill();
            await server.WaitForExitAsync();
            Directory.Delete(data, recursive: true);
        }
    }

    private static long Resident(Process process)
    {
        process.Refresh();
        return process.WorkingSet64;
    }
}
