using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace Diptych.Index.Hnsw;

/// <summary>How vectors are kept for traversal. A node's code is <c>Stride</c> bytes; a query's is that and a 4-byte bias behind it.</summary>
internal unsafe interface ICodes
{
    static abstract int Stride(int dimensions);

    /// <param name="scale">Code steps for 1.0.</param>
    static abstract void Encode(ReadOnlySpan<float> vector, float scale, byte* node);

    /// <param name="query">[Stride + 4].</param>
    static abstract void EncodeQuery(ReadOnlySpan<float> vector, byte* query, int stride);

    /// <summary>A stored node as the query, for comparing nodes with each other.</summary>
    static abstract void NodeAsQuery(byte* node, byte* query, int stride);

    /// <summary>Grows with the dot product of what was encoded.</summary>
    static abstract int Similarity(byte* node, byte* query, int stride);

    /// <summary>The similarity of a unit vector with itself.</summary>
    static abstract int Unit(int dimensions, float scale);
}

/// <summary>
/// A signed byte a dimension, on one scale for the whole index, so that integer dot products compare as they are. A node's bytes are
/// offset by 128: u8 times s8 is what VNNI multiplies, and the offset is one constant a query.
/// </summary>
internal readonly unsafe struct Int8Codes : ICodes
{
    private const int Offset = 128;

    public static int Stride(int dimensions) => (dimensions + 63) / 64 * 64;

    public static int Unit(int dimensions, float scale) => (int)(scale * scale);

    public static void Encode(ReadOnlySpan<float> vector, float scale, byte* node)
    {
        for (int i = 0; i < vector.Length; i++)
        {
            node[i] = (byte)((int)Math.Clamp(MathF.Round(vector[i] * scale), -127, 127) + Offset);
        }
        new Span<byte>(node + vector.Length, Stride(vector.Length) - vector.Length).Fill(Offset);
    }

    public static void EncodeQuery(ReadOnlySpan<float> vector, byte* query, int stride)
    {
        float largest = System.Numerics.Tensors.TensorPrimitives.MaxMagnitude(vector);
        float scale = largest == 0 ? 0 : 127 / Math.Abs(largest);
        int sum = 0;
        for (int i = 0; i < stride; i++)
        {
            int code = i < vector.Length ? (int)MathF.Round(vector[i] * scale) : 0;
            ((sbyte*)query)[i] = (sbyte)code;
            sum += code;
        }
        *(int*)(query + stride) = sum * Offset;
    }

    public static void NodeAsQuery(byte* node, byte* query, int stride)
    {
        Vector256<byte> flip = Vector256.Create((byte)Offset);
        int sum = 0;
        Vector256<int> total = Vector256<int>.Zero;
        for (int i = 0; i < stride; i += 32)
        {
            Vector256<sbyte> codes = (Vector256.Load(node + i) ^ flip).AsSByte();
            codes.Store((sbyte*)query + i);
            (Vector256<short> low, Vector256<short> high) = Vector256.Widen(codes);
            Vector256<short> both = low + high;
            (Vector256<int> a, Vector256<int> b) = Vector256.Widen(both);
            total += a + b;
        }
        sum += Vector256.Sum(total);
        *(int*)(query + stride) = sum * Offset;
    }

    public static int Similarity(byte* node, byte* query, int stride)
    {
        int bias = *(int*)(query + stride);
        return AvxVnni.IsSupported ? Vnni(node, (sbyte*)query, stride) - bias
            : Avx2.IsSupported ? Wide(node, (sbyte*)query, stride) - bias
            : Dp.IsSupported ? Neon(node, (sbyte*)query, stride)
            : Scalar(node, (sbyte*)query, stride) - bias;
    }

    /// <summary>Four products and their sum into each lane at a time (AVX-VNNI).</summary>
    internal static int Vnni(byte* node, sbyte* query, int stride)
    {
        Vector256<int> a = Vector256<int>.Zero, b = a;
        for (int i = 0; i < stride; i += 64)
        {
            a = AvxVnni.MultiplyWideningAndAdd(a, Vector256.Load(node + i), Vector256.Load(query + i));
            b = AvxVnni.MultiplyWideningAndAdd(b, Vector256.Load(node + i + 32), Vector256.Load(query + i + 32));
        }
        return Vector256.Sum(a + b);
    }

    /// <summary>Widened to 16 bits, where a product of bytes cannot saturate (AVX2).</summary>
    internal static int Wide(byte* node, sbyte* query, int stride)
    {
        Vector256<int> a = Vector256<int>.Zero;
        for (int i = 0; i < stride; i += 16)
        {
            a += Avx2.MultiplyAddAdjacent(Avx2.ConvertToVector256Int16(node + i), Avx2.ConvertToVector256Int16(query + i));
        }
        return Vector256.Sum(a);
    }

    /// <summary>Signed by signed (Armv8.2 dot product): the offset is taken off, so there is no bias.</summary>
    internal static int Neon(byte* node, sbyte* query, int stride)
    {
        Vector128<int> a = Vector128<int>.Zero;
        Vector128<byte> flip = Vector128.Create((byte)Offset);
        for (int i = 0; i < stride; i += 16)
        {
            a = Dp.DotProduct(a, (Vector128.Load(node + i) ^ flip).AsSByte(), Vector128.Load(query + i));
        }
        return Vector128.Sum(a);
    }

    internal static int Scalar(byte* node, sbyte* query, int stride)
    {
        int sum = 0;
        for (int i = 0; i < stride; i++)
        {
            sum += node[i] * query[i];
        }
        return sum;
    }
}

/// <summary>The sign of each dimension: 1 bit, compared by counting the bits that differ. An eighth of the memory; needs rescoring.</summary>
internal readonly unsafe struct BitCodes : ICodes
{
    public static int Stride(int dimensions) => (dimensions + 63) / 64 * 8;

    public static int Unit(int dimensions, float scale) => dimensions;

    public static void Encode(ReadOnlySpan<float> vector, float scale, byte* node)
    {
        var words = new Span<ulong>(node, Stride(vector.Length) / 8);
        words.Clear();
        for (int i = 0; i < vector.Length; i++)
        {
            words[i >> 6] |= vector[i] > 0 ? 1UL << i : 0;
        }
    }

    public static void EncodeQuery(ReadOnlySpan<float> vector, byte* query, int stride)
    {
        Encode(vector, 1, query);
        *(int*)(query + stride) = vector.Length;
    }

    public static void NodeAsQuery(byte* node, byte* query, int stride)
    {
        NativeMemory.Copy(node, query, (nuint)stride);
        *(int*)(query + stride) = stride * 8;
    }

    public static int Similarity(byte* node, byte* query, int stride)
    {
        int differing = 0;
        for (int i = 0; i < stride; i += 8)
        {
            differing += BitOperations.PopCount(*(ulong*)(node + i) ^ *(ulong*)(query + i));
        }
        return *(int*)(query + stride) - (2 * differing);
    }
}
