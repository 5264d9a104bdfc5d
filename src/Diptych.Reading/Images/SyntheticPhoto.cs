using SkiaSharp;

namespace Diptych.Reading.Images;

/// <summary>JPEGs with the decoding cost of photos, for load tests: soft shapes under noise.</summary>
public static class SyntheticPhoto
{
    /// <param name="side">The longer side in pixels; the shape is 4:3.</param>
    public static byte[] Jpeg(int side, int seed)
    {
        var random = new Random(seed);
        using var bitmap = new SKBitmap(side, Math.Max(1, side * 3 / 4), SKColorType.Rgb888x, SKAlphaType.Opaque);
        using (var canvas = new SKCanvas(bitmap))
        using (var paint = new SKPaint())
        {
            for (int i = 0; i < 40; i++)
            {
                paint.Color = new SKColor((byte)random.Next(256), (byte)random.Next(256), (byte)random.Next(256));
                canvas.DrawCircle(random.Next(bitmap.Width), random.Next(bitmap.Height), random.Next(side / 8, side / 2), paint);
            }
        }
        Span<byte> pixels = bitmap.GetPixelSpan();
        for (int i = 0; i < pixels.Length; i++)
        {
            pixels[i] = (byte)Math.Clamp(pixels[i] + random.Next(-12, 13), 0, 255);
        }
        using SKData data = bitmap.Encode(SKEncodedImageFormat.Jpeg, 88);
        return data.ToArray();
    }
}
