using System.Runtime.InteropServices;
using System.Text.Json;
using Diptych.Runtimes.Decoding;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>What other families add to Llama's decoder, beside a plain forward pass in double precision over the same random weights.</summary>
[Collection("decoders")]
public sealed class DecoderFamilyTests : IDisposable
{
    private const int Layers = 2, Width = 32, Heads = 4, KeyValueHeads = 2, Inner = 48, Vocabulary = 60;
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-family-").FullName;
    private readonly Dictionary<string, (int[] Shape, float[] Values)> _tensors = new(StringComparer.Ordinal);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("qwen2", 8, true, false, null, 1)]
    [InlineData("qwen3", 16, false, true, null, 1)]
    [InlineData("mistral", 8, false, false, 5, 1)]
    [InlineData("llama", 8, false, false, null, 1)]
    // Scores of some hundreds, whose exponentials no number of single precision holds.
    [InlineData("llama", 8, false, false, null, 250)]
    [InlineData("mistral", 8, false, false, 5, 250)]
    public void Logits_are_those_of_a_plain_forward_pass(string type, int headWidth, bool biases, bool headNorms, int? window, float sharper)
    {
        Make(type, headWidth, biases, headNorms, window, sharper);
        using Decoder decoder = Decoder.Open(_folder);
        using var team = new CoreTeam(2);
        int[] ids = [.. Enumerable.Range(0, 60).Select(i => (i * 17) % Vocabulary)];
        using var cache = KeyValueBlocks.Holding(decoder.Config, ids.Length);
        var blocks = SequenceBlocks.For(cache, ids.Length);
        double[][] expected = Plain(ids, headWidth, window);
        // In chunks, so that keys of the first are read by the second, and those that no window holds are given back.
        var logits = new List<float>();
        foreach (var (from, to) in new[] { (0, 9), (9, 38), (38, 60) })
        {
            logits.AddRange(decoder.Forward([new Stretch(ids[from..to], from, blocks, AllLogits: true)], cache, team)[..((to - from) * Vocabulary)]);
            blocks.Forget(to);
        }
        Assert.Equal(window is null ? 4 : 1, blocks.Held);
        for (int i = 0; i < ids.Length; i++)
        {
            for (int v = 0; v < Vocabulary; v++)
            {
                Assert.Equal(expected[i][v], logits[(i * Vocabulary) + v], sharper == 1 ? 2e-4 : 5e-3);
            }
        }
    }

    private void Make(string type, int headWidth, bool biases, bool headNorms, int? window, float sharper)
    {
        var random = new Random(11);
        void Add(string name, params int[] shape) => _tensors[name] = (shape, [.. Enumerable.Range(0, shape.Aggregate(1, (a, b) => a * b)).Select(_ => (shape.Length == 1 ? 0.8f : 0) + ((float)(random.NextDouble() - 0.5) * 0.6f))]);
        Add("model.embed_tokens.weight", Vocabulary, Width);
        Add("model.norm.weight", Width);
        for (int l = 0; l < Layers; l++)
        {
            string at = $"model.layers.{l}";
            Add($"{at}.input_layernorm.weight", Width);
            Add($"{at}.post_attention_layernorm.weight", Width);
            foreach (var (module, rows) in new[] { ("q_proj", Heads * headWidth), ("k_proj", KeyValueHeads * headWidth), ("v_proj", KeyValueHeads * headWidth) })
            {
                Add($"{at}.self_attn.{module}.weight", rows, Width);
                if (biases)
                {
                    Add($"{at}.self_attn.{module}.bias", rows);
                }
            }
            float[] queries = _tensors[$"{at}.self_attn.q_proj.weight"].Values;
            for (int i = 0; i < queries.Length; i++)
            {
                queries[i] *= sharper;
            }
            Add($"{at}.self_attn.o_proj.weight", Width, Heads * headWidth);
            if (headNorms)
            {
                Add($"{at}.self_attn.q_norm.weight", headWidth);
                Add($"{at}.self_attn.k_norm.weight", headWidth);
            }
            Add($"{at}.mlp.gate_proj.weight", Inner, Width);
            Add($"{at}.mlp.up_proj.weight", Inner, Width);
            Add($"{at}.mlp.down_proj.weight", Width, Inner);
        }
        File.WriteAllText(Path.Combine(_folder, "config.json"), JsonSerializer.Serialize(new
        {
            model_type = type,
            num_hidden_layers = Layers,
            hidden_size = Width,
            num_attention_heads = Heads,
            num_key_value_heads = KeyValueHeads,
            head_dim = headWidth,
            intermediate_size = Inner,
            vocab_size = Vocabulary,
            max_position_embeddings = 128,
            rms_norm_eps = 1e-5,
            rope_theta = 10000,
            sliding_window = window,
            tie_word_embeddings = true,
        }));
        var header = new Dictionary<string, object>(StringComparer.Ordinal);
        using var data = new MemoryStream();
        foreach (var (name, (shape, values)) in _tensors)
        {
            header[name] = new { dtype = "F32", shape, data_offsets = new[] { data.Length, data.Length + (4L * values.Length) } };
            data.Write(MemoryMarshal.AsBytes<float>(values));
        }
        byte[] json = JsonSerializer.SerializeToUtf8Bytes(header);
        File.WriteAllBytes(Path.Combine(_folder, "model.safetensors"), [.. BitConverter.GetBytes((long)json.Length), .. json, .. data.ToArray()]);
    }

    /// <summary>Token by token, head by head, in double precision.</summary>
    private double[][] Plain(int[] ids, int headWidth, int? window)
    {
        double[][] x = [.. ids.Select(id => Row("model.embed_tokens.weight", id, Width))];
        for (int l = 0; l < Layers; l++)
        {
            string at = $"model.layers.{l}";
            double[][] h = [.. x.Select(row => Norm(row, $"{at}.input_layernorm.weight"))];
            double[][][] Heads_(string module, int count, bool placed) => [.. h.Select((row, position) =>
            {
                double[] all = Times($"{at}.self_attn.{module}.weight", row, $"{at}.self_attn.{module}.bias");
                return Enumerable.Range(0, count).Select(i =>
                {
                    double[] head = all[(i * headWidth)..((i + 1) * headWidth)];
                    string norm = $"{at}.self_attn.{module[0]}_norm.weight";
                    head = placed && _tensors.ContainsKey(norm) ? Norm(head, norm) : head;
                    return placed ? Turned(head, position) : head;
                }).ToArray();
            })];
            double[][][] q = Heads_("q_proj", Heads, true), k = Heads_("k_proj", KeyValueHeads, true), v = Heads_("v_proj", KeyValueHeads, false);
            for (int i = 0; i < ids.Length; i++)
            {
                var mixed = new List<double>();
                for (int head = 0; head < Heads; head++)
                {
                    int kv = head * KeyValueHeads / Heads, from = window is { } w ? Math.Max(0, i - w + 1) : 0;
                    double[] scores = [.. Enumerable.Range(from, i - from + 1).Select(j => q[i][head].Zip(k[j][kv], (a, b) => a * b).Sum() / Math.Sqrt(headWidth))], weights = [.. scores.Select(s => Math.Exp(s - scores.Max()))];
                    mixed.AddRange(Enumerable.Range(0, headWidth).Select(d => weights.Select((weight, j) => weight * v[from + j][kv][d]).Sum() / weights.Sum()));
                }
                x[i] = [.. x[i].Zip(Times($"{at}.self_attn.o_proj.weight", [.. mixed], null), (a, b) => a + b)];
                double[] after = Norm(x[i], $"{at}.post_attention_layernorm.weight");
                double[] gate = Times($"{at}.mlp.gate_proj.weight", after, null), up = Times($"{at}.mlp.up_proj.weight", after, null);
                double[] inner = [.. gate.Zip(up, (g, u) => g / (1 + Math.Exp(-g)) * u)];
                x[i] = [.. x[i].Zip(Times($"{at}.mlp.down_proj.weight", inner, null), (a, b) => a + b)];
            }
        }
        return [.. x.Select(row => Times("model.embed_tokens.weight", Norm(row, "model.norm.weight"), null))];
    }

    private double[] Row(string name, int row, int width) => [.. _tensors[name].Values.Skip(row * width).Take(width).Select(f => (double)f)];

    private double[] Times(string name, double[] x, string? bias)
    {
        var (shape, values) = _tensors[name];
        double[] y = new double[shape[0]];
        for (int r = 0; r < shape[0]; r++)
        {
            for (int c = 0; c < shape[1]; c++)
            {
                y[r] += values[(r * shape[1]) + c] * x[c];
            }
            y[r] += bias is not null && _tensors.TryGetValue(bias, out var b) ? b.Values[r] : 0;
        }
        return y;
    }

    private double[] Norm(double[] x, string weight)
    {
        double scale = 1 / Math.Sqrt(x.Average(v => v * v) + 1e-5);
        return [.. x.Zip(_tensors[weight].Values, (v, w) => v * scale * w)];
    }

    private static double[] Turned(double[] head, int position)
    {
        double[] turned = new double[head.Length];
        int half = head.Length / 2;
        for (int i = 0; i < half; i++)
        {
            double angle = position * Math.Pow(10000, -2.0 * i / head.Length);
            (turned[i], turned[i + half]) = ((head[i] * Math.Cos(angle)) - (head[i + half] * Math.Sin(angle)), (head[i + half] * Math.Cos(angle)) + (head[i] * Math.Sin(angle)));
        }
        return turned;
    }
}
