using System.Text.Json;

namespace Diptych.Runtimes.Decoding;

/// <summary>The shapes and constants of a decoder of Llama's family.</summary>
public sealed record DecoderConfig
{
    public required string Architecture { get; init; }

    public required int Layers { get; init; }

    public required int Width { get; init; }

    public required int Heads { get; init; }

    public required int KeyValueHeads { get; init; }

    public required int HeadWidth { get; init; }

    /// <summary>Width of the feed-forward layer.</summary>
    public required int InnerWidth { get; init; }

    public required int Vocabulary { get; init; }

    public required int MaxTokens { get; init; }

    public required float NormEpsilon { get; init; }

    public required float RopeTheta { get; init; }

    /// <summary>Llama 3.1's scaling of long wavelengths; null for plain rotary embeddings.</summary>
    public RopeScaling? Scaling { get; init; }

    /// <summary>Whether neighbours are rotated together (as GGUF stores Llama), not the two halves of a head.</summary>
    public bool RopeInterleaved { get; init; }

    /// <summary>Tokens that a token sees, itself among them (Mistral); null for all before it.</summary>
    public int? Window { get; init; }

    /// <summary>Whether the head is the embedding; null where the file says it by having one or not.</summary>
    public bool? Tied { get; init; }

    /// <summary>Matrices of attention with biases, by their names in Hugging Face's layout; null for those that the file has.</summary>
    public IReadOnlyList<string>? Biased { get; init; }

    /// <summary>What Llama 4 adds; null for its forebears.</summary>
    public Llama4Additions? Llama4 { get; init; }

    public IReadOnlyList<int> EndTokens { get; init; } = [];

    /// <summary>Tokens that a layer looks back over at most, the one that looks among them; null for all.</summary>
    public int? Reach(int layer) => Llama4?.HasPositions[layer] == true ? Llama4.Chunk : Window;

    /// <summary>The first token that the token at a position sees in a layer.</summary>
    public int FirstSeen(int layer, int position) =>
        Llama4?.HasPositions[layer] == true ? position / Llama4.Chunk * Llama4.Chunk : Window is { } window ? Math.Max(0, position - window + 1) : 0;

    /// <summary>Whether an id stands for a token of a picture.</summary>
    public bool IsPicture(int id) => id < 0 || id == Llama4?.ImageToken;

    /// <summary>Reads a Hugging Face config.json, with <c>rope_parameters</c> or the older <c>rope_theta</c> and <c>rope_scaling</c>.</summary>
    /// <exception cref="InvalidDataException">The architecture is not one that can be run, or a value is missing.</exception>
    public static DecoderConfig FromJson(string path)
    {
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            JsonElement c = json.RootElement;
            string type = c.TryGetProperty("model_type", out JsonElement named) ? named.GetString()! : "";
            if (type is not ("llama" or "mistral" or "qwen2" or "qwen3" or "llama4" or "llama4_text"))
            {
                throw new InvalidDataException($"{path}: models of type '{type}' cannot be run. Those of type llama, mistral, qwen2, qwen3 and llama4 can.");
            }
            if (c.TryGetProperty("use_sliding_window", out JsonElement slides) && slides.ValueKind == JsonValueKind.True)
            {
                throw new InvalidDataException($"{path}: sliding windows in some layers only (use_sliding_window) cannot be run.");
            }
            JsonElement whole = c;
            int? imageToken = c.TryGetProperty("image_token_index", out JsonElement image) ? image.GetInt32() : null;
            JsonElement vision = c.TryGetProperty("vision_config", out JsonElement eye) ? eye : default;
            c = c.TryGetProperty("text_config", out JsonElement text) ? text : c;
            int heads = c.GetProperty("num_attention_heads").GetInt32(), width = c.GetProperty("hidden_size").GetInt32();
            JsonElement rope = c.TryGetProperty("rope_parameters", out JsonElement parameters) && parameters.ValueKind == JsonValueKind.Object ? parameters
                : c.TryGetProperty("rope_scaling", out JsonElement scaling) && scaling.ValueKind == JsonValueKind.Object ? scaling : default;
            float NeedRope(string name) => Float(rope, name, 0) is var value && value > 0 && float.IsFinite(value) ? value : throw new InvalidDataException($"{path}: rotary embeddings of type '{rope.GetProperty(rope.TryGetProperty("rope_type", out _) ? "rope_type" : "type")}' need {name}, a number above 0.");
            bool Is(string name) => (c.TryGetProperty(name, out JsonElement flag) || whole.TryGetProperty(name, out flag)) && flag.ValueKind == JsonValueKind.True;
            float Float(JsonElement from, string name, float otherwise) =>
                from.ValueKind == JsonValueKind.Object && from.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.Number ? value.GetSingle() : otherwise;
            string ropeType = rope.ValueKind == JsonValueKind.Object && (rope.TryGetProperty("rope_type", out JsonElement kind) || rope.TryGetProperty("type", out kind)) ? kind.GetString()! : "default";
            var config = new DecoderConfig
            {
                Architecture = type,
                Tied = Is("tie_word_embeddings"),
                Biased = type == "qwen2" ? ["q_proj", "k_proj", "v_proj"] : Is("attention_bias") ? ["q_proj", "k_proj", "v_proj", "o_proj"] : [],
                Layers = c.GetProperty("num_hidden_layers").GetInt32(),
                Width = width,
                Heads = heads,
                KeyValueHeads = c.TryGetProperty("num_key_value_heads", out JsonElement kv) && kv.ValueKind == JsonValueKind.Number ? kv.GetInt32() : heads,
                HeadWidth = c.TryGetProperty("head_dim", out JsonElement head) && head.ValueKind == JsonValueKind.Number ? head.GetInt32() : heads > 0 ? width / heads : 0,
                InnerWidth = c.GetProperty(type.StartsWith("llama4", StringComparison.Ordinal) ? "intermediate_size_mlp" : "intermediate_size").GetInt32(),
                RopeInterleaved = type.StartsWith("llama4", StringComparison.Ordinal),
                Llama4 = type.StartsWith("llama4", StringComparison.Ordinal) ? Llama4Additions.Of(c, imageToken, vision) : null,
                Window = type == "mistral" && c.TryGetProperty("sliding_window", out JsonElement window) && window.ValueKind == JsonValueKind.Number ? window.GetInt32() : null,
                Vocabulary = c.GetProperty("vocab_size").GetInt32(),
                MaxTokens = c.GetProperty("max_position_embeddings").GetInt32(),
                NormEpsilon = Float(c, "rms_norm_eps", 1e-6f),
                RopeTheta = Float(rope, "rope_theta", Float(c, "rope_theta", 10000)),
                Scaling = ropeType switch
                {
                    "default" => null,
                    "linear" => new RopeScaling(NeedRope("factor"), 0, 0, 0),
                    "llama3" => new RopeScaling(NeedRope("factor"), NeedRope("low_freq_factor"), NeedRope("high_freq_factor"), NeedRope("original_max_position_embeddings")),
                    _ => throw new InvalidDataException($"{path}: rotary embeddings of type '{ropeType}' cannot be run."),
                },
                EndTokens = c.TryGetProperty("eos_token_id", out JsonElement end) ? end.ValueKind == JsonValueKind.Array ? [.. end.EnumerateArray().Select(e => e.GetInt32())] : end.ValueKind == JsonValueKind.Number ? [end.GetInt32()] : [] : [],
            }.Check(path);
            DecoderSettings.Check(path, c, config);
            if (c.GetRawText() != whole.GetRawText())
            {
                DecoderSettings.Check(path, whole, config);
            }
            return config;
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
        {
            throw new InvalidDataException($"{path} lacks what a decoder needs: {error.Message}", error);
        }
    }

    /// <exception cref="InvalidDataException">The architecture is not one that can be run, or a value is missing.</exception>
    public static DecoderConfig FromGguf(GgufFile file)
    {
        string architecture = file.String("general.architecture") ?? "";
        if (architecture is not ("llama" or "qwen2" or "qwen3"))
        {
            throw new InvalidDataException($"{file.Path}: models of architecture '{architecture}' cannot be run. Those of llama, qwen2 and qwen3 can.");
        }
        int? Whole(string name, int most) => !file.Keys.Contains($"{architecture}.{name}") ? null
            : file.Number($"{architecture}.{name}") is { } number && number >= 1 && number <= most && number == Math.Floor(number) ? (int)number
            : throw new InvalidDataException($"{file.Path}: {architecture}.{name} is {file.Show($"{architecture}.{name}")}, and must be a whole number from 1 to {most}.");
        int Need(string name, int most) => Whole(name, most) ?? throw new InvalidDataException($"{file.Path} lacks {architecture}.{name}.");
        float Positive(string name, double? otherwise) => (file.Keys.Contains($"{architecture}.{name}") ? file.Number($"{architecture}.{name}") : otherwise) is { } value && (float)value > 0 && float.IsFinite((float)value) ? (float)value
            : throw new InvalidDataException($"{file.Path}: {architecture}.{name} is {file.Show($"{architecture}.{name}")}, and must be a number above 0.");
        int heads = Need("attention.head_count", MostHeads), width = Need("embedding_length", MostWidth), shared = Whole("attention.head_count_kv", MostHeads) ?? heads;
        if (heads % shared != 0)
        {
            throw new InvalidDataException($"{file.Path}: {architecture}.attention.head_count_kv is {shared}, which does not divide {architecture}.attention.head_count, {heads}.");
        }
        int? headWidth = Whole("attention.key_length", MostHeadWidth);
        if (headWidth is null && width % heads != 0)
        {
            throw new InvalidDataException($"{file.Path}: {architecture}.attention.head_count is {heads}, which does not divide {architecture}.embedding_length, {width}.");
        }
        DecoderConfig config = new DecoderConfig
        {
            Architecture = architecture,
            Layers = Need("block_count", MostLayers),
            Width = width,
            Heads = heads,
            KeyValueHeads = shared,
            HeadWidth = headWidth ?? width / heads,
            InnerWidth = Need("feed_forward_length", MostInnerWidth),
            Vocabulary = file.Tensors.TryGetValue("token_embd.weight", out StoredTensor? embedding) ? embedding.Shape[0] : throw new InvalidDataException($"{file.Path} lacks token_embd.weight."),
            MaxTokens = Need("context_length", int.MaxValue),
            NormEpsilon = Positive("attention.layer_norm_rms_epsilon", null),
            RopeTheta = Positive("rope.freq_base", 10000),
            RopeInterleaved = architecture == "llama",
            Window = file.Number($"{architecture}.attention.sliding_window") is 0 ? null : Whole("attention.sliding_window", int.MaxValue),
            Scaling = DecoderSettings.Scaling(file, architecture),
            Biased = architecture == "qwen2" ? ["q_proj", "k_proj", "v_proj"] : null,
            EndTokens = file.Number("tokenizer.ggml.eos_token_id") is { } end ? [(int)end] : [],
        }.Check(file.Path);
        DecoderSettings.Check(file, config);
        return config;
    }

    private const int MostLayers = 1024, MostWidth = 1 << 16, MostHeads = 1024, MostHeadWidth = 1024, MostInnerWidth = 1 << 18;

    private DecoderConfig Check(string path) =>
        Layers is < 1 or > MostLayers || Width is < 1 or > MostWidth || Heads is < 1 or > MostHeads || KeyValueHeads < 1 || Heads % KeyValueHeads != 0 || HeadWidth is < 2 or > MostHeadWidth || HeadWidth % 2 != 0
            || InnerWidth is < 1 or > MostInnerWidth || Window is < 1 || Vocabulary is < 1 or > 1 << 22 || MaxTokens < 1 || !(NormEpsilon > 0) || !(RopeTheta > 0) || !float.IsFinite(RopeTheta)
            ? throw new InvalidDataException($"{path}: these shapes cannot be a decoder's: {this}")
            : this;
}

/// <summary>How rotary wavelengths are stretched. A zero <paramref name="OriginalTokens"/> stretches all by the factor.</summary>
public sealed record RopeScaling(float Factor, float LowFrequency, float HighFrequency, float OriginalTokens)
{
    /// <summary>The frequency after scaling (Llama 3.1's rule: short wavelengths stay, long ones are divided, those between are blended).</summary>
    public float Apply(float frequency)
    {
        if (OriginalTokens == 0)
        {
            return frequency / Factor;
        }
        float wavelength = 2 * MathF.PI / frequency;
        if (wavelength < OriginalTokens / HighFrequency)
        {
            return frequency;
        }
        if (wavelength > OriginalTokens / LowFrequency)
        {
            return frequency / Factor;
        }
        float smooth = ((OriginalTokens / wavelength) - LowFrequency) / (HighFrequency - LowFrequency);
        return ((1 - smooth) * frequency / Factor) + (smooth * frequency);
    }
}

/// <summary>
/// Llama 4: layers with positions look back within their chunk only, every few layers one without positions sees everything and sharpens
/// its attention with distance, and experts take the feed-forward layer's place.
/// </summary>
/// <param name="HasPositions">By layer.</param>
/// <param name="HasExperts">By layer.</param>
/// <param name="ExpertWidth">Width of an expert, the shared one's too.</param>
/// <param name="FloorScale">Tokens after which attention is sharpened by a step.</param>
/// <param name="ImageToken">Id that stands where a picture's tokens go.</param>
/// <param name="TokensPerTile">Tokens of a picture's tile; 0 for a model without an eye.</param>
public sealed record Llama4Additions(
    IReadOnlyList<bool> HasPositions, IReadOnlyList<bool> HasExperts, int Experts, int ExpertWidth, int Chunk, bool NormalizesQueries, bool Sharpens, float FloorScale, float Sharpness, int? ImageToken, int TokensPerTile)
{
    internal static Llama4Additions Of(JsonElement c, int? imageToken, JsonElement vision)
    {
        int grid = vision.ValueKind == JsonValueKind.Object ? vision.GetProperty("image_size").GetInt32() / vision.GetProperty("patch_size").GetInt32() : 0;
        double kept = vision.ValueKind == JsonValueKind.Object && vision.TryGetProperty("pixel_shuffle_ratio", out JsonElement ratio) ? ratio.GetDouble() : 0.5;
        int layers = c.GetProperty("num_hidden_layers").GetInt32(), step = c.GetProperty("interleave_moe_layer_step").GetInt32();
        int[] experts = c.TryGetProperty("moe_layers", out JsonElement moe) && moe.ValueKind == JsonValueKind.Array ? [.. moe.EnumerateArray().Select(l => l.GetInt32())] : [.. Enumerable.Range(0, layers).Where(l => (l + 1) % step == 0)];
        bool[] positions = c.TryGetProperty("no_rope_layers", out JsonElement rope) && rope.ValueKind == JsonValueKind.Array && rope.GetArrayLength() == layers
            ? [.. rope.EnumerateArray().Select(r => r.GetInt32() != 0)] : [.. Enumerable.Range(0, layers).Select(l => (l + 1) % 4 != 0)];
        return c.GetProperty("num_experts_per_tok").GetInt32() != 1
            ? throw new InvalidDataException("More than one expert a token cannot be run.")
            : new Llama4Additions(
                positions, [.. Enumerable.Range(0, layers).Select(l => experts.Contains(l))], c.GetProperty("num_local_experts").GetInt32(), c.GetProperty("intermediate_size").GetInt32(),
                c.GetProperty("attention_chunk_size").GetInt32(), c.GetProperty("use_qk_norm").GetBoolean(),
                c.TryGetProperty("attn_temperature_tuning", out JsonElement tuning) && tuning.ValueKind is JsonValueKind.True or JsonValueKind.Number,
                c.TryGetProperty("floor_scale", out JsonElement floor) ? floor.GetSingle() : 8192, c.TryGetProperty("attn_scale", out JsonElement scale) ? scale.GetSingle() : 0.1f, imageToken, (int)Math.Round(grid * kept * grid * kept));
    }
}
