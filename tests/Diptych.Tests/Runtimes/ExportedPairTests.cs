using System.Numerics.Tensors;
using System.Text.Json;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Reading.Images;
using Diptych.Runtimes.Encoders;
using Diptych.Runtimes.Onnx;
using Diptych.Runtimes.Store;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Pairs of towers from their ONNX exports: tiny ones, whose results can be reckoned by hand.</summary>
public sealed class ExportedPairTests : IDisposable
{
    private const int Side = 8;
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-pair-").FullName;

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("clip", "image_embeds", "", "_quantized")]
    [InlineData("siglip", "pooler_output", "onnx/", "")]
    [InlineData("clip", null, "onnx/", "_quantized")]
    [InlineData("siglip", null, "", "")]
    public async Task Texts_and_pictures_are_embedded_as_the_exports_say(string kind, string? output, string at, string end)
    {
        string source = Path.Combine(_folder, "source");
        float[] vectors = Write(source, kind, output, at, end);
        InstalledModel added = new ModelFolder(Path.Combine(_folder, "models")).Add(source, "pair", Stop);
        Assert.Equal(ModelKind.DualEncoder, added.Kind);
        Assert.Equal([$"{at}text_model{end}.onnx", $"{at}vision_model{end}.onnx"], added.Files.Keys.Where(f => f.EndsWith(".onnx", StringComparison.Ordinal)));

        await using var inference = new InferenceService([], TimeProvider.System);
        using var preparation = new PreparationPool();
        DualEncoder encoder = DualEncoder.Open("pair", Path.Combine(_folder, "models", "pair"), inference, new SkiaImageDecoder(), preparation);
        Assert.Equal((3, true), (encoder.Dimensions, encoder.Sees));

        // The text's tokens are summed; SigLIP's is filled up to 64 first.
        var tokenizer = Diptych.Runtimes.Text.EncoderTokenizer.Open(source, kind == "siglip" ? 64 : 77, siglip: kind == "siglip");
        int[] ids = tokenizer.Encode("the engine");
        float[] sum = new float[3];
        Array.ForEach(ids, id => TensorPrimitives.Add<float>(sum, vectors.AsSpan(3 * id, 3), sum));
        AssertClose(Unit(sum), await encoder.EmbedTextAsync("the engine", Lane.Bulk, Stop));

        // A picture of one colour, scaled as the config says.
        byte[] picture = Bmp(200, 100, 50);
        AssertClose(Unit([((200 / 255f) - 0.5f) / 0.25f, ((100 / 255f) - 0.5f) / 0.25f, ((50 / 255f) - 0.5f) / 0.25f]), await encoder.EmbedImageAsync(picture, Lane.Bulk, Stop));
    }

    [Fact]
    public async Task Pictures_of_any_shape_are_cut_into_patches_for_an_export_that_takes_them_and_its_texts_are_in_lower_case()
    {
        string source = Path.Combine(_folder, "source");
        Write(source, "siglip2", "pooler_output", "", "");
        // Byte pairs, as Gemma's tokenizer has them.
        string bytes = string.Join(", ", Enumerable.Range(0, 256).Select(i => $"\"<0x{i:X2}>\": {i + 6}"));
        File.WriteAllText(Path.Combine(source, "tokenizer.json"), $$"""
            {"added_tokens": [{"id": 0, "content": "<pad>"}], "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
             "post_processor": null, "decoder": null, "model": {"type": "BPE", "unk_token": null, "fuse_unk": true, "byte_fallback": true, "vocab": {"<pad>": 0, "a": 1, "A": 2, "b": 3, "▁": 4, "ab": 5, {{bytes}} }, "merges": [["a", "b"]] } }
            """);
        float[] vectors = [.. Enumerable.Range(0, 5 * 6).Select(i => MathF.Cos(i))];
        File.WriteAllBytes(Path.Combine(source, "text_model.onnx"), TinyOnnx.TextTower(vectors, 5));
        File.WriteAllBytes(Path.Combine(source, "vision_model.onnx"), TinyOnnx.PatchTower(Side));
        File.WriteAllText(Path.Combine(source, "config.json"), JsonSerializer.Serialize(new { model_type = "siglip2", text_config = new { projection_size = 5 }, vision_config = new { num_patches = 16, patch_size = Side } }));
        File.WriteAllText(Path.Combine(source, "preprocessor_config.json"), JsonSerializer.Serialize(new { patch_size = Side, max_num_patches = 16 }));
        new ModelFolder(Path.Combine(_folder, "models")).Add(source, "pair", Stop);
        await using var inference = new InferenceService([], TimeProvider.System);
        using var preparation = new PreparationPool();
        DualEncoder encoder = DualEncoder.Open("pair", Path.Combine(_folder, "models", "pair"), inference, new SkiaImageDecoder(), preparation);

        // Twenty by ten pixels fill three rows of five patches.
        float[] colour = [.. new[] { 200, 100, 50 }.Select(v => 15 * ((v / 255f) - 0.5f) / 0.5f)];
        AssertClose(Unit([.. colour, 3, 5]), await encoder.EmbedImageAsync(Bmp(200, 100, 50), Lane.Bulk, Stop));

        float[] sum = new float[5];
        Array.ForEach([5, 4, 1, .. new int[61]], id => TensorPrimitives.Add<float>(sum, vectors.AsSpan(5 * id, 5), sum));
        AssertClose(Unit(sum), await encoder.EmbedTextAsync("AB A", Lane.Bulk, Stop));
    }

    [Fact]
    public void An_export_that_is_none_is_refused_when_it_is_added()
    {
        string source = Path.Combine(_folder, "source");
        Write(source, "clip", "image_embeds", "", "");
        File.WriteAllBytes(Path.Combine(source, "vision_model.onnx"), TinyOnnx.ImageTower("something_else"));
        var error = Assert.Throws<InvalidDataException>(() => new ModelFolder(Path.Combine(_folder, "models")).Add(source, "pair", Stop));
        Assert.Contains("something_else", error.Message, StringComparison.Ordinal);
        Assert.Empty(new ModelFolder(Path.Combine(_folder, "models")).List());

        File.Delete(Path.Combine(source, "vision_model.onnx"));
        File.WriteAllBytes(Path.Combine(source, "model.onnx"), TinyOnnx.Pair([1, 2, 3], 3)[..^40]);
        Assert.Throws<InvalidDataException>(() => new ModelFolder(Path.Combine(_folder, "models")).Add(source, "pair", Stop));
        File.Delete(Path.Combine(source, "model.onnx"));
        Assert.Throws<InvalidRequestException>(() => new ModelFolder(Path.Combine(_folder, "models")).Add(source, "pair", Stop));
    }

    [Fact]
    public void Damaged_exports_are_refused_and_nothing_else()
    {
        byte[] whole = TinyOnnx.Pair([.. Enumerable.Range(0, 30).Select(i => (float)i)], 3);
        string path = Path.Combine(_folder, "model.onnx"), part = Path.Combine(_folder, "part.onnx");
        var random = new Random(7);
        int refused = 0;
        for (int i = 0; i < 2000; i++)
        {
            byte[] damaged = [.. whole[..(i % 2 == 0 ? whole.Length : random.Next(whole.Length))]];
            for (int change = random.Next(4); change >= 0 && damaged.Length > 0; change--)
            {
                damaged[random.Next(damaged.Length)] = (byte)random.Next(256);
            }
            File.WriteAllBytes(path, damaged);
            try
            {
                new OnnxParts(path).Cut("text_embeds", part);
            }
            catch (InvalidDataException)
            {
                refused++;
            }
        }
        Assert.InRange(refused, 500, 1999);
    }

    /// <param name="output">What the image tower's result is called; null for both towers in one file.</param>
    private static float[] Write(string folder, string kind, string? output, string at, string end)
    {
        Directory.CreateDirectory(Path.Combine(folder, at));
        using Stream stream = typeof(ExportedPairTests).Assembly.GetManifestResourceStream("tokenizers.json")!;
        using var json = JsonDocument.Parse(stream);
        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), json.RootElement.GetProperty("tokenizers").GetProperty("siglip").GetRawText());
        File.WriteAllText(Path.Combine(folder, "config.json"), JsonSerializer.Serialize(new { model_type = kind, projection_dim = 3, text_config = new { projection_size = 3 }, vision_config = new { image_size = Side } }));
        File.WriteAllText(Path.Combine(folder, "preprocessor_config.json"), JsonSerializer.Serialize(new { resample = 2, size = new { height = Side, width = Side }, image_mean = new[] { 0.5, 0.5, 0.5 }, image_std = new[] { 0.25, 0.25, 0.25 } }));
        float[] vectors = [.. Enumerable.Range(0, 3 * 500).Select(i => MathF.Sin(i))];
        if (output is null)
        {
            File.WriteAllBytes(Path.Combine(folder, $"{at}model{end}.onnx"), TinyOnnx.Pair(vectors, 3));
            return vectors;
        }
        File.WriteAllBytes(Path.Combine(folder, $"{at}text_model{end}.onnx"), TinyOnnx.TextTower(vectors, 3));
        File.WriteAllBytes(Path.Combine(folder, $"{at}vision_model{end}.onnx"), TinyOnnx.ImageTower(output));
        return vectors;
    }

    private static float[] Unit(float[] vector)
    {
        float norm = TensorPrimitives.Norm<float>(vector);
        return [.. vector.Select(v => v / norm)];
    }

    private static void AssertClose(float[] expected, float[] actual) => Assert.All(expected.Zip(actual), p => Assert.Equal(p.First, p.Second, 1e-4));

    /// <summary>Twenty by ten pixels of one colour.</summary>
    private static byte[] Bmp(byte red, byte green, byte blue)
    {
        byte[] pixels = [.. Enumerable.Repeat(new[] { blue, green, red }, 200).SelectMany(p => p)];
        return [.. "BM"u8, .. BitConverter.GetBytes(54 + pixels.Length), .. new byte[4], .. BitConverter.GetBytes(54), .. BitConverter.GetBytes(40), .. BitConverter.GetBytes(20), .. BitConverter.GetBytes(10),
            1, 0, 24, 0, .. new byte[24], .. pixels];
    }
}
