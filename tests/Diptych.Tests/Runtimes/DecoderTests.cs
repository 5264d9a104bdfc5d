using System.Text.Json;
using Diptych.Runtimes.Chat;
using Diptych.Runtimes.Decoding;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Decoders and their tokenizers beside the references.</summary>
[Collection("decoders")]
public sealed class DecoderTests
{
    [Fact]
    [Trait("Needs", "shared")]
    public void Ids_of_Llamas_tokenizers_are_the_references()
    {
        foreach (string name in new[] { "llama3", "llama4" })
        {
            AssertIds(name, BytePairTokenizer.FromTiktoken(Shared.Require("models", "llama-tokenizers", $"{name}.tokenizer.model")));
        }
    }

    [Fact]
    [Trait("Needs", "shared")]
    public void Ids_and_chats_of_SmolLM2_are_the_references()
    {
        using var file = new GgufFile(SmolLm);
        var tokenizer = BytePairTokenizer.FromGguf(file);
        AssertIds("smollm2", tokenizer);
        ChatFormat format = ChatFormat.Of(file, BytePairTokenizer.FromGguf(file), TimeProvider.System)!;
        foreach (string line in File.ReadLines(Shared.Require("golden", "tokenizers", "smollm2-chat.jsonl")))
        {
            using var json = JsonDocument.Parse(line);
            ChatTurn[] turns = [.. json.RootElement.GetProperty("messages").EnumerateArray().Select(m => new ChatTurn(m.GetProperty("role").GetString()!, m.GetProperty("content").GetString()!))];
            string text = format.Write(turns);
            Assert.Equal(json.RootElement.GetProperty("text").GetString(), text);
            Assert.Equal(Ints(json.RootElement.GetProperty("ids")), tokenizer.Encode(text, specials: true));
        }
    }

    [Theory]
    [InlineData("llama2-like")]
    [InlineData("llama31-like")]
    public void Logits_and_greedy_answers_of_tiny_models_are_the_references(string name)
    {
        string directory = Path.GetDirectoryName(Shared.Require("golden", "tiny", name, "config.json"))!;
        using Decoder decoder = Decoder.Open(directory);
        using var file = new SafeTensorsFile(Path.Combine(directory, "cases.safetensors"));
        AssertLogits(decoder, file, null);
        int[] prompt = Ids(file, "greedy_prompt"), expected = Ids(file, "greedy_ids");
        foreach (int chunk in new[] { 1, 5, prompt.Length })
        {
            Assert.Equal(expected, Greedy(decoder, prompt, expected.Length, chunk));
        }
    }

    [Theory]
    [InlineData("llama31-like-lora-0")]
    [InlineData("llama31-like-lora-1")]
    public void Logits_with_an_adapter_are_the_references(string name)
    {
        string directory = Path.GetDirectoryName(Shared.Require("golden", "tiny", name, "adapter_config.json"))!;
        using Decoder decoder = Decoder.Open(Path.GetDirectoryName(Shared.Require("golden", "tiny", "llama31-like", "config.json"))!);
        using LoraAdapter adapter = LoraAdapter.Load(directory, decoder.Config);
        using var cases = new SafeTensorsFile(Path.Combine(directory, "cases.safetensors"));
        AssertLogits(decoder, cases, adapter);
    }

    [Theory]
    [InlineData("llama2-like", null)]
    [InlineData("llama31-like", "llama31-like-lora-0")]
    [InlineData("llama4-scout-like", null)]
    [InlineData("llama4-maverick-like", null)]
    public void A_folder_passes_its_own_cases_text_and_pictures(string name, string? adapter)
    {
        string directory = Path.GetDirectoryName(Shared.Require("golden", "tiny", name, "config.json"))!;
        IReadOnlyList<VerifiedCase> cases = ModelCases.Run(directory, adapter is null ? null : Path.Combine(directory, "..", adapter));
        Assert.All(cases, c => Assert.True(c.Passed, $"{c.Name}: {c.Detail}"));
        Assert.Contains(cases, c => c.Name == (name.StartsWith("llama4", StringComparison.Ordinal) ? "mm_logits" : "logits"));
    }

    [Fact]
    public void Plans_are_what_the_published_sizes_say_and_what_runs_takes()
    {
        DecoderPlan scout = DecoderPlan.Of(DecoderPlan.Scout, 16, 2, 80_000_000_000, 8192, 1, 0), maverick = DecoderPlan.Of(DecoderPlan.Maverick, 16, 2, 80_000_000_000, 8192, 1, 0);
        Assert.InRange(scout.Parameters / 1e9, 105, 110);
        Assert.InRange(scout.ActiveParameters / 1e9, 16, 18);
        Assert.InRange(maverick.Parameters / 1e9, 395, 405);
        // Twelve layers keep every token, the others a chunk: 2 x 8 x 128 numbers of two bytes each.
        Assert.Equal((12 * 4096L, 36 * 4096L * 8192), (scout.KeyValueBytesPerToken, scout.WindowBytes));
        Assert.False(scout.Fits);
        Assert.Equal(144, scout.TokensPerTile);
        Assert.Equal(4, DecoderConfig.FromJson(Shared.Require("golden", "tiny", "llama4-scout-like", "config.json")).Llama4!.TokensPerTile);
        string directory = Path.GetDirectoryName(Shared.Require("golden", "tiny", "llama31-like", "config.json"))!;
        using Decoder decoder = Decoder.Open(directory);
        DecoderPlan tiny = DecoderPlan.Of(decoder.Config, 32, 4, 1 << 30, 100, 1, 0);
        Assert.InRange(decoder.ByteSize, 0.98 * tiny.WeightBytes, 1.02 * tiny.WeightBytes);
        var layout = new KeyValueLayout(decoder.Config);
        Assert.Equal(layout.Groups * layout.PageBytes, 16 * tiny.KeyValueBytesPerToken);
    }

    [Fact]
    public void A_sequence_computes_the_same_alone_and_beside_others_whatever_their_adapters()
    {
        using Decoder decoder = Decoder.Open(Path.GetDirectoryName(Shared.Require("golden", "tiny", "llama31-like", "config.json"))!);
        using LoraAdapter adapter = LoraAdapter.Load(Path.GetDirectoryName(Shared.Require("golden", "tiny", "llama31-like-lora-0", "adapter_config.json"))!, decoder.Config);
        using var team = new CoreTeam(2);
        using var cache = KeyValueBlocks.Holding(decoder.Config, 32 * 16);
        int[] a = [5, 9, 30, 11, 400, 7], b = [.. Enumerable.Range(1, 33)], c = [77];
        float[] alone = decoder.Forward([new Stretch(a, 0, SequenceBlocks.For(cache, 16))], cache, team);
        float[] together = decoder.Forward([new Stretch(b, 0, SequenceBlocks.For(cache, 48), adapter), new Stretch(a, 0, SequenceBlocks.For(cache, 16)), new Stretch(c, 0, SequenceBlocks.For(cache, 16), adapter)], cache, team);
        Assert.Equal(alone, together[decoder.Config.Vocabulary..(2 * decoder.Config.Vocabulary)]);
    }

    [Fact]
    [Trait("Needs", "shared")]
    public void SmolLM2_in_single_precision_has_the_references_logits_and_answers()
    {
        using Decoder decoder = Decoder.Open(SmolLm, WeightFormat.F32);
        var golden = new SafeTensors(Shared.Require("golden", "smollm2", "logits.safetensors"));
        foreach (string line in File.ReadLines(Shared.Require("golden", "smollm2", "cases.jsonl")))
        {
            using var json = JsonDocument.Parse(line);
            string name = json.RootElement.GetProperty("name").GetString()!;
            int[] prompt = Ints(json.RootElement.GetProperty("ids"));
            var (_, likelihoods, last) = Read(decoder, prompt);
            float[] reference = golden[name == "long" ? "long.last" : name];
            Assert.True(last.Zip(reference, (x, y) => Math.Abs(x - y)).Max() <= 2e-3, name);
            Assert.True(likelihoods.Zip(golden[$"{name}.nll"], (x, y) => Math.Abs(x - y)).Max() <= 4e-3, $"{name}.nll");
            if (!json.RootElement.TryGetProperty("margins", out JsonElement sure))
            {
                continue;
            }
            int[] expected = Ints(json.RootElement.GetProperty("greedy"));
            double[] margins = [.. sure.EnumerateArray().Select(m => m.GetDouble())];
            int[] answer = Greedy(decoder, prompt, prompt.Length + expected.Length, prompt.Length)[prompt.Length..];
            for (int i = 0; i < expected.Length && margins[i] > 0.02; i++)
            {
                Assert.Equal(expected[i], answer[i]);
            }
        }
    }

    [Fact]
    [Trait("Needs", "shared")]
    public void SmolLM2_as_it_is_stored_says_nearly_what_it_says_in_single_precision()
    {
        using Decoder exact = Decoder.Open(SmolLm, WeightFormat.F32), packed = Decoder.Open(SmolLm);
        using var json = JsonDocument.Parse(File.ReadLines(Shared.Require("golden", "smollm2", "cases.jsonl")).Last());
        int[] text = Ints(json.RootElement.GetProperty("ids"));
        var (best, likelihoods, _) = Read(exact, text);
        var (other, less, _) = Read(packed, text);
        double agreement = best.Zip(other, (x, y) => x == y ? 1.0 : 0).Average(), perplexity = Math.Exp(less.Average() - likelihoods.Average());
        Assert.True(agreement >= 0.97, $"the same token comes first in {agreement:0.000}");
        Assert.True(perplexity <= 1.02, $"perplexity {perplexity:0.0000} times as high");
        Assert.InRange(Decoder.WeightBytes(SmolLm, WeightFormat.AsStored) / (double)packed.ByteSize, 1, 1.1);
        Assert.InRange(Decoder.WeightBytes(SmolLm, WeightFormat.F32) / (double)exact.ByteSize, 1, 1.1);
    }

    [Fact]
    public void Files_that_lie_about_themselves_are_refused()
    {
        string folder = Directory.CreateTempSubdirectory("diptych-files-").FullName;
        byte[] tiny = File.ReadAllBytes(Shared.Require("golden", "tiny", "llama2-like", "model.safetensors"));
        byte[] gguf = PackedNumbersTests.Gguf(0, new byte[1024]);
        var random = new Random(3);
        for (int i = 0; i < 300; i++)
        {
            bool safe = i % 2 == 0;
            byte[] bytes = safe ? (byte[])tiny.Clone() : (byte[])gguf.Clone();
            switch (i % 3)
            {
                case 0:
                    bytes = bytes[..random.Next(bytes.Length / 2)];
                    break;
                case 1:
                    BitConverter.TryWriteBytes(bytes.AsSpan(safe ? 0 : 8 + (8 * random.Next(2))), random.NextInt64());
                    break;
                default:
                    for (int k = 0; k < 20; k++)
                    {
                        bytes[random.Next(Math.Min(bytes.Length, 4000))] = (byte)random.Next(256);
                    }
                    break;
            }
            string path = Path.Combine(folder, safe ? "model.safetensors" : "model.gguf");
            File.WriteAllBytes(path, bytes);
            Exception? error = Record.Exception(() =>
            {
                using TensorFile file = safe ? new SafeTensorsFile(path) : new GgufFile(path);
                foreach (StoredTensor tensor in file.Tensors.Values)
                {
                    _ = file.Bytes(tensor).Length;
                }
            });
            Assert.True(error is null or InvalidDataException, $"{i}: {error}");
        }
        Directory.Delete(folder, recursive: true);
    }

    private static string SmolLm => Shared.Require("models", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf");

    private static void AssertIds(string golden, BytePairTokenizer tokenizer)
    {
        foreach (string line in File.ReadLines(Shared.Require("golden", "tokenizers", $"{golden}.jsonl")))
        {
            using var json = JsonDocument.Parse(line);
            string text = json.RootElement.GetProperty("text").GetString()!;
            if (golden == "llama3" && json.RootElement.TryGetProperty("ids_special", out JsonElement special))
            {
                Assert.Equal(Ints(special), tokenizer.Encode(text, specials: true));
            }
            int[] ids = tokenizer.Encode(text, specials: golden == "smollm2");
            Assert.True(Ints(json.RootElement.GetProperty("ids")).SequenceEqual(ids), $"'{text}': {string.Join(' ', ids)}");
            Assert.Equal(text, tokenizer.Decode(ids));
        }
    }

    private static void AssertLogits(Decoder decoder, SafeTensorsFile cases, LoraAdapter? adapter)
    {
        using var team = new CoreTeam(2);
        using var cache = KeyValueBlocks.Holding(decoder.Config, 16 * 16);
        int[] ids = Ids(cases, "input_ids");
        int half = ids.Length / 2;
        float[] logits = decoder.Forward(
            [new Stretch(ids[..half], 0, SequenceBlocks.For(cache, 64), adapter, AllLogits: true), new Stretch(ids[half..], 0, SequenceBlocks.For(cache, 64), adapter, AllLogits: true)], cache, team);
        Assert.True(logits.Zip(cases.Floats(cases.Tensors["logits"]), (x, y) => Math.Abs(x - y)).Max() <= 2e-4);
    }

    private static float[] Logits(Decoder decoder, int[] prompt)
    {
        using var team = new CoreTeam(2);
        using var cache = KeyValueBlocks.Holding(decoder.Config, prompt.Length);
        return decoder.Forward([new Stretch(prompt, 0, SequenceBlocks.For(cache, prompt.Length))], cache, team);
    }

    /// <summary>Reads a text: at each token the likeliest next one, the real next one's negative log-likelihood, and the last logits.</summary>
    private static (int[] Best, float[] Likelihoods, float[] Last) Read(Decoder decoder, int[] text)
    {
        using var team = new CoreTeam(2);
        using var cache = KeyValueBlocks.Holding(decoder.Config, text.Length);
        var blocks = SequenceBlocks.For(cache, text.Length);
        int vocabulary = decoder.Config.Vocabulary;
        var best = new List<int>();
        var likelihoods = new List<float>();
        float[] last = [];
        for (int at = 0; at < text.Length; at += 128)
        {
            int[] piece = text[at..Math.Min(text.Length, at + 128)];
            float[] logits = decoder.Forward([new Stretch(piece, at, blocks, AllLogits: true)], cache, team);
            for (int i = 0; i < piece.Length; i++)
            {
                ReadOnlySpan<float> row = logits.AsSpan(i * vocabulary, vocabulary);
                best.Add(System.Numerics.Tensors.TensorPrimitives.IndexOfMax(row));
                if (at + i + 1 < text.Length)
                {
                    double most = row[best[^1]], sum = 0;
                    foreach (float logit in row)
                    {
                        sum += Math.Exp(logit - most);
                    }
                    likelihoods.Add((float)(most + Math.Log(sum) - row[text[at + i + 1]]));
                }
            }
            last = logits[((piece.Length - 1) * vocabulary)..(piece.Length * vocabulary)];
        }
        return ([.. best], [.. likelihoods], last);
    }

    private static int[] Greedy(Decoder decoder, int[] prompt, int length, int chunk)
    {
        using var team = new CoreTeam(2);
        using var cache = KeyValueBlocks.Holding(decoder.Config, length);
        var blocks = SequenceBlocks.For(cache, length);
        List<int> ids = [.. prompt];
        float[] logits = [];
        for (int at = 0; at < prompt.Length; at += chunk)
        {
            logits = decoder.Forward([new Stretch(prompt[at..Math.Min(prompt.Length, at + chunk)], at, blocks)], cache, team);
        }
        while (ids.Count < length)
        {
            ids.Add(System.Numerics.Tensors.TensorPrimitives.IndexOfMax<float>(logits));
            logits = decoder.Forward([new Stretch([ids[^1]], ids.Count - 1, blocks)], cache, team);
        }
        return [.. ids];
    }

    private static int[] Ids(SafeTensorsFile file, string name) => [.. file.Floats(file.Tensors[name]).Select(v => (int)v)];

    private static int[] Ints(JsonElement array) => [.. array.EnumerateArray().Select(e => e.GetInt32())];
}
