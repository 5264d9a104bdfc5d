namespace Diptych.Core;

/// <summary>A decoded picture.</summary>
/// <param name="Pixels">RGB bytes [height, width, 3].</param>
public sealed record RgbImage(byte[] Pixels, int Width, int Height);

/// <summary>What one decode of an image gives to everything that needs pixels.</summary>
/// <param name="Pixels">RGB bytes as the image tower takes them.</param>
/// <param name="Thumbnail">A JPEG: of at most 320 pixels a side, or the file itself where that is a small JPEG.</param>
/// <param name="WidthPx">Size after the EXIF orientation was applied.</param>
/// <param name="Full">The picture itself, where it was asked for.</param>
public sealed record PreparedImage(byte[] Pixels, byte[] Thumbnail, int WidthPx, int HeightPx, RgbImage? Full = null);

/// <summary>Decodes an image file: in this process, or in others that may fail without harm to this one.</summary>
public interface IImageDecoder
{
    /// <summary>Decodes on the calling thread, or has it wait.</summary>
    /// <param name="thumbnail">False skips the thumbnail, which a query has no use for.</param>
    /// <param name="fullSide">Above 0: the picture itself is wanted too, its longer side at most this many pixels.</param>
    /// <exception cref="UnreadableException">Not an image, damaged, or beyond a limit; the message says which.</exception>
    PreparedImage Prepare(byte[] file, bool thumbnail = true, int fullSide = 0, CancellationToken cancellation = default);
}
