using System.Text.Json;

namespace Diptych.Runtimes.Decoding;

/// <summary>From which files a decoder comes.</summary>
public sealed unsafe partial class Decoder
{
    /// <summary>Opens a GGUF file, or a directory in Hugging Face's layout (config.json and safetensors, sharded or not).</summary>
    /// <exception cref="InvalidDataException">It is no model that can be run; the message says what is wrong with it.</exception>
    public static Decoder Open(string path, WeightFormat format = WeightFormat.AsStored)
    {
        if (File.Exists(path))
        {
            using var file = new GgufFile(path);
            return new Decoder(
                DecoderConfig.FromGguf(file), n => file.Tensors.GetValueOrDefault(n), _ => file, (l, m) => $"blk.{l}.{GgufNames[m]}.weight",
                "token_embd.weight", "output.weight", "output_norm.weight", format);
        }
        string config = System.IO.Path.Combine(path, "config.json");
        if (!File.Exists(config))
        {
            throw new InvalidDataException($"{path} is neither a GGUF file nor a directory with config.json.");
        }
        Dictionary<string, TensorFile> files = Files(path);
        try
        {
            DecoderConfig shapes = DecoderConfig.FromJson(config);
            string prefix = files.ContainsKey("language_model.model.embed_tokens.weight") ? "language_model." : "", feed = shapes.Llama4 is null ? "mlp" : "feed_forward";
            return new Decoder(
                shapes, n => files.GetValueOrDefault(n)?.Tensors[n], n => files[n],
                (l, m) => $"{prefix}model.layers.{l}." + (m == "feed_forward" ? m : m is "q_norm" or "k_norm" ? $"self_attn.{m}.weight" : m.EndsWith("proj", StringComparison.Ordinal) ? $"{(m is "gate_proj" or "up_proj" or "down_proj" ? feed : "self_attn")}.{m}.weight" : $"{m}.weight"),
                $"{prefix}model.embed_tokens.weight", $"{prefix}lm_head.weight", $"{prefix}model.norm.weight", format);
        }
        finally
        {
            foreach (TensorFile file in files.Values.Distinct())
            {
                file.Dispose();
            }
        }
    }

    /// <summary>Bytes that a decoder's weights will take in memory: at most, from the headers of its files.</summary>
    /// <param name="path">A GGUF file, or a directory.</param>
    /// <exception cref="InvalidDataException">It is no such file; the message says what is wrong with it.</exception>
    public static long WeightBytes(string path, WeightFormat format)
    {
        TensorFile[] files = File.Exists(path) ? [new GgufFile(path)] : [.. Files(path).Values.Distinct()];
        try
        {
            return files.SelectMany(f => f.Tensors.Values).Sum(tensor =>
            {
                double count = tensor.Shape.Aggregate(1.0, (a, b) => a * b);
                return (long)(format switch
                {
                    not WeightFormat.AsStored when tensor.Columns % WeightMatrix.Block != 0 => count * sizeof(float),
                    WeightFormat.Int8 => count * (1 + (4.0 / WeightMatrix.Block)),
                    WeightFormat.Int4 => count * (0.5 + (8.0 / WeightMatrix.Block)),
                    // What is packed by the file gets scales in single precision.
                    WeightFormat.AsStored => tensor.Type switch { TensorType.F32 or TensorType.F16 or TensorType.BF16 => tensor.Bytes, TensorType.Q8_0 or TensorType.Q6_K => count * (1 + (4.0 / WeightMatrix.Block)), _ => count * (0.5 + (8.0 / WeightMatrix.Block)) },
                    _ => count * sizeof(float),
                });
            });
        }
        finally
        {
            Array.ForEach(files, f => f.Dispose());
        }
    }

    private static readonly Dictionary<string, string> GgufNames = new(StringComparer.Ordinal)
    {
        ["input_layernorm"] = "attn_norm",
        ["q_proj"] = "attn_q",
        ["k_proj"] = "attn_k",
        ["v_proj"] = "attn_v",
        ["o_proj"] = "attn_output",
        ["post_attention_layernorm"] = "ffn_norm",
        ["gate_proj"] = "ffn_gate",
        ["up_proj"] = "ffn_up",
        ["down_proj"] = "ffn_down",
        ["q_norm"] = "attn_q_norm",
        ["k_norm"] = "attn_k_norm",
    };

    /// <summary>By tensor's name: the file that holds it, of a directory's one or several.</summary>
    internal static Dictionary<string, TensorFile> Files(string directory)
    {
        var files = new Dictionary<string, TensorFile>(StringComparer.Ordinal);
        try
        {
            foreach (string shard in Shards(directory))
            {
                var file = new SafeTensorsFile(shard);
                foreach (string tensor in file.Tensors.Keys)
                {
                    files[tensor] = file;
                }
            }
            return files;
        }
        catch
        {
            foreach (TensorFile file in files.Values.Distinct())
            {
                file.Dispose();
            }
            throw;
        }
    }

    private static IEnumerable<string> Shards(string directory)
    {
        string index = System.IO.Path.Combine(directory, "model.safetensors.index.json");
        if (!File.Exists(index))
        {
            string single = System.IO.Path.Combine(directory, "model.safetensors");
            return File.Exists(single) ? [single] : throw new InvalidDataException($"{directory} has no model.safetensors.");
        }
        using var json = JsonDocument.Parse(File.ReadAllBytes(index));
        return [.. json.RootElement.GetProperty("weight_map").EnumerateObject().Select(e => System.IO.Path.GetFileName(e.Value.GetString()!)).Distinct(StringComparer.Ordinal).Select(f => System.IO.Path.Combine(directory, f))];
    }
}
