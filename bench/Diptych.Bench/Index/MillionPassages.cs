using System.Diagnostics;
using System.Net.Http.Json;
using System.Numerics.Tensors;
using Diptych.App;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Sqlite;

namespace Diptych.Bench.Index;

/// <summary>
/// The whole product over a million passages: WordNet's definitions and variations of them, in documents of ten, committed through the
/// store with the vectors of both spaces; then searched, restarted, and searched again.
/// </summary>
internal static class MillionPassages
{
    private const int Passages = 1_000_000, PassagesEach = 10, Asked = 300, CrossDimensions = 256;

    public static async Task RunAsync(Report report)
    {
        string data = Directory.CreateTempSubdirectory("diptych-million-").FullName;
        try
        {
            string[] queries = [.. (await WordNet.TextsAsync()).Examples.Take(Asked)];
            await using (Product product = await Product.OpenAsync(new DiptychOptions { Data = data }, TimeProvider.System, default))
            {
                long start = TimeProvider.System.GetTimestamp();
                await FillAsync(product);
                double commit = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
                await ((SqliteStore)product.Store).SettleAsync(TimeProvider.System, default);
                double settled = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
                report.Row("A million passages committed, s (until their graphs stand)", $"{commit:0} ({settled:0})", "(stated)", true);
            }
            using Served server = await Served.StartAsync(data);
            report.Row("A million passages: start to listening, to the first answer, s", $"{server.Listening:0.00}, {await server.FirstAsync(queries[0]):0.00}", "first answer <= 5", server.First <= 5);
            double[] times = await server.AskAsync(queries[1..]);
            report.Row("A million passages: search over HTTP in every channel, ms median (p99)", $"{times[times.Length / 2]:0} ({times[times.Length * 99 / 100]:0})", "p99 <= 100, the lane's objective", times[times.Length * 99 / 100] <= 100);
            report.Row("A million passages: memory of the server, GiB", Report.Number(server.Gibibytes, "0.0"), "<= 8, a small machine's", server.Gibibytes <= 8);
            report.Row("A million passages: on disk, GiB", Report.Number(new DirectoryInfo(data).EnumerateFiles("*", SearchOption.AllDirectories).Sum(f => f.Length) / (double)(1 << 30), "0.0"), "(stated)", true);
        }
        finally
        {
            Directory.Delete(data, recursive: true);
        }
    }

    private static async Task FillAsync(Product product)
    {
        WordNet words = await WordNet.LoadAsync();
        var (definitions, _) = await WordNet.TextsAsync();
        float[] vectors = words.Grow(Passages);
        float[] Cross(int row)
        {
            // The shared space stands for itself here by the first part of the other: as many rows, as close to each other.
            float[] part = vectors.AsSpan(row * WordNet.Dimensions, CrossDimensions).ToArray();
            TensorPrimitives.Divide(part, TensorPrimitives.Norm<float>(part), part);
            return part;
        }
        foreach (int[] batch in Enumerable.Range(0, Passages / PassagesEach).Chunk(100))
        {
            product.Store.Commit([.. batch.Select(d => new IngestedDocument(
                new Document { Collection = "default", Source = $"/words/{d}.txt", ContentHash = $"{d}", MediaType = "text/plain", Title = $"Words {d}" },
                "",
                null,
                [.. Enumerable.Range(d * PassagesEach, PassagesEach).Select(row => new IngestedPassage(
                    new Passage { Ordinal = row % PassagesEach, Modality = Modality.Text, Text = Text(definitions, row) }, vectors.AsSpan(row * WordNet.Dimensions, WordNet.Dimensions).ToArray(), Cross(row)))]))]);
        }
    }

    private static string Text(IReadOnlyList<string> definitions, int row) =>
        row < definitions.Count ? definitions[row] : $"{definitions[row % definitions.Count]} {definitions[(int)(row * 7919L % definitions.Count)]}";

    /// <summary>The server as its users start it.</summary>
    private sealed class Served : IDisposable
    {
        private readonly Process _process;
        private readonly HttpClient _client;
        private readonly long _start;

        private Served(Process process, Uri url, long start)
        {
            (_process, _client, _start) = (process, new HttpClient { BaseAddress = url }, start);
            Listening = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
        }

        public double Listening { get; }

        public double First { get; private set; }

        public double Gibibytes
        {
            get
            {
                _process.Refresh();
                return _process.WorkingSet64 / (double)(1 << 30);
            }
        }

        public static async Task<Served> StartAsync(string data)
        {
            long start = TimeProvider.System.GetTimestamp();
            Process process = Process.Start(new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "diptych.dll"), "serve", "--json", "--url", "http://127.0.0.1:0", "--data", data])
            {
                RedirectStandardOutput = true,
            })!;
            string line = await process.StandardOutput.ReadLineAsync() ?? throw new InvalidOperationException("The server did not start.");
            using var json = System.Text.Json.JsonDocument.Parse(line);
            return new Served(process, new Uri(json.RootElement.GetProperty("url").GetString()!), start);
        }

        public async Task<double> FirstAsync(string query)
        {
            await AskAsync([query]);
            return First = TimeProvider.System.GetElapsedTime(_start).TotalSeconds;
        }

        /// <returns>Milliseconds, in order.</returns>
        public async Task<double[]> AskAsync(string[] queries)
        {
            var times = new List<double>();
            foreach (string query in queries)
            {
                long start = TimeProvider.System.GetTimestamp();
                using HttpResponseMessage response = await _client.PostAsJsonAsync("/v1/search", new { query, limit = 10 });
                response.EnsureSuccessStatusCode();
                await response.Content.ReadAsByteArrayAsync();
                times.Add(TimeProvider.System.GetElapsedTime(start).TotalMilliseconds);
            }
            return [.. times.Order()];
        }

        public void Dispose()
        {
            _process.Kill();
            _process.WaitForExit();
            _process.Dispose();
            _client.Dispose();
        }
    }
}
