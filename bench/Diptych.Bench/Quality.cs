using Diptych.App;
using Diptych.Core;
using Diptych.Engine.Answering;
using Diptych.Engine.Evaluation;
using Diptych.Inference;

namespace Diptych.Bench;

/// <summary>Retrieval quality, the two modalities in one collection, and abstention.</summary>
internal static class Quality
{
    private const double CardTolerance = 0.005;

    public static async Task RunAsync(Report report)
    {
        string photos = Path.Combine(Report.Shared, "data", "flickr8k-dev", "images"), captionFile = Path.Combine(Report.Shared, "data", "flickr8k-dev", "captions.tsv");
        string cranfield = Path.Combine(Report.Shared, "data", "cranfield");
        var captions = TestCollections.Captions(captionFile);
        var queries = TestCollections.Queries(Path.Combine(cranfield, "cran.qry"));
        var qrels = TestCollections.Qrels(Path.Combine(cranfield, "cranqrel"));
        await Report.WithProductAsync(async product =>
        {
            var images = await product.Evaluator.ImagesAsync(photos, captionFile, default);
            double[] card = Runtimes.StarterModel.Int8Supported ? [0.258, 0.570, 0.697, 0.324, 0.616, 0.749] : [0.260, 0.569, 0.704, 0.334, 0.622, 0.756];
            double[] found = [.. images.TextToImage.Values.Values.Concat(images.ImageToText.Values.Values).Select(v => v.Mean)];
            for (int i = 0; i < card.Length; i++)
            {
                report.Row(
                    $"Flickr8k dev, {(i < 3 ? "text to image" : "image to text")} recall@{new[] { 1, 5, 10 }[i % 3]}", Report.Number(found[i]),
                    $"card {Report.Number(card[i])} ± {CardTolerance}", Math.Abs(found[i] - card[i]) <= CardTolerance);
            }

            var texts = await product.Evaluator.TextAsync(Path.Combine(cranfield, "cran.all.1400"), Path.Combine(cranfield, "cran.qry"), Path.Combine(cranfield, "cranqrel"), default);
            double dense = texts.Dense.Values["ndcg@10"].Mean, hybrid = texts.Default.Values["ndcg@10"].Mean;
            report.Row("Cranfield dense nDCG@10", Report.Number(dense), ">= 0.395", dense >= 0.395);
            report.Row("Cranfield default nDCG@10", Report.Number(hybrid), ">= 0.430", hybrid >= 0.430);

            await product.Evaluator.IngestTextsAsync("mixed", TestCollections.Corpus(Path.Combine(cranfield, "cran.all.1400")), default);
            await product.Evaluator.IngestPhotosAsync("mixed", photos, captions.Select(c => c.File).Distinct(), default);
            var mixedPhotos = await product.Evaluator.RankAsync([.. captions.Select((c, i) => ($"{i}", Ask(c.Caption)))], default, 10);
            double top10 = Evaluator.HitRates(captions.Select((c, i) => (mixedPhotos[$"{i}"], c.File))).Values["recall@10"].Mean, alone = images.TextToImage.Values["recall@10"].Mean;
            report.Row("Mixed corpus: right photo in the top 10", Report.Number(top10), $">= image-only {Report.Number(alone)} - 0.03", top10 >= alone - 0.03);
            var mixedTexts = await product.Evaluator.RankAsync([.. queries.Select(q => (q.Id, Ask(q.Text)))], default);
            double mixed = Measures.OfRankings(mixedTexts, qrels).Values["ndcg@10"].Mean;
            report.Row("Mixed corpus: Cranfield nDCG@10", Report.Number(mixed), $">= text-only {Report.Number(hybrid)} - 0.02", mixed >= hybrid - 0.02);

            await AbstentionAsync(report, product, captions, queries, qrels, cranfield);
        });
    }

    private static async Task AbstentionAsync(
        Report report, Product product, IReadOnlyList<(string File, string Caption)> captions, IReadOnlyList<(string Id, string Text)> queries,
        IReadOnlyDictionary<string, IReadOnlySet<string>> qrels, string cranfield)
    {
        var random = new Random(20);
        string[] answerable = [.. captions.Where((_, i) => i % 25 == 7).Select(c => c.Caption).Take(200), .. queries.Take(200).Select(q => q.Text)];
        string[] nonsense = [.. Enumerable.Range(0, 200).Select(_ => string.Join(' ', Enumerable.Range(0, random.Next(1, 7)).Select(_ => Word(random))))];
        double[] yes = await ConfidencesAsync(product, "mixed", answerable), no = await ConfidencesAsync(product, "mixed", nonsense);
        double auroc = Auroc(yes, no);
        report.Row("Abstention: answerable against nonsense, AUROC", Report.Number(auroc), ">= 0.85", auroc >= 0.85);
        double bar = Answerer.DefaultMinConfidence;
        report.Row(
            $"Default threshold {bar}: answerable refused, nonsense answered",
            $"{Report.Number(yes.Count(c => c < bar) / (double)yes.Length)}, {Report.Number(no.Count(c => c >= bar) / (double)no.Length)}", "(stated)", true);

        // Removed one query at a time, from the same corpus: only that query's relevant documents are filtered out.
        double[] present = await ConfidencesAsync(product, "texts", [.. queries.Select(q => q.Text)]);
        double[] removed = new double[queries.Count];
        await Parallel.ForAsync(0, queries.Count, async (i, token) =>
        {
            new RequestTerms { Lane = Lane.Bulk }.Begin();
            Filter without = new Filter.Not(new Filter.In("source", [.. qrels.GetValueOrDefault(queries[i].Id, new HashSet<string>()).Select(d => $"eval:{d}")]));
            removed[i] = (await product.Searcher.SearchAsync(Ask(queries[i].Text) with { Collection = "texts", Filter = without }, token)).Confidence;
        });
        double withheld = Auroc(present, removed);
        report.Row("Abstention: relevant documents present against removed, AUROC", Report.Number(withheld), ">= 0.65", withheld >= 0.65);
        report.Row(
            $"Default threshold {bar}: present refused, removed answered",
            $"{Report.Number(present.Count(c => c < bar) / (double)present.Length)}, {Report.Number(removed.Count(c => c >= bar) / (double)removed.Length)}", "(stated)", true);
    }

    private static async Task<double[]> ConfidencesAsync(Product product, string collection, string[] texts)
    {
        double[] confidences = new double[texts.Length];
        await Parallel.ForAsync(0, texts.Length, async (i, token) =>
        {
            new RequestTerms { Lane = Lane.Bulk }.Begin();
            confidences[i] = (await product.Searcher.SearchAsync(Ask(texts[i]) with { Collection = collection }, token)).Confidence;
        });
        return confidences;
    }

    private static Query Ask(string text) => new() { Collection = "mixed", Parts = [new QueryPart { Text = text }] };

    private static string Word(Random random) => new([.. Enumerable.Range(0, random.Next(3, 9)).Select(_ => (char)('a' + random.Next(26)))]);

    /// <summary>The probability that a positive scores above a negative; a tie counts half.</summary>
    private static double Auroc(double[] positives, double[] negatives) =>
        positives.Average(p => negatives.Average(n => p > n ? 1 : p == n ? 0.5 : 0));
}
