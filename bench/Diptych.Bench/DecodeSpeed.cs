using Diptych.Core;
using Diptych.Reading.Images;
using NetVips;
using SkiaSharp;

namespace Diptych.Bench;

/// <summary>A 12-megapixel JPEG to the model's 224 x 224, against SkiaSharp's and libvips's own shrink-on-load.</summary>
internal static class DecodeSpeed
{
    private const int Side = 224, Rounds = 15;

    public static Task RunAsync(Report report)
    {
        byte[] jpeg = Photo();
        IImageDecoder decoder = new SkiaImageDecoder();
        global::NetVips.NetVips.Concurrency = 1;
        Action[] ways = [() => decoder.Prepare(jpeg, thumbnail: false), () => Skia(jpeg), () => Vips(jpeg)];
        var times = ways.Select(_ => new List<double>()).ToArray();
        for (int round = -2; round < Rounds; round++)
        {
            for (int i = 0; i < ways.Length; i++)
            {
                double seconds = Report.Time(ways[i]);
                if (round >= 0)
                {
                    times[i].Add(seconds * 1000);
                }
            }
        }
        double[] medians = [.. times.Select(Report.Median)];
        double ratio = medians[0] / Math.Min(medians[1], medians[2]);
        report.Row("12-megapixel JPEG to model input, ms", $"{Report.Number(medians[0], "0.0")} ({Report.Number(ratio, "0.00")} x the best)",
            $"<= 1.3 x the best of SkiaSharp {Report.Number(medians[1], "0.0")}, libvips {Report.Number(medians[2], "0.0")}", ratio <= 1.3);
        return Task.CompletedTask;
    }

    /// <summary>4000 x 3000, enlarged from a real photo, with grain so that it compresses as a photo does.</summary>
    private static byte[] Photo()
    {
        using SKBitmap source = SKBitmap.Decode(Path.Combine(AppContext.BaseDirectory, "samples", "photos", "china.jpg"));
        using SKBitmap large = source.Resize(new SKImageInfo(4000, 3000), new SKSamplingOptions(SKCubicResampler.Mitchell));
        var random = new Random(4);
        Span<byte> pixels = large.GetPixelSpan();
        for (int i = 0; i < pixels.Length; i++)
        {
            pixels[i] = (byte)Math.Clamp(pixels[i] + random.Next(-6, 7), 0, 255);
        }
        using SKData data = large.Encode(SKEncodedImageFormat.Jpeg, 90);
        return data.ToArray();
    }

    private static void Skia(byte[] jpeg)
    {
        using SKData data = SKData.CreateCopy(jpeg);
        using SKCodec codec = SKCodec.Create(data);
        SKSizeI size = codec.GetScaledDimensions(0.125f);
        using var bitmap = new SKBitmap(new SKImageInfo(size.Width, size.Height));
        codec.GetPixels(bitmap.Info, bitmap.GetPixels());
        using SKBitmap small = bitmap.Resize(new SKImageInfo(Side, Side), new SKSamplingOptions(SKFilterMode.Linear, SKMipmapMode.Linear));
    }

    private static void Vips(byte[] jpeg)
    {
        using Image image = Image.ThumbnailBuffer(jpeg, Side, height: Side, size: Enums.Size.Force);
        image.WriteToMemory<byte>();
    }
}
