using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Nibbles with a scale and a minimum for 32 (GGUF's Q4_0, Q4_1, Q4_K). A block of sixteen rows is 4 x 64 bytes: of each row eight columns,
/// the even ones in the first two bytes of a lane and the odd ones in the others, so that a shift and a mask leave pairs of columns.
/// </summary>
internal sealed unsafe class NibbleMatrix : PackedMatrix
{
    private const int BlockBytes = 256;

    public NibbleMatrix(TensorFile file, StoredTensor tensor, int rows, int columns)
        : base(rows, columns, BlockBytes, minima: true)
    {
        ReadOnlySpan<byte> bytes = file.Bytes(tensor);
        Span<byte> codes = stackalloc byte[Block];
        for (int row = 0; row < rows; row++)
        {
            for (int b = 0; b < Blocks; b++)
            {
                var (scale, minimum) = TensorFile.Nibbles(tensor.Type, bytes, ((long)row * Blocks) + b, codes);
                Set(row, b, codes, scale, minimum);
            }
        }
    }

    public NibbleMatrix(ReadOnlySpan<float> values, int rows, int columns)
        : base(rows, columns, BlockBytes, minima: true)
    {
        Span<byte> codes = stackalloc byte[Block];
        for (int row = 0; row < rows; row++)
        {
            for (int b = 0; b < Blocks; b++)
            {
                ReadOnlySpan<float> block = values.Slice((row * columns) + (b * Block), Block);
                float minimum = TensorPrimitives.Min(block), scale = (TensorPrimitives.Max(block) - minimum) / 15;
                for (int i = 0; i < Block; i++)
                {
                    codes[i] = (byte)(scale == 0 ? 0 : Math.Clamp(MathF.Round((block[i] - minimum) / scale), 0, 15));
                }
                Set(row, b, codes, scale, minimum);
            }
        }
    }

    public override void Unpack(int row, float* target)
    {
        for (int b = 0; b < Blocks; b++)
        {
            long block = ((long)(row / Lanes) * Blocks) + b;
            ushort* words = (ushort*)(Codes + (block * BlockBytes)) + (row % Lanes * 2);
            float scale = Scales[(block * Lanes) + (row % Lanes)], minimum = Minima[(block * Lanes) + (row % Lanes)];
            for (int i = 0; i < Block; i++)
            {
                target[(b * Block) + i] = (scale * (words[(i / 8 * 32) + (i % 2)] >> (i % 8 / 2 * 4) & 15)) + minimum;
            }
        }
    }

    protected override void Multiply(int group, Rounded x, int first, int vectors, float* result)
    {
        byte* codes = Codes + ((long)group * Blocks * BlockBytes);
        float* scales = Scales + ((long)group * Blocks * Lanes), minima = Minima + ((long)group * Blocks * Lanes);
        if (vectors == Tile)
        {
            Four(codes, scales, minima, x, first, result);
            return;
        }
        for (int v = 0; v < vectors; v++)
        {
            One(codes, scales, minima, x.Pairs(first + v), x.Scales(first + v), result + (v * Lanes));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void One(byte* w, float* scales, float* minima, int* x, float* xs, float* result)
    {
        Vector512<float> sum = default;
        var mask = Vector512.Create((ushort)15);
        for (int b = 0; b < Blocks; b++, w += BlockBytes, x += 16, scales += Lanes, minima += Lanes, xs += 2)
        {
            Vector512<int> even = default, odd = default;
            for (int v = 0; v < 4; v++)
            {
                var words = Vector512.Load((ushort*)(w + (v * 64)));
                even += Products((words & mask).AsInt16(), Pair(x[4 * v]));
                odd += Products(((words >>> 4) & mask).AsInt16(), Pair(x[(4 * v) + 1]));
                even += Products(((words >>> 8) & mask).AsInt16(), Pair(x[(4 * v) + 2]));
                odd += Products((words >>> 12).AsInt16(), Pair(x[(4 * v) + 3]));
            }
            sum = Add(sum, even + odd, Vector512.Load(scales), Vector512.Load(minima), xs);
        }
        sum.Store(result);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Four(byte* w, float* scales, float* minima, Rounded x, int first, float* result)
    {
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        var mask = Vector512.Create((ushort)15);
        int* x0 = x.Pairs(first), x1 = x.Pairs(first + 1), x2 = x.Pairs(first + 2), x3 = x.Pairs(first + 3);
        float* s0 = x.Scales(first), s1 = x.Scales(first + 1), s2 = x.Scales(first + 2), s3 = x.Scales(first + 3);
        for (int b = 0; b < Blocks; b++, w += BlockBytes, scales += Lanes, minima += Lanes, x0 += 16, x1 += 16, x2 += 16, x3 += 16)
        {
            Vector512<int> a = default, c = default, d = default, e = default;
            for (int v = 0; v < 4; v++)
            {
                var words = Vector512.Load((ushort*)(w + (v * 64)));
                Vector512<short> p0 = (words & mask).AsInt16(), p1 = ((words >>> 4) & mask).AsInt16(), p2 = ((words >>> 8) & mask).AsInt16(), p3 = (words >>> 12).AsInt16();
                int at = 4 * v;
                a += Products(p0, Pair(x0[at])) + Products(p1, Pair(x0[at + 1])) + (Products(p2, Pair(x0[at + 2])) + Products(p3, Pair(x0[at + 3])));
                c += Products(p0, Pair(x1[at])) + Products(p1, Pair(x1[at + 1])) + (Products(p2, Pair(x1[at + 2])) + Products(p3, Pair(x1[at + 3])));
                d += Products(p0, Pair(x2[at])) + Products(p1, Pair(x2[at + 1])) + (Products(p2, Pair(x2[at + 2])) + Products(p3, Pair(x2[at + 3])));
                e += Products(p0, Pair(x3[at])) + Products(p1, Pair(x3[at + 1])) + (Products(p2, Pair(x3[at + 2])) + Products(p3, Pair(x3[at + 3])));
            }
            Vector512<float> scale = Vector512.Load(scales), minimum = Vector512.Load(minima);
            sum0 = Add(sum0, a, scale, minimum, s0 + (2 * b));
            sum1 = Add(sum1, c, scale, minimum, s1 + (2 * b));
            sum2 = Add(sum2, d, scale, minimum, s2 + (2 * b));
            sum3 = Add(sum3, e, scale, minimum, s3 + (2 * b));
        }
        sum0.Store(result);
        sum1.Store(result + Lanes);
        sum2.Store(result + (2 * Lanes));
        sum3.Store(result + (3 * Lanes));
    }

    /// <summary>A block's products on top of a sum.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Add(Vector512<float> sum, Vector512<int> whole, Vector512<float> scale, Vector512<float> minimum, float* xs)
    {
        sum = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(whole), scale * Vector512.Create(xs[0]), sum);
        return Vector512.FusedMultiplyAdd(minimum, Vector512.Create(xs[1]), sum);
    }

    private void Set(int row, int b, ReadOnlySpan<byte> codes, float scale, float minimum)
    {
        long block = ((long)(row / Lanes) * Blocks) + b;
        ushort* to = (ushort*)(Codes + (block * BlockBytes)) + (row % Lanes * 2);
        for (int i = 0; i < Block; i++)
        {
            to[(i / 8 * 32) + (i % 2)] |= (ushort)(codes[i] << (i % 8 / 2 * 4));
        }
        Scales[(block * Lanes) + (row % Lanes)] = scale;
        Minima[(block * Lanes) + (row % Lanes)] = minimum;
    }
}
