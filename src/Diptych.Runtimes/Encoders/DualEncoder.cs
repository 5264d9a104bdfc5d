using System.Security.Cryptography;
using System.Text.Json;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Onnx;
using Diptych.Runtimes.Text;

namespace Diptych.Runtimes.Encoders;

/// <summary>Families of pairs of towers.</summary>
internal enum PairKind
{
    Clip,

    /// <summary>And those of SigLIP 2 that take pictures of one size.</summary>
    Siglip,

    /// <summary>SigLIP 2 over pictures of any shape (NaFlex).</summary>
    Siglip2,
}

/// <summary>
/// A pair of towers for text and pictures, CLIP's or SigLIP's, from the folder of Hugging Face's layout: config.json, its ONNX exports or
/// model.safetensors, preprocessor_config.json, and the tokenizer. Both run as models of the inference service.
/// </summary>
public sealed class DualEncoder : IEncoder
{
    private const string Output = OnnxEncoder.Vector;
    private const int UsualSide = 224;
    private readonly InferenceService _service;
    private readonly IImageDecoder _images;
    private readonly PreparationPool _preparation;
    private readonly PictureScaling _scaling;
    private readonly ITokenizer? _tokenizer;
    private readonly string _name;

    private DualEncoder(string name, InferenceService service, IImageDecoder images, PreparationPool preparation, PictureScaling scaling, ITokenizer? tokenizer, int dimensions) =>
        (_name, _service, _images, _preparation, _scaling, _tokenizer, Dimensions) = (name, service, images, preparation, scaling, tokenizer, dimensions);

    public int Dimensions { get; }

    public bool Sees => true;

    public IReadOnlyList<string> Models => [ImageModel, TextModel];

    public string TextModel => $"{_name}-text";

    public string ImageModel => $"{_name}-image";

    /// <summary>Whether the folder holds such a pair.</summary>
    public static bool IsIn(string directory) => Kind(directory) is not null && (ExportedPair.Find(directory) is not null || ExportedPair.Whole(directory) is not null || HasWeights(directory));

    /// <summary>Whether its weights are there, and not its exports alone.</summary>
    public static bool HasWeights(string directory) => File.Exists(Path.Combine(directory, "model.safetensors"));

    /// <summary>Brings a folder of files as they are found into the form that is run.</summary>
    public static void Prepare(string directory)
    {
        if (Kind(directory) is not null)
        {
            ExportedPair.Split(directory);
        }
    }

    /// <summary>Reads everything but the weights, and makes the towers known to the service; they are loaded when first asked for.</summary>
    /// <exception cref="InvalidDataException">It is no pair that can be run; the message says why.</exception>
    public static DualEncoder Open(string name, string directory, InferenceService service, IImageDecoder images, PreparationPool preparation)
    {
        PairKind kind = Kind(directory)!.Value;
        using JsonDocument config = Config(directory);
        if (ExportedPair.Find(directory) is { } exports)
        {
            return Open(name, directory, exports, config.RootElement, kind, service, images, preparation);
        }
        using var file = new SafeTensorsFile(Path.Combine(directory, "model.safetensors"));
        using var text = new TextTower(file, config.RootElement.GetProperty("text_config"), kind);
        using var image = new ImageTower(file, config.RootElement.GetProperty("vision_config"), kind);
        if (text.Dimensions != image.Dimensions)
        {
            throw new InvalidDataException($"{directory}: texts become {text.Dimensions} numbers and pictures {image.Dimensions}.");
        }
        PictureScaling scaling = Scaling(directory, image, kind);
        string revision = Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(Path.Combine(directory, "config.json"))))[..12];
        var encoder = new DualEncoder(name, service, images, preparation, scaling, ReadTokenizer(directory, text.MaxTokens, kind), text.Dimensions);
        var outputs = new Dictionary<string, int> { [Output] = text.Dimensions };
        long half = file.Length / 2;
        service.Add(new Backend(new ModelDescription(encoder.TextModel, revision, InputKind.Tokens, outputs, text.MaxTokens, half), directory, kind, null));
        service.Add(new Backend(new ModelDescription(encoder.ImageModel, revision, InputKind.Pixels, outputs, 1, half, 3 * scaling.Side * scaling.Side), directory, kind, scaling));
        return encoder;
    }

    /// <summary>Reads everything, the weights too: what cannot be run is refused when it is added, and not when somebody asks it.</summary>
    /// <exception cref="InvalidDataException">It cannot be run; the message says why.</exception>
    public static void Check(string directory)
    {
        PairKind kind = Kind(directory)!.Value;
        using JsonDocument config = Config(directory);
        if (ExportedPair.Find(directory) is null && ExportedPair.Whole(directory) is not null)
        {
            // Its towers are checked once they are apart.
            return;
        }
        if (ExportedPair.Find(directory) is not { } exports)
        {
            if (!config.RootElement.TryGetProperty("text_config", out JsonElement words) || !config.RootElement.TryGetProperty("vision_config", out JsonElement sight))
            {
                throw new InvalidDataException($"{directory}/config.json lacks text_config or vision_config.");
            }
            using var file = new SafeTensorsFile(Path.Combine(directory, "model.safetensors"));
            using var text = new TextTower(file, words, kind);
            using var image = new ImageTower(file, sight, kind);
            _ = Scaling(directory, image, kind);
            _ = ReadTokenizer(directory, text.MaxTokens, kind);
            return;
        }
        var (backends, _, tokens) = Backends("model", directory, exports, config.RootElement, kind);
        _ = ReadTokenizer(directory, tokens, kind);
        foreach (IModelBackend backend in backends)
        {
            ILoadedModel loaded = backend.LoadAsync(Device.Cpu, CancellationToken.None).AsTask().GetAwaiter().GetResult();
            loaded.DisposeAsync().AsTask().GetAwaiter().GetResult();
        }
    }

    private static DualEncoder Open(string name, string directory, ExportedPair exports, JsonElement config, PairKind kind, InferenceService service, IImageDecoder images, PreparationPool preparation)
    {
        var (backends, scaling, tokens) = Backends(name, directory, exports, config, kind);
        Array.ForEach(backends, service.Add);
        return new DualEncoder(name, service, images, preparation, scaling, ReadTokenizer(directory, tokens, kind), backends[0].Description.Outputs[Output]);
    }

    /// <summary>The exports as models. What a config leaves out is what transformers takes then.</summary>
    private static (IModelBackend[] Backends, PictureScaling Scaling, int MaxTokens) Backends(string name, string directory, ExportedPair exports, JsonElement config, PairKind kind)
    {
        JsonElement text = Member(config, "text_config"), image = Member(config, "vision_config");
        int tokens = Number(text, "max_position_embeddings") ?? (kind != PairKind.Clip ? 64 : 77);
        int width = kind != PairKind.Clip ? Number(text, "projection_size") ?? Number(image, "hidden_size") ?? 768 : Number(config, "projection_dim") ?? 512;
        PictureScaling scaling = PictureScaling.Read(directory, Number(image, "image_size") ?? UsualSide, kind);
        var outputs = new Dictionary<string, int> { [Output] = width };
        ModelDescription Describe(string tower, string export, InputKind input, int units, int unitBytes)
        {
            using FileStream file = File.OpenRead(Path.Combine(directory, export));
            return new ModelDescription($"{name}-{tower}", Convert.ToHexStringLower(SHA256.HashData(file))[..12], input, outputs, units, file.Length, unitBytes);
        }
        return (
        [
            new OnnxEncoder(Describe("text", exports.Text, InputKind.Tokens, tokens, 0), Path.Combine(directory, exports.Text), Pooling.Mean, ["text_embeds", "pooler_output"]),
            new OnnxImageTower(Describe("image", exports.Image, InputKind.Pixels, 1, 3 * scaling.Side * scaling.Side), Path.Combine(directory, exports.Image), scaling),
        ], scaling, tokens);
    }

    /// <returns>Null where the folder has no tokenizer: such a pair embeds pictures only.</returns>
    private static ITokenizer? ReadTokenizer(string directory, int maxTokens, PairKind kind) =>
        ClipTokenizer.Open(directory, maxTokens) ?? (File.Exists(Path.Combine(directory, "tokenizer.json")) ? EncoderTokenizer.Open(directory, maxTokens, siglip: kind != PairKind.Clip) : (ITokenizer?)null);

    private static PictureScaling Scaling(string directory, ImageTower image, PairKind kind)
    {
        PictureScaling scaling = PictureScaling.Read(directory, image.Side, kind);
        return scaling.Patches is not { } patches || patches.Side == image.Patch ? scaling
            : throw new InvalidDataException($"{directory}: preprocessor_config.json cuts pictures into patches of {patches.Side} pixels, and the tower takes {image.Patch}.");
    }

    private static JsonElement Member(JsonElement json, string name) => json.TryGetProperty(name, out JsonElement member) ? member : default;

    /// <returns>Null where there is no such number, or it is not above 0.</returns>
    internal static int? Number(JsonElement json, string name) =>
        json.ValueKind == JsonValueKind.Object && json.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int number) && number > 0 ? number : null;

    public async Task<float[]> EmbedTextAsync(string text, Lane lane, CancellationToken cancellation)
    {
        if (_tokenizer is null)
        {
            throw new InvalidRequestException($"{_name} has no tokenizer (tokenizer.json, or CLIP's vocab.json and merges.txt): it embeds pictures only.");
        }
        return await RunAsync(new InferenceRequest(TextModel, lane, _tokenizer.Encode(text), []), cancellation).ConfigureAwait(false);
    }

    public async Task<float[]> EmbedImageAsync(byte[] file, Lane lane, CancellationToken cancellation)
    {
        RgbImage shaped = await _preparation.RunAsync(() => _scaling.Shape(_images.Prepare(file, thumbnail: false, fullSide: MostSide, cancellation).Full!), lane, file.Length, cancellation).ConfigureAwait(false);
        return await RunAsync(new InferenceRequest(ImageModel, lane, [], shaped.Pixels, Width: _scaling.Patches is null ? 0 : shaped.Width), cancellation).ConfigureAwait(false);
    }

    public int CountTokens(string text) => _tokenizer?.Encode(text).Length ?? 0;

    /// <summary>Beyond this a picture is shrunk before it is resized: no tower sees the difference.</summary>
    private const int MostSide = 4096;

    /// <exception cref="InvalidDataException">It is no JSON object.</exception>
    internal static JsonDocument Config(string directory, string file = "config.json")
    {
        string path = Path.Combine(directory, file);
        try
        {
            JsonDocument json = JsonDocument.Parse(File.ReadAllBytes(path));
            return json.RootElement.ValueKind == JsonValueKind.Object ? json : throw new JsonException("It is no object.");
        }
        catch (JsonException error)
        {
            throw new InvalidDataException($"{path} is no JSON: {error.Message}", error);
        }
    }

    /// <returns>Null for anything else.</returns>
    internal static PairKind? Kind(string directory)
    {
        if (!File.Exists(Path.Combine(directory, "config.json")))
        {
            return null;
        }
        using JsonDocument config = Config(directory);
        return !config.RootElement.TryGetProperty("model_type", out JsonElement type) || type.ValueKind != JsonValueKind.String ? null : type.GetString() switch
        {
            "clip" => PairKind.Clip,
            "siglip" => PairKind.Siglip,
            "siglip2" => PairKind.Siglip2,
            _ => null,
        };
    }

    private async Task<float[]> RunAsync(InferenceRequest request, CancellationToken cancellation) =>
        (await _service.RunAsync(RequestTerms.Current.Apply(request, _service.Time), cancellation).ConfigureAwait(false))[Output];

    private sealed class Backend(ModelDescription description, string directory, PairKind kind, PictureScaling? scaling) : IModelBackend
    {
        public ModelDescription Description => description;

        public ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation)
        {
            if (device.Name != "cpu")
            {
                throw new InvalidRequestException($"{description.Name} runs on the cpu, not on '{device.Name}'.");
            }
            using JsonDocument config = Config(directory);
            using var file = new SafeTensorsFile(Path.Combine(directory, "model.safetensors"));
            return ValueTask.FromResult<ILoadedModel>(scaling is null
                ? new Loaded(new TextTower(file, config.RootElement.GetProperty("text_config"), kind), null)
                : new Loaded(new ImageTower(file, config.RootElement.GetProperty("vision_config"), kind), scaling));
        }
    }

    private sealed class Loaded(EncoderTower tower, PictureScaling? scaling) : ILoadedModel
    {
        public ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
        {
            float[][] rows = new float[batch.Count][];
            for (int i = 0; i < batch.Count; i++)
            {
                int from = batch.Offsets[i], to = batch.Offsets[i + 1];
                rows[i] = tower is TextTower text ? text.Run(batch.Tokens.AsSpan(from, to - from)) : ((ImageTower)tower).Run(scaling!.Scale(batch.Pixels.AsSpan(from, to - from)), batch.Widths?[i] ?? scaling.Side);
            }
            return ValueTask.FromResult(new BatchOutput(new Dictionary<string, float[][]> { [Output] = rows }));
        }

        public ValueTask DisposeAsync()
        {
            tower.Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
