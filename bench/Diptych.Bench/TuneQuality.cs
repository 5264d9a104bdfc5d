using Diptych.App;
using Diptych.Core;
using Diptych.Engine.Evaluation;
using Diptych.Engine.Tuning;
using Diptych.Index;

namespace Diptych.Bench;

/// <summary>What tuning is worth: feedback simulated on Cranfield, split by query, five splits.</summary>
internal static class TuneQuality
{
    private const int Splits = 5;

    public static Task RunAsync(Report report) => Report.WithProductAsync(async product =>
    {
        string cranfield = Path.Combine(Report.Shared, "data", "cranfield");
        var queries = TestCollections.Queries(Path.Combine(cranfield, "cran.qry"));
        var qrels = TestCollections.Qrels(Path.Combine(cranfield, "cranqrel"));
        (string Id, string Text)[] all = [.. queries.Where(q => qrels.ContainsKey(q.Id))];
        var (before, after) = (new List<double>(), new List<double>());
        double seconds = 0;
        int worse = 0;
        for (int split = 0; split < Splits; split++)
        {
            string collection = $"split{split}";
            await product.Evaluator.IngestTextsAsync(collection, TestCollections.Corpus(Path.Combine(cranfield, "cran.all.1400")), default);
            (string Id, string Text)[] unseen = [.. all.Where((_, i) => i % Splits == split)], told = [.. all.Where((_, i) => i % Splits != split)];
            product.Store.AddFeedback(collection, [.. told.SelectMany(q => qrels[q.Id].Select(d => new Feedback(TimeProvider.System.GetUtcNow(), q.Text, $"eval:{d}", -1, true)))]);
            double was = await ScoreAsync(product, collection, unseen, qrels);
            long start = TimeProvider.System.GetTimestamp();
            TuningReport tuned = await product.Tuner.TuneAsync(collection, null, default);
            seconds += TimeProvider.System.GetElapsedTime(start).TotalSeconds;
            double now = await ScoreAsync(product, collection, unseen, qrels);
            before.Add(was);
            after.Add(now);
            worse += now < was ? 1 : 0;
            Console.Error.WriteLine($"{split}: unseen {was:0.000} -> {now:0.000}; held back {tuned.Before:0.000} -> {tuned.After:0.000}, version {tuned.Version}");
        }
        double gain = (after.Average() / before.Average()) - 1;
        report.Row($"Tuning by simulated feedback, Cranfield, {Splits} splits by query: nDCG@10 of unseen queries", $"{Report.Number(before.Average())} to {Report.Number(after.Average())} ({Report.Number(gain, "+0.0 %;-0.0 %")})", ">= +5 %", gain >= 0.05);
        report.Row("Tuning: splits worse after the gate", $"{worse} of {Splits}", "0", worse == 0);
        report.Row("Tuning: seconds", Report.Number(seconds / Splits, "0"), "(stated)", true);
    });

    private static async Task<double> ScoreAsync(Product product, string collection, (string Id, string Text)[] queries, IReadOnlyDictionary<string, IReadOnlySet<string>> qrels) =>
        Measures.OfRankings(
            await product.Evaluator.RankAsync([.. queries.Select(q => (q.Id, Evaluator.Ask(collection, new QueryPart { Text = q.Text }, null)))], default),
            qrels.Where(q => queries.Any(u => u.Id == q.Key)).ToDictionary(q => q.Key, q => q.Value)).Values["ndcg@10"].Mean;
}
