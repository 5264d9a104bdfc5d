using System.Numerics.Tensors;
using Diptych.Engine.Tuning;
using Xunit;

namespace Diptych.Tests.Engine;

public sealed class TuningTests
{
    private const int Dimensions = 24;

    [Fact]
    public void A_turn_learns_what_is_meant_and_holds_for_queries_it_has_not_seen()
    {
        // People here mean the third direction whenever they name the first.
        var random = new Random(4);
        TuningExample Example()
        {
            float[] topic = Unit(random);
            (topic[0], topic[2]) = (0, 0);
            float[] query = Normalized([.. topic.Select((x, i) => i == 0 ? 1 : x)]), meant = Normalized([.. topic.Select((x, i) => i == 2 ? 1 : x)]);
            float[][] mistaken = [.. Enumerable.Range(0, 12).Select(_ => Normalized([.. topic.Select((x, i) => i == 0 ? 1 : x + (0.3f * (float)(random.NextDouble() - 0.5)))]))];
            return new TuningExample(query, [meant], mistaken);
        }
        TuningExample[] seen = [.. Enumerable.Range(0, 60).Select(_ => Example())], unseen = [.. Enumerable.Range(0, 40).Select(_ => Example())];
        LowRankTurn turn = TurnTrainer.Train(seen, 4, 2000, 0.01f, 1, TestContext.Current.CancellationToken);
        Assert.Equal(0, unseen.Count(e => First(e, e.Query)));
        Assert.True(unseen.Count(e => First(e, turn.Apply(e.Query))) >= 38);
        Assert.Equal(1, TensorPrimitives.Norm<float>(turn.Apply(seen[0].Query)), 1e-5);
    }

    [Fact]
    public void What_helped_a_near_query_is_found_and_the_nearer_the_higher()
    {
        var random = new Random(6);
        float[] asked = Unit(random), near = Normalized([.. asked.Select(x => x + (0.1f * (float)(random.NextDouble() - 0.5)))]), far = Unit(random);
        TensorPrimitives.MultiplyAdd(asked, -TensorPrimitives.Dot<float>(asked, far), far, far);
        var memory = new FeedbackMemory(Dimensions, [.. asked, .. near, .. Normalized(far)], [[new HelpfulHit("a", 0), new HelpfulHit("b", -1)], [new HelpfulHit("b", -1)], [new HelpfulHit("c", 2)]], 0.4f);
        var found = memory.Near(asked, 10);
        Assert.Equal([new HelpfulHit("b", -1), new HelpfulHit("a", 0)], found.Select(f => f.Hit));
        Assert.Equal(1, found[1].Score, 1e-5);
        Assert.Equal("c", Assert.Single(memory.Near(far, 10)).Hit.Source);
    }

    [Fact]
    public void An_adapter_is_read_as_it_was_written_and_nothing_else_is()
    {
        var random = new Random(5);
        float[] u = [.. Enumerable.Range(0, Dimensions * 3).Select(_ => (float)random.NextDouble())], v = [.. u.Reverse()];
        byte[] bytes = new QueryAdapter(new FeedbackMemory(Dimensions, u, [[new HelpfulHit("a \u00e9", 1)], [], [new HelpfulHit("b", -1)]], -1), 0.5, new LowRankTurn(Dimensions, 3, u, v), null, 1.5).Write();
        QueryAdapter read = QueryAdapter.Read(bytes);
        float[] query = Unit(random);
        Assert.Equal(new LowRankTurn(Dimensions, 3, u, v).Apply(query), read.Text!.Apply(query));
        Assert.Equal((null, 0.5, 1.5), (read.Cross, read.MemoryWeight, read.MeaningWeight));
        Assert.Equal(["a \u00e9", "b"], read.Memory!.Near(query, 10).Select(n => n.Hit.Source).Order());
        Assert.Throws<InvalidDataException>(() => QueryAdapter.Read(bytes[..20]));
        Assert.Throws<InvalidDataException>(() => QueryAdapter.Read([9, 0, 0, 0, .. bytes[4..]]));
    }

    private static bool First(TuningExample e, float[] query) => e.Negatives.All(n => TensorPrimitives.Dot<float>(query, e.Positives[0]) > TensorPrimitives.Dot<float>(query, n));

    private static float[] Unit(Random random) => Normalized([.. Enumerable.Range(0, Dimensions).Select(_ => (float)(random.NextDouble() - 0.5))]);

    private static float[] Normalized(float[] v)
    {
        TensorPrimitives.Divide(v, TensorPrimitives.Norm<float>(v), v);
        return v;
    }
}
