using System.Collections.Concurrent;
using Diptych.Core;

namespace Diptych.Inference;

/// <summary>Vectors of one text: one pass of the text tower gives both.</summary>
/// <param name="Text">[384] in the text space, unit length.</param>
/// <param name="Cross">[256] in the space shared with images, unit length.</param>
public sealed record TextEmbedding(float[] Text, float[] Cross);

/// <summary>Turns text into token ids; counts them for the chunker.</summary>
public interface ITokenizer
{
    /// <summary>Most ids of one input, the special ones included.</summary>
    int MaxTokens { get; }

    /// <summary>Ids with the model's special tokens, cut at <see cref="MaxTokens"/>.</summary>
    int[] Encode(string text);

    /// <summary>Ids that <paramref name="text"/> takes, without special tokens and without a cut.</summary>
    int Count(string text);
}

/// <summary>
/// A dual encoder as the product uses it: text to two vectors, image to one, through the scheduler.
/// Identical requests in flight are computed once.
/// </summary>
public sealed class Embedder(InferenceService service, ITokenizer tokenizer, string textModel, string imageModel)
{
    private readonly ConcurrentDictionary<(string, Lane), Task<TextEmbedding>> _inFlight = new();

    public ITokenizer Tokenizer => tokenizer;

    public EmbeddingSpace TextSpace { get; } = Space("text", service.Describe(textModel), "text_embedding");

    public EmbeddingSpace CrossSpace { get; } = Space("cross", service.Describe(imageModel), "embedding");

    public async Task<TextEmbedding> EmbedTextAsync(string text, Lane lane, CancellationToken cancellation, TimeSpan? timeLimit = null)
    {
        Task<TextEmbedding> task = _inFlight.GetOrAdd((text, lane), key => RunAsync(key.Item1, key.Item2, timeLimit));
        return await task.WaitAsync(cancellation).ConfigureAwait(false);
    }

    /// <param name="pixels">RGB bytes, 224 x 224 x 3 for the starter tower.</param>
    public async Task<float[]> EmbedImageAsync(byte[] pixels, Lane lane, CancellationToken cancellation, TimeSpan? timeLimit = null)
    {
        var rows = await service.RunAsync(new InferenceRequest(imageModel, lane, [], pixels, timeLimit), cancellation).ConfigureAwait(false);
        return rows["embedding"];
    }

    private async Task<TextEmbedding> RunAsync(string text, Lane lane, TimeSpan? timeLimit)
    {
        // Leave the dictionary's value factory before any work, so that a second caller finds the task.
        await Task.Yield();
        try
        {
            var request = new InferenceRequest(textModel, lane, tokenizer.Encode(text), [], timeLimit);
            var rows = await service.RunAsync(request, CancellationToken.None).ConfigureAwait(false);
            return new TextEmbedding(rows["text_embedding"], rows["cross_embedding"]);
        }
        finally
        {
            _inFlight.TryRemove((text, lane), out _);
        }
    }

    private static EmbeddingSpace Space(string name, ModelDescription model, string output) =>
        new(name, model.Outputs[output], model.Name, model.Revision);
}

/// <summary>What one decode of an image gives to everything that needs pixels.</summary>
/// <param name="Pixels">RGB bytes as the image tower takes them.</param>
/// <param name="Thumbnail">A JPEG: of at most 320 pixels a side, or the file itself where that is a small JPEG.</param>
/// <param name="WidthPx">Size after the EXIF orientation was applied.</param>
public sealed record PreparedImage(byte[] Pixels, byte[] Thumbnail, int WidthPx, int HeightPx);

/// <summary>Decodes an image file; implemented over a native codec, faked in tests.</summary>
public interface IImageDecoder
{
    /// <param name="thumbnail">False skips the thumbnail, which a query has no use for.</param>
    /// <exception cref="InvalidDataException">Not an image, damaged, or larger than the pixel limit; the message says which.</exception>
    PreparedImage Prepare(ReadOnlyMemory<byte> file, bool thumbnail = true);
}
