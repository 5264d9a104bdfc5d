using Diptych.Index.Hnsw;

namespace Diptych.Bench.Index;

/// <summary>The approximate index over WordNet's glosses.</summary>
internal static class IndexSpeed
{
    public static async Task RunAsync(Report report)
    {
        WordNet data = await WordNet.LoadAsync();
        var (truth, _) = await Truth.CachedAsync(data);
        foreach (string s in (Environment.GetEnvironmentVariable("TRY") ?? "16/128").Split(','))
        {
            int[] p = [.. s.Split('/').Select(int.Parse)];
            var options = new HnswOptions { Links = p[0], EfConstruction = p[1], Codes = p.Length > 2 ? VectorCodes.Bit : VectorCodes.Int8 };
            HnswIndex index = HnswIndex.Create(WordNet.Dimensions, options);
            double build = Report.Time(() => index.AddRange(data.Vectors, new int[data.Count], Environment.ProcessorCount));
            Console.WriteLine($"{s}: build {build:0.0} s, {index.BytesPerVector:0} bytes");
            foreach (int ef in new[] { 10, 16, 24, 32, 48, 64, 96, 128, 192 })
            {
                var (recall, one, two) = Measure(index, data, truth, ef);
                Console.WriteLine($"  ef {ef}: recall {recall:0.0000}, {one:0} q/s, {two:0} q/s");
                if (recall > 0.995)
                {
                    break;
                }
            }
        }
    }

    private static (double Recall, double One, double Several) Measure(HnswIndex index, WordNet data, int[] truth, int ef)
    {
        int queries = data.Queries.Length / WordNet.Dimensions;
        double recall = 0;
        var results = new Neighbor[Truth.K];
        for (int q = 0; q < queries; q++)
        {
            int n = index.Search(data.Queries.AsSpan(q * WordNet.Dimensions, WordNet.Dimensions), results, ef);
            recall += Truth.Recall(truth, q, results.AsSpan(0, n));
        }
        return (recall / queries, Rate(index, data, ef, 1), Rate(index, data, ef, 2));
    }

    private static double Rate(HnswIndex index, WordNet data, int ef, int threads)
    {
        int queries = data.Queries.Length / WordNet.Dimensions;
        double[] rates = new double[threads];
        var workers = Enumerable.Range(0, threads).Select(t => new Thread(() =>
        {
            var results = new Neighbor[Truth.K];
            int n = 0;
            long start = TimeProvider.System.GetTimestamp();
            double seconds = 0;
            while ((seconds = TimeProvider.System.GetElapsedTime(start).TotalSeconds) < 1)
            {
                for (int i = 0; i < 100; i++, n++)
                {
                    index.Search(data.Queries.AsSpan((n * 7 + t) % queries * WordNet.Dimensions, WordNet.Dimensions), results, ef);
                }
            }
            rates[t] = n / seconds;
        })).ToList();
        workers.ForEach(w => w.Start());
        workers.ForEach(w => w.Join());
        return rates.Sum();
    }
}
