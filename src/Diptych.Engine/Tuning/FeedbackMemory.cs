using System.Numerics.Tensors;
using System.Runtime.InteropServices;

namespace Diptych.Engine.Tuning;

/// <summary>
/// What helped those who asked nearly the same: a query's vector q of unit length moves toward the answers of the queries that are near it,
/// q + strength * sum of w(q, q_i) a_i, again of unit length, with w rising from 0 at a cosine of the threshold to 1 at equality. A query
/// that is near none stays as it is.
/// </summary>
public sealed class FeedbackMemory
{
    private readonly float[] _keys;
    private readonly float[] _answers;

    /// <param name="keys">[n, dimensions]: queries.</param>
    /// <param name="answers">[n, dimensions]: of each, the mean of what helped, of unit length.</param>
    internal FeedbackMemory(int dimensions, float[] keys, float[] answers, float threshold, float strength) =>
        (Dimensions, _keys, _answers, Threshold, Strength) = (dimensions, keys, answers, threshold, strength);

    public int Dimensions { get; }

    public float Threshold { get; }

    public float Strength { get; }

    internal static FeedbackMemory Of(IReadOnlyList<TuningExample> examples, float threshold, float strength)
    {
        int n = examples[0].Query.Length;
        float[] keys = new float[examples.Count * n], answers = new float[examples.Count * n];
        for (int i = 0; i < examples.Count; i++)
        {
            examples[i].Query.CopyTo(keys.AsSpan(i * n));
            Span<float> mean = answers.AsSpan(i * n, n);
            foreach (float[] positive in examples[i].Positives)
            {
                TensorPrimitives.Add(mean, positive, mean);
            }
            TensorPrimitives.Divide(mean, Math.Max(1e-6f, TensorPrimitives.Norm<float>(mean)), mean);
        }
        return new FeedbackMemory(n, keys, answers, threshold, strength);
    }

    public float[] Apply(float[] query)
    {
        float[]? moved = null;
        for (int i = 0; i < _keys.Length / Dimensions; i++)
        {
            float near = (TensorPrimitives.Dot<float>(_keys.AsSpan(i * Dimensions, Dimensions), query) - Threshold) / (1 - Threshold);
            if (near > 0)
            {
                moved ??= (float[])query.Clone();
                TensorPrimitives.MultiplyAdd(_answers.AsSpan(i * Dimensions, Dimensions), Strength * near * near, moved, moved);
            }
        }
        if (moved is null)
        {
            return query;
        }
        TensorPrimitives.Divide(moved, TensorPrimitives.Norm<float>(moved), moved);
        return moved;
    }

    internal void Write(BinaryWriter writer)
    {
        writer.Write(Dimensions);
        writer.Write(_keys.Length / Dimensions);
        writer.Write(Threshold);
        writer.Write(Strength);
        writer.Write(MemoryMarshal.AsBytes<float>(_keys));
        writer.Write(MemoryMarshal.AsBytes<float>(_answers));
    }

    /// <exception cref="InvalidDataException">The bytes are no memory.</exception>
    internal static FeedbackMemory Read(BinaryReader reader)
    {
        int dimensions = reader.ReadInt32(), count = reader.ReadInt32();
        float threshold = reader.ReadSingle(), strength = reader.ReadSingle();
        if (dimensions is < 1 or > 1 << 16 || count is < 0 or > 1 << 22 || (long)dimensions * count > 1 << 28)
        {
            throw new InvalidDataException("An adapter's shape cannot be.");
        }
        float[] keys = new float[dimensions * count], answers = new float[dimensions * count];
        reader.BaseStream.ReadExactly(MemoryMarshal.AsBytes(keys.AsSpan()));
        reader.BaseStream.ReadExactly(MemoryMarshal.AsBytes(answers.AsSpan()));
        return new FeedbackMemory(dimensions, keys, answers, threshold, strength);
    }
}
