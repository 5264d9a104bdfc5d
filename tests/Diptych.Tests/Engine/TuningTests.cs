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
        LowRankTurn turn = TurnTrainer.Train(seen, 4, 300, 0.01f, 1, TestContext.Current.CancellationToken);
        Assert.Equal(0, unseen.Count(e => First(e, e.Query)));
        Assert.True(unseen.Count(e => First(e, turn.Apply(e.Query))) >= 38);
        Assert.Equal(1, TensorPrimitives.Norm<float>(turn.Apply(seen[0].Query)), 1e-5);
    }

    [Fact]
    public void A_query_moves_toward_what_helped_near_ones_and_stays_where_none_is_near()
    {
        var random = new Random(6);
        float[] asked = Unit(random), helped = Unit(random), elsewhere = Unit(random);
        TensorPrimitives.MultiplyAdd(asked, -TensorPrimitives.Dot<float>(asked, elsewhere), elsewhere, elsewhere);
        FeedbackMemory memory = FeedbackMemory.Of([new TuningExample(asked, [helped], [Unit(random)])], 0.5f, 1);
        Assert.True(TensorPrimitives.Dot<float>(memory.Apply(asked), helped) > TensorPrimitives.Dot<float>(asked, helped) + 0.2f);
        Assert.Equal(1, TensorPrimitives.Norm<float>(memory.Apply(asked)), 1e-5);
        Assert.Same(elsewhere, memory.Apply(elsewhere));
    }

    [Fact]
    public void An_adapter_is_read_as_it_was_written_and_nothing_else_is()
    {
        var random = new Random(5);
        float[] u = [.. Enumerable.Range(0, Dimensions * 3).Select(_ => (float)random.NextDouble())], v = [.. u.Reverse()];
        byte[] bytes = new QueryAdapter(new SpaceAdapter(new FeedbackMemory(Dimensions, u, v, 0.5f, 2), new LowRankTurn(Dimensions, 3, u, v)), null, 1.5).Write();
        QueryAdapter read = QueryAdapter.Read(bytes);
        float[] query = Unit(random);
        Assert.Equal(new LowRankTurn(Dimensions, 3, u, v).Apply(new FeedbackMemory(Dimensions, u, v, 0.5f, 2).Apply(query)), read.Text!.Apply(query));
        Assert.Equal((null, 1.5), (read.Cross, read.MeaningWeight));
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
