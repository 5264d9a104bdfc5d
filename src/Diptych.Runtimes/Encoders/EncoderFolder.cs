using System.Security.Cryptography;
using System.Text.Json;
using Diptych.Inference;
using Diptych.Runtimes.Onnx;
using Diptych.Runtimes.Text;

namespace Diptych.Runtimes.Encoders;

/// <summary>
/// A text model of sentence-transformers or a cross-encoder in the folder of Hugging Face's layout: config.json, its ONNX export, the
/// tokenizer, and how its token vectors are pooled.
/// </summary>
internal sealed class EncoderFolder
{
    /// <summary>Where exports lie, the first that is there counts.</summary>
    internal static readonly string[] Exports = ["model.onnx", "onnx/model.onnx", "model_quantized.onnx", "onnx/model_quantized.onnx"];

    private const string PoolingFile = "1_Pooling/config.json";
    private readonly string _directory;

    private EncoderFolder(string directory, string export) => (_directory, Export) = (directory, export);

    /// <summary>The ONNX file, beneath the folder.</summary>
    public string Export { get; }

    /// <summary>Whether it scores pairs of texts, and does not embed.</summary>
    public bool ScoresPairs { get; private init; }

    public int Dimensions { get; private init; }

    private int MaxTokens { get; init; }

    /// <returns>Null where the folder holds no such model.</returns>
    /// <exception cref="InvalidDataException">It holds one that cannot be run; the message says why.</exception>
    public static EncoderFolder? Find(string directory)
    {
        if (!File.Exists(Path.Combine(directory, "config.json")) || Array.Find(Exports, e => File.Exists(Path.Combine(directory, e))) is not { } export)
        {
            return null;
        }
        using JsonDocument config = DualEncoder.Config(directory);
        if (!Encodes(config.RootElement))
        {
            return null;
        }
        bool pairs = Architectures(config.RootElement).Any(a => a.EndsWith("ForSequenceClassification", StringComparison.Ordinal));
        int labels = config.RootElement.TryGetProperty("id2label", out JsonElement names) && names.ValueKind == JsonValueKind.Object ? names.EnumerateObject().Count() : DualEncoder.Number(config.RootElement, "num_labels") ?? 1;
        if (pairs && labels != 1)
        {
            throw new InvalidDataException($"{directory} sorts texts into {labels} classes; a reranker gives one score.");
        }
        // RoBERTa's descendants count positions from behind the padding token.
        bool roberta = config.RootElement.TryGetProperty("model_type", out JsonElement family) && family.ValueKind == JsonValueKind.String && family.GetString() is "roberta" or "xlm-roberta" or "camembert" or "mpnet";
        int? most = DualEncoder.Number(config.RootElement, "max_position_embeddings") - (roberta ? 2 : 0);
        foreach (var (file, key) in new[] { ("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length") })
        {
            if (File.Exists(Path.Combine(directory, file)))
            {
                using JsonDocument settings = DualEncoder.Config(directory, file);
                most = DualEncoder.Number(settings.RootElement, key) is { } own && own > 2 ? Math.Min(own, most ?? own) : most;
            }
        }
        return new EncoderFolder(directory, export)
        {
            ScoresPairs = pairs,
            Dimensions = pairs ? 1 : DualEncoder.Number(config.RootElement, "hidden_size") ?? DualEncoder.Number(config.RootElement, "dim") ?? throw new InvalidDataException($"{directory}/config.json does not say hidden_size."),
            MaxTokens = most ?? 512,
        };
    }

    /// <summary>Whether a model of this config reads texts whole, and does not write.</summary>
    public static bool Encodes(JsonElement config) => Architectures(config) is { Count: > 0 } names
        && !names.Any(a => a.EndsWith("ForCausalLM", StringComparison.Ordinal) || a.EndsWith("ForConditionalGeneration", StringComparison.Ordinal) || a.Contains("CLIP", StringComparison.Ordinal) || a.Contains("Siglip", StringComparison.Ordinal));

    /// <summary>Whether a file beneath the top folder belongs to such a model, or to a pair of towers: of several exports the one that is run.</summary>
    /// <param name="all">The model's files.</param>
    public static bool IsPart(string file, IReadOnlyCollection<string> all) => file == PoolingFile || (ExportedPair.Find(all) is not null ? ExportedPair.IsPart(file, all) : Array.Find(Exports, all.Contains) is { } export && (file == export || file == $"{export}_data"));

    /// <summary>Reads everything, the weights too: what cannot be run is refused when it is added, and not when somebody asks it.</summary>
    /// <exception cref="InvalidDataException">It cannot be run; the message says why.</exception>
    public void Check()
    {
        _ = Tokenizer();
        ILoadedModel loaded = Backend("model").LoadAsync(Device.Cpu, CancellationToken.None).AsTask().GetAwaiter().GetResult();
        loaded.DisposeAsync().AsTask().GetAwaiter().GetResult();
    }

    /// <summary>The tokenizer, read.</summary>
    /// <exception cref="InvalidDataException">There is none of a kind that is read.</exception>
    public IEncoderTokenizer Tokenizer() => EncoderTokenizer.Open(_directory, MaxTokens);

    public OnnxEncoder Backend(string name)
    {
        string path = Path.Combine(_directory, Export);
        using FileStream file = File.OpenRead(path);
        string revision = Convert.ToHexStringLower(SHA256.HashData(file))[..12], output = ScoresPairs ? OnnxEncoder.Score : OnnxEncoder.Vector;
        return new OnnxEncoder(new ModelDescription(name, revision, InputKind.Tokens, new Dictionary<string, int> { [output] = Dimensions }, MaxTokens, file.Length), path, ScoresPairs ? null : Pooled());
    }

    private Pooling Pooled()
    {
        string path = Path.Combine(_directory, PoolingFile);
        if (!File.Exists(path))
        {
            return Pooling.Mean;
        }
        using JsonDocument json = DualEncoder.Config(_directory, PoolingFile);
        bool Is(string mode) => json.RootElement.TryGetProperty($"pooling_mode_{mode}", out JsonElement on) && on.ValueKind == JsonValueKind.True;
        return Is("mean_tokens") ? Pooling.Mean : Is("cls_token") ? Pooling.First : Is("max_tokens") ? Pooling.Max
            : throw new InvalidDataException($"{path}: of the ways of pooling, the mean, the first token's and the largest are read.");
    }

    private static List<string> Architectures(JsonElement config) => config.TryGetProperty("architectures", out JsonElement names) && names.ValueKind == JsonValueKind.Array
        ? [.. names.EnumerateArray().Select(n => n.GetString() ?? "")] : [];
}
