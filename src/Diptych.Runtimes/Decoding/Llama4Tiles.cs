using Diptych.Core;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Cuts a picture into tiles as Llama 4 wants them: the canvas of at most so many tiles that fits its shape best, the picture in the
/// canvas's upper left corner, the rest black, and where there are several tiles the whole picture once more as one.
/// </summary>
/// <param name="Pixels">[tiles, 3, side, side]; <see cref="Scale"/> makes them what the eye takes.</param>
/// <param name="Rows">Tiles of the canvas from top to bottom.</param>
/// <param name="Columns">From left to right.</param>
internal sealed record Llama4Tiles(byte[] Pixels, int Count, int Rows, int Columns)
{
    public static Llama4Tiles Cut(RgbImage picture, int side, int most)
    {
        var (rows, columns) = Canvas(picture.Width, picture.Height, side, most);
        int width = Math.Min(Math.Max(picture.Width, side), columns * side), height = Math.Min(Math.Max(picture.Height, side), rows * side);
        double across = width / (double)picture.Width, down = height / (double)picture.Height;
        (width, height) = across < down
            ? (width, Math.Min((int)Math.Floor(picture.Height * across), height))
            : (Math.Min((int)Math.Floor(picture.Width * down), width), height);
        (width, height) = (Math.Max(1, width), Math.Max(1, height));
        byte[] placed = Resampling.Resize(picture, width, height, bilinear: true);
        int count = (rows * columns) + (rows * columns > 1 ? 1 : 0), plane = side * side;
        // Black, where the picture does not reach.
        byte[] pixels = new byte[count * 3 * plane];
        for (int y = 0; y < height; y++)
        {
            for (int x = 0; x < width; x++)
            {
                Set(pixels, (((y / side) * columns) + (x / side)) * 3 * plane, plane, (y % side * side) + (x % side), placed.AsSpan(3 * ((y * width) + x), 3));
            }
        }
        if (rows * columns > 1)
        {
            byte[] whole = Resampling.Resize(picture, side, side, bilinear: true);
            for (int i = 0; i < plane; i++)
            {
                Set(pixels, rows * columns * 3 * plane, plane, i, whole.AsSpan(3 * i, 3));
            }
        }
        return new Llama4Tiles(pixels, count, rows, columns);
    }

    /// <summary>Of the canvases that hold the picture without shrinking it the one that enlarges least, else the one that shrinks least; of equals the smallest.</summary>
    private static (int Rows, int Columns) Canvas(int width, int height, int side, int most)
    {
        var all = Enumerable.Range(1, most).SelectMany(n => Enumerable.Range(1, n).Where(r => n % r == 0).Select(r => (Rows: r, Columns: n / r)))
            .Select(c => (c.Rows, c.Columns, Scale: Math.Min(c.Columns * side / (double)width, c.Rows * side / (double)height))).ToList();
        double scale = all.Exists(c => c.Scale >= 1) ? all.Where(c => c.Scale >= 1).Min(c => c.Scale) : all.Max(c => c.Scale);
        var (rows, columns, _) = all.Where(c => c.Scale == scale).MinBy(c => c.Rows * c.Columns);
        return (rows, columns);
    }

    /// <summary>(value / 255 - 0.5) / 0.5</summary>
    public static void Scale(ReadOnlySpan<byte> pixels, Span<float> scaled)
    {
        for (int i = 0; i < pixels.Length; i++)
        {
            scaled[i] = (pixels[i] / 127.5f) - 1;
        }
    }

    private static void Set(byte[] pixels, int tile, int plane, int at, ReadOnlySpan<byte> rgb)
    {
        for (int c = 0; c < 3; c++)
        {
            pixels[tile + (c * plane) + at] = rgb[c];
        }
    }
}
