using System.Buffers;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Diptych.Core;

/// <summary>
/// Resizes, bicubic (a = -0.5) or bilinear, with a support that grows with the reduction: separable, horizontal first, rounded to bytes
/// between the passes. In Pillow's own fixed point (22 bits of weight), because an int8 tower turns one pixel step into a cosine of 0.999.
/// </summary>
public static class Resampling
{
    private const int WeightBits = 22;
    private const int Half = 1 << (WeightBits - 1);

    /// <returns>RGB bytes [height, width, 3].</returns>
    public static byte[] Resize(RgbImage source, int width, int height, bool bilinear = false)
    {
        if (source.Width == width && source.Height == height)
        {
            return source.Pixels;
        }
        byte[] rgba = new byte[4 * source.Width * source.Height];
        for (int from = 0, to = 0; to < rgba.Length; from += 3, to += 4)
        {
            (rgba[to], rgba[to + 1], rgba[to + 2], rgba[to + 3]) = (source.Pixels[from], source.Pixels[from + 1], source.Pixels[from + 2], 255);
        }
        return Resize(rgba, 4 * source.Width, source.Width, source.Height, width, height, bilinear);
    }

    /// <param name="rgba">Rows of pixels of four bytes, of which the fourth is left out.</param>
    /// <param name="stride">Bytes from one row to the next.</param>
    /// <returns>RGB bytes [height, width, 3].</returns>
    public static byte[] Resize(ReadOnlySpan<byte> rgba, int stride, int sourceWidth, int sourceHeight, int width, int height, bool bilinear = false)
    {
        Taps columns = Taps.For(sourceWidth, width, bilinear), rows = Taps.For(sourceHeight, height, bilinear);

        // [sourceHeight, width, 3], as integers that hold bytes: the vertical pass then is a weighted sum of whole rows. It is rented, since
        // fresh pages for a megabyte or two take as long as the work on them.
        int rowLength = width * 3;
        int[] narrow = ArrayPool<int>.Shared.Rent(sourceHeight * rowLength);
        try
        {
            Narrow(rgba, stride, sourceHeight, columns, narrow, rowLength);
            return Lower(narrow, rows, height, rowLength);
        }
        finally
        {
            ArrayPool<int>.Shared.Return(narrow);
        }
    }

    /// <param name="narrow">[sourceHeight, width, 3]: filled.</param>
    private static void Narrow(ReadOnlySpan<byte> rgba, int stride, int sourceHeight, Taps columns, int[] narrow, int rowLength)
    {
        for (int y = 0; y < sourceHeight; y++)
        {
            ReadOnlySpan<uint> line = MemoryMarshal.Cast<byte, uint>(rgba[(y * stride)..]);
            Span<int> target = narrow.AsSpan(y * rowLength, rowLength);
            for (int x = 0; x < rowLength / 3; x++)
            {
                // The four channels of a pixel are the four lanes of a vector.
                Vector128<int> sum = Vector128.Create(Half);
                ReadOnlySpan<int> weights = columns.Weights(x);
                ReadOnlySpan<uint> p = line.Slice(columns.Start[x], weights.Length);
                for (int i = 0; i < weights.Length; i++)
                {
                    Vector128<ushort> wide = Vector128.WidenLower(Vector128.CreateScalarUnsafe(p[i]).AsByte());
                    sum += Vector128.WidenLower(wide).AsInt32() * weights[i];
                }
                target[x * 3] = ToByte(sum[0]);
                target[(x * 3) + 1] = ToByte(sum[1]);
                target[(x * 3) + 2] = ToByte(sum[2]);
            }
        }
    }

    private static byte[] Lower(int[] narrow, Taps rows, int height, int rowLength)
    {
        byte[] result = new byte[height * rowLength];
        int[] total = new int[rowLength];
        for (int y = 0; y < height; y++)
        {
            total.AsSpan().Fill(Half);
            ReadOnlySpan<int> weights = rows.Weights(y);
            for (int i = 0; i < weights.Length; i++)
            {
                AddWeighted(narrow.AsSpan((rows.Start[y] + i) * rowLength, rowLength), weights[i], total);
            }
            Span<byte> target = result.AsSpan(y * rowLength, rowLength);
            for (int i = 0; i < rowLength; i++)
            {
                target[i] = ToByte(total[i]);
            }
        }
        return result;
    }

    /// <summary>Resizes a grid of vectors, bilinear, as torch's interpolate does with antialias.</summary>
    /// <param name="grid">[height, width, numbers]</param>
    /// <returns>[toHeight, toWidth, numbers]</returns>
    public static float[] Resize(float[] grid, int height, int width, int toHeight, int toWidth)
    {
        int numbers = grid.Length / (height * width);
        float[] narrow = new float[height * toWidth * numbers], result = new float[toHeight * toWidth * numbers];
        for (int x = 0; x < toWidth; x++)
        {
            (int from, double[] weights) = Taps.At(x, width, toWidth, bilinear: true);
            for (int y = 0; y < height; y++)
            {
                Span<float> sum = narrow.AsSpan(((y * toWidth) + x) * numbers, numbers);
                for (int i = 0; i < weights.Length; i++)
                {
                    AddWeighted(grid.AsSpan(((y * width) + from + i) * numbers, numbers), (float)weights[i], sum);
                }
            }
        }
        int row = toWidth * numbers;
        for (int y = 0; y < toHeight; y++)
        {
            (int from, double[] weights) = Taps.At(y, height, toHeight, bilinear: true);
            Span<float> sum = result.AsSpan(y * row, row);
            for (int i = 0; i < weights.Length; i++)
            {
                AddWeighted(narrow.AsSpan((from + i) * row, row), (float)weights[i], sum);
            }
        }
        return result;
    }

    private static void AddWeighted<T>(ReadOnlySpan<T> values, T weight, Span<T> sum)
        where T : struct, INumber<T>
    {
        int i = 0;
        for (; i <= sum.Length - Vector<T>.Count; i += Vector<T>.Count)
        {
            ((new Vector<T>(values[i..]) * weight) + new Vector<T>(sum[i..])).CopyTo(sum[i..]);
        }
        for (; i < sum.Length; i++)
        {
            sum[i] += values[i] * weight;
        }
    }

    private static byte ToByte(int value) => (byte)Math.Clamp(value >> WeightBits, 0, 255);

    /// <summary>For each target position the first source position and the weights from there on.</summary>
    private sealed record Taps(int[] Start, int[] Length, int[] All, int Widest)
    {
        public ReadOnlySpan<int> Weights(int i) => All.AsSpan(i * Widest, Length[i]);

        public static Taps For(int source, int target, bool bilinear)
        {
            int widest = (int)Math.Ceiling((bilinear ? 1 : 2) * Math.Max((double)source / target, 1) * 2) + 1;
            var taps = new Taps(new int[target], new int[target], new int[target * widest], widest);
            for (int i = 0; i < target; i++)
            {
                (int from, double[] weights) = At(i, source, target, bilinear);
                for (int j = 0; j < weights.Length; j++)
                {
                    taps.All[(i * widest) + j] = (int)Math.Round(weights[j] * (1 << WeightBits), MidpointRounding.AwayFromZero);
                }
                (taps.Start[i], taps.Length[i]) = (from, weights.Length);
            }
            return taps;
        }

        /// <summary>The first source position of a target position, and the weights from there on.</summary>
        public static (int From, double[] Weights) At(int position, int source, int target, bool bilinear)
        {
            double scale = (double)source / target, spread = Math.Max(scale, 1), support = (bilinear ? 1 : 2) * spread, center = (position + 0.5) * scale;
            int from = Math.Max(0, (int)(center - support + 0.5)), to = Math.Min(source, (int)(center + support + 0.5));
            double[] weights = [.. Enumerable.Range(from, to - from).Select(j => Kernel((j - center + 0.5) / spread, bilinear))];
            double sum = weights.Sum();
            return (from, [.. weights.Select(w => w / sum)]);
        }

        private static double Kernel(double x, bool bilinear)
        {
            const double a = -0.5;
            x = Math.Abs(x);
            return bilinear ? Math.Max(0, 1 - x)
                : x < 1 ? (((a + 2) * x - (a + 3)) * x * x) + 1
                : x < 2 ? ((((x - 5) * x) + 8) * x - 4) * a
                : 0;
        }
    }
}
