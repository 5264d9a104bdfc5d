namespace Diptych.Runtimes.Decoding;

/// <summary>What a file calls a decoder's tensors.</summary>
/// <param name="Module">By layer and the name in Hugging Face's layout.</param>
/// <param name="RopeFactors">What rotary frequencies are divided by; null where a file of this kind has none.</param>
internal sealed record TensorNames(Func<int, string, string> Module, string Embedding, string Head, string Norm, string? RopeFactors)
{
    private static readonly Dictionary<string, string> GgufModules = new(StringComparer.Ordinal)
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

    public static TensorNames Gguf(DecoderConfig config) => new(
        (l, m) => $"blk.{l}.{GgufModules[m]}.weight", "token_embd.weight", "output.weight", "output_norm.weight",
        config.Architecture == "llama" ? "rope_freqs.weight" : null);

    /// <param name="nested">Whether the decoder is a part of a model that also sees.</param>
    public static TensorNames HuggingFace(DecoderConfig config, bool nested)
    {
        string prefix = nested ? "language_model." : "", feed = config.Llama4 is null ? "mlp" : "feed_forward";
        return new TensorNames(
            (l, m) => $"{prefix}model.layers.{l}." + m switch
            {
                "feed_forward" => m,
                "q_norm" or "k_norm" => $"self_attn.{m}.weight",
                "gate_proj" or "up_proj" or "down_proj" => $"{feed}.{m}.weight",
                "q_proj" or "k_proj" or "v_proj" or "o_proj" => $"self_attn.{m}.weight",
                _ => $"{m}.weight",
            },
            $"{prefix}model.embed_tokens.weight", $"{prefix}lm_head.weight", $"{prefix}model.norm.weight", null);
    }

    public string Bias(int layer, string module) => Module(layer, module).Replace(".weight", ".bias", StringComparison.Ordinal);
}

/// <summary>Holds a model's files to the tensors that its decoder computes with: all of these, in their shapes, and no others.</summary>
internal static class DecoderTensors
{
    private static readonly string[] Attention = ["q_proj", "k_proj", "v_proj", "o_proj"];

    /// <param name="find">The tensor of a name and its file; null where there is none.</param>
    /// <exception cref="InvalidDataException">A tensor is missing, has another shape, or is one that would not be used; the message names it.</exception>
    public static void Check(
        string path, DecoderConfig config, TensorNames names, IEnumerable<string> all, Func<string, (StoredTensor Tensor, TensorFile File)?> find)
    {
        Dictionary<string, (int[] Shape, bool IsOptional)> expected = Expected(config, names);
        foreach (var (name, (shape, optional)) in expected)
        {
            if (find(name) is not { } found)
            {
                if (!optional)
                {
                    throw new InvalidDataException($"{path}: the model lacks '{name}'.");
                }
            }
            else if (!found.Tensor.Shape.SequenceEqual(shape) || found.Tensor.Type == TensorType.I64)
            {
                string has = string.Join(", ", found.Tensor.Shape);
                throw new InvalidDataException($"{path}: '{name}' is [{has}] of {found.Tensor.Type}, and should be [{string.Join(", ", shape)}] of fractions.");
            }
        }
        if (all.Where(n => !expected.ContainsKey(n) && !IsHarmless(n, config)).Order(StringComparer.Ordinal).FirstOrDefault() is { } unused)
        {
            throw new InvalidDataException(
                $"{path}: '{unused}' is no tensor of a decoder of this kind ({config.Architecture}), and what it changes cannot be computed.");
        }
        if (config.Tied == true && find(names.Head) is { } head && find(names.Embedding) is { } embedding
            && (head.Tensor.Type != embedding.Tensor.Type || !head.File.Bytes(head.Tensor).SequenceEqual(embedding.File.Bytes(embedding.Tensor))))
        {
            throw new InvalidDataException(
                $"{path}: '{names.Head}' differs from '{names.Embedding}', and tie_word_embeddings says that they are one.");
        }
    }

    private static Dictionary<string, (int[] Shape, bool IsOptional)> Expected(DecoderConfig config, TensorNames names)
    {
        var expected = new Dictionary<string, (int[], bool)>(StringComparer.Ordinal)
        {
            [names.Embedding] = ([config.Vocabulary, config.Width], false),
            [names.Norm] = ([config.Width], false),
            [names.Head] = ([config.Vocabulary, config.Width], config.Tied != false),
        };
        if (names.RopeFactors is { } factors)
        {
            expected[factors] = ([config.HeadWidth / 2], true);
        }
        for (int l = 0; l < config.Layers; l++)
        {
            foreach (string module in new[] { "input_layernorm", "post_attention_layernorm" })
            {
                expected[names.Module(l, module)] = ([config.Width], false);
            }
            foreach (string module in config.Architecture == "qwen3" ? ["q_norm", "k_norm"] : Array.Empty<string>())
            {
                expected[names.Module(l, module)] = ([config.HeadWidth], false);
            }
            bool experts = config.Llama4?.HasExperts[l] == true;
            foreach (string module in experts ? Attention : [.. Attention, "gate_proj", "up_proj", "down_proj"])
            {
                (int rows, int columns) = Decoder.Shape(config, module);
                expected[names.Module(l, module)] = ([rows, columns], false);
            }
            foreach (string module in config.Biased ?? Attention)
            {
                expected[names.Bias(l, module)] = ([Decoder.Shape(config, module).Rows], config.Biased is null);
            }
            if (experts)
            {
                string at = names.Module(l, "feed_forward");
                (int count, int width, int inner) = (config.Llama4!.Experts, config.Width, config.Llama4.ExpertWidth);
                expected[$"{at}.router.weight"] = ([count, width], false);
                expected[$"{at}.shared_expert.gate_proj.weight"] = ([inner, width], false);
                expected[$"{at}.shared_expert.up_proj.weight"] = ([inner, width], false);
                expected[$"{at}.shared_expert.down_proj.weight"] = ([width, inner], false);
                expected[$"{at}.experts.gate_up_proj"] = ([count, width, 2 * inner], false);
                expected[$"{at}.experts.down_proj"] = ([count, inner, width], false);
            }
        }
        return expected;
    }

    /// <summary>Rotary frequencies that old checkpoints keep are computed, and the eye's weights are the eye's.</summary>
    private static bool IsHarmless(string name, DecoderConfig config) =>
        name.EndsWith(".self_attn.rotary_emb.inv_freq", StringComparison.Ordinal)
        || (config.Llama4?.TokensPerTile > 0
            && (name.StartsWith("vision_model.", StringComparison.Ordinal) || name.StartsWith("multi_modal_projector.", StringComparison.Ordinal)));
}
