using System.Numerics.Tensors;
using Diptych.Core;

namespace Diptych.Index;

/// <summary>What every store asks of a vector.</summary>
internal static class UnitVector
{
    /// <exception cref="InvalidRequestException">Wrong dimensions, or not of unit length (zero, infinite and NaN included).</exception>
    public static void Check(ReadOnlySpan<float> vector, int dimensions)
    {
        if (vector.Length != dimensions)
        {
            throw new InvalidRequestException($"A vector has {vector.Length} dimensions; the space has {dimensions}.");
        }
        if (!(TensorPrimitives.SumOfSquares(vector) is > 0.9f and < 1.1f))
        {
            throw new InvalidRequestException("A vector must be of unit length; this one is zero, not a number, or not normalized.");
        }
    }

    public static void Check(IngestedPassage passage, EmbeddingSpace text, EmbeddingSpace cross)
    {
        Check(passage.CrossVector, cross.Dimensions);
        if (passage.TextVector is not null)
        {
            Check(passage.TextVector, text.Dimensions);
        }
    }
}
