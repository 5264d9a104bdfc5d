using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Diptych.Runtimes.Decoding;

/// <summary>How numbers of a dense matrix lie in memory, and how they are widened.</summary>
internal unsafe interface IStoredNumber<T>
    where T : unmanaged
{
    /// <summary>From so many vectors on, it is quicker to widen rows once for all of them.</summary>
    static abstract int WidenedFrom { get; }

    /// <summary>Sixteen of them.</summary>
    static abstract Vector512<float> Load(T* from);

    static abstract float Widen(T number);
}

/// <summary>
/// A matrix of floating-point numbers, as they are stored: single precision, or sixteen bits, which are half as much to read. Widening is exact, and
/// sums are taken in one order: what is stored in sixteen bits gives the same results as in thirty-two.
/// </summary>
internal sealed unsafe class DenseMatrix<T, TNumber> : WeightMatrix
    where T : unmanaged
    where TNumber : IStoredNumber<T>
{
    private readonly T* _numbers;

    /// <param name="values">[rows, columns]</param>
    public DenseMatrix(ReadOnlySpan<T> values, int rows, int columns)
        : base(rows, columns)
    {
        _numbers = (T*)NativeMemory.AlignedAlloc((nuint)values.Length * (nuint)sizeof(T), 64);
        values.CopyTo(new Span<T>(_numbers, values.Length));
    }

    public override long ByteSize => (long)Rows * Columns * sizeof(T);

    public override void Multiply(CoreTeam team, float* x, int n, float* y) => team.Run((part, parts) =>
    {
        // Fours of rows, so that each part is a whole number of tiles.
        int fours = (Rows + 3) / 4, from = 4 * (int)((long)fours * part / parts), to = Math.Min(Rows, 4 * (int)((long)fours * (part + 1) / parts));
        float* widened = n < TNumber.WidenedFrom ? null : (float*)NativeMemory.AlignedAlloc((nuint)Columns * 4 * sizeof(float), 64);
        for (int row = from; row < to; row += 4)
        {
            int rows = Math.Min(4, to - row);
            if (widened is null)
            {
                Tile<T, TNumber>(_numbers + ((long)row * Columns), row, rows, x, n, y);
                continue;
            }
            for (int r = 0; r < rows; r++)
            {
                Unpack(row + r, widened + ((long)r * Columns));
            }
            Tile<float, SingleNumber>(widened, row, rows, x, n, y);
        }
        NativeMemory.AlignedFree(widened);
    });

    public override void Unpack(int row, float* target)
    {
        T* from = _numbers + ((long)row * Columns);
        int k = 0;
        for (; k + 16 <= Columns; k += 16)
        {
            TNumber.Load(from + k).Store(target + k);
        }
        for (; k < Columns; k++)
        {
            target[k] = TNumber.Widen(from[k]);
        }
    }

    protected override void Free() => NativeMemory.AlignedFree(_numbers);

    /// <summary>Up to four rows by all vectors, two at a time: sixteen sums in registers, each in two halves.</summary>
    private void Tile<TW, TWide>(TW* w, int row, int rows, float* x, int n, float* y)
        where TW : unmanaged
        where TWide : IStoredNumber<TW>
    {
        bool whole = rows == 4 && Columns % Block == 0;
        int i = 0;
        for (; whole && i + 2 <= n; i += 2)
        {
            Eight<TW, TWide>(w, x + ((long)i * Columns), y + ((long)i * Rows) + row);
        }
        for (; i < n; i++)
        {
            float* xi = x + ((long)i * Columns), yi = y + ((long)i * Rows) + row;
            if (whole)
            {
                Four<TW, TWide>(w, xi, yi);
                continue;
            }
            for (int r = 0; r < rows; r++)
            {
                yi[r] = Dot<TW, TWide>(w + ((long)r * Columns), xi, Columns);
            }
        }
    }

    /// <summary>Two vectors by four rows.</summary>
    private void Eight<TW, TWide>(TW* w, float* x, float* y)
        where TW : unmanaged
        where TWide : IStoredNumber<TW>
    {
        Vector512<float> a0 = default, a1 = default, b0 = default, b1 = default, c0 = default, c1 = default, d0 = default, d1 = default;
        Vector512<float> e0 = default, e1 = default, f0 = default, f1 = default, g0 = default, g1 = default, h0 = default, h1 = default;
        TW* wb = w + Columns, wc = wb + Columns, wd = wc + Columns;
        float* z = x + Columns;
        for (int k = 0; k < Columns; k += Block)
        {
            var x0 = Vector512.Load(x + k);
            var z0 = Vector512.Load(z + k);
            var v = TWide.Load(w + k);
            (a0, e0) = (Vector512.FusedMultiplyAdd(v, x0, a0), Vector512.FusedMultiplyAdd(v, z0, e0));
            v = TWide.Load(wb + k);
            (b0, f0) = (Vector512.FusedMultiplyAdd(v, x0, b0), Vector512.FusedMultiplyAdd(v, z0, f0));
            v = TWide.Load(wc + k);
            (c0, g0) = (Vector512.FusedMultiplyAdd(v, x0, c0), Vector512.FusedMultiplyAdd(v, z0, g0));
            v = TWide.Load(wd + k);
            (d0, h0) = (Vector512.FusedMultiplyAdd(v, x0, d0), Vector512.FusedMultiplyAdd(v, z0, h0));
            x0 = Vector512.Load(x + k + 16);
            z0 = Vector512.Load(z + k + 16);
            v = TWide.Load(w + k + 16);
            (a1, e1) = (Vector512.FusedMultiplyAdd(v, x0, a1), Vector512.FusedMultiplyAdd(v, z0, e1));
            v = TWide.Load(wb + k + 16);
            (b1, f1) = (Vector512.FusedMultiplyAdd(v, x0, b1), Vector512.FusedMultiplyAdd(v, z0, f1));
            v = TWide.Load(wc + k + 16);
            (c1, g1) = (Vector512.FusedMultiplyAdd(v, x0, c1), Vector512.FusedMultiplyAdd(v, z0, g1));
            v = TWide.Load(wd + k + 16);
            (d1, h1) = (Vector512.FusedMultiplyAdd(v, x0, d1), Vector512.FusedMultiplyAdd(v, z0, h1));
        }
        (y[0], y[1], y[2], y[3]) = (Vector512.Sum(a0 + a1), Vector512.Sum(b0 + b1), Vector512.Sum(c0 + c1), Vector512.Sum(d0 + d1));
        float* second = y + Rows;
        (second[0], second[1], second[2], second[3]) = (Vector512.Sum(e0 + e1), Vector512.Sum(f0 + f1), Vector512.Sum(g0 + g1), Vector512.Sum(h0 + h1));
    }

    /// <summary>One vector by four rows.</summary>
    private void Four<TW, TWide>(TW* w, float* x, float* y)
        where TW : unmanaged
        where TWide : IStoredNumber<TW>
    {
        Vector512<float> a0 = default, a1 = default, b0 = default, b1 = default, c0 = default, c1 = default, d0 = default, d1 = default;
        TW* wb = w + Columns, wc = wb + Columns, wd = wc + Columns;
        for (int k = 0; k < Columns; k += Block)
        {
            var x0 = Vector512.Load(x + k);
            var x1 = Vector512.Load(x + k + 16);
            a0 = Vector512.FusedMultiplyAdd(TWide.Load(w + k), x0, a0);
            b0 = Vector512.FusedMultiplyAdd(TWide.Load(wb + k), x0, b0);
            c0 = Vector512.FusedMultiplyAdd(TWide.Load(wc + k), x0, c0);
            d0 = Vector512.FusedMultiplyAdd(TWide.Load(wd + k), x0, d0);
            a1 = Vector512.FusedMultiplyAdd(TWide.Load(w + k + 16), x1, a1);
            b1 = Vector512.FusedMultiplyAdd(TWide.Load(wb + k + 16), x1, b1);
            c1 = Vector512.FusedMultiplyAdd(TWide.Load(wc + k + 16), x1, c1);
            d1 = Vector512.FusedMultiplyAdd(TWide.Load(wd + k + 16), x1, d1);
        }
        (y[0], y[1], y[2], y[3]) = (Vector512.Sum(a0 + a1), Vector512.Sum(b0 + b1), Vector512.Sum(c0 + c1), Vector512.Sum(d0 + d1));
    }

    private static float Dot<TW, TWide>(TW* w, float* x, int columns)
        where TW : unmanaged
        where TWide : IStoredNumber<TW>
    {
        Vector512<float> sum = Vector512<float>.Zero, other = Vector512<float>.Zero;
        int k = 0;
        for (; k + Block <= columns; k += Block)
        {
            sum = Vector512.FusedMultiplyAdd(TWide.Load(w + k), Vector512.Load(x + k), sum);
            other = Vector512.FusedMultiplyAdd(TWide.Load(w + k + 16), Vector512.Load(x + k + 16), other);
        }
        float total = Vector512.Sum(sum + other);
        for (; k < columns; k++)
        {
            total += TWide.Widen(w[k]) * x[k];
        }
        return total;
    }
}

/// <summary>Single precision.</summary>
internal readonly unsafe struct SingleNumber : IStoredNumber<float>
{
    public static int WidenedFrom => int.MaxValue;

    public static Vector512<float> Load(float* from) => Vector512.Load(from);

    public static float Widen(float number) => number;
}

/// <summary>The upper half of single precision.</summary>
internal readonly unsafe struct BrainNumber : IStoredNumber<ushort>
{
    public static int WidenedFrom => 40;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(ushort* from) => (Sixteen.Widen(from) << 16).AsSingle();

    public static float Widen(ushort number) => BitConverter.Int32BitsToSingle(number << 16);
}

/// <summary>IEEE half precision.</summary>
internal readonly unsafe struct HalfNumber : IStoredNumber<ushort>
{
    /// <summary>2^112: between the exponents' zeros of the two formats.</summary>
    private const float Rebias = 5.192296858534828e33f;

    public static int WidenedFrom => 6;

    /// <summary>Exponent and fraction moved into their places are the number, 112 powers too small; weights are finite.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(ushort* from)
    {
        Vector512<uint> bits = Sixteen.Widen(from);
        Vector512<float> size = ((bits & Vector512.Create(0x7fffu)) << 13).AsSingle() * Vector512.Create(Rebias);
        return (size.AsUInt32() | ((bits & Vector512.Create(0x8000u)) << 16)).AsSingle();
    }

    public static float Widen(ushort number) => (float)BitConverter.UInt16BitsToHalf(number);
}

internal static unsafe class Sixteen
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<uint> Widen(ushort* from)
    {
        var numbers = Vector256.Load(from);
        return Avx512F.IsSupported ? Avx512F.ConvertToVector512UInt32(numbers) : Vector512.Create(Vector256.WidenLower(numbers), Vector256.WidenUpper(numbers));
    }
}
