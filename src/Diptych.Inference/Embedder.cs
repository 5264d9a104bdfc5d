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
/// A dual encoder as the product uses it, with what comes before it: text to two vectors, image to one, through the scheduler. Identical requests in flight are
/// computed once, and what somebody waited for is remembered for a while.
/// </summary>
public sealed class Embedder
{
    private const long CacheBytes = 32 << 20;
    private readonly InferenceService _service;
    private readonly IImageDecoder _images;
    private readonly string _textModel;
    private readonly string _imageModel;
    private readonly SingleFlight<(string Text, Lane Lane), TextEmbedding> _inFlight;
    private readonly LeastRecentlyUsed<string, TextEmbedding> _remembered = new(CacheBytes);

    public Embedder(InferenceService service, ITokenizer tokenizer, IImageDecoder images, PreparationPool preparation, string textModel, string imageModel)
    {
        (_service, Tokenizer, _images, Preparation, _textModel, _imageModel) = (service, tokenizer, images, preparation, textModel, imageModel);
        _inFlight = new(service.Time);
        TextSpace = Space("text", service.Describe(textModel), "text_embedding");
        CrossSpace = Space("cross", service.Describe(imageModel), "embedding");
        service.AddCache("embeddings", CacheBytes, _remembered.Clear);
    }

    public ITokenizer Tokenizer { get; }

    /// <summary>Where decoding and parsing runs.</summary>
    public PreparationPool Preparation { get; }

    public EmbeddingSpace TextSpace { get; }

    public EmbeddingSpace CrossSpace { get; }

    /// <summary>Decodes an image file and embeds it; one that would be late is refused before it is decoded.</summary>
    /// <exception cref="OverloadedException">It would be late.</exception>
    /// <exception cref="UnreadableException">Not an image, damaged, or too large.</exception>
    public async Task<float[]> EmbedImageFileAsync(byte[] file, Lane lane, CancellationToken cancellation)
    {
        RequestTerms terms = RequestTerms.Current;
        lane = terms.Lane ?? lane;
        _service.Admit(_imageModel, lane, 1, terms.Left(_service.Time), terms.Tenant);
        PreparedImage prepared = await Preparation.RunAsync(() => _images.Prepare(file, thumbnail: false, cancellation: cancellation), lane, file.Length, cancellation).ConfigureAwait(false);
        return await EmbedImageAsync(prepared.Pixels, lane, cancellation).ConfigureAwait(false);
    }

    /// <exception cref="OverloadedException">It would be late.</exception>
    public async Task<TextEmbedding> EmbedTextAsync(string text, Lane lane, CancellationToken cancellation)
    {
        if (_remembered.TryGet(text, out TextEmbedding known))
        {
            return known;
        }
        lane = RequestTerms.Current.Lane ?? lane;
        return await _inFlight.RunAsync((text, lane), RequestTerms.Current, (terms, stop) => RunAsync(text, lane, terms, stop), cancellation).ConfigureAwait(false);
    }

    /// <param name="pixels">RGB bytes, 224 x 224 x 3 for the starter tower.</param>
    /// <exception cref="OverloadedException">It would be late.</exception>
    public async Task<float[]> EmbedImageAsync(byte[] pixels, Lane lane, CancellationToken cancellation)
    {
        InferenceRequest request = RequestTerms.Current.Apply(new InferenceRequest(_imageModel, lane, [], pixels), _service.Time);
        return (await _service.RunAsync(request, cancellation).ConfigureAwait(false))["embedding"];
    }

    private async Task<TextEmbedding> RunAsync(string text, Lane lane, RequestTerms terms, CancellationToken cancellation)
    {
        InferenceRequest request = terms.Apply(new InferenceRequest(_textModel, lane, Tokenizer.Encode(text), []), _service.Time);
        var rows = await _service.RunAsync(request, cancellation).ConfigureAwait(false);
        var embedding = new TextEmbedding(rows["text_embedding"], rows["cross_embedding"]);
        if (lane != Lane.Bulk)
        {
            // Ingested passages are seldom asked for twice; they would only push queries out.
            _remembered.Put(text, embedding, (sizeof(float) * (embedding.Text.Length + embedding.Cross.Length)) + (2 * text.Length) + 128);
        }
        return embedding;
    }

    private static EmbeddingSpace Space(string name, ModelDescription model, string output) =>
        new(name, model.Outputs[output], model.Name, model.Revision);
}
