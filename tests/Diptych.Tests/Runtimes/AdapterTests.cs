using System.Text.Json.Nodes;
using Diptych.Runtimes.Decoding;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Adapters: their memory stays while an answer is computed with them, and what does not fit is refused when it is read.</summary>
[Collection("decoders")]
public sealed class AdapterTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-adapter-").FullName;

    private static string Tiny(string name, string file = "config.json") => Path.GetDirectoryName(Shared.Require("golden", "tiny", name, file))!;

    private static string Lora(int number) => Tiny($"llama31-like-lora-{number}", "adapter_config.json");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task An_adapter_that_is_let_go_while_it_answers_is_freed_when_the_answer_is_whole()
    {
        using LocalModel model = Open();
        var sampling = new Sampling { MaxTokens = 12, Bias = model.Engine.Config.EndTokens.ToDictionary(t => t, _ => -100f) };
        async Task<List<string>> Answer(LoraAdapter? adapter, Action? begun)
        {
            var parts = new List<string>();
            await foreach (GeneratedText part in model.Engine.GenerateAsync(new Prompt([1, 2, 3, 4]), sampling, adapter, TestContext.Current.CancellationToken))
            {
                if (parts.Count == 0)
                {
                    begun?.Invoke();
                }
                parts.Add($"{part.Text} {part.CompletionTokens} {part.Finish}");
            }
            return parts;
        }
        List<string> expected;
        using (LoraAdapter whole = LoraAdapter.Load(Lora(1), model.Engine.Config))
        {
            expected = await Answer(whole, null);
        }
        Assert.NotEqual(await Answer(null, null), expected);
        for (int trial = 0; trial < 25; trial++)
        {
            LoraAdapter adapter = LoraAdapter.Load(Lora(1), model.Engine.Config);
            Assert.Equal(expected, await Answer(adapter, adapter.Dispose));
            Assert.True(adapter.IsFreed);
            Assert.Throws<ObjectDisposedException>(() => adapter.Of(0, "q_proj"));
            await Assert.ThrowsAsync<ObjectDisposedException>(() => Answer(adapter, null));
        }
    }

    [Fact]
    public async Task Adapters_are_unloaded_in_a_loop_while_clients_leave_and_answers_beside_stay_the_same()
    {
        using LocalModel model = Open();
        var sampling = new Sampling { MaxTokens = 24, Bias = model.Engine.Config.EndTokens.ToDictionary(t => t, _ => -100f) };
        async Task<string> Answer(string? adapter)
        {
            string text = "";
            await foreach (GeneratedText part in model.GenerateAsync([5, 6, 7], sampling, TestContext.Current.CancellationToken, adapter))
            {
                text += part.Text;
            }
            return text;
        }
        string[] expected = [await Answer(null), await Answer("one")];
        for (int trial = 0; trial < 25; trial++)
        {
            Task<string> plain = Answer(null), other = Answer("one");
            using (var leaves = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken))
            {
                await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
                {
                    await foreach (GeneratedText part in model.GenerateAsync([8, 9, 10, trial], sampling, leaves.Token, "two"))
                    {
                        await leaves.CancelAsync();
                    }
                });
            }
            // Its client is gone, and perhaps not yet the step that multiplies with it.
            while (!model.UnloadAdapter("two"))
            {
                await Task.Yield();
            }
            Assert.Equal(expected, await Task.WhenAll(plain, other));
        }
    }

    [Fact]
    public async Task What_was_kept_of_a_prompt_is_not_taken_for_an_adapter_that_replaced_another()
    {
        string folder = Path.Combine(_folder, "adapter");
        Copy(Lora(0), folder);
        using LocalModel model = Open(new Dictionary<string, string> { ["a"] = folder });
        int[] prompt = [.. Enumerable.Range(1, 60)];
        async Task<(string Text, int Cached)> Answer()
        {
            (string text, int cached) = ("", 0);
            await foreach (GeneratedText part in model.GenerateAsync(prompt, new Sampling { MaxTokens = 8 }, TestContext.Current.CancellationToken, "a"))
            {
                (text, cached) = (text + part.Text, part.CachedTokens);
            }
            return (text, cached);
        }
        Assert.Equal(0, (await Answer()).Cached);
        Assert.True((await Answer()).Cached > 0);
        Assert.True(model.UnloadAdapter("a"));
        Copy(Lora(1), folder);
        Assert.Equal(0, (await Answer()).Cached);
    }

    [Theory]
    [InlineData("use_dora", "true")]
    [InlineData("rank_pattern", "{\"q_proj\":2}")]
    [InlineData("alpha_pattern", "{\"q_proj\":2}")]
    [InlineData("modules_to_save", "[\"lm_head\"]")]
    [InlineData("layer_replication", "[[0,2]]")]
    [InlineData("fan_in_fan_out", "true")]
    [InlineData("lora_bias", "true")]
    [InlineData("bias", "\"all\"")]
    [InlineData("peft_type", "\"IA3\"")]
    [InlineData("r", "0")]
    [InlineData("r", "\"four\"")]
    [InlineData("r", "8")]
    public void An_adapter_that_asks_for_what_is_not_computed_is_refused_when_it_is_read(string name, string value)
    {
        string folder = Path.Combine(_folder, "adapter");
        Copy(Lora(0), folder);
        string path = Path.Combine(folder, "adapter_config.json");
        JsonObject settings = JsonNode.Parse(File.ReadAllBytes(path))!.AsObject();
        settings[name] = JsonNode.Parse(value);
        File.WriteAllText(path, settings.ToJsonString());
        Assert.Throws<InvalidDataException>(() => LoraAdapter.Load(folder, DecoderConfig.FromJson(Path.Combine(Tiny("llama31-like"), "config.json"))));
    }

    [Fact]
    public void An_adapter_made_for_another_model_is_refused_by_the_matrix_that_does_not_fit()
    {
        string message = Assert.Throws<InvalidDataException>(() => LoraAdapter.Load(Lora(0), DecoderConfig.FromJson(Path.Combine(Tiny("llama2-like"), "config.json")))).Message;
        Assert.Contains("do not fit a matrix of [64, 64]", message, StringComparison.Ordinal);
        DecoderConfig shallow = DecoderConfig.FromJson(Path.Combine(Tiny("llama31-like"), "config.json")) with { Layers = 1 };
        Assert.Contains("belongs to no matrix", Assert.Throws<InvalidDataException>(() => LoraAdapter.Load(Lora(0), shallow)).Message, StringComparison.Ordinal);
    }

    private LocalModel Open(Dictionary<string, string>? adapters = null)
    {
        string folder = Path.Combine(_folder, "model");
        Copy(Tiny("llama31-like"), folder);
        File.WriteAllLines(
            Path.Combine(folder, "tokenizer.model"),
            Enumerable.Range(0, 128_000).Select(i => $"{Convert.ToBase64String(i < 256 ? [(byte)i] : [(byte)(i >> 16), (byte)(i >> 8), (byte)i])} {i}"));
        return LocalModel.Open("tiny", folder, 8 << 20, TimeProvider.System, adapters ?? new Dictionary<string, string> { ["one"] = Lora(0), ["two"] = Lora(1) });
    }

    private static void Copy(string from, string to)
    {
        Directory.CreateDirectory(to);
        foreach (string file in Directory.EnumerateFiles(from))
        {
            File.Copy(file, Path.Combine(to, Path.GetFileName(file)), overwrite: true);
        }
    }
}
