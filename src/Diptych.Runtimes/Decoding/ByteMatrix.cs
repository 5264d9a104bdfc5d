using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Signed bytes with a scale for 32 (GGUF's Q8_0). A block of sixteen rows is 16 x 32 bytes: of each row two columns.
/// </summary>
internal sealed unsafe class ByteMatrix : PackedMatrix
{
    private const int BlockBytes = 512;

    public ByteMatrix(TensorFile file, StoredTensor tensor, int rows, int columns)
        : base(rows, columns, BlockBytes, minima: false)
    {
        ReadOnlySpan<byte> bytes = file.Bytes(tensor);
        int size = (int)StoredTensor.BytesOf(TensorType.Q8_0, Block);
        for (int row = 0; row < rows; row++)
        {
            for (int b = 0; b < Blocks; b++)
            {
                ReadOnlySpan<byte> block = bytes.Slice(((row * Blocks) + b) * size, size);
                Set(row, b, MemoryMarshal.Cast<byte, sbyte>(block[2..]), (float)BitConverter.ToHalf(block));
            }
        }
    }

    public ByteMatrix(ReadOnlySpan<float> values, int rows, int columns)
        : base(rows, columns, BlockBytes, minima: false)
    {
        Span<sbyte> codes = stackalloc sbyte[Block];
        for (int row = 0; row < rows; row++)
        {
            for (int b = 0; b < Blocks; b++)
            {
                ReadOnlySpan<float> block = values.Slice((row * columns) + (b * Block), Block);
                float scale = Math.Abs(TensorPrimitives.MaxMagnitude(block)) / 127;
                for (int i = 0; i < Block; i++)
                {
                    codes[i] = (sbyte)(scale == 0 ? 0 : MathF.Round(block[i] / scale));
                }
                Set(row, b, codes, scale);
            }
        }
    }

    public override void Unpack(int row, float* target)
    {
        for (int b = 0; b < Blocks; b++)
        {
            long block = ((long)(row / Lanes) * Blocks) + b;
            sbyte* codes = (sbyte*)Codes + (block * BlockBytes) + (row % Lanes * 2);
            float scale = Scales[(block * Lanes) + (row % Lanes)];
            for (int i = 0; i < Block; i++)
            {
                target[(b * Block) + i] = scale * codes[(i / 2 * 32) + (i % 2)];
            }
        }
    }

    protected override void Multiply(int group, Rounded x, int first, int vectors, float* result)
    {
        sbyte* codes = (sbyte*)Codes + ((long)group * Blocks * BlockBytes);
        float* scales = Scales + ((long)group * Blocks * Lanes);
        if (vectors == Tile)
        {
            Four(codes, scales, x, first, result);
            return;
        }
        for (int v = 0; v < vectors; v++)
        {
            One(codes, scales, x.Pairs(first + v), x.Scales(first + v), result + (v * Lanes));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void One(sbyte* w, float* scales, int* x, float* xs, float* result)
    {
        Vector512<float> sum = default;
        for (int b = 0; b < Blocks; b++, w += BlockBytes, x += 16, scales += Lanes, xs += 2)
        {
            Vector512<int> even = default, odd = default;
            for (int p = 0; p < 16; p += 2)
            {
                even += Products(Wide(w + (p * 32)), Pair(x[p]));
                odd += Products(Wide(w + ((p + 1) * 32)), Pair(x[p + 1]));
            }
            sum = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(even + odd), Vector512.Load(scales) * Vector512.Create(xs[0]), sum);
        }
        sum.Store(result);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Four(sbyte* w, float* scales, Rounded x, int first, float* result)
    {
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        int* x0 = x.Pairs(first), x1 = x.Pairs(first + 1), x2 = x.Pairs(first + 2), x3 = x.Pairs(first + 3);
        float* s0 = x.Scales(first), s1 = x.Scales(first + 1), s2 = x.Scales(first + 2), s3 = x.Scales(first + 3);
        for (int b = 0; b < Blocks; b++, w += BlockBytes, scales += Lanes, x0 += 16, x1 += 16, x2 += 16, x3 += 16)
        {
            Vector512<int> a = default, c = default, d = default, e = default;
            for (int p = 0; p < 16; p++)
            {
                Vector512<short> pair = Wide(w + (p * 32));
                a += Products(pair, Pair(x0[p]));
                c += Products(pair, Pair(x1[p]));
                d += Products(pair, Pair(x2[p]));
                e += Products(pair, Pair(x3[p]));
            }
            Vector512<float> scale = Vector512.Load(scales);
            sum0 = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(a), scale * Vector512.Create(s0[2 * b]), sum0);
            sum1 = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(c), scale * Vector512.Create(s1[2 * b]), sum1);
            sum2 = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(d), scale * Vector512.Create(s2[2 * b]), sum2);
            sum3 = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(e), scale * Vector512.Create(s3[2 * b]), sum3);
        }
        sum0.Store(result);
        sum1.Store(result + Lanes);
        sum2.Store(result + (2 * Lanes));
        sum3.Store(result + (3 * Lanes));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<short> Wide(sbyte* codes)
    {
        var bytes = Vector256.Load(codes);
        return Avx512BW.IsSupported ? Avx512BW.ConvertToVector512Int16(bytes) : Vector512.Create(Vector256.WidenLower(bytes), Vector256.WidenUpper(bytes));
    }

    private void Set(int row, int b, ReadOnlySpan<sbyte> codes, float scale)
    {
        long block = ((long)(row / Lanes) * Blocks) + b;
        sbyte* to = (sbyte*)Codes + (block * BlockBytes) + (row % Lanes * 2);
        for (int i = 0; i < Block; i++)
        {
            to[(i / 2 * 32) + (i % 2)] = codes[i];
        }
        Scales[(block * Lanes) + (row % Lanes)] = scale;
    }
}
