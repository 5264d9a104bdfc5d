using System.Text.Json;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Holds a model's settings to what a decoder computes: each is used, is known to change nothing, or has the value that changes nothing.
/// Whatever else is refused by its name, since an answer would be another than the model's.
/// </summary>
internal static class DecoderSettings
{
    /// <summary>Of a GGUF file, behind the architecture's name.</summary>
    private static readonly HashSet<string> GgufUsed =
    [
        "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon", "attention.sliding_window", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
        "rope.scale_linear",
    ];

    /// <summary>What the scaling was made for matters to the kinds of scaling that are refused; the rest describes the file.</summary>
    private static readonly HashSet<string> GgufHarmless = ["rope.scaling.original_context_length", "rope.scaling.finetuned", "vocab_size", "tensor_data_layout"];

    private static readonly HashSet<string> JsonUsed =
    [
        "model_type", "text_config", "vision_config", "image_token_index", "num_hidden_layers", "hidden_size", "num_attention_heads",
        "num_key_value_heads", "head_dim", "intermediate_size",
        "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window",
        "use_sliding_window", "eos_token_id", "tie_word_embeddings",
        "layer_types", "attention_bias",
    ];

    private static readonly HashSet<string> Llama4Used =
    [
        "intermediate_size_mlp", "interleave_moe_layer_step", "moe_layers", "no_rope_layers", "no_rope_layer_interval",
        "num_experts_per_tok", "num_local_experts", "attention_chunk_size",
        "use_qk_norm", "attn_temperature_tuning", "floor_scale", "attn_scale",
    ];

    /// <summary>Of training, of saving, of how libraries compute or generate.</summary>
    private static readonly HashSet<string> JsonHarmless =
    [
        "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype", "name_or_path", "bos_token_id", "pad_token_id",
        "sep_token_id", "unk_token_id", "decoder_start_token_id",
        "initializer_range", "initializer_factor", "attention_dropout", "hidden_dropout", "resid_dropout", "resid_pdrop", "embd_pdrop",
        "attn_pdrop", "use_cache", "cache_implementation", "pretraining_tp",
        "attn_implementation", "is_decoder", "is_llama_config", "max_window_layers", "gradient_checkpointing", "return_dict",
        "output_attentions", "output_hidden_states", "output_scores",
        "return_dict_in_generate", "torchscript", "use_bfloat16", "tie_encoder_decoder", "finetuning_task", "id2label", "label2id",
        "problem_type", "task_specific_params", "tokenizer_class", "prefix",
        "transformers.js_config", "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
        "diversity_penalty", "temperature", "top_k", "top_p", "typical_p",
        "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
        "num_return_sequences", "forced_bos_token_id", "forced_eos_token_id",
        "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "unsloth_version",
        "unsloth_fixed",
        "boi_token_index", "eoi_token_index", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "router_z_loss_coef",
    ];

    private static readonly HashSet<string> RopeUsed = ["rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"];

    /// <summary>Factors: one changes nothing.</summary>
    private static readonly HashSet<string> Factors =
    [
        "embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale", "scale_emb", "partial_rotary_factor",
        "rotary_pct", "rope_pct", "attention_factor", "rope_scaling_factor",
        "residual_scale", "embedding_scale", "rope.scaling.attn_factor",
    ];

    /// <exception cref="InvalidDataException">A key changes what the model computes, and is not computed here.</exception>
    public static void Check(GgufFile file, DecoderConfig config)
    {
        if (file.String("general.type") is { } kind and not "model")
        {
            throw new InvalidDataException($"{file.Path}: general.type is '{kind}', and only models can be run.");
        }
        if (file.Number("split.count") > 1)
        {
            throw new InvalidDataException($"{file.Path}: split.count is {file.Show("split.count")}: models in several files cannot be run; merge them first.");
        }
        string prefix = $"{config.Architecture}.";
        foreach (string key in file.Keys.Where(k => k.StartsWith(prefix, StringComparison.Ordinal)).Order(StringComparer.Ordinal))
        {
            string name = key[prefix.Length..];
            double? number = file.Number(key);
            bool fits = GgufUsed.Contains(name) || GgufHarmless.Contains(name) || name switch
            {
                "rope.dimension_count" or "attention.value_length" => number == config.HeadWidth,
                "attention.causal" => file.Flag(key) == true,
                "attention.scale" => number is { } scale && IsScale(scale, config.HeadWidth),
                _ => number is 0 || file.Flag(key) == false || (Factors.Contains(name) && number is 1),
            };
            if (!fits || (name == "attention.sliding_window" && config.Window is not null && config.Architecture != "llama"))
            {
                throw new InvalidDataException($"{file.Path}: {key} is {file.Show(key)}, and what it changes cannot be computed.");
            }
        }
    }

    /// <returns>How positions are stretched, as llama.cpp reads it: a factor without a kind is linear.</returns>
    /// <exception cref="InvalidDataException">It is of another kind.</exception>
    public static RopeScaling? Scaling(GgufFile file, string architecture)
    {
        string kind = $"{architecture}.rope.scaling.type", factor = $"{architecture}.rope.scaling.factor";
        factor = file.Keys.Contains(factor) ? factor : $"{architecture}.rope.scale_linear";
        double by = !file.Keys.Contains(factor) ? 1
            : file.Number(factor) is { } number && number >= 0 && double.IsFinite(number) ? number
            : throw new InvalidDataException($"{file.Path}: {factor} is {file.Show(factor)}, and must be a number above 0.");
        return file.String(kind) switch
        {
            "none" => null,
            null when file.Keys.Contains(kind) => throw Unknown(),
            null or "linear" => by is 0 or 1 ? null : new RopeScaling((float)by, 0, 0, 0),
            _ => throw Unknown(),
        };

        InvalidDataException Unknown() => new($"{file.Path}: {kind} is {file.Show(kind)}, which cannot be computed; 'linear' and 'none' can.");
    }

    /// <param name="c">What config.json, or its text_config, holds.</param>
    /// <exception cref="InvalidDataException">A member changes what the model computes, and is not computed here.</exception>
    public static void Check(string path, JsonElement c, DecoderConfig config)
    {
        foreach (JsonProperty member in c.EnumerateObject())
        {
            JsonElement value = member.Value;
            bool fits = member.Name switch
            {
                "hidden_act" or "hidden_activation" or "activation_function" =>
                    value.ValueKind == JsonValueKind.String && value.GetString() is "silu" or "swish",
                "attention_multiplier" =>
                    IsNeutral(value) || (value.ValueKind == JsonValueKind.Number && IsScale(value.GetDouble(), config.HeadWidth)),
                "query_pre_attn_scalar" => value.ValueKind == JsonValueKind.Number && value.GetDouble() == config.HeadWidth,
                "attention_bias" => config.Architecture is not ("qwen2" or "mistral") || IsNeutral(value),
                // Without use_sliding_window the families that know it have no windows.
                "sliding_window" => IsNeutral(value) || config.Window is not null
                    || (config.Architecture is "qwen2" or "qwen3" && (!c.TryGetProperty("use_sliding_window", out JsonElement slides) || IsNeutral(slides))),
                "layer_types" => IsNeutral(value) || SeesAs(value, config),
                "rope_scaling" or "rope_parameters" => IsRope(path, member, c),
                "no_rope_layer_interval" when config.Llama4 is not null =>
                    (c.TryGetProperty("no_rope_layers", out JsonElement layers) && layers.ValueKind == JsonValueKind.Array) || value.GetInt32() == 4,
                var name => JsonUsed.Contains(name) || JsonHarmless.Contains(name) || (config.Llama4 is not null && Llama4Used.Contains(name))
                    || name.StartsWith('_') || IsNeutral(name, value),
            };
            if (!fits)
            {
                string raw = value.GetRawText();
                raw = raw.Length > 60 ? $"{raw[..60]}…" : raw;
                throw new InvalidDataException($"{path}: {member.Name} is {raw}, and what it changes cannot be computed.");
            }
        }
    }

    private static bool IsRope(string path, JsonProperty member, JsonElement c)
    {
        if (IsNeutral(member.Value))
        {
            return true;
        }
        // Where both names stand, the newer one is read, and the older one must say the same.
        bool differs = member.Name == "rope_scaling" && c.TryGetProperty("rope_parameters", out JsonElement newer) && !IsNeutral(newer)
            && !JsonElement.DeepEquals(newer, member.Value);
        if (member.Value.ValueKind != JsonValueKind.Object || differs)
        {
            return false;
        }
        foreach (JsonProperty part in member.Value.EnumerateObject().Where(p => !RopeUsed.Contains(p.Name) && !IsNeutral(p.Name, p.Value)))
        {
            throw new InvalidDataException(
                $"{path}: {member.Name}.{part.Name} is {part.Value.GetRawText()}, and what it changes cannot be computed.");
        }
        return true;
    }

    private static bool SeesAs(JsonElement kinds, DecoderConfig config)
    {
        string Kind(int layer) => config.Llama4?.HasPositions[layer] == true ? "chunked_attention" : config.Window is null ? "full_attention" : "sliding_attention";
        return kinds.ValueKind == JsonValueKind.Array && kinds.GetArrayLength() == config.Layers
            && kinds.EnumerateArray().Select((kind, l) => kind.GetString() == Kind(l)).All(same => same);
    }

    /// <summary>Whether scores are scaled as always: by the root of a head's width, or zero for that.</summary>
    private static bool IsScale(double scale, int headWidth) => scale == 0 || Math.Abs((scale * Math.Sqrt(headWidth)) - 1) < 1e-5;

    private static bool IsNeutral(string name, JsonElement value) =>
        IsNeutral(value) || (Factors.Contains(name) && value.ValueKind == JsonValueKind.Number && value.GetDouble() == 1);

    private static bool IsNeutral(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Null or JsonValueKind.False => true,
        JsonValueKind.Number => value.GetDouble() == 0,
        JsonValueKind.String => value.GetString()!.Length == 0,
        JsonValueKind.Array => value.GetArrayLength() == 0,
        JsonValueKind.Object => !value.EnumerateObject().Any(),
        _ => false,
    };
}
