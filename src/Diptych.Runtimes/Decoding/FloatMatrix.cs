using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Diptych.Runtimes.Decoding;

/// <summary>A matrix in single precision.</summary>
internal sealed unsafe class FloatMatrix : WeightMatrix
{
    private readonly float* _floats;

    public FloatMatrix(ReadOnlySpan<float> values, int rows, int columns)
        : base(rows, columns)
    {
        _floats = (float*)NativeMemory.AlignedAlloc((nuint)values.Length * sizeof(float), 64);
        values.CopyTo(new Span<float>(_floats, values.Length));
    }

    public override long ByteSize => (long)Rows * Columns * sizeof(float);

    public override void Multiply(CoreTeam team, float* x, int n, float* y) => team.Run((part, parts) =>
    {
        // Fours of rows, so that each part is a whole number of tiles.
        int fours = (Rows + 3) / 4, from = 4 * (int)((long)fours * part / parts), to = Math.Min(Rows, 4 * (int)((long)fours * (part + 1) / parts));
        for (int row = from; row < to; row += 4)
        {
            Tile(_floats + ((long)row * Columns), row, Math.Min(4, to - row), x, n, y);
        }
    });

    public override void Unpack(int row, float* target) =>
        new ReadOnlySpan<float>(_floats + ((long)row * Columns), Columns).CopyTo(new Span<float>(target, Columns));

    protected override void Free() => NativeMemory.AlignedFree(_floats);

    /// <summary>Up to four rows by all vectors, two at a time: sixteen sums in registers, each in two halves.</summary>
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
