using System.Text.Json.Nodes;
using Diptych.Runtimes.Decoding;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>What changes a decoder's arithmetic is computed, or refused by its name.</summary>
[Collection("decoders")]
public sealed class DecoderSettingsTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-settings-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("llama", "rope.scaling.type", "yarn")]
    [InlineData("llama", "rope.scaling.type", "longrope")]
    [InlineData("llama", "rope.scaling.factor", -2f)]
    [InlineData("llama", "rope.scaling.attn_factor", 1.2f)]
    [InlineData("llama", "rope.dimension_count", 4u)]
    [InlineData("llama", "attention.value_length", 16u)]
    [InlineData("llama", "attention.scale", 0.5f)]
    [InlineData("llama", "attention.causal", false)]
    [InlineData("llama", "attention.clamp_kqv", 8f)]
    [InlineData("llama", "attention.max_alibi_bias", 8f)]
    [InlineData("llama", "attn_logit_softcapping", 50f)]
    [InlineData("llama", "final_logit_softcapping", 30f)]
    [InlineData("llama", "embedding_scale", 12f)]
    [InlineData("llama", "residual_scale", 0.22f)]
    [InlineData("llama", "logit_scale", 8f)]
    [InlineData("llama", "expert_count", 8u)]
    [InlineData("llama", "expert_used_count", 2u)]
    [InlineData("llama", "use_parallel_residual", true)]
    [InlineData("llama", "something.of.tomorrow", 3u)]
    [InlineData("qwen2", "attention.sliding_window", 64u)]
    public void A_key_that_is_not_computed_is_refused_by_its_name(string architecture, string name, object value)
    {
        var file = Sound(architecture);
        file.Metadata[$"{architecture}.{name}"] = value;
        Assert.Contains($"{architecture}.{name}", Refusal(file), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("rope.scaling.type", "none")]
    [InlineData("rope.scaling.factor", 1f)]
    [InlineData("rope.scaling.original_context_length", 64u)]
    [InlineData("attention.scale", 0f)]
    [InlineData("attention.causal", true)]
    [InlineData("attention.sliding_window", 0u)]
    [InlineData("attention.value_length", 8u)]
    [InlineData("logit_scale", 1f)]
    [InlineData("expert_count", 0u)]
    [InlineData("final_logit_softcapping", 0f)]
    public void A_key_that_changes_nothing_is_taken_and_changes_nothing(string name, object value)
    {
        float[] plain = Logits(new TinyGguf());
        var file = new TinyGguf();
        file.Metadata[$"llama.{name}"] = value;
        Assert.Null(Refusal(file));
        Assert.Equal(plain, Logits(file));
    }

    [Theory]
    [InlineData("blk.0.attn_norm.bias", 32)]
    [InlineData("blk.1.ffn_down.bias", 32)]
    [InlineData("blk.0.attn_q_norm.weight", 8)]
    [InlineData("blk.0.post_attention_norm.weight", 32)]
    [InlineData("blk.0.ffn_gate_inp.weight", 32)]
    [InlineData("blk.2.attn_norm.weight", 32)]
    [InlineData("output.bias", 259)]
    [InlineData("rope_freqs.weight", 8)]
    [InlineData("rope_factors_long.weight", 4)]
    public void A_tensor_that_is_not_used_is_refused_by_its_name(string name, int count)
    {
        var file = new TinyGguf();
        file.Tensors[name] = ([count], 0, new float[count]);
        Assert.Contains($"'{name}'", Refusal(file), StringComparison.Ordinal);
    }

    [Fact]
    public void A_missing_tensor_is_refused_by_its_name_and_biases_are_computed()
    {
        foreach (string name in new[] { "blk.1.attn_v.weight", "output_norm.weight", "token_embd.weight" })
        {
            var file = new TinyGguf();
            file.Tensors.Remove(name);
            Assert.Contains(name, Refusal(file), StringComparison.Ordinal);
        }
        Assert.Contains("'blk.0.attn_q.bias'", Refusal(new TinyGguf("qwen2")), StringComparison.Ordinal);
        float[] plain = Logits(new TinyGguf());
        foreach (var (name, count) in new[] { ("attn_q", 32), ("attn_k", 16), ("attn_v", 16), ("attn_output", 32) })
        {
            var file = new TinyGguf();
            file.Tensors[$"blk.0.{name}.bias"] = ([count], 0, [.. Enumerable.Range(0, count).Select(i => i / 10f)]);
            Assert.Null(Refusal(file));
            Assert.NotEqual(plain, Logits(file));
        }
    }

    [Fact]
    public void Rotary_frequencies_are_divided_by_a_files_factors()
    {
        float[] plain = Logits(new TinyGguf()), four = Logits(Scaled(file => file.Tensors["rope_freqs.weight"] = ([4], 0, [4, 4, 4, 4])));
        Assert.NotEqual(plain, four);
        Assert.Equal(four, Logits(Scaled(file => (file.Metadata["llama.rope.scaling.type"], file.Metadata["llama.rope.scaling.factor"]) = ("linear", 4f))));
        Assert.Equal(four, Logits(Scaled(file => file.Metadata["llama.rope.scale_linear"] = 4f)));
        Assert.Equal(plain, Logits(Scaled(file => file.Tensors["rope_freqs.weight"] = ([4], 0, [1, 1, 1, 1]))));
        Assert.NotEqual(four, Logits(Scaled(file => file.Tensors["rope_freqs.weight"] = ([4], 0, [1, 1, 4, 4]))));
        Write(Scaled(file => file.Tensors["rope_freqs.weight"] = ([4], 0, [1, 0, 4, 4])));
        Assert.Contains("rope_freqs.weight", Assert.Throws<InvalidDataException>(() => Decoder.Open(GgufPath)).Message, StringComparison.Ordinal);

        static TinyGguf Scaled(Action<TinyGguf> change)
        {
            var file = new TinyGguf();
            change(file);
            return file;
        }
    }

    [Fact]
    public void Llama_3s_stretched_positions_are_the_references_from_a_gguf_file_too()
    {
        string source = Path.GetDirectoryName(Shared.Require("golden", "tiny", "llama31-like", "config.json"))!;
        DecoderConfig config = DecoderConfig.FromJson(Path.Combine(source, "config.json"));
        using var weights = new SafeTensorsFile(Path.Combine(source, "model.safetensors"));
        var file = new TinyGguf();
        file.Tensors.Clear();
        foreach (var (key, value) in new (string, object)[] { ("block_count", config.Layers), ("embedding_length", config.Width), ("feed_forward_length", config.InnerWidth), ("attention.head_count", config.Heads), ("attention.head_count_kv", config.KeyValueHeads), ("attention.key_length", config.HeadWidth), ("rope.dimension_count", config.HeadWidth), ("rope.freq_base", config.RopeTheta), ("attention.layer_norm_rms_epsilon", config.NormEpsilon), ("context_length", config.MaxTokens) })
        {
            file.Metadata[$"llama.{key}"] = value;
        }
        var from = TensorNames.HuggingFace(config, nested: false);
        var to = TensorNames.Gguf(config);
        void Copy(string name, string under, bool turned = false)
        {
            StoredTensor tensor = weights.Tensors[name];
            float[] values = weights.Floats(tensor);
            file.Tensors[under] = ([.. tensor.Shape], 0, turned ? Interleaved(values, config.HeadWidth, tensor.Columns) : values);
        }
        Copy(from.Embedding, to.Embedding);
        Copy(from.Head, to.Head);
        Copy(from.Norm, to.Norm);
        for (int l = 0; l < config.Layers; l++)
        {
            foreach (string module in new[] { "input_layernorm", "post_attention_layernorm", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" })
            {
                Copy(from.Module(l, module), to.Module(l, module), module is "q_proj" or "k_proj");
            }
        }
        float[] frequencies = [.. Enumerable.Range(0, config.HeadWidth / 2).Select(i => MathF.Pow(config.RopeTheta, -2f * i / config.HeadWidth))];
        file.Tensors["rope_freqs.weight"] = ([config.HeadWidth / 2], 0, [.. frequencies.Select(f => f / config.Scaling!.Apply(f))]);
        Write(file);
        using Decoder decoder = Decoder.Open(GgufPath);
        using var cases = new SafeTensorsFile(Path.Combine(source, "cases.safetensors"));
        int[] ids = [.. cases.Floats(cases.Tensors["input_ids"]).Select(i => (int)i)];
        int half = ids.Length / 2;
        using var team = new CoreTeam(2);
        using var cache = KeyValueBlocks.Holding(decoder.Config, 16 * 16);
        float[] logits = decoder.Forward([new Stretch(ids[..half], 0, SequenceBlocks.For(cache, 64), AllLogits: true), new Stretch(ids[half..], 0, SequenceBlocks.For(cache, 64), AllLogits: true)], cache, team);
        Assert.InRange(logits.Zip(cases.Floats(cases.Tensors["logits"]), (x, y) => Math.Abs(x - y)).Max(), 0, 2e-4);
    }

    [Theory]
    [InlineData("hidden_act", "\"gelu\"")]
    [InlineData("mlp_bias", "true")]
    [InlineData("partial_rotary_factor", "0.5")]
    [InlineData("embedding_multiplier", "12.0")]
    [InlineData("residual_multiplier", "0.22")]
    [InlineData("logits_scaling", "8.0")]
    [InlineData("attention_multiplier", "0.015625")]
    [InlineData("scale_depth", "1.4")]
    [InlineData("final_logit_softcapping", "30.0")]
    [InlineData("attn_logit_softcapping", "50.0")]
    [InlineData("query_pre_attn_scalar", "224")]
    [InlineData("sliding_window", "512")]
    [InlineData("use_sliding_window", "true")]
    [InlineData("num_local_experts", "8")]
    [InlineData("layer_types", "[\"full_attention\",\"sliding_attention\",\"full_attention\"]")]
    [InlineData("quantization_config", "{\"quant_method\":\"gptq\"}")]
    [InlineData("rope_scaling", "{\"type\":\"linear\",\"factor\":2.0}")]
    [InlineData("rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":10000.0,\"partial_rotary_factor\":0.5}")]
    [InlineData("rope_parameters", "{\"rope_type\":\"yarn\",\"factor\":4.0}")]
    [InlineData("rope_parameters", "{\"rope_type\":\"llama3\",\"factor\":4.0}")]
    [InlineData("something_of_tomorrow", "0.7")]
    [InlineData("something_of_tomorrow", "\"on\"")]
    public void A_member_that_is_not_computed_is_refused_by_its_name(string name, string value)
    {
        string refusal = Refusal(name, value)!;
        Assert.Contains(name.StartsWith("rope_parameters", StringComparison.Ordinal) ? "r" : name, refusal, StringComparison.Ordinal);
        if (name == "rope_parameters")
        {
            Assert.Matches("partial_rotary_factor|'yarn'|low_freq_factor", refusal);
        }
    }

    [Theory]
    [InlineData("hidden_act", "\"swish\"")]
    [InlineData("mlp_bias", "false")]
    [InlineData("partial_rotary_factor", "1.0")]
    [InlineData("attention_multiplier", "0.25")]
    [InlineData("sliding_window", "null")]
    [InlineData("layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\"]")]
    [InlineData("rope_scaling", "null")]
    [InlineData("_name_or_path", "\"somewhere\"")]
    [InlineData("something_of_tomorrow", "false")]
    public void A_member_that_changes_nothing_is_taken(string name, string value) => Assert.Null(Refusal(name, value));

    [Fact]
    public void What_config_says_of_biases_and_the_head_is_held_to()
    {
        Assert.Contains("'model.layers.0.self_attn.q_proj.bias'", Refusal("attention_bias", "true"), StringComparison.Ordinal);
        // This model has no head of its own.
        Assert.Contains("'lm_head.weight'", Refusal("tie_word_embeddings", "false"), StringComparison.Ordinal);
        // And this one has, which is not its embedding.
        Assert.Contains("'lm_head.weight'", Refusal("tie_word_embeddings", "true", "llama31-like"), StringComparison.Ordinal);
        // Head norms belong to Qwen 3 alone.
        Assert.Contains("'model.layers.0.self_attn.q_norm.weight'", Refusal("model_type", "\"qwen3\""), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("llama2-like")]
    [InlineData("llama31-like")]
    [InlineData("llama4-scout-like")]
    [InlineData("llama4-maverick-like")]
    public void The_references_are_taken(string name) => Assert.Null(Refusal("use_cache", "true", name));

    private string GgufPath => Path.Combine(_folder, "model.gguf");

    private static TinyGguf Sound(string architecture)
    {
        var file = new TinyGguf(architecture);
        for (int l = 0; l < TinyGguf.Layers && architecture == "qwen2"; l++)
        {
            foreach (var (name, count) in new[] { ("attn_q", 32), ("attn_k", 16), ("attn_v", 16) })
            {
                file.Tensors[$"blk.{l}.{name}.bias"] = ([count], 0, new float[count]);
            }
        }
        return file;
    }

    private void Write(TinyGguf file) => File.WriteAllBytes(GgufPath, file.Bytes());

    private float[] Logits(TinyGguf file)
    {
        Write(file);
        using Decoder decoder = Decoder.Open(GgufPath);
        using var team = new CoreTeam(1);
        int[] ids = [.. Enumerable.Range(5, 20)];
        using var cache = KeyValueBlocks.Holding(decoder.Config, ids.Length);
        return decoder.Forward([new Stretch(ids, 0, SequenceBlocks.For(cache, ids.Length))], cache, team)[..TinyGguf.Vocabulary];
    }

    private string? Refusal(TinyGguf file)
    {
        Write(file);
        try
        {
            LocalModel.Check(GgufPath);
            return null;
        }
        catch (InvalidDataException error)
        {
            return error.Message;
        }
    }

    /// <summary>What a reference's folder is refused with once a member of its config.json is another.</summary>
    private string? Refusal(string name, string value, string model = "llama2-like")
    {
        string source = Path.GetDirectoryName(Shared.Require("golden", "tiny", model, "config.json"))!;
        JsonObject config = JsonNode.Parse(File.ReadAllBytes(Path.Combine(source, "config.json")))!.AsObject();
        config[name] = JsonNode.Parse(value);
        File.WriteAllText(Path.Combine(_folder, "config.json"), config.ToJsonString());
        File.Copy(Path.Combine(source, "model.safetensors"), Path.Combine(_folder, "model.safetensors"), overwrite: true);
        try
        {
            Decoder.Check(_folder);
            return null;
        }
        catch (InvalidDataException error)
        {
            return error.Message;
        }
    }

    private static float[] Interleaved(float[] rows, int headWidth, int width)
    {
        float[] turned = new float[rows.Length];
        for (int row = 0; row < rows.Length / width; row++)
        {
            int head = row / headWidth * headWidth, at = row % headWidth, half = headWidth / 2, to = head + (at < half ? 2 * at : (2 * (at - half)) + 1);
            rows.AsSpan(row * width, width).CopyTo(turned.AsSpan(to * width));
        }
        return turned;
    }
}
