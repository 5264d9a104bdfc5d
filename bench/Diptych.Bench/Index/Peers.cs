using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Text.Json;

namespace Diptych.Bench.Index;

/// <summary>The libraries that people embed, run through Node over the same vectors, queries and truth.</summary>
internal static class Peers
{
    public static readonly string[] Names = ["hnswlib", "usearch", "lancedb"];

    /// <param name="Qps">On one thread, and on as many as there are cores.</param>
    public sealed record Point(string Peer, string Setting, double BuildSeconds, double BytesPerVector, int Ef, double Recall, double[] Qps);

    public sealed record Filtered(string Peer, string Filter, double Recall, double Qps);

    public static async Task<(List<Point> Points, List<Filtered> Filtered)> RunAsync(string name, WordNet data, string truth, string filters)
    {
        string folder = await InstallAsync();
        string[] arguments =
        [
            "--max-old-space-size=8192", "peers.mjs", name, data.File, $"{WordNet.Dimensions}", $"{data.Count}", $"{data.Queries.Length / WordNet.Dimensions}", truth,
            $"{Environment.ProcessorCount}", filters,
        ];
        var (points, filtered) = (new List<Point>(), new List<Filtered>());
        foreach (string line in (await RunAsync("node", arguments, folder)).Split('\n', StringSplitOptions.RemoveEmptyEntries).Where(l => l.StartsWith('{')))
        {
            using var json = JsonDocument.Parse(line);
            JsonElement e = json.RootElement;
            string peer = e.GetProperty("peer").GetString()!;
            if (e.TryGetProperty("filter", out JsonElement filter))
            {
                filtered.Add(new Filtered(peer, filter.GetString()!, e.GetProperty("recall").GetDouble(), e.TryGetProperty("qps", out JsonElement qps) ? qps.GetDouble() : 0));
            }
            else
            {
                points.Add(new Point(
                    peer, e.GetProperty("setting").GetString()!, e.GetProperty("build").GetDouble(), e.GetProperty("bytes").GetDouble(), e.GetProperty("ef").GetInt32(),
                    e.GetProperty("recall").GetDouble(), [.. e.GetProperty("qps").EnumerateArray().Select(q => q.GetDouble())]));
            }
        }
        return (points, filtered);
    }

    private static async Task<string> InstallAsync([CallerFilePath] string here = "")
    {
        string source = Path.Combine(Path.GetDirectoryName(here)!, "peers");
        string folder = Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData), "diptych-bench", "peers");
        Directory.CreateDirectory(folder);
        foreach (string file in Directory.GetFiles(source))
        {
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)), overwrite: true);
        }
        if (!Directory.Exists(Path.Combine(folder, "node_modules")))
        {
            await RunAsync("npm", ["install", "--no-audit", "--no-fund"], folder);
        }
        return folder;
    }

    private static async Task<string> RunAsync(string program, string[] arguments, string folder)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { WorkingDirectory = folder, RedirectStandardOutput = true, Environment = { ["RUST_LOG"] = "error", ["LANCE_LOG"] = "error" } })!;
        string output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        return process.ExitCode == 0 ? output : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)} ended with {process.ExitCode}.");
    }
}
