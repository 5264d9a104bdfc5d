using System.Runtime.Intrinsics;

namespace Diptych.Index.Hnsw;

/// <summary>A vector as 16-bit floats: what the best of a traversal are scored with.</summary>
internal static unsafe class HalfRow
{
    public static int Stride(int dimensions) => (dimensions + 31) / 32 * 64;

    public static void Encode(ReadOnlySpan<float> vector, byte* row)
    {
        var halves = new Span<Half>(row, Stride(vector.Length) / 2);
        System.Numerics.Tensors.TensorPrimitives.ConvertToHalf(vector, halves);
        halves[vector.Length..].Clear();
    }

    /// <param name="query">[stride / 2], zero beyond the dimensions.</param>
    public static float Dot(byte* row, float* query, int stride)
    {
        // A half's bits moved to a float's places, times 2^112, is its value, subnormals included (Giesen, "Half to float done quick").
        Vector256<float> rebase = Vector256.Create(5.192296858534828e33f), a = Vector256<float>.Zero, b = a;
        Vector256<uint> sign = Vector256.Create(0x8000u), rest = Vector256.Create(0x7FFFu);
        for (int i = 0; i < stride / 2; i += 16)
        {
            (Vector256<uint> low, Vector256<uint> high) = Vector256.Widen(Vector256.Load((ushort*)row + i));
            Vector256<float> x = ((low & rest) << 13).AsSingle() * rebase;
            Vector256<float> y = ((high & rest) << 13).AsSingle() * rebase;
            x = (x.AsUInt32() | ((low & sign) << 16)).AsSingle();
            y = (y.AsUInt32() | ((high & sign) << 16)).AsSingle();
            a = Vector256.FusedMultiplyAdd(x, Vector256.Load(query + i), a);
            b = Vector256.FusedMultiplyAdd(y, Vector256.Load(query + i + 8), b);
        }
        return Vector256.Sum(a + b);
    }
}
