using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Diptych.Runtimes.Decoding;

/// <summary>What follows attention in a layer.</summary>
internal abstract unsafe class FeedForward
{
    /// <summary>y = f(x): [n, width] to [n, width].</summary>
    public abstract void Run(float* x, int n, float* y, IReadOnlyList<Stretch> batch, int layer, CoreTeam team);

    /// <summary>gate = gate * sigmoid(gate) * up.</summary>
    protected static void SwiGlu(float* gate, float* up, int count)
    {
        var one = Vector512<float>.One;
        int i = 0;
        for (; i + 16 <= count; i += 16)
        {
            var g = Vector512.Load(gate + i);
            (g / (one + Vector512.Exp(-g)) * Vector512.Load(up + i)).Store(gate + i);
        }
        for (; i < count; i++)
        {
            gate[i] = gate[i] / (1 + MathF.Exp(-gate[i])) * up[i];
        }
    }
}

/// <summary>SwiGLU: down(silu(gate x) * up x).</summary>
internal sealed unsafe class DenseFeedForward(WeightMatrix gate, WeightMatrix up, WeightMatrix down, bool adapted = true) : FeedForward
{
    public override void Run(float* x, int n, float* y, IReadOnlyList<Stretch> batch, int layer, CoreTeam team)
    {
        IReadOnlyList<Stretch> with = adapted ? batch : [];
        using var scratch = new Scratch(2L * n * gate.Rows);
        float* g = scratch.Take(n * gate.Rows), u = scratch.Take(n * gate.Rows);
        Decoder.Multiply(gate, "gate_proj", layer, x, n, g, with, team);
        Decoder.Multiply(up, "up_proj", layer, x, n, u, with, team);
        Decoder.ByRows(team, n, i => SwiGlu(g + ((long)i * gate.Rows), u + ((long)i * gate.Rows), gate.Rows));
        Decoder.Multiply(down, "down_proj", layer, g, n, y, with, team);
    }
}

/// <summary>
/// Llama 4's experts: each token goes to the one that the router scores highest, its input scaled by the score's sigmoid, beside an expert
/// that all share. An expert computes the tokens that chose it and no others.
/// </summary>
internal sealed unsafe class ExpertFeedForward(WeightMatrix router, DenseFeedForward shared, DenseFeedForward[] experts) : FeedForward
{
    public override void Run(float* x, int n, float* y, IReadOnlyList<Stretch> batch, int layer, CoreTeam team)
    {
        shared.Run(x, n, y, batch, layer, team);
        int width = router.Columns;
        using var scratch = new Scratch(((long)n * router.Rows) + (2L * n * width));
        float* scores = scratch.Take(n * router.Rows), input = scratch.Take(n * width), output = scratch.Take(n * width);
        router.Multiply(team, x, n, scores);
        var chosen = Enumerable.Range(0, n).Select(i => (Token: i, Expert: TensorPrimitives.IndexOfMax(new ReadOnlySpan<float>(scores + (i * router.Rows), router.Rows)))).ToLookup(c => c.Expert, c => c.Token);
        foreach (var tokens in chosen)
        {
            int count = 0;
            foreach (int token in tokens)
            {
                float score = 1 / (1 + MathF.Exp(-scores[(token * router.Rows) + tokens.Key]));
                TensorPrimitives.Multiply(new ReadOnlySpan<float>(x + ((long)token * width), width), score, new Span<float>(input + ((long)count++ * width), width));
            }
            experts[tokens.Key].Run(input, count, output, batch, layer, team);
            count = 0;
            foreach (int token in tokens)
            {
                var to = new Span<float>(y + ((long)token * width), width);
                TensorPrimitives.Add(to, new ReadOnlySpan<float>(output + ((long)count++ * width), width), to);
            }
        }
    }
}

/// <summary>Aligned memory for the time of one call.</summary>
internal sealed unsafe class Scratch(long floats) : IDisposable
{
    private readonly float* _memory = (float*)NativeMemory.AlignedAlloc((nuint)(floats + 256) * sizeof(float), 64);
    private long _used;

    public float* Take(int count)
    {
        float* taken = _memory + _used;
        // The next piece begins on a cache line.
        _used += (count + 15) / 16 * 16;
        return taken;
    }

    public void Dispose() => NativeMemory.AlignedFree(_memory);
}
