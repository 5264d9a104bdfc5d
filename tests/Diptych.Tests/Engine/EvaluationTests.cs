using System.Text.Json;
using Diptych.Engine.Evaluation;
using Xunit;

namespace Diptych.Tests.Engine;

public sealed class EvaluationTests
{
    [Theory]
    [InlineData("dense")]
    [InlineData("bm25")]
    public void Scores_of_the_reference_runs_agree_with_the_reference(string run)
    {
        using var json = JsonDocument.Parse(File.ReadAllText(Shared.Require("golden", "retrieval", "metrics.json")));
        Measures measures = Measures.OfRankings(
            TestCollections.Run(Shared.Require("golden", "retrieval", $"{run}.trec")), TestCollections.Qrels(Shared.Require("golden", "retrieval", "qrels.txt")));
        foreach (var (name, estimate) in measures.Values)
        {
            Assert.Equal(json.RootElement.GetProperty(run).GetProperty(name).GetDouble(), estimate.Mean, 1e-4);
        }
    }

    [Fact]
    [Trait("Needs", "shared")]
    public void Cranfield_files_give_documents_queries_and_judgements()
    {
        Assert.Equal(1400, TestCollections.Corpus(Shared.Require("data", "cranfield", "cran.all.1400")).Count);
        var queries = TestCollections.Queries(Shared.Require("data", "cranfield", "cran.qry"));
        Assert.Equal((225, "1", "225"), (queries.Count, queries[0].Id, queries[^1].Id));
        Assert.Contains("184", TestCollections.Qrels(Shared.Require("data", "cranfield", "cranqrel"))["1"]);
    }

    [Fact]
    public void Measures_of_a_small_ranking_are_those_done_by_hand()
    {
        var relevant = new HashSet<string> { "a", "b" };
        string[] ranking = ["x", "a", "y", "b"];
        Assert.Equal(0.5, RankingMetrics.ReciprocalRank(ranking, relevant, 10));
        Assert.Equal(0.5, RankingMetrics.Recall(ranking, relevant, 3));
        Assert.Equal((0.5 + 0.5) / 2, RankingMetrics.AveragePrecision(ranking, relevant, 10));
        Assert.Equal(((1 / Math.Log2(3)) + (1 / Math.Log2(5))) / (1 + (1 / Math.Log2(3))), RankingMetrics.Ndcg(ranking, relevant, 10), 1e-12);
    }

    [Fact]
    public void Intervals_hold_the_mean_and_repeat_for_a_seed()
    {
        double[] values = [.. Enumerable.Range(0, 100).Select(i => i % 2 == 0 ? 1.0 : 0.0)];
        Estimate first = Estimate.Of(values), second = Estimate.Of(values);
        Assert.Equal(first, second);
        Assert.True(first is { Mean: 0.5, Low: > 0.35 and < 0.5, High: > 0.5 and < 0.65 });
    }
}
