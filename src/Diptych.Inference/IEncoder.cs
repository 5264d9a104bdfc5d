using Diptych.Core;

namespace Diptych.Inference;

/// <summary>A model that was added, or one behind another server: it embeds texts, and pictures where it sees them.</summary>
public interface IEncoder
{
    /// <summary>Width of the vectors; 0 while it is not known yet.</summary>
    int Dimensions { get; }

    /// <summary>Whether it embeds pictures too.</summary>
    bool Sees { get; }

    /// <summary>The models of the service that it runs; none for one behind another server.</summary>
    IReadOnlyList<string> Models { get; }

    /// <summary>Tokens of a text; 0 where that is not known here.</summary>
    int CountTokens(string text);

    /// <exception cref="InvalidRequestException">It embeds no texts.</exception>
    /// <exception cref="OverloadedException">It would be late.</exception>
    Task<float[]> EmbedTextAsync(string text, Lane lane, CancellationToken cancellation);

    /// <exception cref="InvalidRequestException">It embeds no pictures.</exception>
    /// <exception cref="UnreadableException">Not an image, damaged, or too large.</exception>
    /// <exception cref="OverloadedException">It would be late.</exception>
    Task<float[]> EmbedImageAsync(byte[] file, Lane lane, CancellationToken cancellation);
}
