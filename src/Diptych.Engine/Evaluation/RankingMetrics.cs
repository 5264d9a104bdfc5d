namespace Diptych.Engine.Evaluation;

/// <summary>Measures of one ranking against its set of relevant ids. Relevance is binary; definitions as in trec_eval.</summary>
public static class RankingMetrics
{
    /// <summary>Discounted cumulative gain over the best possible one (Järvelin, Kekäläinen 2002).</summary>
    public static double Ndcg(IReadOnlyList<string> ranking, IReadOnlySet<string> relevant, int k)
    {
        double gain = 0, ideal = 0;
        for (int i = 0; i < k; i++)
        {
            double discount = 1 / Math.Log2(i + 2);
            gain += i < ranking.Count && relevant.Contains(ranking[i]) ? discount : 0;
            ideal += i < relevant.Count ? discount : 0;
        }
        return ideal == 0 ? 0 : gain / ideal;
    }

    public static double ReciprocalRank(IReadOnlyList<string> ranking, IReadOnlySet<string> relevant, int k)
    {
        for (int i = 0; i < Math.Min(k, ranking.Count); i++)
        {
            if (relevant.Contains(ranking[i]))
            {
                return 1.0 / (i + 1);
            }
        }
        return 0;
    }

    public static double Recall(IReadOnlyList<string> ranking, IReadOnlySet<string> relevant, int k) =>
        relevant.Count == 0 ? 0 : ranking.Take(k).Count(relevant.Contains) / (double)relevant.Count;

    public static double AveragePrecision(IReadOnlyList<string> ranking, IReadOnlySet<string> relevant, int k)
    {
        double sum = 0;
        int found = 0;
        for (int i = 0; i < Math.Min(k, ranking.Count); i++)
        {
            if (relevant.Contains(ranking[i]))
            {
                sum += ++found / (double)(i + 1);
            }
        }
        return relevant.Count == 0 ? 0 : sum / relevant.Count;
    }
}

/// <summary>A mean over queries with its bootstrap 95% interval.</summary>
public sealed record Estimate(double Mean, double Low, double High)
{
    private const int Resamples = 1000;

    public static Estimate Of(IReadOnlyList<double> values, int seed = 1)
    {
        if (values.Count == 0)
        {
            return new Estimate(0, 0, 0);
        }
        var random = new Random(seed);
        double[] means = new double[Resamples];
        for (int i = 0; i < Resamples; i++)
        {
            double sum = 0;
            for (int j = 0; j < values.Count; j++)
            {
                sum += values[random.Next(values.Count)];
            }
            means[i] = sum / values.Count;
        }
        Array.Sort(means);
        return new Estimate(values.Average(), means[(int)(Resamples * 0.025)], means[(int)(Resamples * 0.975)]);
    }
}

/// <summary>Named estimates, in the order in which they are printed.</summary>
public sealed record Measures(int Queries, IReadOnlyDictionary<string, Estimate> Values)
{
    /// <summary>nDCG@10, MRR@10, recall@10, recall@100 and MAP@100 over the queries that have a relevant document.</summary>
    public static Measures OfRankings(IReadOnlyDictionary<string, IReadOnlyList<string>> rankings, IReadOnlyDictionary<string, IReadOnlySet<string>> qrels)
    {
        var judged = qrels.Where(q => q.Value.Count > 0).Select(q => (Ranking: rankings.GetValueOrDefault(q.Key) ?? [], Relevant: q.Value)).ToList();
        Estimate Mean(Func<IReadOnlyList<string>, IReadOnlySet<string>, double> measure) => Estimate.Of([.. judged.Select(j => measure(j.Ranking, j.Relevant))]);
        return new Measures(judged.Count, new Dictionary<string, Estimate>
        {
            ["ndcg@10"] = Mean((r, q) => RankingMetrics.Ndcg(r, q, 10)),
            ["mrr@10"] = Mean((r, q) => RankingMetrics.ReciprocalRank(r, q, 10)),
            ["recall@10"] = Mean((r, q) => RankingMetrics.Recall(r, q, 10)),
            ["recall@100"] = Mean((r, q) => RankingMetrics.Recall(r, q, 100)),
            ["map@100"] = Mean((r, q) => RankingMetrics.AveragePrecision(r, q, 100)),
        });
    }
}
