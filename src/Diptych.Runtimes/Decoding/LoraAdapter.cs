using System.IO.Hashing;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace Diptych.Runtimes.Decoding;

/// <summary>A matrix of an adapter: W x + scale B A x (Hu et al. 2022).</summary>
internal sealed record LoraPair(WeightMatrix A, WeightMatrix B, float Scale);

/// <summary>Low-rank additions to a decoder's matrices, from a PEFT directory. Chosen by sequence, several in one batch.</summary>
public sealed partial class LoraAdapter : IDisposable
{
    private readonly Lock _gate = new();
    private readonly Dictionary<(int Layer, string Module), LoraPair> _pairs = [];
    private int _holders;
    private bool _disposed;

    private LoraAdapter(string name, UInt128 content) => (Name, Content) = (name, content);

    public string Name { get; }

    /// <summary>Tells its weights from those of another that had its name before.</summary>
    internal UInt128 Content { get; }

    /// <summary>Bytes of memory.</summary>
    public long ByteSize => _pairs.Values.Sum(p => p.A.ByteSize + p.B.ByteSize);

    /// <summary>Whether its memory was given back.</summary>
    internal bool IsFreed { get; private set; }

    /// <exception cref="ObjectDisposedException">Its memory was given back: who multiplies with it did not hold it.</exception>
    internal LoraPair? Of(int layer, string module)
    {
        ObjectDisposedException.ThrowIf(IsFreed, this);
        return _pairs.GetValueOrDefault((layer, module));
    }

    /// <summary>Keeps its memory until <see cref="Release"/>, whoever disposes of it before.</summary>
    /// <exception cref="ObjectDisposedException">It was disposed of already.</exception>
    internal void Hold()
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            _holders++;
        }
    }

    internal void Release()
    {
        lock (_gate)
        {
            _holders--;
            FreeUnheld();
        }
    }

    /// <summary>Reads all but the weights: what no decoder of any shape could run is refused.</summary>
    /// <exception cref="InvalidDataException">It does what cannot be run; the message names it.</exception>
    public static void Check(string directory)
    {
        string settings = Path.Combine(directory, "adapter_config.json"), weights = Path.Combine(directory, "adapter_model.safetensors");
        _ = Settings(settings);
        using var file = new SafeTensorsFile(weights);
        if (file.Tensors.Keys.FirstOrDefault(n => !Place().IsMatch(n)) is { } unknown)
        {
            throw new InvalidDataException($"{weights}: '{unknown}' belongs to no matrix of a decoder.");
        }
    }

    /// <exception cref="InvalidDataException">A matrix does not fit the decoder, or the adapter does what cannot be run; the message names it.</exception>
    public static LoraAdapter Load(string directory, DecoderConfig config)
    {
        string settings = Path.Combine(directory, "adapter_config.json"), weights = Path.Combine(directory, "adapter_model.safetensors");
        if (!File.Exists(settings) || !File.Exists(weights))
        {
            throw new InvalidDataException($"{directory} lacks adapter_config.json or adapter_model.safetensors.");
        }
        (float alpha, int rank, bool root) = Settings(settings);
        var adapter = new LoraAdapter(Path.GetFileName(Path.TrimEndingDirectorySeparator(directory)), Hash(settings, weights));
        using var file = new SafeTensorsFile(weights);
        try
        {
            foreach (var (name, tensor) in file.Tensors)
            {
                string first = name.Replace(".lora_B.", ".lora_A.", StringComparison.Ordinal), second = name.Replace(".lora_A.", ".lora_B.", StringComparison.Ordinal);
                Match place = Place().Match(name);
                if (!place.Success || !int.TryParse(place.Groups[1].Value, System.Globalization.CultureInfo.InvariantCulture, out int layer) || layer >= config.Layers
                    || !file.Tensors.ContainsKey(first) || !file.Tensors.TryGetValue(second, out StoredTensor? b))
                {
                    throw new InvalidDataException($"{weights}: '{name}' belongs to no matrix of this decoder.");
                }
                if (name != first)
                {
                    continue;
                }
                string module = place.Groups[2].Value;
                (int rows, int columns) = Decoder.Shape(config, module);
                if (!tensor.Shape.SequenceEqual([rank, columns]) || !b.Shape.SequenceEqual([rows, rank]))
                {
                    throw new InvalidDataException($"{weights}: '{name}' [{string.Join(", ", tensor.Shape)}] and its B [{string.Join(", ", b.Shape)}] do not fit a matrix of [{rows}, {columns}] at rank {rank}.");
                }
                // GGUF stores the rows of a head with the two halves of a rotation side by side; adapters have them half by half.
                float[] high = config is { RopeInterleaved: true, Llama4: null } && module is "q_proj" or "k_proj" ? Interleaved(file.Floats(b), config.HeadWidth, rank) : file.Floats(b);
                var pair = new LoraPair(WeightMatrix.Load(file, tensor, WeightFormat.F32), WeightMatrix.Of(high, rows, rank), alpha / (root ? MathF.Sqrt(rank) : rank));
                if (!adapter._pairs.TryAdd((layer, module), pair))
                {
                    pair.A.Dispose();
                    pair.B.Dispose();
                    throw new InvalidDataException($"{weights}: '{name}' is the second for {module} of layer {layer}.");
                }
            }
        }
        catch
        {
            adapter.Dispose();
            throw;
        }
        return adapter;
    }

    /// <summary>What changes how an adapter is computed, and is computed plainly here: without it, or without a value.</summary>
    private static readonly string[] NotComputed =
    [
        "use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication", "alora_invocation_tokens", "trainable_token_indices",
        "target_parameters",
    ];

    /// <exception cref="InvalidDataException">They are none, or ask for what cannot be run; the message names it.</exception>
    private static (float Alpha, int Rank, bool IsRooted) Settings(string path)
    {
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            JsonElement c = json.RootElement;
            bool Is(string name) => c.TryGetProperty(name, out JsonElement value) && value.ValueKind switch
            {
                JsonValueKind.Null or JsonValueKind.False => false,
                JsonValueKind.Array => value.GetArrayLength() > 0,
                JsonValueKind.Object => value.EnumerateObject().Any(),
                _ => true,
            };
            if (Array.Find(NotComputed, Is) is { } not)
            {
                throw new InvalidDataException($"{path}: adapters with {not} cannot be run.");
            }
            if ((c.TryGetProperty("peft_type", out JsonElement kind) && kind.GetString() != "LORA") || (c.TryGetProperty("bias", out JsonElement bias) && bias.GetString() != "none"))
            {
                throw new InvalidDataException($"{path}: adapters whose peft_type is not LORA, or whose bias is not none, cannot be run.");
            }
            float alpha = c.GetProperty("lora_alpha").GetSingle();
            int rank = c.GetProperty("r").GetInt32();
            return rank > 0 && float.IsFinite(alpha) ? (alpha, rank, Is("use_rslora")) : throw new InvalidDataException($"{path}: r is {rank} and lora_alpha {alpha}, which cannot be.");
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
        {
            throw new InvalidDataException($"{path} lacks what an adapter needs: {error.Message}", error);
        }
    }

    private static UInt128 Hash(params string[] files)
    {
        var hash = new XxHash128();
        foreach (string path in files)
        {
            using FileStream file = File.OpenRead(path);
            hash.Append(file);
        }
        return hash.GetCurrentHashAsUInt128();
    }

    private static float[] Interleaved(float[] rows, int headWidth, int width)
    {
        float[] turned = new float[rows.Length];
        for (int row = 0; row < rows.Length / width; row++)
        {
            int head = row / headWidth * headWidth, at = row % headWidth, half = headWidth / 2;
            int to = head + (at < half ? 2 * at : (2 * (at - half)) + 1);
            rows.AsSpan(row * width, width).CopyTo(turned.AsSpan(to * width));
        }
        return turned;
    }

    /// <summary>Gives its memory back, once no answer is computed with it any more.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _disposed = true;
            FreeUnheld();
        }
    }

    private void FreeUnheld()
    {
        if (!_disposed || _holders > 0 || IsFreed)
        {
            return;
        }
        IsFreed = true;
        foreach (LoraPair pair in _pairs.Values)
        {
            pair.A.Dispose();
            pair.B.Dispose();
        }
        _pairs.Clear();
    }

    [GeneratedRegex(@"layers\.(\d+)\.(?:self_attn|mlp)\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)\.lora_[AB]\.weight$", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Place();
}
