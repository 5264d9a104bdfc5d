using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Diptych.Index.Hnsw;

namespace Diptych.Bench.Index;

/// <summary>The exact nearest, found by comparing with every row.</summary>
internal static class Truth
{
    public const int K = 10;

    /// <param name="accept">Rows that count for a query; null for all.</param>
    /// <returns>[queries, 10] rows, nearest first; -1 where there are fewer.</returns>
    public static int[] Of(ReadOnlyMemory<float> vectors, ReadOnlyMemory<float> queries, int dimensions, Func<int, int, bool>? accept = null)
    {
        int rows = vectors.Length / dimensions, count = queries.Length / dimensions;
        int[] truth = new int[count * K];
        Parallel.For(0, count, q =>
        {
            ReadOnlySpan<float> query = queries.Span.Slice(q * dimensions, dimensions);
            Span<(float Score, int Row)> best = stackalloc (float, int)[K];
            best.Fill((float.NegativeInfinity, -1));
            for (int row = 0; row < rows; row++)
            {
                if (accept is not null && !accept(q, row))
                {
                    continue;
                }
                float score = TensorPrimitives.Dot(query, vectors.Span.Slice(row * dimensions, dimensions));
                if (score > best[K - 1].Score)
                {
                    int at = K - 1;
                    for (; at > 0 && best[at - 1].Score < score; at--)
                    {
                        best[at] = best[at - 1];
                    }
                    best[at] = (score, row);
                }
            }
            for (int i = 0; i < K; i++)
            {
                truth[(q * K) + i] = best[i].Row;
            }
        });
        return truth;
    }

    /// <summary>Kept beside the vectors, for the peers to read.</summary>
    public static async Task<(int[] Rows, string File)> CachedAsync(WordNet data)
    {
        string file = Path.ChangeExtension(data.File, ".truth.i32");
        if (!File.Exists(file))
        {
            await File.WriteAllBytesAsync(file, MemoryMarshal.AsBytes<int>(Of(data.Vectors, data.Queries, WordNet.Dimensions)).ToArray());
        }
        return (MemoryMarshal.Cast<byte, int>(await File.ReadAllBytesAsync(file)).ToArray(), file);
    }

    /// <param name="rowOf">The row that a slot holds.</param>
    public static double Recall(int[] truth, int query, ReadOnlySpan<Neighbor> found, Func<int, int>? rowOf = null)
    {
        ReadOnlySpan<int> expected = truth.AsSpan(query * K, K);
        int hits = 0, wanted = 0;
        foreach (int row in expected)
        {
            wanted += row >= 0 ? 1 : 0;
        }
        foreach (Neighbor n in found)
        {
            hits += expected.Contains(rowOf is null ? n.Slot : rowOf(n.Slot)) ? 1 : 0;
        }
        return wanted == 0 ? 1 : (double)hits / wanted;
    }
}
