using Diptych.Core;
using Diptych.Inference;
using Diptych.Runtimes.Onnx;
using Diptych.Runtimes.Text;

namespace Diptych.Runtimes.Encoders;

/// <summary>A text model of sentence-transformers, run by the inference service.</summary>
public sealed class TextEncoder : IEncoder
{
    private readonly InferenceService _service;
    private readonly IEncoderTokenizer _tokenizer;
    private readonly string _name;

    private TextEncoder(string name, InferenceService service, IEncoderTokenizer tokenizer, int dimensions) => (_name, _service, _tokenizer, Dimensions) = (name, service, tokenizer, dimensions);

    public int Dimensions { get; }

    public bool Sees => false;

    public IReadOnlyList<string> Models => [_name];

    /// <summary>Reads everything but the weights, and makes the model known to the service.</summary>
    /// <exception cref="InvalidDataException">It cannot be run; the message says why.</exception>
    public static TextEncoder Open(string name, string directory, InferenceService service)
    {
        EncoderFolder folder = EncoderFolder.Find(directory) ?? throw new InvalidDataException($"{directory} holds no text model.");
        service.Add(folder.Backend(name));
        return new TextEncoder(name, service, folder.Tokenizer(), folder.Dimensions);
    }

    public int CountTokens(string text) => _tokenizer.Encode(text).Length;

    public async Task<float[]> EmbedTextAsync(string text, Lane lane, CancellationToken cancellation) =>
        (await _service.RunAsync(RequestTerms.Current.Apply(new InferenceRequest(_name, lane, _tokenizer.Encode(text), []), _service.Time), cancellation).ConfigureAwait(false))[OnnxEncoder.Vector];

    public Task<float[]> EmbedImageAsync(byte[] file, Lane lane, CancellationToken cancellation) => throw new InvalidRequestException($"{_name} embeds texts only.");
}

/// <summary>A cross-encoder: it reads a question and a text together, and says how well the one answers the other.</summary>
public sealed class Reranker
{
    private readonly InferenceService _service;
    private readonly IEncoderTokenizer _tokenizer;

    private Reranker(string name, InferenceService service, IEncoderTokenizer tokenizer) => (Model, _service, _tokenizer) = (name, service, tokenizer);

    /// <summary>Its name in the service.</summary>
    public string Model { get; }

    /// <summary>Reads everything but the weights, and makes the model known to the service.</summary>
    /// <exception cref="InvalidDataException">It cannot be run; the message says why.</exception>
    public static Reranker Open(string name, string directory, InferenceService service)
    {
        EncoderFolder folder = EncoderFolder.Find(directory) ?? throw new InvalidDataException($"{directory} holds no reranker.");
        service.Add(folder.Backend(name));
        return new Reranker(name, service, folder.Tokenizer());
    }

    public int CountTokens(string query, string text) => _tokenizer.EncodePair(query, text).Length;

    /// <returns>0 to 1, higher for better: the logistic function of the model's score.</returns>
    /// <exception cref="OverloadedException">It would be late.</exception>
    public async Task<double> ScoreAsync(string query, string text, Lane lane, CancellationToken cancellation)
    {
        var request = new InferenceRequest(Model, lane, _tokenizer.EncodePair(query, text), []);
        float score = (await _service.RunAsync(RequestTerms.Current.Apply(request, _service.Time), cancellation).ConfigureAwait(false))[OnnxEncoder.Score][0];
        return 1 / (1 + Math.Exp(-score));
    }
}
