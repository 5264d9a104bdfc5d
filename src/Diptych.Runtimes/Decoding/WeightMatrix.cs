using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Diptych.Runtimes.Decoding;

/// <summary>How a matrix is kept in memory.</summary>
public enum WeightFormat
{
    /// <summary>As the file has it: bytes and nibbles stay what they are, everything else becomes single precision.</summary>
    AsStored,

    /// <summary>Single precision.</summary>
    F32,

    /// <summary>Blocks of 32 signed bytes with a scale.</summary>
    Int8,
}

/// <summary>
/// A matrix [rows, columns] that vectors are multiplied by. Numbers of a vector stay in single precision whatever the matrix is kept in,
/// and each row of a product is summed in one order: a result never depends on its batchmates.
/// </summary>
internal sealed unsafe class WeightMatrix : IDisposable
{
    private const int Block = 32;

    /// <summary>Vectors from which a packed matrix is unpacked, a few rows at a time, once for all of them.</summary>
    private const int UnpackFrom = 4;

    private readonly byte* _codes;
    private readonly float* _scales;
    private readonly float* _minima;
    private readonly float* _floats;
    private readonly int _bits;

    private WeightMatrix(int rows, int columns, int bits)
    {
        (Rows, Columns, _bits) = (rows, columns, bits);
        nuint count = (nuint)rows * (nuint)columns;
        if (bits == 32)
        {
            _floats = (float*)NativeMemory.AlignedAlloc(count * sizeof(float), 64);
            ByteSize = (long)count * sizeof(float);
            return;
        }
        nuint blocks = count / Block;
        _codes = (byte*)NativeMemory.AlignedAlloc(count * (nuint)bits / 8, 64);
        _scales = (float*)NativeMemory.AlignedAlloc(blocks * sizeof(float), 64);
        _minima = bits == 4 ? (float*)NativeMemory.AlignedAlloc(blocks * sizeof(float), 64) : null;
        ByteSize = ((long)count * bits / 8) + ((long)blocks * (bits == 4 ? 8 : 4));
    }

    public int Rows { get; }

    public int Columns { get; }

    /// <summary>Bytes of memory.</summary>
    public long ByteSize { get; }

    public static WeightMatrix Load(TensorFile file, StoredTensor tensor, WeightFormat format)
    {
        int rows = tensor.Count / tensor.Columns, columns = tensor.Columns;
        if (format == WeightFormat.AsStored && tensor.Type is TensorType.Q8_0 or TensorType.Q4_0 or TensorType.Q4_1)
        {
            return Packed(file.Bytes(tensor), tensor.Type, rows, columns);
        }
        return Of(file.Floats(tensor), rows, columns, format == WeightFormat.Int8 && columns % Block == 0 ? 8 : 32);
    }

    public static WeightMatrix Of(ReadOnlySpan<float> values, int rows, int columns, int bits = 32)
    {
        var matrix = new WeightMatrix(rows, columns, bits);
        if (bits == 32)
        {
            values.CopyTo(new Span<float>(matrix._floats, values.Length));
            return matrix;
        }
        for (int b = 0; b < values.Length / Block; b++)
        {
            ReadOnlySpan<float> block = values.Slice(b * Block, Block);
            float scale = Math.Abs(TensorPrimitives.MaxMagnitude(block)) / 127;
            matrix._scales[b] = scale;
            for (int i = 0; i < Block; i++)
            {
                matrix._codes[(b * Block) + i] = (byte)(sbyte)(scale == 0 ? 0 : MathF.Round(block[i] / scale));
            }
        }
        return matrix;
    }

    /// <summary>y = x W^T: [n, columns] to [n, rows], the rows shared out over the team.</summary>
    public void Multiply(CoreTeam team, float* x, int n, float* y) => team.Run((part, parts) =>
    {
        // Fours of rows, so that each part is a whole number of tiles.
        int fours = (Rows + 3) / 4, from = 4 * (int)((long)fours * part / parts), to = Math.Min(Rows, 4 * (int)((long)fours * (part + 1) / parts));
        if (_bits == 32)
        {
            for (int row = from; row < to; row += 4)
            {
                Tile(_floats + ((long)row * Columns), row, Math.Min(4, to - row), x, n, y);
            }
        }
        else if (n < UnpackFrom)
        {
            for (int row = from; row < to; row++)
            {
                for (int i = 0; i < n; i++)
                {
                    y[((long)i * Rows) + row] = _bits == 8 ? Dot8(row, x + ((long)i * Columns)) : Dot4(row, x + ((long)i * Columns));
                }
            }
        }
        else
        {
            float* rows = (float*)NativeMemory.AlignedAlloc((nuint)(4 * Columns * sizeof(float)), 64);
            for (int row = from; row < to; row += 4)
            {
                int count = Math.Min(4, to - row);
                for (int r = 0; r < count; r++)
                {
                    Unpack(row + r, rows + (r * Columns));
                }
                Tile(rows, row, count, x, n, y);
            }
            NativeMemory.AlignedFree(rows);
        }
    });

    /// <summary>One row in single precision.</summary>
    public void Unpack(int row, float* target)
    {
        if (_bits == 32)
        {
            new ReadOnlySpan<float>(_floats + ((long)row * Columns), Columns).CopyTo(new Span<float>(target, Columns));
            return;
        }
        long first = (long)row * Columns / Block;
        for (int b = 0; b < Columns / Block; b++)
        {
            float* to = target + (b * Block);
            if (_bits == 8)
            {
                var scale = Vector512.Create(_scales[first + b]);
                byte* codes = _codes + ((first + b) * Block);
                (Signed(codes) * scale).Store(to);
                (Signed(codes + 16) * scale).Store(to + 16);
            }
            else
            {
                var scale = Vector512.Create(_scales[first + b]);
                var minimum = Vector512.Create(_minima[first + b]);
                var nibbles = Vector128.Load(_codes + ((first + b) * 16));
                Vector512.FusedMultiplyAdd(Unsigned(nibbles & Vector128.Create((byte)15)), scale, minimum).Store(to);
                Vector512.FusedMultiplyAdd(Unsigned(nibbles >>> 4), scale, minimum).Store(to + 16);
            }
        }
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(_floats);
        NativeMemory.AlignedFree(_codes);
        NativeMemory.AlignedFree(_scales);
        NativeMemory.AlignedFree(_minima);
        GC.SuppressFinalize(this);
    }

    ~WeightMatrix() => Dispose();

    private static WeightMatrix Packed(ReadOnlySpan<byte> bytes, TensorType type, int rows, int columns)
    {
        var matrix = new WeightMatrix(rows, columns, type == TensorType.Q8_0 ? 8 : 4);
        int size = (int)StoredTensor.BytesOf(type, Block);
        for (int b = 0; b < (int)((long)rows * columns / Block); b++)
        {
            ReadOnlySpan<byte> block = bytes.Slice(b * size, size);
            matrix._scales[b] = (float)BitConverter.ToHalf(block);
            if (type == TensorType.Q8_0)
            {
                block[2..].CopyTo(new Span<byte>(matrix._codes + (b * Block), Block));
                continue;
            }
            matrix._minima[b] = type == TensorType.Q4_1 ? (float)BitConverter.ToHalf(block[2..]) : -8 * matrix._scales[b];
            block[^16..].CopyTo(new Span<byte>(matrix._codes + (b * 16), 16));
        }
        return matrix;
    }

    private static Vector512<float> Signed(byte* codes) => Vector512.ConvertToSingle(Wide(Vector128.Load((sbyte*)codes)));

    private static Vector512<float> Unsigned(Vector128<byte> codes) => Vector512.ConvertToSingle(Wide(codes.AsSByte()));

    private static Vector512<int> Wide(Vector128<sbyte> codes)
    {
        if (System.Runtime.Intrinsics.X86.Avx512F.IsSupported)
        {
            return System.Runtime.Intrinsics.X86.Avx512F.ConvertToVector512Int32(codes);
        }
        Vector128<short> low = Vector128.WidenLower(codes), high = Vector128.WidenUpper(codes);
        return Vector512.Create(
            Vector256.Create(Vector128.WidenLower(low), Vector128.WidenUpper(low)), Vector256.Create(Vector128.WidenLower(high), Vector128.WidenUpper(high)));
    }

    private float Dot8(int row, float* x)
    {
        long first = (long)row * Columns / Block;
        Vector512<float> sum = Vector512<float>.Zero, other = Vector512<float>.Zero;
        for (int b = 0; b < Columns / Block; b++)
        {
            byte* codes = _codes + ((first + b) * Block);
            var scale = Vector512.Create(_scales[first + b]);
            sum = Vector512.FusedMultiplyAdd(Signed(codes) * scale, Vector512.Load(x + (b * Block)), sum);
            other = Vector512.FusedMultiplyAdd(Signed(codes + 16) * scale, Vector512.Load(x + (b * Block) + 16), other);
        }
        return Vector512.Sum(sum + other);
    }

    private float Dot4(int row, float* x)
    {
        long first = (long)row * Columns / Block;
        Vector512<float> sum = Vector512<float>.Zero, other = Vector512<float>.Zero;
        var mask = Vector128.Create((byte)15);
        for (int b = 0; b < Columns / Block; b++)
        {
            var nibbles = Vector128.Load(_codes + ((first + b) * 16));
            var scale = Vector512.Create(_scales[first + b]);
            var minimum = Vector512.Create(_minima[first + b]);
            sum = Vector512.FusedMultiplyAdd(Vector512.FusedMultiplyAdd(Unsigned(nibbles & mask), scale, minimum), Vector512.Load(x + (b * Block)), sum);
            other = Vector512.FusedMultiplyAdd(Vector512.FusedMultiplyAdd(Unsigned(nibbles >>> 4), scale, minimum), Vector512.Load(x + (b * Block) + 16), other);
        }
        return Vector512.Sum(sum + other);
    }

    /// <summary>Up to four rows by all vectors, two at a time: sixteen sums in registers, each in the two halves of <see cref="Dot8"/>.</summary>
    private void Tile(float* w, int row, int rows, float* x, int n, float* y)
    {
        bool whole = rows == 4 && Columns % Block == 0;
        int i = 0;
        for (; whole && i + 2 <= n; i += 2)
        {
            Eight(w, x + ((long)i * Columns), y + ((long)i * Rows) + row);
        }
        for (; i < n; i++)
        {
            float* xi = x + ((long)i * Columns), yi = y + ((long)i * Rows) + row;
            if (whole)
            {
                Four(w, xi, yi);
                continue;
            }
            for (int r = 0; r < rows; r++)
            {
                yi[r] = Dot(w + (r * Columns), xi, Columns);
            }
        }
    }

    /// <summary>Two vectors by four rows.</summary>
    private void Eight(float* w, float* x, float* y)
    {
        Vector512<float> a0 = default, a1 = default, b0 = default, b1 = default, c0 = default, c1 = default, d0 = default, d1 = default;
        Vector512<float> e0 = default, e1 = default, f0 = default, f1 = default, g0 = default, g1 = default, h0 = default, h1 = default;
        float* wb = w + Columns, wc = wb + Columns, wd = wc + Columns, z = x + Columns;
        for (int k = 0; k < Columns; k += Block)
        {
            var x0 = Vector512.Load(x + k);
            var z0 = Vector512.Load(z + k);
            var v = Vector512.Load(w + k);
            (a0, e0) = (Vector512.FusedMultiplyAdd(v, x0, a0), Vector512.FusedMultiplyAdd(v, z0, e0));
            v = Vector512.Load(wb + k);
            (b0, f0) = (Vector512.FusedMultiplyAdd(v, x0, b0), Vector512.FusedMultiplyAdd(v, z0, f0));
            v = Vector512.Load(wc + k);
            (c0, g0) = (Vector512.FusedMultiplyAdd(v, x0, c0), Vector512.FusedMultiplyAdd(v, z0, g0));
            v = Vector512.Load(wd + k);
            (d0, h0) = (Vector512.FusedMultiplyAdd(v, x0, d0), Vector512.FusedMultiplyAdd(v, z0, h0));
            x0 = Vector512.Load(x + k + 16);
            z0 = Vector512.Load(z + k + 16);
            v = Vector512.Load(w + k + 16);
            (a1, e1) = (Vector512.FusedMultiplyAdd(v, x0, a1), Vector512.FusedMultiplyAdd(v, z0, e1));
            v = Vector512.Load(wb + k + 16);
            (b1, f1) = (Vector512.FusedMultiplyAdd(v, x0, b1), Vector512.FusedMultiplyAdd(v, z0, f1));
            v = Vector512.Load(wc + k + 16);
            (c1, g1) = (Vector512.FusedMultiplyAdd(v, x0, c1), Vector512.FusedMultiplyAdd(v, z0, g1));
            v = Vector512.Load(wd + k + 16);
            (d1, h1) = (Vector512.FusedMultiplyAdd(v, x0, d1), Vector512.FusedMultiplyAdd(v, z0, h1));
        }
        (y[0], y[1], y[2], y[3]) = (Vector512.Sum(a0 + a1), Vector512.Sum(b0 + b1), Vector512.Sum(c0 + c1), Vector512.Sum(d0 + d1));
        float* second = y + Rows;
        (second[0], second[1], second[2], second[3]) = (Vector512.Sum(e0 + e1), Vector512.Sum(f0 + f1), Vector512.Sum(g0 + g1), Vector512.Sum(h0 + h1));
    }

    /// <summary>One vector by four rows.</summary>
    private void Four(float* w, float* x, float* y)
    {
        Vector512<float> a0 = default, a1 = default, b0 = default, b1 = default, c0 = default, c1 = default, d0 = default, d1 = default;
        float* wb = w + Columns, wc = wb + Columns, wd = wc + Columns;
        for (int k = 0; k < Columns; k += Block)
        {
            var x0 = Vector512.Load(x + k);
            var x1 = Vector512.Load(x + k + 16);
            a0 = Vector512.FusedMultiplyAdd(Vector512.Load(w + k), x0, a0);
            b0 = Vector512.FusedMultiplyAdd(Vector512.Load(wb + k), x0, b0);
            c0 = Vector512.FusedMultiplyAdd(Vector512.Load(wc + k), x0, c0);
            d0 = Vector512.FusedMultiplyAdd(Vector512.Load(wd + k), x0, d0);
            a1 = Vector512.FusedMultiplyAdd(Vector512.Load(w + k + 16), x1, a1);
            b1 = Vector512.FusedMultiplyAdd(Vector512.Load(wb + k + 16), x1, b1);
            c1 = Vector512.FusedMultiplyAdd(Vector512.Load(wc + k + 16), x1, c1);
            d1 = Vector512.FusedMultiplyAdd(Vector512.Load(wd + k + 16), x1, d1);
        }
        (y[0], y[1], y[2], y[3]) = (Vector512.Sum(a0 + a1), Vector512.Sum(b0 + b1), Vector512.Sum(c0 + c1), Vector512.Sum(d0 + d1));
    }

    private static float Dot(float* w, float* x, int columns)
    {
        Vector512<float> sum = Vector512<float>.Zero, other = Vector512<float>.Zero;
        int k = 0;
        for (; k + Block <= columns; k += Block)
        {
            sum = Vector512.FusedMultiplyAdd(Vector512.Load(w + k), Vector512.Load(x + k), sum);
            other = Vector512.FusedMultiplyAdd(Vector512.Load(w + k + 16), Vector512.Load(x + k + 16), other);
        }
        float total = Vector512.Sum(sum + other);
        for (; k < columns; k++)
        {
            total += w[k] * x[k];
        }
        return total;
    }
}
