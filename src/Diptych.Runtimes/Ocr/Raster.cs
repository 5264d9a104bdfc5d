using System.Numerics;
using Diptych.Core;

namespace Diptych.Runtimes.Ocr;

/// <summary>Resampling as the OCR models were trained with it: OpenCV's, without anti-aliasing.</summary>
internal static class Raster
{
    /// <summary>Bilinear between pixel centres, in OpenCV's own fixed point: a detector's threshold can hang on the last bit.</summary>
    public static RgbImage Resize(RgbImage source, int width, int height)
    {
        if (source.Width == width && source.Height == height)
        {
            return source;
        }
        byte[] target = new byte[width * height * 3];
        var columns = Taps(source.Width, width);
        var rows = Taps(source.Height, height);
        for (int y = 0, to = 0; y < height; y++)
        {
            var (y0, y1, b0, b1) = rows[y];
            for (int x = 0; x < width; x++)
            {
                var (x0, x1, a0, a1) = columns[x];
                int a = 3 * ((y0 * source.Width) + x0), b = 3 * ((y0 * source.Width) + x1), c = 3 * ((y1 * source.Width) + x0), d = 3 * ((y1 * source.Width) + x1);
                for (int k = 0; k < 3; k++, to++)
                {
                    int top = (source.Pixels[a + k] * a0) + (source.Pixels[b + k] * a1), bottom = (source.Pixels[c + k] * a0) + (source.Pixels[d + k] * a1);
                    target[to] = (byte)((((b0 * (top >> 4)) >> 16) + ((b1 * (bottom >> 4)) >> 16) + 2) >> 2);
                }
            }
        }
        return new RgbImage(target, width, height);

        static (int Low, int High, int LowWeight, int HighWeight)[] Taps(int from, int to)
        {
            const int One = 2048;
            double scale = (double)from / to;
            return
            [
                .. Enumerable.Range(0, to).Select(i =>
                {
                    float position = (float)(((i + 0.5) * scale) - 0.5);
                    int low = (int)MathF.Floor(position);
                    float share = position - low;
                    (low, share) = low < 0 ? (0, 0) : low >= from - 1 ? (from - 1, 0) : (low, share);
                    return (low, Math.Min(low + 1, from - 1), (int)MathF.Round((1 - share) * One), (int)MathF.Round(share * One));
                }),
            ];
        }
    }

    /// <summary>Cuts a rectangle out upright: bicubic (a = -0.75), the border repeated. One half again as high as wide is turned to lie.</summary>
    public static RgbImage Cut(RgbImage source, Quad quad)
    {
        int width = Math.Max(1, (int)quad.Width), height = Math.Max(1, (int)quad.Height);
        byte[] target = new byte[width * height * 3];
        Span<float> wx = stackalloc float[4], wy = stackalloc float[4];
        for (int y = 0, to = 0; y < height; y++)
        {
            float v = (float)y / height;
            for (int x = 0; x < width; x++)
            {
                Vector2 p = Vector2.Lerp(Vector2.Lerp(quad.A, quad.B, (float)x / width), Vector2.Lerp(quad.D, quad.C, (float)x / width), v);
                int ix = (int)MathF.Floor(p.X), iy = (int)MathF.Floor(p.Y);
                Weights(p.X - ix, wx);
                Weights(p.Y - iy, wy);
                float r = 0, g = 0, b = 0;
                for (int j = 0; j < 4; j++)
                {
                    int row = Math.Clamp(iy + j - 1, 0, source.Height - 1) * source.Width;
                    for (int i = 0; i < 4; i++)
                    {
                        int at = 3 * (row + Math.Clamp(ix + i - 1, 0, source.Width - 1));
                        float w = wx[i] * wy[j];
                        r += w * source.Pixels[at];
                        g += w * source.Pixels[at + 1];
                        b += w * source.Pixels[at + 2];
                    }
                }
                target[to++] = ToByte(r);
                target[to++] = ToByte(g);
                target[to++] = ToByte(b);
            }
        }
        var cut = new RgbImage(target, width, height);
        return height >= 1.5f * width ? Turned(cut) : cut;
    }

    public static RgbImage HalfTurned(RgbImage source)
    {
        byte[] target = new byte[source.Pixels.Length];
        for (int i = 0; i < target.Length; i += 3)
        {
            int from = target.Length - 3 - i;
            (target[i], target[i + 1], target[i + 2]) = (source.Pixels[from], source.Pixels[from + 1], source.Pixels[from + 2]);
        }
        return source with { Pixels = target };
    }

    /// <summary>At the left of a canvas of the models' grey.</summary>
    /// <param name="width">Of the canvas, at least the picture's.</param>
    public static byte[] OnCanvas(RgbImage source, int width)
    {
        byte[] target = new byte[width * source.Height * 3];
        // (x / 255 - 0.5) / 0.5 is nearest to the zero that the models were padded with.
        target.AsSpan().Fill(Padding);
        for (int y = 0; y < source.Height; y++)
        {
            source.Pixels.AsSpan(y * source.Width * 3, source.Width * 3).CopyTo(target.AsSpan(y * width * 3));
        }
        return target;
    }

    internal const byte Padding = 128;

    /// <summary>By 90 degrees against the clock.</summary>
    private static RgbImage Turned(RgbImage source)
    {
        byte[] target = new byte[source.Pixels.Length];
        for (int y = 0; y < source.Width; y++)
        {
            for (int x = 0; x < source.Height; x++)
            {
                int to = 3 * ((y * source.Height) + x), from = 3 * ((x * source.Width) + source.Width - 1 - y);
                (target[to], target[to + 1], target[to + 2]) = (source.Pixels[from], source.Pixels[from + 1], source.Pixels[from + 2]);
            }
        }
        return new RgbImage(target, source.Height, source.Width);
    }

    private static void Weights(float t, Span<float> w)
    {
        const float a = -0.75f;
        w[0] = ((((a * (t + 1)) - (5 * a)) * (t + 1)) + (8 * a)) * (t + 1) - (4 * a);
        w[1] = ((((a + 2) * t) - (a + 3)) * t * t) + 1;
        float u = 1 - t;
        w[2] = ((((a + 2) * u) - (a + 3)) * u * u) + 1;
        w[3] = 1 - w[0] - w[1] - w[2];
    }

    private static byte ToByte(float value) => (byte)Math.Clamp(value + 0.5f, 0, 255);
}
