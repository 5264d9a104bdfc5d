using System.Text.Json;
using Diptych.Inference;
using Diptych.Reading.Images;
using Diptych.Runtimes.Chat;
using Diptych.Runtimes.Decoding;
using Microsoft.Extensions.AI;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>The captioner beside its references: soft tokens, first logits, greedy captions; and in a conversation.</summary>
[Collection("decoders")]
public sealed class CaptionTests
{
    private static string Folder => Path.GetDirectoryName(Shared.Require("models", "starter-vlm", "projector.onnx"))!;

    [Fact]
    [Trait("Needs", "shared")]
    public async Task Captions_are_the_references()
    {
        await using var inference = Service();
        using var preparation = new PreparationPool();
        var reading = new PictureReading(inference, new SkiaImageDecoder(), preparation, Shared.Starter);
        Assert.True(reading.Add("captions", Folder));
        using Decoder decoder = Decoder.Open(Shared.Require("models", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"), WeightFormat.F32);
        using LoraAdapter adapter = LoraAdapter.Load(Folder, decoder.Config);
        using var team = new CoreTeam(2);
        using var cache = KeyValueBlocks.Holding(decoder.Config, 128);
        var blocks = SequenceBlocks.For(cache, 128);
        using var golden = JsonDocument.Parse(File.ReadAllBytes(Shared.Require("golden", "starter-vlm", "captions.json")));
        var tensors = new SafeTensors(Shared.Require("golden", "starter-vlm", "tensors.safetensors"));
        int[] before = Ints(golden.RootElement.GetProperty("prompt_before")), after = Ints(golden.RootElement.GetProperty("prompt_after"));
        int compared = 0;
        foreach (JsonElement one in golden.RootElement.GetProperty("cases").EnumerateArray())
        {
            string image = one.GetProperty("image").GetString()!;
            byte[] file = await File.ReadAllBytesAsync(Shared.Require(image.Split('/')), TestContext.Current.CancellationToken);
            float[] soft = (await reading.SeeAsync("captions", file, TestContext.Current.CancellationToken)).Tokens, expected = tensors[$"{image}.soft"];
            Assert.Equal(expected.Length, soft.Length);
            Assert.True(soft.Zip(expected, (a, b) => Math.Abs(a - b)).Max() <= 0.02, image);
            int[] prompt = [.. before, .. PictureReading.Ids(file, soft.Length / decoder.Config.Width), .. after], greedy = Ints(one.GetProperty("greedy"));
            double[] margins = [.. one.GetProperty("margins").EnumerateArray().Select(m => m.GetDouble())];
            float[] logits = decoder.Forward([new Stretch(prompt, 0, blocks, adapter, Pictures: soft)], cache, team);
            if (image is "samples/chelsea.png" or "samples/china.jpg" or "samples/coffee.png")
            {
                Assert.True(logits.Zip(tensors[$"{image}.first_logits"], (a, b) => Math.Abs(a - b)).Max() <= 0.02, image);
            }
            for (int i = 0; i < greedy.Length && margins[i] > 0.02; i++, compared++)
            {
                int best = System.Numerics.Tensors.TensorPrimitives.IndexOfMax<float>(logits);
                Assert.True(best == greedy[i], $"{image}: token {i} is {best}, not {greedy[i]}");
                logits = decoder.Forward([new Stretch([best], prompt.Length + i, blocks, adapter)], cache, team);
            }
        }
        Assert.True(compared > 100, $"{compared} tokens compared");
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task A_picture_in_a_conversation_is_seen_and_known_again_and_no_other_is_taken_for_it()
    {
        await using var inference = Service();
        using var preparation = new PreparationPool();
        var reading = new PictureReading(inference, new SkiaImageDecoder(), preparation, Shared.Starter);
        using LocalModel model = LocalModel.Open(
            "smollm2", Shared.Require("models", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"), 64 << 20, TimeProvider.System, new Dictionary<string, string>(StringComparer.Ordinal) { ["captions"] = Folder }, reading);
        string first = await CaptionAsync(model, "coffee.png"), other = await CaptionAsync(model, "chelsea.png");
        Assert.NotEqual(first, other);
        Assert.Equal(first, await CaptionAsync(model, "coffee.png"));
        await Assert.ThrowsAsync<Diptych.Core.InvalidRequestException>(() => model.GetResponseAsync(
            [new ChatMessage(ChatRole.User, [new DataContent(File.ReadAllBytes(Shared.Require("samples", "coffee.png")), "image/png"), new TextContent("What is this?")])], cancellationToken: TestContext.Current.CancellationToken));
        var wrong = new ChatTurn("user", $"{ChatTurn.PictureMark}\nDescribe this image.", [[1, 2, 3]]);
        await Assert.ThrowsAsync<Diptych.Core.InvalidRequestException>(() => model.WriteAsync([wrong], "captions", TestContext.Current.CancellationToken));
    }

    private static async Task<string> CaptionAsync(LocalModel model, string sample)
    {
        byte[] file = await File.ReadAllBytesAsync(Shared.Require("samples", sample), TestContext.Current.CancellationToken);
        Prompt prompt = await model.WriteAsync([new ChatTurn("user", $"{ChatTurn.PictureMark}\nDescribe this image.", [file])], "captions", TestContext.Current.CancellationToken);
        Assert.Equal(16, prompt.Ids.Count(i => i < 0));
        string text = "";
        await foreach (GeneratedText part in model.GenerateAsync(prompt, new Sampling { MaxTokens = 30 }, TestContext.Current.CancellationToken, "captions"))
        {
            text += part.Text;
        }
        return text;
    }

    private static InferenceService Service() => new([], TimeProvider.System);

    private static int[] Ints(JsonElement array) => [.. array.EnumerateArray().Select(e => e.GetInt32())];
}
