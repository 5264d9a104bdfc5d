using System.Numerics.Tensors;
using System.Text.Json;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Reading.Images;
using Diptych.Runtimes;
using Diptych.Runtimes.Onnx;
using Diptych.Runtimes.Text;
using Xunit;

namespace Diptych.Tests.Runtimes;

public sealed class StarterModelTests
{
    private static readonly CancellationToken None = CancellationToken.None;

    [Fact]
    public void Token_ids_equal_the_reference()
    {
        var tokenizer = new WordPieceTokenizer(Path.Combine(Shared.Starter, "vocab.txt"), 256);
        foreach (string line in File.ReadLines(Shared.Require("golden", "tokenizers", "minilm.jsonl")))
        {
            using var json = JsonDocument.Parse(line);
            string text = json.RootElement.GetProperty("text").GetString()!;
            int[] expected = [.. json.RootElement.GetProperty("ids").EnumerateArray().Select(e => e.GetInt32())];
            Assert.Equal(expected, tokenizer.Encode(text));
        }
    }

    [Theory]
    [InlineData("camera.png")]
    [InlineData("chelsea.png")]
    [InlineData("china.jpg")]
    [InlineData("rocket.jpg")]
    public void Pixels_match_the_reference(string photo)
    {
        float[] expected = new SafeTensors(Shared.Require("golden", "images", "pixels.safetensors"))[$"{photo}.starter"];
        PreparedImage image = new SkiaImageDecoder().Prepare(File.ReadAllBytes(Path.Combine(Shared.Samples, "photos", photo)));
        float[] actual = new float[expected.Length];
        PixelScaling.Starter.ToChannelsFirst(image.Pixels, actual);
        double meanError = actual.Zip(expected, (a, b) => Math.Abs(a - b) * 128.0).Average();
        Assert.True(meanError <= 0.05, $"mean error {meanError:0.00} of 255");
    }

    [Fact]
    public async Task Text_embeddings_match_the_reference_alone_and_in_a_batch()
    {
        var golden = new SafeTensors(Shared.Require("golden", "starter", "embeddings.safetensors"));
        string[] texts = Inputs("texts");
        var (backend, _, tokenizer) = StarterModel.Open(Shared.Starter);
        ILoadedModel loaded = await backend.LoadAsync(Device.Cpu, None);
        int[][] ids = [.. texts.Select(tokenizer.Encode)];
        BatchOutput together = await loaded.ExecuteAsync(TokenBatch(ids), None);
        for (int i = 0; i < ids.Length; i++)
        {
            BatchOutput alone = await loaded.ExecuteAsync(TokenBatch([ids[i]]), None);
            foreach (var (output, reference, width) in new[] { ("text_embedding", "text_embedding", 384), ("cross_embedding", "cross_embedding", 256) })
            {
                float[] expected = golden[reference][(i * width)..((i + 1) * width)];
                AssertClose(expected, alone.Rows[output][0], texts[i]);
                AssertWithin(1e-5, alone.Rows[output][0], together.Rows[output][i]);
            }
        }
        await loaded.DisposeAsync();
    }

    [Theory]
    [InlineData(false, "image_embedding.fp")]
    [InlineData(true, "image_embedding.int8")]
    public async Task Image_embeddings_match_the_reference_alone_and_in_a_batch(bool int8, string reference)
    {
        Assert.SkipWhen(int8 && !StarterModel.Int8Supported, "The processor has no VNNI or dot-product instructions.");
        float[] golden = new SafeTensors(Shared.Require("golden", "starter", "embeddings.safetensors"))[reference];
        string[] photos = Inputs("images");
        var (_, backend, _) = StarterModel.Open(Shared.Starter, int8);
        ILoadedModel loaded = await backend.LoadAsync(Device.Cpu, None);
        byte[][] pixels = [.. photos.Select(p => new SkiaImageDecoder().Prepare(File.ReadAllBytes(Path.Combine(Shared.Samples, "photos", Path.GetFileName(p)))).Pixels)];
        float[][] together = (await loaded.ExecuteAsync(PixelBatch(pixels), None)).Rows["embedding"];
        for (int i = 0; i < photos.Length; i++)
        {
            float[] alone = (await loaded.ExecuteAsync(PixelBatch([pixels[i]]), None)).Rows["embedding"][0];
            AssertClose(golden[(i * 256)..((i + 1) * 256)], alone, photos[i]);
            AssertWithin(1e-5, alone, together[i]);
        }
        await loaded.DisposeAsync();
    }

    private static string[] Inputs(string name)
    {
        using var json = JsonDocument.Parse(File.ReadAllText(Shared.Require("golden", "starter", "inputs.json")));
        return [.. json.RootElement.GetProperty(name).EnumerateArray().Select(e => e.GetString()!)];
    }

    private static Batch TokenBatch(int[][] items) => new([.. items.SelectMany(i => i)], [], Offsets(items.Select(i => i.Length)));

    private static Batch PixelBatch(byte[][] items) => new([], [.. items.SelectMany(i => i)], Offsets(items.Select(i => i.Length)));

    private static int[] Offsets(IEnumerable<int> lengths) => [0, .. Running(lengths)];

    private static IEnumerable<int> Running(IEnumerable<int> lengths)
    {
        int sum = 0;
        foreach (int length in lengths)
        {
            yield return sum += length;
        }
    }

    private static void AssertClose(float[] expected, float[] actual, string what)
    {
        float cosine = TensorPrimitives.CosineSimilarity(expected, actual);
        float worst = expected.Zip(actual, (a, b) => Math.Abs(a - b)).Max();
        Assert.True(cosine >= 0.999f && worst <= 0.02f, $"{what}: cosine {cosine}, max element error {worst}");
    }

    private static void AssertWithin(double tolerance, ReadOnlySpan<float> expected, ReadOnlySpan<float> actual)
    {
        for (int i = 0; i < expected.Length; i++)
        {
            Assert.Equal(expected[i], actual[i], tolerance);
        }
    }
}
