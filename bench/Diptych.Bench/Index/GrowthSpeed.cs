using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text;
using Diptych.Index.Hnsw;

namespace Diptych.Bench.Index;

/// <summary>The index from ten thousand to a million rows, opened from its file, and searched while it is written to.</summary>
internal static class GrowthSpeed
{
    private const int Ef = 72;

    public static async Task RunAsync(Report report)
    {
        WordNet data = await WordNet.LoadAsync();
        await Mixed(report, data);
        var curve = new List<(int Rows, double MedianMicroseconds, double P99Microseconds, double Recall)>();
        foreach (int rows in new[] { 10_000, 100_000, 1_000_000 })
        {
            float[] vectors = data.Grow(rows);
            HnswIndex index = HnswIndex.Create(WordNet.Dimensions);
            double build = Report.Time(() => index.AddRange(vectors, new int[rows], Environment.ProcessorCount));
            // A million rows against 200 queries is what two cores compare with in a minute.
            float[] asked = data.Queries[..(200 * WordNet.Dimensions)];
            int[] truth = Truth.Of(vectors, asked, WordNet.Dimensions);
            double[] times = Times(index, data);
            var results = new Neighbor[Truth.K];
            double recall = Enumerable.Range(0, 200).Average(q =>
            {
                int n = index.Search(asked.AsSpan(q * WordNet.Dimensions, WordNet.Dimensions), results, Ef);
                return Truth.Recall(truth, q, results.AsSpan(0, n));
            });
            curve.Add((rows, At(times, 0.5), At(times, 0.99), recall));
            bool first = curve.Count == 1;
            double ratio = first ? 1 : curve[^1].P99Microseconds / curve[^2].P99Microseconds;
            report.Row($"{rows:n0} rows, ef {Ef}: p99, µs (median, recall@10, build)",
                $"{At(times, 0.99):0} ({At(times, 0.5):0}, {recall:0.000}, {build:0} s{(first ? "" : $"; {ratio:0.0} x the decade before")})", "<= 3 x a decade", ratio <= 3);
            if (rows == 1_000_000)
            {
                Open(report, index, data);
            }
        }
        Plot(curve);
    }

    private static void Open(Report report, HnswIndex index, WordNet data)
    {
        string file = Path.Combine(Directory.CreateTempSubdirectory("diptych-open-").FullName, "million.hnsw");
        double save = Report.Time(() => index.Save(file, 1));
        var results = new Neighbor[Truth.K];
        double seconds = Report.Time(() => HnswIndex.Open(file).Index.Search(data.Queries.AsSpan(0, WordNet.Dimensions), results, Ef));
        report.Row("Opening 1,000,000 rows from the file, to the first answer, s", $"{seconds:0.00} (saving {save:0.0})", "<= 1", seconds <= 1);
        File.Delete(file);
    }

    /// <summary>One thread searches at full rate, alone and while another inserts.</summary>
    private static async Task Mixed(Report report, WordNet data)
    {
        HnswIndex index = HnswIndex.Create(WordNet.Dimensions);
        int half = data.Count / 2;
        index.AddRange(data.Vectors.AsMemory(0, half * WordNet.Dimensions), new int[half], Environment.ProcessorCount);
        Times(index, data);
        double alone = At(Times(index, data), 0.99);
        using var stop = new CancellationTokenSource();
        int written = 0;
        Task writer = Task.Run(() =>
        {
            for (int row = half; row < data.Count && !stop.IsCancellationRequested; row++, written++)
            {
                index.Add(data.Vectors.AsSpan(row * WordNet.Dimensions, WordNet.Dimensions));
            }
        }, CancellationToken.None);
        double beside = At(Times(index, data), 0.99);
        await stop.CancelAsync();
        await writer;
        report.Row($"Search p99 while a writer inserts, µs ({written:n0} rows written meanwhile)", $"{beside:0} ({beside / alone:0.0} x alone)", $"<= 2 x read-only, {alone:0}", beside <= 2 * alone);
    }

    /// <returns>Microseconds of each of 4,000 searches on this thread, sorted.</returns>
    private static double[] Times(HnswIndex index, WordNet data)
    {
        int queries = data.Queries.Length / WordNet.Dimensions;
        var results = new Neighbor[Truth.K];
        double[] times = new double[2 * queries];
        for (int i = 0; i < times.Length; i++)
        {
            long start = TimeProvider.System.GetTimestamp();
            index.Search(data.Queries.AsSpan(i % queries * WordNet.Dimensions, WordNet.Dimensions), results, Ef);
            times[i] = TimeProvider.System.GetElapsedTime(start).TotalMicroseconds;
        }
        Array.Sort(times);
        return times;
    }

    private static double At(double[] sorted, double share) => sorted[(int)(share * (sorted.Length - 1))];

    /// <summary>docs/index-growth.svg: latency over rows, both in decades.</summary>
    private static void Plot(List<(int Rows, double Median, double P99, double Recall)> curve, [CallerFilePath] string here = "")
    {
        var svg = new StringBuilder("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 480 300\" font-family=\"sans-serif\" font-size=\"12\"><rect width=\"480\" height=\"300\" fill=\"#fff\"/>\n");
        double X(int rows) => 60 + ((Math.Log10(rows) - 4) * 190);
        double Y(double microseconds) => 260 - ((Math.Log10(microseconds) - 1) * 110);
        foreach (int microseconds in new[] { 10, 100, 1000 })
        {
            svg.AppendLine(CultureInfo.InvariantCulture, $"<path d=\"M60 {Y(microseconds):0}H440\" stroke=\"#ddd\"/><text x=\"52\" y=\"{Y(microseconds) + 4:0}\" text-anchor=\"end\">{microseconds} µs</text>");
        }
        foreach (var (name, colour, value) in new (string, string, Func<(int Rows, double Median, double P99, double Recall), double>)[] { ("p99", "#c33", c => c.P99), ("median", "#36c", c => c.Median) })
        {
            svg.AppendLine(CultureInfo.InvariantCulture, $"<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{string.Join(' ', curve.Select(c => string.Create(CultureInfo.InvariantCulture, $"{X(c.Rows):0},{Y(value(c)):0}")))}\"/>");
            svg.AppendLine(CultureInfo.InvariantCulture, $"<text x=\"444\" y=\"{Y(value(curve[^1])) + 4:0}\" fill=\"{colour}\">{name}</text>");
        }
        foreach (var point in curve)
        {
            svg.AppendLine(CultureInfo.InvariantCulture, $"<text x=\"{X(point.Rows):0}\" y=\"280\" text-anchor=\"middle\">{point.Rows:n0}</text><text x=\"{X(point.Rows):0}\" y=\"{Y(point.P99) - 8:0}\" text-anchor=\"middle\">recall {point.Recall:0.000}</text>");
        }
        File.WriteAllText(Path.Combine(Path.GetDirectoryName(here)!, "..", "..", "..", "docs", "index-growth.svg"), svg.Append("</svg>\n").ToString().ReplaceLineEndings("\n"));
    }
}
