using Diptych.Core;

namespace Diptych.Inference;

/// <summary>A line of text in a picture.</summary>
/// <param name="Score">Mean probability of its characters.</param>
/// <param name="Corners">[8]: x and y in pixels of the corners, clockwise from the first character's top.</param>
public sealed record TextLine(string Text, double Score, IReadOnlyList<float> Corners);

/// <summary>Reads the text in pictures; implemented by OCR models, faked in tests.</summary>
public interface IPictureReader
{
    /// <summary>Longer side, in pixels, beyond which a picture is shrunk before it is read.</summary>
    int MaxSide { get; }

    /// <returns>Lines in reading order.</returns>
    Task<IReadOnlyList<TextLine>> ReadAsync(RgbImage picture, Lane lane, CancellationToken cancellation);
}
