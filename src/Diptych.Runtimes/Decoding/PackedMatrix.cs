using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// A matrix of small whole numbers, 32 of a row with a scale. Vectors are rounded to whole numbers too, 32 with a scale, and the products
/// of a block are summed as whole numbers, exactly. Sixteen rows stand side by side, so that each lane of a register is a row and nothing is
/// summed across lanes.
/// </summary>
internal abstract unsafe class PackedMatrix : WeightMatrix
{
    /// <summary>Rows side by side: a register's lanes.</summary>
    protected const int Lanes = 16;

    /// <summary>Vectors that one reading of the matrix serves.</summary>
    protected const int Tile = 4;

    protected PackedMatrix(int rows, int columns, int bytesPerBlock, bool minima)
        : base(rows, columns)
    {
        Blocks = columns / Block;
        Groups = (rows + Lanes - 1) / Lanes;
        long blocks = (long)Groups * Blocks;
        ByteSize = blocks * (bytesPerBlock + (Lanes * (minima ? 8 : 4)));
        Codes = (byte*)NativeMemory.AlignedAlloc((nuint)(blocks * bytesPerBlock), 64);
        NativeMemory.Clear(Codes, (nuint)(blocks * bytesPerBlock));
        Scales = Floats(blocks * Lanes);
        Minima = minima ? Floats(blocks * Lanes) : null;
    }

    public override long ByteSize { get; }

    protected int Blocks { get; }

    protected int Groups { get; }

    protected byte* Codes { get; }

    /// <summary>[groups, blocks, 16]</summary>
    protected float* Scales { get; }

    /// <summary>[groups, blocks, 16], or null where there are none.</summary>
    protected float* Minima { get; }

    public override void Multiply(CoreTeam team, float* x, int n, float* y)
    {
        using var rounded = new Rounded(x, n, Columns, Peak);
        team.Run((part, parts) =>
        {
            int from = (int)((long)Groups * part / parts), to = (int)((long)Groups * (part + 1) / parts);
            float* result = stackalloc float[Lanes * Tile];
            for (int group = from; group < to; group++)
            {
                int row = group * Lanes, count = Math.Min(Lanes, Rows - row);
                for (int first = 0; first < n; first += Tile)
                {
                    int vectors = Math.Min(Tile, n - first);
                    Multiply(group, rounded, first, vectors, result);
                    for (int v = 0; v < vectors; v++)
                    {
                        new ReadOnlySpan<float>(result + (v * Lanes), count).CopyTo(new Span<float>(y + ((long)(first + v) * Rows) + row, count));
                    }
                }
            }
        });
    }

    /// <summary>The greatest whole number that a vector's numbers are rounded to.</summary>
    protected abstract int Peak { get; }

    /// <summary>Sixteen rows by up to four vectors, to [vectors, 16].</summary>
    protected abstract void Multiply(int group, Rounded x, int first, int vectors, float* result);

    protected override void Free()
    {
        NativeMemory.AlignedFree(Codes);
        NativeMemory.AlignedFree(Scales);
        NativeMemory.AlignedFree(Minima);
    }

    /// <summary>Sums of neighbouring products of unsigned by signed bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected static Vector512<short> Products(Vector512<byte> w, Vector512<sbyte> x)
    {
        if (Avx512BW.IsSupported)
        {
            return Avx512BW.MultiplyAddAdjacent(w, x);
        }
        if (Avx2.IsSupported)
        {
            return Vector512.Create(Avx2.MultiplyAddAdjacent(w.GetLower(), x.GetLower()), Avx2.MultiplyAddAdjacent(w.GetUpper(), x.GetUpper()));
        }
        Vector512<short> even = (w.AsInt16() & Vector512.Create((short)255)) * ((x.AsInt16() << 8) >> 8);
        return even + ((w.AsUInt16() >>> 8).AsInt16() * (x.AsInt16() >> 8));
    }

    /// <summary>Sums of neighbouring products.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected static Vector512<int> Products(Vector512<short> w, Vector512<short> x)
    {
        if (Avx512BW.IsSupported)
        {
            return Avx512BW.MultiplyAddAdjacent(w, x);
        }
        if (Avx2.IsSupported)
        {
            return Vector512.Create(Avx2.MultiplyAddAdjacent(w.GetLower(), x.GetLower()), Avx2.MultiplyAddAdjacent(w.GetUpper(), x.GetUpper()));
        }
        return (((w.AsInt32() << 16) >> 16) * ((x.AsInt32() << 16) >> 16)) + ((w.AsInt32() >> 16) * (x.AsInt32() >> 16));
    }

    private static float* Floats(long count)
    {
        float* floats = (float*)NativeMemory.AlignedAlloc((nuint)count * sizeof(float), 64);
        NativeMemory.Clear(floats, (nuint)count * sizeof(float));
        return floats;
    }

    /// <summary>Vectors as whole numbers, 32 with a scale: bytes where the peak fits in one, else two bytes each.</summary>
    protected sealed class Rounded : IDisposable
    {
        private readonly byte* _codes;
        private readonly float* _scales;
        private readonly int _blocks;
        private readonly int _width;

        public Rounded(float* x, int n, int columns, int peak)
        {
            _blocks = columns / Block;
            _width = peak > sbyte.MaxValue ? 2 : 1;
            _codes = (byte*)NativeMemory.AlignedAlloc((nuint)((long)n * columns * _width), 64);
            _scales = (float*)NativeMemory.AlignedAlloc((nuint)((long)n * _blocks * 2 * sizeof(float)), 64);
            for (long b = 0; b < (long)n * _blocks; b++)
            {
                Round(x + (b * Block), b, peak);
            }
        }

        public byte* Codes(int vector) => _codes + ((long)vector * _blocks * Block * _width);

        /// <summary>Of each block: the scale, and the sum of its numbers.</summary>
        public float* Scales(int vector) => _scales + ((long)vector * _blocks * 2);

        public void Dispose()
        {
            NativeMemory.AlignedFree(_codes);
            NativeMemory.AlignedFree(_scales);
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private void Round(float* from, long block, int peak)
        {
            Vector512<float> low = Vector512.Load(from), high = Vector512.Load(from + 16);
            var largest = Vector512.Max(Vector512.Abs(low), Vector512.Abs(high));
            var eight = Vector256.Max(largest.GetLower(), largest.GetUpper());
            var four = Vector128.Max(eight.GetLower(), eight.GetUpper());
            float most = MathF.Max(MathF.Max(four[0], four[1]), MathF.Max(four[2], four[3])), scale = most / peak;
            var by = Vector512.Create(most == 0 ? 0 : peak / most);
            Vector512<int> a = Vector512.ConvertToInt32(Vector512.Round(low * by)), b = Vector512.ConvertToInt32(Vector512.Round(high * by));
            _scales[2 * block] = scale;
            _scales[(2 * block) + 1] = scale * Vector512.Sum(a + b);
            Vector512<short> numbers = Vector512.Narrow(a, b);
            if (_width == 2)
            {
                numbers.Store((short*)_codes + (block * Block));
            }
            else
            {
                Vector256.Narrow(numbers.GetLower(), numbers.GetUpper()).Store((sbyte*)_codes + (block * Block));
            }
        }
    }
}

/// <summary>
/// Nibbles with a scale and a minimum for 32 (GGUF's Q4_0, Q4_1, Q4_K). A block of sixteen rows is 4 x 64 bytes: of each row four columns in
/// the low nibbles, and the four that come sixteen later in the high ones.
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

    protected override int Peak => 127;

    public override void Unpack(int row, float* target)
    {
        for (int b = 0; b < Blocks; b++)
        {
            long block = ((long)(row / Lanes) * Blocks) + b;
            byte* codes = Codes + (block * BlockBytes) + (row % Lanes * 4);
            float scale = Scales[(block * Lanes) + (row % Lanes)], minimum = Minima[(block * Lanes) + (row % Lanes)];
            for (int i = 0; i < 16; i++)
            {
                byte pair = codes[(i / 4 * 64) + (i % 4)];
                target[(b * Block) + i] = (scale * (pair & 15)) + minimum;
                target[(b * Block) + 16 + i] = (scale * (pair >> 4)) + minimum;
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
            One(codes, scales, minima, x.Codes(first + v), x.Scales(first + v), result + (v * Lanes));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void One(byte* w, float* scales, float* minima, byte* x, float* xs, float* result)
    {
        Vector512<float> sum = default;
        var mask = Vector512.Create((byte)15);
        for (int b = 0; b < Blocks; b++, w += BlockBytes, x += Block, scales += Lanes, minima += Lanes, xs += 2)
        {
            Vector512<byte> w0 = Vector512.Load(w), w1 = Vector512.Load(w + 64), w2 = Vector512.Load(w + 128), w3 = Vector512.Load(w + 192);
            sum = Add(sum, w0 & mask, w1 & mask, w2 & mask, w3 & mask, High(w0, mask), High(w1, mask), High(w2, mask), High(w3, mask), (int*)x, Vector512.Load(scales), Vector512.Load(minima), xs);
        }
        sum.Store(result);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Four(byte* w, float* scales, float* minima, Rounded x, int first, float* result)
    {
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        var mask = Vector512.Create((byte)15);
        byte* x0 = x.Codes(first), x1 = x.Codes(first + 1), x2 = x.Codes(first + 2), x3 = x.Codes(first + 3);
        float* s0 = x.Scales(first), s1 = x.Scales(first + 1), s2 = x.Scales(first + 2), s3 = x.Scales(first + 3);
        for (int b = 0; b < Blocks; b++, w += BlockBytes, scales += Lanes, minima += Lanes)
        {
            Vector512<byte> a = Vector512.Load(w), c = Vector512.Load(w + 64), d = Vector512.Load(w + 128), e = Vector512.Load(w + 192);
            Vector512<byte> w0 = a & mask, w1 = c & mask, w2 = d & mask, w3 = e & mask, w4 = High(a, mask), w5 = High(c, mask), w6 = High(d, mask), w7 = High(e, mask);
            Vector512<float> scale = Vector512.Load(scales), minimum = Vector512.Load(minima);
            int at = b * Block, s = 2 * b;
            sum0 = Add(sum0, w0, w1, w2, w3, w4, w5, w6, w7, (int*)(x0 + at), scale, minimum, s0 + s);
            sum1 = Add(sum1, w0, w1, w2, w3, w4, w5, w6, w7, (int*)(x1 + at), scale, minimum, s1 + s);
            sum2 = Add(sum2, w0, w1, w2, w3, w4, w5, w6, w7, (int*)(x2 + at), scale, minimum, s2 + s);
            sum3 = Add(sum3, w0, w1, w2, w3, w4, w5, w6, w7, (int*)(x3 + at), scale, minimum, s3 + s);
        }
        sum0.Store(result);
        sum1.Store(result + Lanes);
        sum2.Store(result + (2 * Lanes));
        sum3.Store(result + (3 * Lanes));
    }

    private static Vector512<byte> High(Vector512<byte> pairs, Vector512<byte> mask) => (pairs.AsUInt16() >>> 4).AsByte() & mask;

    /// <summary>A block's products on top of a sum. Eight products of a nibble and a byte stay within sixteen bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Add(
        Vector512<float> sum, Vector512<byte> w0, Vector512<byte> w1, Vector512<byte> w2, Vector512<byte> w3, Vector512<byte> w4, Vector512<byte> w5, Vector512<byte> w6, Vector512<byte> w7,
        int* x, Vector512<float> scale, Vector512<float> minimum, float* xs)
    {
        Vector512<short> low = Products(w0, Vector512.Create(x[0]).AsSByte()) + Products(w1, Vector512.Create(x[1]).AsSByte())
            + (Products(w2, Vector512.Create(x[2]).AsSByte()) + Products(w3, Vector512.Create(x[3]).AsSByte()));
        Vector512<short> high = Products(w4, Vector512.Create(x[4]).AsSByte()) + Products(w5, Vector512.Create(x[5]).AsSByte())
            + (Products(w6, Vector512.Create(x[6]).AsSByte()) + Products(w7, Vector512.Create(x[7]).AsSByte()));
        Vector512<int> whole = Products(low + high, Vector512.Create((short)1));
        sum = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(whole), scale * Vector512.Create(xs[0]), sum);
        return Vector512.FusedMultiplyAdd(minimum, Vector512.Create(xs[1]), sum);
    }

    private void Set(int row, int b, ReadOnlySpan<byte> codes, float scale, float minimum)
    {
        long block = ((long)(row / Lanes) * Blocks) + b;
        byte* to = Codes + (block * BlockBytes) + (row % Lanes * 4);
        for (int i = 0; i < 16; i++)
        {
            to[(i / 4 * 64) + (i % 4)] = (byte)(codes[i] | (codes[16 + i] << 4));
        }
        Scales[(block * Lanes) + (row % Lanes)] = scale;
        Minima[(block * Lanes) + (row % Lanes)] = minimum;
    }
}

/// <summary>
/// Signed bytes with a scale for 32 (GGUF's Q8_0). A block of sixteen rows is 16 x 32 bytes: of each row two columns. Vectors are rounded to
/// twelve bits.
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

    protected override int Peak => 2047;

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
            One(codes, scales, (int*)x.Codes(first + v), x.Scales(first + v), result + (v * Lanes));
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
                even += Products(Wide(w + (p * 32)), Vector512.Create(x[p]).AsInt16());
                odd += Products(Wide(w + ((p + 1) * 32)), Vector512.Create(x[p + 1]).AsInt16());
            }
            sum = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(even + odd), Vector512.Load(scales) * Vector512.Create(xs[0]), sum);
        }
        sum.Store(result);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Four(sbyte* w, float* scales, Rounded x, int first, float* result)
    {
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        int* x0 = (int*)x.Codes(first), x1 = (int*)x.Codes(first + 1), x2 = (int*)x.Codes(first + 2), x3 = (int*)x.Codes(first + 3);
        float* s0 = x.Scales(first), s1 = x.Scales(first + 1), s2 = x.Scales(first + 2), s3 = x.Scales(first + 3);
        for (int b = 0; b < Blocks; b++, w += BlockBytes, scales += Lanes, x0 += 16, x1 += 16, x2 += 16, x3 += 16)
        {
            Vector512<int> a = default, c = default, d = default, e = default;
            for (int p = 0; p < 16; p++)
            {
                Vector512<short> pair = Wide(w + (p * 32));
                a += Products(pair, Vector512.Create(x0[p]).AsInt16());
                c += Products(pair, Vector512.Create(x1[p]).AsInt16());
                d += Products(pair, Vector512.Create(x2[p]).AsInt16());
                e += Products(pair, Vector512.Create(x3[p]).AsInt16());
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
