using System.Text.Json;
using Diptych.Inference;
using Diptych.Reading.Images;
using Diptych.Runtimes.Chat;
using Diptych.Runtimes.Decoding;
using Microsoft.Extensions.AI;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Pictures in conversations with Llama 4: a tiny checkpoint with its own eye, and a vocabulary of bytes and markers.</summary>
[Collection("decoders")]
public sealed class Llama4ChatTests : IDisposable
{
    private static readonly string[] Markers =
        ["<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>", "<|image|>", "<|patch|>"];

    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-llama4-").FullName;

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_picture_is_cut_into_tiles_between_their_markers_and_seen()
    {
        await using var inference = new InferenceService([], TimeProvider.System);
        using var preparation = new PreparationPool();
        using LocalModel model = Open(inference, preparation);
        byte[] square = await File.ReadAllBytesAsync(Shared.Require("golden", "images", "llama4-square.png"), Stop);
        Prompt prompt = await model.WriteAsync([new ChatTurn("user", $"{ChatTurn.PictureMark}\nhi", [square])], null, Stop);
        // Two by two tiles of four tokens, and the whole picture as one more.
        int[] tiles = [.. Enumerable.Repeat(-1, 4)];
        int[] expected =
        [
            256, 257, .. "user"u8, 258, .. "\n\n"u8, 260, .. tiles, 262, .. tiles, 263, .. tiles, 262, .. tiles, 263, 264, .. tiles, 261, .. "hi"u8, 259, 257, .. "assistant"u8, 258, .. "\n\n"u8,
        ];
        Assert.Equal(expected, prompt.Ids.Select(i => i < 0 ? -1 : i));
        Assert.Equal(20, prompt.Ids.Where(i => i < 0).Distinct().Count());
        Assert.Equal(20 * 64, prompt.Pictures!.Length);
        Assert.Equal(17 * 6, model.PictureTokens);

        // Each tile is what the eye makes of it alone.
        using Llama4Vision vision = Llama4Vision.Open(_folder)!;
        using var team = new CoreTeam(2);
        Llama4Tiles cut = Llama4Tiles.Cut(new SkiaImageDecoder().Prepare(square, thumbnail: false, fullSide: 4096).Full!, 56, 16);
        float[] pixels = new float[3 * 56 * 56];
        Llama4Tiles.Scale(cut.Pixels.AsSpan(pixels.Length * 2, pixels.Length), pixels);
        Assert.All(vision.Encode(pixels, team).Tokens.Zip(prompt.Pictures[(2 * 4 * 64)..(3 * 4 * 64)]), p => Assert.Equal(p.First, p.Second, 1e-5));
    }

    [Fact]
    public async Task What_is_answered_depends_on_the_picture_and_a_picture_seen_before_is_not_seen_again()
    {
        await using var inference = new InferenceService([], TimeProvider.System);
        using var preparation = new PreparationPool();
        using LocalModel model = Open(inference, preparation);
        string first = await AnswerAsync(model, "square");
        long seen = inference.Snapshot().Lanes.Sum(l => l.Completed);
        Assert.Equal(1, seen);
        Assert.Equal(first, await AnswerAsync(model, "square"));
        Assert.Equal(seen, inference.Snapshot().Lanes.Sum(l => l.Completed));
        Assert.NotEqual(first, await AnswerAsync(model, "wide"));
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private LocalModel Open(InferenceService inference, PreparationPool preparation)
    {
        Write(_folder);
        return LocalModel.Open("tiny", _folder, 16 << 20, TimeProvider.System, reading: new PictureReading(inference, new SkiaImageDecoder(), preparation, Shared.Starter));
    }

    /// <summary>The tiny checkpoint, and a tokenizer for it.</summary>
    internal static void Write(string folder)
    {
        foreach (string file in new[] { "config.json", "model.safetensors" })
        {
            File.Copy(Shared.Require("golden", "tiny", "llama4-scout-like", file), Path.Combine(folder, file));
        }
        // GPT-2's way to write each byte as a letter.
        var vocabulary = new Dictionary<string, int>();
        for (int b = 0, other = 0; b < 256; b++)
        {
            bool plain = b is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or (>= 0xAE and <= 0xFF);
            vocabulary.Add(((char)(plain ? b : 256 + other++)).ToString(), b);
        }
        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), JsonSerializer.Serialize(new
        {
            model = new { type = "BPE", vocab = vocabulary, merges = Array.Empty<string>() },
            added_tokens = Markers.Select((m, i) => new { content = m, id = 256 + i }),
            pre_tokenizer = new { type = "ByteLevel" },
        }));
        File.WriteAllText(Path.Combine(folder, "chat_template.jinja"), """
            {{- bos_token }}{%- for m in messages %}
            {{- '<|header_start|>' + m['role'] + '<|header_end|>\n\n' + (m.content | trim) + '<|eot|>' }}
            {%- endfor %}{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\n\n' }}{%- endif %}
            """);
    }

    private static async Task<string> AnswerAsync(LocalModel model, string picture)
    {
        byte[] file = await File.ReadAllBytesAsync(Shared.Require("golden", "images", $"llama4-{picture}.png"), Stop);
        ChatResponse response = await model.GetResponseAsync(
            [new ChatMessage(ChatRole.User, [new DataContent(file, "image/png"), new TextContent("what is it?")])], new ChatOptions { MaxOutputTokens = 24 }, Stop);
        return response.Text;
    }
}
