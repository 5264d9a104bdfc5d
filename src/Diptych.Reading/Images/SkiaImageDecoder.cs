using System.Runtime.InteropServices;
using BitMiracle.LibTiff.Classic;
using Diptych.Core;
using SkiaSharp;

namespace Diptych.Reading.Images;

/// <summary>
/// Decodes JPEG, PNG, WebP, GIF, BMP (Skia) and TIFF (LibTiff) once, and derives from that decode the model's pixels and the
/// thumbnail. A JPEG much larger than needed is shrunk while it is decoded (libjpeg's scaled DCT).
/// </summary>
/// <param name="maxPixels">A larger picture is refused before a pixel of it is decoded.</param>
public sealed class SkiaImageDecoder(long maxPixels = ReaderLimits.DefaultPixels) : IImageDecoder
{
    /// <summary>Side of the model's input, in pixels.</summary>
    public const int ModelSide = 224;

    private const int ThumbnailSide = 320;

    private const int SmallFileBytes = 96 << 10;
    private static readonly byte[] JpegStart = [0xFF, 0xD8, 0xFF];

    /// <summary>Shorter side, in pixels, from which a JPEG is shrunk while it is decoded: below, its pixels are the reference's to the bit.</summary>
    private const int ScaledFrom = 1500;

    /// <summary>Shorter side, in pixels, from which a photo is decoded at the smallest scale that serves.</summary>
    private const int LargePhoto = 2000;

    public PreparedImage Prepare(byte[] file, bool thumbnail = true, int fullSide = 0, CancellationToken cancellation = default)
    {
        cancellation.ThrowIfCancellationRequested();
        using Decoded image = IsTiff(file) ? DecodeTiff(file) : DecodeSkia(file, fullSide);
        byte[] pixels = Resize(image.Bitmap, ModelSide, ModelSide);
        // A file that is small already is its own thumbnail: encoding it anew would cost more than a tenth of its ingestion.
        bool small = file.Length <= SmallFileBytes && file.AsSpan().StartsWith(JpegStart);
        byte[] shown = !thumbnail ? [] : small ? file : Thumbnail(image.Bitmap);
        return new PreparedImage(pixels, shown, image.WidthPx, image.HeightPx, fullSide > 0 ? Full(image.Bitmap, fullSide) : null);
    }

    private static bool IsTiff(ReadOnlySpan<byte> file) => file.StartsWith("II*\0"u8) || file.StartsWith("MM\0*"u8);

    private Decoded DecodeSkia(byte[] file, int fullSide)
    {
        using SKData data = SKData.CreateCopy(file);
        using SKCodec codec = SKCodec.Create(data) ?? throw new UnreadableException("Not an image that can be decoded, or damaged in its header.");
        Check(codec.Info.Width, codec.Info.Height);
        SKSizeI size = codec.Info.Size;
        int shorter = Math.Min(size.Width, size.Height);
        if (codec.EncodedFormat == SKEncodedImageFormat.Jpeg && shorter >= ScaledFrom)
        {
            // A scaled DCT blurs a little otherwise than the bicubic filter does. Three times the model's side leaves the filter the last
            // word; of a large photo an eighth is the mean of 8 x 8 pixels, and what is left to filter is enough at 1.6 times.
            float scale = Math.Max((shorter >= LargePhoto ? 1.6f : 3f) * ModelSide / shorter, (float)fullSide / Math.Max(size.Width, size.Height));
            for (int eighths = 1; eighths < 8; eighths++)
            {
                if (eighths / 8f >= scale)
                {
                    size = codec.GetScaledDimensions(eighths / 8f);
                    break;
                }
            }
        }
        CheckDecoded(size.Width, size.Height);
        var info = new SKImageInfo(size.Width, size.Height, SKColorType.Rgba8888, SKAlphaType.Unpremul, codec.Info.ColorSpace);
        var bitmap = new SKBitmap(info);
        try
        {
            SKCodecResult result = codec.GetPixels(info, bitmap.GetPixels());
            if (result is not (SKCodecResult.Success or SKCodecResult.IncompleteInput))
            {
                throw new UnreadableException($"The image is damaged ({result}).");
            }
            if (result == SKCodecResult.IncompleteInput)
            {
                throw new UnreadableException("The image file is truncated.");
            }
            OverWhite(bitmap, codec.Info.AlphaType);
            bool turned = IsTurned(codec.EncodedOrigin);
            return new Decoded(
                Orient(bitmap, codec.EncodedOrigin),
                turned ? codec.Info.Height : codec.Info.Width,
                turned ? codec.Info.Width : codec.Info.Height);
        }
        catch
        {
            bitmap.Dispose();
            throw;
        }
    }

    private Decoded DecodeTiff(byte[] file)
    {
        int width, height;
        int[] raster;
        try
        {
            using var stream = new MemoryStream(file, writable: false);
            using Tiff tiff = Tiff.ClientOpen("image", "r", stream, new TiffStream()) ?? throw new UnreadableException("The TIFF file is damaged.");
            (width, height) = (tiff.GetField(TiffTag.IMAGEWIDTH)?[0].ToInt() ?? 0, tiff.GetField(TiffTag.IMAGELENGTH)?[0].ToInt() ?? 0);
            Check(width, height);
            CheckDecoded(width, height);
            raster = new int[width * height];
            if (!tiff.ReadRGBAImageOriented(width, height, raster, Orientation.TOPLEFT))
            {
                throw new UnreadableException("The TIFF file is damaged, or uses an encoding that is not supported.");
            }
        }
        catch (Exception error) when (error is not (UnreadableException or OutOfMemoryException))
        {
            // The library follows whatever offsets a damaged file has.
            throw new UnreadableException($"The TIFF file is damaged ({error.GetType().Name}).", error);
        }
        var bitmap = new SKBitmap(new SKImageInfo(width, height, SKColorType.Rgba8888, SKAlphaType.Unpremul));
        MemoryMarshal.AsBytes(raster.AsSpan()).CopyTo(bitmap.GetPixelSpan());
        OverWhite(bitmap, SKAlphaType.Unpremul);
        return new Decoded(bitmap, width, height);
    }

    /// <summary>What is held in memory, four bytes a pixel.</summary>
    private void CheckDecoded(int width, int height)
    {
        if ((long)width * height > maxPixels / 2)
        {
            throw new UnreadableException($"The image has {width} x {height} pixels, more than the limit of {maxPixels / 2_000_000} megapixels for its format.");
        }
    }

    private void Check(int width, int height)
    {
        if (width <= 0 || height <= 0)
        {
            throw new UnreadableException("The image has no pixels.");
        }
        if ((long)width * height > maxPixels)
        {
            throw new UnreadableException($"The image has {width} x {height} pixels, more than the limit of {maxPixels / 1_000_000} megapixels.");
        }
    }

    private static void OverWhite(SKBitmap bitmap, SKAlphaType alpha)
    {
        if (alpha == SKAlphaType.Opaque)
        {
            return;
        }
        Span<byte> p = bitmap.GetPixelSpan();
        for (int i = 0; i < p.Length; i += 4)
        {
            int a = p[i + 3];
            if (a != 255)
            {
                p[i] = (byte)(((p[i] * a) + (255 * (255 - a)) + 127) / 255);
                p[i + 1] = (byte)(((p[i + 1] * a) + (255 * (255 - a)) + 127) / 255);
                p[i + 2] = (byte)(((p[i + 2] * a) + (255 * (255 - a)) + 127) / 255);
                p[i + 3] = 255;
            }
        }
    }

    private static bool IsTurned(SKEncodedOrigin origin) =>
        origin is SKEncodedOrigin.LeftTop or SKEncodedOrigin.RightTop or SKEncodedOrigin.RightBottom or SKEncodedOrigin.LeftBottom;

    private static SKBitmap Orient(SKBitmap source, SKEncodedOrigin origin)
    {
        if (origin is SKEncodedOrigin.TopLeft or SKEncodedOrigin.Default)
        {
            return source;
        }
        bool turned = IsTurned(origin);
        int width = turned ? source.Height : source.Width, height = turned ? source.Width : source.Height;
        var target = new SKBitmap(source.Info.WithSize(width, height));
        ReadOnlySpan<int> from = MemoryMarshal.Cast<byte, int>(source.GetPixelSpan());
        Span<int> to = MemoryMarshal.Cast<byte, int>(target.GetPixelSpan());
        for (int y = 0; y < height; y++)
        {
            for (int x = 0; x < width; x++)
            {
                (int sx, int sy) = origin switch
                {
                    SKEncodedOrigin.TopRight => (width - 1 - x, y),
                    SKEncodedOrigin.BottomRight => (width - 1 - x, height - 1 - y),
                    SKEncodedOrigin.BottomLeft => (x, height - 1 - y),
                    SKEncodedOrigin.LeftTop => (y, x),
                    SKEncodedOrigin.RightTop => (y, width - 1 - x),
                    SKEncodedOrigin.RightBottom => (height - 1 - y, width - 1 - x),
                    _ => (height - 1 - y, x),
                };
                to[(y * width) + x] = from[(sy * source.Width) + sx];
            }
        }
        source.Dispose();
        return target;
    }

    private static RgbImage Full(SKBitmap bitmap, int side)
    {
        float scale = Math.Min(1f, (float)side / Math.Max(bitmap.Width, bitmap.Height));
        int width = Math.Max(1, (int)(bitmap.Width * scale)), height = Math.Max(1, (int)(bitmap.Height * scale));
        if (scale < 1)
        {
            return new RgbImage(Resize(bitmap, width, height), width, height);
        }
        byte[] rgb = new byte[width * height * 3];
        ReadOnlySpan<byte> rgba = bitmap.GetPixelSpan();
        for (int y = 0, to = 0; y < height; y++)
        {
            ReadOnlySpan<byte> line = rgba.Slice(y * bitmap.RowBytes, width * 4);
            for (int x = 0; x < line.Length; x += 4, to += 3)
            {
                (rgb[to], rgb[to + 1], rgb[to + 2]) = (line[x], line[x + 1], line[x + 2]);
            }
        }
        return new RgbImage(rgb, width, height);
    }

    private static byte[] Resize(SKBitmap bitmap, int width, int height) =>
        Resampling.Resize(bitmap.GetPixelSpan(), bitmap.RowBytes, bitmap.Width, bitmap.Height, width, height);

    private static byte[] Thumbnail(SKBitmap bitmap)
    {
        float scale = Math.Min(1f, (float)ThumbnailSide / Math.Max(bitmap.Width, bitmap.Height));
        var size = new SKSizeI(Math.Max(1, (int)(bitmap.Width * scale)), Math.Max(1, (int)(bitmap.Height * scale)));
        using SKBitmap small = bitmap.Resize(bitmap.Info.WithSize(size.Width, size.Height), new SKSamplingOptions(SKFilterMode.Linear, SKMipmapMode.None));
        using SKData data = small.Encode(SKEncodedImageFormat.Jpeg, 80);
        return data.ToArray();
    }

    /// <summary>Pixels, perhaps shrunk in decoding, and the size that the picture has in full.</summary>
    private sealed record Decoded(SKBitmap Bitmap, int WidthPx, int HeightPx) : IDisposable
    {
        public void Dispose() => Bitmap.Dispose();
    }
}
