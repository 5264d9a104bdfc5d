using System.Numerics.Tensors;
using System.Runtime.InteropServices;

namespace Diptych.Engine.Tuning;

/// <summary>
/// What helped those who asked nearly the same: each query that somebody gave feedback on, as a vector, and the hits that helped it. A hit's
/// score for another query is the sum of w(q, q_i)^2 over the queries that it helped, w rising from 0 at a cosine of the threshold to 1 at
/// equality.
/// </summary>
public sealed class FeedbackMemory
{
    private readonly float[] _queries;
    private readonly IReadOnlyList<IReadOnlyList<HelpfulHit>> _helped;

    /// <param name="queries">[n, dimensions], of unit length.</param>
    /// <param name="helped">Of each query.</param>
    internal FeedbackMemory(int dimensions, float[] queries, IReadOnlyList<IReadOnlyList<HelpfulHit>> helped, float threshold) =>
        (Dimensions, _queries, _helped, Threshold) = (dimensions, queries, helped, threshold);

    public int Dimensions { get; }

    public float Threshold { get; }

    /// <summary>Hits that helped queries near this one, best first.</summary>
    public IReadOnlyList<(HelpfulHit Hit, double Score)> Near(ReadOnlySpan<float> query, int most)
    {
        var scores = new Dictionary<HelpfulHit, double>();
        for (int i = 0; i < _helped.Count; i++)
        {
            double near = (TensorPrimitives.Dot(_queries.AsSpan(i * Dimensions, Dimensions), query) - Threshold) / (1 - Threshold);
            if (near <= 0)
            {
                continue;
            }
            foreach (HelpfulHit hit in _helped[i])
            {
                scores[hit] = scores.GetValueOrDefault(hit) + (near * near);
            }
        }
        return [.. scores.OrderByDescending(s => s.Value).ThenBy(s => s.Key.Source, StringComparer.Ordinal).ThenBy(s => s.Key.Ordinal).Take(most).Select(s => (s.Key, s.Value))];
    }

    internal void Write(BinaryWriter writer)
    {
        writer.Write(Dimensions);
        writer.Write(Threshold);
        writer.Write(_helped.Count);
        writer.Write(MemoryMarshal.AsBytes<float>(_queries));
        foreach (IReadOnlyList<HelpfulHit> hits in _helped)
        {
            writer.Write(hits.Count);
            foreach (HelpfulHit hit in hits)
            {
                writer.Write(hit.Source);
                writer.Write(hit.Ordinal);
            }
        }
    }

    /// <exception cref="InvalidDataException">The bytes are no memory.</exception>
    internal static FeedbackMemory Read(BinaryReader reader)
    {
        int dimensions = reader.ReadInt32();
        float threshold = reader.ReadSingle();
        int count = reader.ReadInt32();
        if (dimensions is < 1 or > 1 << 16 || count is < 0 or > 1 << 22 || (long)dimensions * count > 1 << 28)
        {
            throw new InvalidDataException("An adapter's shape cannot be.");
        }
        float[] queries = new float[dimensions * count];
        reader.BaseStream.ReadExactly(MemoryMarshal.AsBytes(queries.AsSpan()));
        var helped = new List<IReadOnlyList<HelpfulHit>>(count);
        for (int i = 0; i < count; i++)
        {
            helped.Add([.. Enumerable.Range(0, Math.Clamp(reader.ReadInt32(), 0, 1 << 20)).Select(_ => new HelpfulHit(reader.ReadString(), reader.ReadInt32()))]);
        }
        return new FeedbackMemory(dimensions, queries, helped, threshold);
    }
}

/// <summary>A hit that outlives its document's versions.</summary>
/// <param name="Source">Of the document.</param>
/// <param name="Ordinal">Of the passage; -1 for all of the document's.</param>
public readonly record struct HelpfulHit(string Source, int Ordinal);
