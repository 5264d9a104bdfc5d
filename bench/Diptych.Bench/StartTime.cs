using System.Diagnostics;
using Diptych.App;
using Diptych.Core;
using Diptych.Index;

namespace Diptych.Bench;

/// <summary>From starting the process to listening, over a store of 100,000 passages.</summary>
internal static class StartTime
{
    private const int Documents = 10_000, PassagesEach = 10;

    public static async Task RunAsync(Report report)
    {
        string data = Directory.CreateTempSubdirectory("diptych-bench-").FullName;
        try
        {
            await using (Product product = await Product.OpenAsync(new DiptychOptions { Data = data }, TimeProvider.System, default))
            {
                Fill(product);
            }
            var seconds = new List<double>();
            for (int round = 0; round < 4; round++)
            {
                double time = await StartAsync(data);
                if (round > 0)
                {
                    seconds.Add(time);
                }
            }
            report.Row("Start to listening, 100,000 passages, s", Report.Number(Report.Median(seconds), "0.00"), "<= 2", Report.Median(seconds) <= 2);
        }
        finally
        {
            Directory.Delete(data, recursive: true);
        }
    }

    private static void Fill(Product product)
    {
        var random = new Random(2);
        float[] Unit(int dimensions)
        {
            float[] v = [.. Enumerable.Range(0, dimensions).Select(_ => random.NextSingle() - 0.5f)];
            float norm = MathF.Sqrt(v.Sum(x => x * x));
            return [.. v.Select(x => x / norm)];
        }
        foreach (int[] batch in Enumerable.Range(0, Documents).Chunk(250))
        {
            product.Store.Commit([.. batch.Select(d => new IngestedDocument(
                new Document { Collection = "default", Source = $"/notes/{d}.txt", ContentHash = $"{d}", MediaType = "text/plain", Title = $"Note {d}" },
                "",
                null,
                [.. Enumerable.Range(0, PassagesEach).Select(p => new IngestedPassage(
                    new Passage { Ordinal = p, Modality = Modality.Text, Text = $"Passage {p} of note {d} says nothing in particular." }, Unit(384), Unit(256)))]))]);
        }
    }

    private static async Task<double> StartAsync(string data)
    {
        long start = TimeProvider.System.GetTimestamp();
        using Process server = Process.Start(new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "diptych.dll"), "serve", "--json", "--url", "http://127.0.0.1:0", "--data", data])
        {
            RedirectStandardOutput = true,
        })!;
        try
        {
            string? line = await server.StandardOutput.ReadLineAsync();
            return line?.Contains("listening", StringComparison.Ordinal) == true
                ? TimeProvider.System.GetElapsedTime(start).TotalSeconds
                : throw new InvalidOperationException("The server did not start.");
        }
        finally
        {
            server.Kill();
            await server.WaitForExitAsync();
        }
    }
}
