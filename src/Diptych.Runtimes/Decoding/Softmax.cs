using System.Numerics.Tensors;

namespace Diptych.Runtimes.Decoding;

/// <summary>Scores as weights that sum to one.</summary>
internal static class Softmax
{
    /// <summary>In place. The highest score is taken off first: the exponential of a score above 88 is no number of single precision.</summary>
    public static void Apply(Span<float> scores)
    {
        if (scores.IsEmpty)
        {
            return;
        }
        TensorPrimitives.Subtract(scores, TensorPrimitives.Max<float>(scores), scores);
        TensorPrimitives.SoftMax<float>(scores, scores);
    }
}
