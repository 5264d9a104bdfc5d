using System.Globalization;
using System.Text.Json;

namespace Diptych.Inference.Simulation;

/// <summary>A request of a production trace.</summary>
/// <param name="Seconds">From the trace's beginning.</param>
/// <param name="ImageTokens">One number for each image: its size, in tokens of the model that was traced.</param>
/// <param name="Blocks">Hashes of the prompt's blocks of 512 tokens; empty where the trace has none.</param>
public sealed record TracedRequest(double Seconds, int InputTokens, int OutputTokens, IReadOnlyList<int> ImageTokens, IReadOnlyList<int> Blocks);

/// <summary>Reads public traces: Azure LLM inference 2023 (CSV), Mooncake (JSON lines), and ServeGen's client models (drawn with a seed).</summary>
public static class Traces
{
    private static readonly int[] NoBlocks = [];

    /// <exception cref="InvalidDataException">A line is not as the trace's are.</exception>
    public static IReadOnlyList<TracedRequest> Azure(string path)
    {
        var requests = new List<TracedRequest>();
        DateTime? first = null;
        foreach (string line in File.ReadLines(path).Skip(1).Where(l => l.Length > 0))
        {
            string[] fields = line.Split(',');
            if (fields.Length != 3 || !DateTime.TryParse(fields[0], CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal | DateTimeStyles.AdjustToUniversal, out DateTime at)
                || !int.TryParse(fields[1], CultureInfo.InvariantCulture, out int input) || !int.TryParse(fields[2], CultureInfo.InvariantCulture, out int output))
            {
                throw new InvalidDataException($"{path}: '{line}' is no line of TIMESTAMP,ContextTokens,GeneratedTokens.");
            }
            first ??= at;
            requests.Add(new TracedRequest((at - first.Value).TotalSeconds, input, output, NoBlocks, NoBlocks));
        }
        return requests;
    }

    /// <exception cref="InvalidDataException">A line is not as the trace's are.</exception>
    public static IReadOnlyList<TracedRequest> Mooncake(string path) =>
    [
        .. File.ReadLines(path).Where(l => l.Length > 0).Select(line =>
        {
            using var json = JsonDocument.Parse(line);
            JsonElement r = json.RootElement;
            return r.TryGetProperty("timestamp", out JsonElement at) && r.TryGetProperty("input_length", out JsonElement input) && r.TryGetProperty("output_length", out JsonElement output)
                ? new TracedRequest(at.GetDouble() / 1000, input.GetInt32(), output.GetInt32(), NoBlocks, [.. r.GetProperty("hash_ids").EnumerateArray().Select(h => h.GetInt32())])
                : throw new InvalidDataException($"{path}: '{line[..Math.Min(line.Length, 80)]}' lacks timestamp, input_length or output_length.");
        }),
    ];

    /// <summary>
    /// Draws requests from ServeGen's client models: each client has windows with a rate and a distribution of the times between
    /// requests (Gamma or Weibull), and, by window, distributions of text tokens, image count and image tokens.
    /// </summary>
    /// <param name="folder">Holds chunk-N-trace.csv and chunk-N-dataset.json.</param>
    /// <param name="from">Seconds into the day.</param>
    public static IReadOnlyList<TracedRequest> ServeGen(string folder, double from, double seconds, int seed)
    {
        var requests = new List<TracedRequest>();
        foreach (string trace in Directory.GetFiles(folder, "chunk-*-trace.csv").Order(StringComparer.Ordinal))
        {
            var random = new Random(HashCode(seed, Path.GetFileName(trace)));
            using var data = JsonDocument.Parse(File.ReadAllBytes(trace.Replace("-trace.csv", "-dataset.json", StringComparison.Ordinal)));
            var windows = File.ReadLines(trace).Where(l => l.Length > 0).Select(Window.Parse).OrderBy(w => w.Start).ToList();
            var datasets = data.RootElement.EnumerateObject().Select(d => (Start: double.Parse(d.Name, CultureInfo.InvariantCulture), Draws: Draws.Parse(d.Value))).OrderBy(d => d.Start).ToList();
            for (int i = 0; i < windows.Count && datasets.Count > 0; i++)
            {
                Window window = windows[i];
                double end = i + 1 < windows.Count ? windows[i + 1].Start : window.Start + 600;
                if (window.Rate <= 0 || end <= from || window.Start >= from + seconds)
                {
                    continue;
                }
                Draws draws = datasets.Last(d => d.Start <= window.Start || d == datasets[0]).Draws;
                for (double at = window.Start + window.Next(random); at < Math.Min(end, from + seconds); at += window.Next(random))
                {
                    if (at >= from)
                    {
                        int images = Draws.One(draws.ImageCount, random);
                        requests.Add(new TracedRequest(
                            at - from, Draws.One(draws.TextTokens, random), Draws.One(draws.OutputTokens, random),
                            [.. Enumerable.Range(0, images).Select(_ => Draws.One(draws.ImageTokens, random))], NoBlocks));
                    }
                }
            }
        }
        return [.. requests.OrderBy(r => r.Seconds)];
    }

    private static int HashCode(int seed, string name) => name.Aggregate(seed, (hash, c) => (hash * 31) + c);

    /// <summary>A client's arrivals within one stretch of the day.</summary>
    private sealed record Window(double Start, double Rate, string Distribution, double Shape, double Scale)
    {
        public static Window Parse(string line)
        {
            string[] f = line.Split(',');
            double Number(int i) => i < f.Length && double.TryParse(f[i], CultureInfo.InvariantCulture, out double value) ? value : 0;
            return new Window(Number(0), Number(1), f.Length > 3 ? f[3] : "", Number(4), Number(5));
        }

        /// <summary>Seconds to the next request. The fitted shape is kept, and the mean is what the rate says.</summary>
        public double Next(Random random) => Distribution switch
        {
            "Gamma" when Shape > 0 => Gamma(random, Shape) / (Shape * Rate),
            "Weibull" when Shape > 0 => Math.Pow(-Math.Log(1 - random.NextDouble()), 1 / Shape) / (GammaFunction(1 + (1 / Shape)) * Rate),
            _ => -Math.Log(1 - random.NextDouble()) / Rate,
        };

        /// <summary>Marsaglia and Tsang 2000; below shape 1 by their boost.</summary>
        private static double Gamma(Random random, double shape)
        {
            if (shape < 1)
            {
                return Gamma(random, shape + 1) * Math.Pow(random.NextDouble(), 1 / shape);
            }
            double d = shape - (1.0 / 3), c = 1 / Math.Sqrt(9 * d);
            while (true)
            {
                double x = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
                double v = Math.Pow(1 + (c * x), 3);
                if (v > 0 && Math.Log(1 - random.NextDouble()) < (0.5 * x * x) + d - (d * v) + (d * Math.Log(v)))
                {
                    return d * v;
                }
            }
        }

        /// <summary>Lanczos' approximation for arguments above 1.</summary>
        private static double GammaFunction(double x)
        {
            double[] g = [676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7];
            double sum = 0.99999999999980993;
            for (int i = 0; i < g.Length; i++)
            {
                sum += g[i] / (x + i);
            }
            double t = x + 6.5;
            return Math.Sqrt(2 * Math.PI) * Math.Pow(t, x - 0.5) * Math.Exp(-t) * sum;
        }
    }

    /// <summary>A client's distributions, as cumulative shares by value.</summary>
    private sealed record Draws(
        (int Value, double UpTo)[] TextTokens, (int Value, double UpTo)[] OutputTokens, (int Value, double UpTo)[] ImageCount, (int Value, double UpTo)[] ImageTokens)
    {
        public static Draws Parse(JsonElement json) => new(Cumulate(json, "text_tokens"), Cumulate(json, "output_tokens"), Cumulate(json, "image_count"), Cumulate(json, "image_tokens"));

        public static int One((int Value, double UpTo)[] cumulative, Random random)
        {
            double at = random.NextDouble();
            foreach (var (value, upTo) in cumulative)
            {
                if (at < upTo)
                {
                    return value;
                }
            }
            return cumulative.Length > 0 ? cumulative[^1].Value : 0;
        }

        /// <summary>The data holds them as text: "{136: 0.25, 372: 0.75}".</summary>
        private static (int Value, double UpTo)[] Cumulate(JsonElement json, string name)
        {
            if (!json.TryGetProperty(name, out JsonElement text) || text.ValueKind != JsonValueKind.String)
            {
                return [];
            }
            double sum = 0;
            return
            [
                .. text.GetString()!.Trim('{', '}').Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Select(pair =>
                {
                    string[] parts = pair.Split(':');
                    sum += double.Parse(parts[1], CultureInfo.InvariantCulture);
                    return ((int)double.Parse(parts[0], CultureInfo.InvariantCulture), sum);
                }),
            ];
        }
    }
}
