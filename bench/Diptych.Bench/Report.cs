using System.Globalization;
using Diptych.App;

namespace Diptych.Bench;

/// <summary>Prints each figure beside its limit, as rows of a Markdown table.</summary>
internal sealed class Report
{
    private bool _begun;

    /// <summary>Figures that did not reach their bar.</summary>
    public int Missed { get; private set; }

    public static string Shared { get; } = Environment.GetEnvironmentVariable("DIPTYCH_SHARED") ?? "../shared";

    /// <param name="limit">What the figure is held against, measured in the same run, or the bar itself.</param>
    public void Row(string measure, string value, string limit, bool holds)
    {
        if (!_begun)
        {
            Console.WriteLine("| measure | measured | bar | |\n|---|---|---|---|");
            _begun = true;
        }
        Missed += holds ? 0 : 1;
        Console.WriteLine($"| {measure} | {value} | {limit} | {(holds ? "ok" : "MISSED")} |");
    }

    public static string Number(double value, string format = "0.000") => value.ToString(format, CultureInfo.InvariantCulture);

    /// <summary>Opens the product over a folder of its own, which is gone afterwards.</summary>
    public static async Task WithProductAsync(Func<Product, Task> work)
    {
        string data = Directory.CreateTempSubdirectory("diptych-bench-").FullName;
        try
        {
            await using Product product = await Product.OpenAsync(new DiptychOptions { Data = data }, TimeProvider.System, CancellationToken.None);
            await work(product);
        }
        finally
        {
            Directory.Delete(data, recursive: true);
        }
    }

    public static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted[sorted.Length / 2];
    }

    public static double Time(Action work)
    {
        long start = TimeProvider.System.GetTimestamp();
        work();
        return TimeProvider.System.GetElapsedTime(start).TotalSeconds;
    }
}
