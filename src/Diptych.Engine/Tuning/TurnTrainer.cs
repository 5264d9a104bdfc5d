using System.Numerics.Tensors;

namespace Diptych.Engine.Tuning;

/// <summary>A query with passages that answered it and passages that did not, all vectors of unit length.</summary>
internal sealed record TuningExample(float[] Query, IReadOnlyList<float[]> Positives, IReadOnlyList<float[]> Negatives);

/// <summary>
/// Trains a turn by contrast (InfoNCE; van den Oord et al. 2018): each answer is to be nearer than the passages that are mistaken for it.
/// Adam (Kingma and Ba 2015) over a few tens of thousands of numbers, seconds on one core.
/// </summary>
internal static class TurnTrainer
{
    private const float Temperature = 0.05f, Rate = 2e-4f, Beta1 = 0.9f, Beta2 = 0.999f, Epsilon = 1e-8f;

    /// <param name="decay">How strongly the turn is held to none.</param>
    public static LowRankTurn Train(IReadOnlyList<TuningExample> examples, int rank, int epochs, float decay, int seed, CancellationToken cancellation)
    {
        int n = examples[0].Query.Length;
        var random = new Random(seed);
        float[] u = new float[n * rank], v = new float[n * rank];
        for (int i = 0; i < v.Length; i++)
        {
            v[i] = (float)((random.NextDouble() - 0.5) * 2 / Math.Sqrt(n));
        }
        var (adamU, adamV) = (new Adam(u.Length), new Adam(v.Length));
        int[] order = [.. Enumerable.Range(0, examples.Count)];
        float[] gu = new float[u.Length], gv = new float[v.Length];
        for (int epoch = 0; epoch < epochs; epoch++)
        {
            cancellation.ThrowIfCancellationRequested();
            random.Shuffle(order);
            foreach (int[] batch in order.Chunk(16))
            {
                Array.Clear(gu);
                Array.Clear(gv);
                foreach (int e in batch)
                {
                    Gradient(examples[e], n, rank, u, v, gu, gv, 1f / batch.Length);
                }
                adamU.Step(u, gu, decay);
                adamV.Step(v, gv, decay);
            }
        }
        return new LowRankTurn(n, rank, u, v);
    }

    private static void Gradient(TuningExample example, int n, int rank, float[] u, float[] v, float[] gu, float[] gv, float weight)
    {
        float[] z = new float[rank], h = (float[])example.Query.Clone();
        for (int r = 0; r < rank; r++)
        {
            z[r] = TensorPrimitives.Dot<float>(v.AsSpan(r * n, n), example.Query);
        }
        for (int d = 0; d < n; d++)
        {
            h[d] += TensorPrimitives.Dot<float>(u.AsSpan(d * rank, rank), z);
        }
        float norm = TensorPrimitives.Norm<float>(h);
        float[] q = new float[n], g = new float[n];
        TensorPrimitives.Divide(h, norm, q);
        float[] negatives = [.. example.Negatives.Select(d => TensorPrimitives.Dot<float>(q, d) / Temperature)];
        foreach (float[] positive in example.Positives)
        {
            float own = TensorPrimitives.Dot<float>(q, positive) / Temperature, most = Math.Max(own, negatives.DefaultIfEmpty(own).Max());
            float sum = MathF.Exp(own - most) + negatives.Sum(s => MathF.Exp(s - most));
            float share = weight / (Temperature * example.Positives.Count);
            TensorPrimitives.MultiplyAdd(positive, share * ((MathF.Exp(own - most) / sum) - 1), g, g);
            for (int i = 0; i < negatives.Length; i++)
            {
                TensorPrimitives.MultiplyAdd(example.Negatives[i], share * MathF.Exp(negatives[i] - most) / sum, g, g);
            }
        }
        // Through the unit length: what lies along q does not count.
        TensorPrimitives.MultiplyAdd(q, -TensorPrimitives.Dot<float>(g, q), g, g);
        TensorPrimitives.Divide(g, norm, g);
        float[] gz = new float[rank];
        for (int d = 0; d < n; d++)
        {
            TensorPrimitives.MultiplyAdd(z, g[d], gu.AsSpan(d * rank, rank), gu.AsSpan(d * rank, rank));
            TensorPrimitives.MultiplyAdd(u.AsSpan(d * rank, rank), g[d], gz, gz);
        }
        for (int r = 0; r < rank; r++)
        {
            TensorPrimitives.MultiplyAdd(example.Query, gz[r], gv.AsSpan(r * n, n), gv.AsSpan(r * n, n));
        }
    }

    private sealed class Adam(int count)
    {
        private readonly float[] _mean = new float[count];
        private readonly float[] _square = new float[count];
        private int _step;

        public void Step(float[] values, float[] gradient, float decay)
        {
            _step++;
            float mean = 1 - MathF.Pow(Beta1, _step), square = 1 - MathF.Pow(Beta2, _step);
            for (int i = 0; i < values.Length; i++)
            {
                _mean[i] = (Beta1 * _mean[i]) + ((1 - Beta1) * gradient[i]);
                _square[i] = (Beta2 * _square[i]) + ((1 - Beta2) * gradient[i] * gradient[i]);
                values[i] -= Rate * ((_mean[i] / mean / (MathF.Sqrt(_square[i] / square) + Epsilon)) + (decay * values[i]));
            }
        }
    }
}
