using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// A matrix of small whole numbers, 32 of a row with a scale. Vectors are rounded to whole numbers of sixteen bits, 32 with a scale, and the
/// products of a block are summed as whole numbers, exactly. Sixteen rows stand side by side, two columns of each in a lane, so that nothing
/// is summed across lanes.
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
        using var rounded = new Rounded(x, n, Columns);
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

    /// <summary>Sixteen rows by up to four vectors, to [vectors, 16].</summary>
    protected abstract void Multiply(int group, Rounded x, int first, int vectors, float* result);

    protected override void Free()
    {
        NativeMemory.AlignedFree(Codes);
        NativeMemory.AlignedFree(Scales);
        NativeMemory.AlignedFree(Minima);
    }

    /// <summary>The same two columns in each lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected static Vector512<short> Pair(int columns) => Vector512.Create(columns).AsInt16();

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

    /// <summary>Vectors as whole numbers of sixteen bits, 32 with a scale.</summary>
    protected sealed class Rounded : IDisposable
    {
        private const float Peak = short.MaxValue;
        private readonly short* _codes;
        private readonly float* _scales;
        private readonly int _blocks;

        public Rounded(float* x, int n, int columns)
        {
            _blocks = columns / Block;
            _codes = (short*)NativeMemory.AlignedAlloc((nuint)((long)n * columns * sizeof(short)), 64);
            _scales = (float*)NativeMemory.AlignedAlloc((nuint)((long)n * _blocks * 2 * sizeof(float)), 64);
            for (long b = 0; b < (long)n * _blocks; b++)
            {
                Round(x + (b * Block), b);
            }
        }

        /// <summary>Two columns of a vector after each other.</summary>
        public int* Pairs(int vector) => (int*)(_codes + ((long)vector * _blocks * Block));

        /// <summary>Of each block: the scale, and the sum of its numbers.</summary>
        public float* Scales(int vector) => _scales + ((long)vector * _blocks * 2);

        public void Dispose()
        {
            NativeMemory.AlignedFree(_codes);
            NativeMemory.AlignedFree(_scales);
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private void Round(float* from, long block)
        {
            Vector512<float> low = Vector512.Load(from), high = Vector512.Load(from + 16);
            var largest = Vector512.Max(Vector512.Abs(low), Vector512.Abs(high));
            var eight = Vector256.Max(largest.GetLower(), largest.GetUpper());
            var four = Vector128.Max(eight.GetLower(), eight.GetUpper());
            float most = MathF.Max(MathF.Max(four[0], four[1]), MathF.Max(four[2], four[3])), scale = most / Peak;
            var by = Vector512.Create(most == 0 ? 0 : Peak / most);
            Vector512<int> a = Vector512.ConvertToInt32(Vector512.Round(low * by)), b = Vector512.ConvertToInt32(Vector512.Round(high * by));
            _scales[2 * block] = scale;
            _scales[(2 * block) + 1] = scale * Vector512.Sum(a + b);
            Vector512.Narrow(a, b).Store(_codes + (block * Block));
        }
    }
}
