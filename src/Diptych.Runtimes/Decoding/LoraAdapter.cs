using System.Text.Json;
using System.Text.RegularExpressions;

namespace Diptych.Runtimes.Decoding;

/// <summary>A matrix of an adapter: W x + scale B A x (Hu et al. 2022).</summary>
internal sealed record LoraPair(WeightMatrix A, WeightMatrix B, float Scale);

/// <summary>Low-rank additions to a decoder's matrices, from a PEFT directory. Chosen by sequence, several in one batch.</summary>
public sealed partial class LoraAdapter : IDisposable
{
    private readonly Dictionary<(int Layer, string Module), LoraPair> _pairs = [];

    private LoraAdapter(string name) => Name = name;

    public string Name { get; }

    /// <summary>Bytes of memory.</summary>
    public long ByteSize => _pairs.Values.Sum(p => p.A.ByteSize + p.B.ByteSize);

    internal LoraPair? Of(int layer, string module) => _pairs.GetValueOrDefault((layer, module));

    /// <exception cref="InvalidDataException">A matrix does not fit the decoder, or the adapter does what cannot be run; the message names it.</exception>
    public static LoraAdapter Load(string directory, DecoderConfig config)
    {
        string settings = Path.Combine(directory, "adapter_config.json"), weights = Path.Combine(directory, "adapter_model.safetensors");
        if (!File.Exists(settings) || !File.Exists(weights))
        {
            throw new InvalidDataException($"{directory} lacks adapter_config.json or adapter_model.safetensors.");
        }
        using var json = JsonDocument.Parse(File.ReadAllBytes(settings));
        JsonElement c = json.RootElement;
        bool Is(string name) => c.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.True;
        if (Is("use_dora") || (c.TryGetProperty("modules_to_save", out JsonElement saved) && saved.ValueKind == JsonValueKind.Array && saved.GetArrayLength() > 0))
        {
            throw new InvalidDataException($"{directory}: adapters with DoRA or whole modules cannot be run.");
        }
        float alpha = c.GetProperty("lora_alpha").GetSingle();
        int rank = c.GetProperty("r").GetInt32();
        var adapter = new LoraAdapter(Path.GetFileName(Path.TrimEndingDirectorySeparator(directory)));
        using var file = new SafeTensorsFile(weights);
        try
        {
            foreach (var (name, tensor) in file.Tensors.Where(t => t.Key.EndsWith(".lora_A.weight", StringComparison.Ordinal)))
            {
                string other = name.Replace(".lora_A.", ".lora_B.", StringComparison.Ordinal);
                Match place = Place().Match(name);
                if (!place.Success || !file.Tensors.TryGetValue(other, out StoredTensor? b))
                {
                    throw new InvalidDataException($"{weights}: '{name}' belongs to no matrix of this decoder.");
                }
                int layer = int.Parse(place.Groups[1].Value, System.Globalization.CultureInfo.InvariantCulture);
                string module = place.Groups[2].Value;
                (int rows, int columns) = Decoder.Shape(config, module);
                int r = tensor.Shape[0];
                if (layer >= config.Layers || tensor.Shape.Count != 2 || b.Shape.Count != 2 || tensor.Shape[1] != columns || b.Shape[0] != rows || b.Shape[1] != r)
                {
                    throw new InvalidDataException($"{weights}: '{name}' [{string.Join(", ", tensor.Shape)}] and its B [{string.Join(", ", b.Shape)}] do not fit a matrix of [{rows}, {columns}].");
                }
                float scale = alpha / (Is("use_rslora") ? MathF.Sqrt(r) : rank);
                // GGUF stores the rows of a head with the two halves of a rotation side by side; adapters have them half by half.
                float[] high = config is { RopeInterleaved: true, Llama4: null } && module is "q_proj" or "k_proj" ? Interleaved(file.Floats(b), config.HeadWidth, r) : file.Floats(b);
                adapter._pairs.Add((layer, module), new LoraPair(WeightMatrix.Load(file, tensor, WeightFormat.F32), WeightMatrix.Of(high, rows, r), scale));
            }
        }
        catch
        {
            adapter.Dispose();
            throw;
        }
        return adapter;
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

    public void Dispose()
    {
        foreach (LoraPair pair in _pairs.Values)
        {
            pair.A.Dispose();
            pair.B.Dispose();
        }
        _pairs.Clear();
    }

    [GeneratedRegex(@"layers\.(\d+)\.(?:self_attn|mlp)\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)\.", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Place();
}
