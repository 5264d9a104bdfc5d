using System.Text.Json;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Reading.Images;
using Diptych.Runtimes.Ocr;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Lines, boxes and errors beside those of the reference reader with the same models.</summary>
public sealed class PpOcrTests
{
    private static readonly string[] Rendered = ["faint.png", "receipt.png", "sign.png", "small.png", "tilted.png"];

    [Fact]
    [Trait("Needs", "shared")]
    public async Task It_reads_at_least_as_right_as_the_reference_and_boxes_the_same_lines()
    {
        using var golden = JsonDocument.Parse(File.ReadAllText(Shared.Require("golden", "ocr", "lines.json")));
        await using var service = new InferenceService([], TimeProvider.System);
        var reader = PpOcr.Open(Path.GetDirectoryName(Shared.Require("models", "ppocr", "ppocr_keys_v1.txt"))!, service);
        int ours = 0, theirs = 0, characters = 0;
        foreach (JsonProperty image in golden.RootElement.GetProperty("images").EnumerateObject())
        {
            RgbImage picture = new SkiaImageDecoder().Prepare(File.ReadAllBytes(Shared.Require("golden", "ocr", image.Name)), thumbnail: false, fullSide: reader.MaxSide).Full!;
            IReadOnlyList<TextLine> lines = await reader.ReadAsync(picture, Lane.Bulk, TestContext.Current.CancellationToken);
            JsonElement[] expected = [.. image.Value.GetProperty("lines").EnumerateArray()];
            foreach (JsonElement line in expected)
            {
                float[] box = [.. line.GetProperty("box").EnumerateArray().SelectMany(p => p.EnumerateArray().Select(c => c.GetSingle()))];
                double best = lines.Select(l => Overlap([.. l.Corners], box)).DefaultIfEmpty(0).Max();
                Assert.True(best >= 0.8, $"{image.Name}: '{line.GetProperty("text").GetString()}' is boxed with an overlap of {best:0.00} only; found {string.Join("; ", lines.Select(l => $"'{l.Text}' at {string.Join(' ', l.Corners)}"))}");
            }
            Assert.Equal(expected.Length, lines.Count);
            if (Rendered.Contains(image.Name))
            {
                string truth = Squeezed(image.Value.GetProperty("truth").EnumerateArray().Select(t => t.GetString()!));
                ours += Distance(truth, Squeezed(lines.Select(l => l.Text)));
                theirs += Distance(truth, Squeezed(expected.Select(l => l.GetProperty("text").GetString()!)));
                characters += truth.Length;
            }
        }
        Assert.True(ours <= theirs, $"{ours} of {characters} characters wrong, the reference has {theirs}");
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task A_picture_without_text_has_none_and_one_line_alone_is_found()
    {
        await using var service = new InferenceService([], TimeProvider.System);
        var reader = PpOcr.Open(Path.GetDirectoryName(Shared.Require("models", "ppocr", "ppocr_keys_v1.txt"))!, service);
        var blank = new RgbImage([.. Enumerable.Repeat((byte)200, 300 * 200 * 3)], 300, 200);
        Assert.Empty(await reader.ReadAsync(blank, Lane.Bulk, TestContext.Current.CancellationToken));
        RgbImage page = new SkiaImageDecoder().Prepare(File.ReadAllBytes(Shared.Require("golden", "ocr", "small.png")), thumbnail: false, fullSide: 2000).Full!;
        var strip = new RgbImage(page.Pixels[(22 * 3 * page.Width)..(50 * 3 * page.Width)], page.Width, 28);
        Assert.Contains("brown", Assert.Single(await reader.ReadAsync(strip, Lane.Bulk, TestContext.Current.CancellationToken)).Text, StringComparison.Ordinal);
    }

    /// <summary>Spaces are left out: where a line falls into several boxes, they are not the reader's to say.</summary>
    private static string Squeezed(IEnumerable<string> lines) => string.Concat(lines.SelectMany(l => l.Where(c => !char.IsWhiteSpace(c))));

    private static int Distance(string a, string b)
    {
        int[] row = [.. Enumerable.Range(0, b.Length + 1)];
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
            {
                int above = row[j];
                row[j] = Math.Min(Math.Min(row[j], row[j - 1]) + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1));
                diagonal = above;
            }
        }
        return row[^1];
    }

    /// <summary>Intersection over union, counted on a grid of half pixels.</summary>
    private static double Overlap(float[] a, float[] b)
    {
        float[] xs = [.. a.Concat(b).Where((_, i) => i % 2 == 0)], ys = [.. a.Concat(b).Where((_, i) => i % 2 == 1)];
        int both = 0, either = 0;
        for (float y = ys.Min(); y <= ys.Max(); y += 0.5f)
        {
            for (float x = xs.Min(); x <= xs.Max(); x += 0.5f)
            {
                bool inA = Inside(a, x, y), inB = Inside(b, x, y);
                both += inA && inB ? 1 : 0;
                either += inA || inB ? 1 : 0;
            }
        }
        return either == 0 ? 0 : (double)both / either;
    }

    private static bool Inside(float[] quad, float x, float y) => Enumerable.Range(0, 4).All(i =>
    {
        int n = (i + 1) % 4;
        return ((quad[2 * n] - quad[2 * i]) * (y - quad[(2 * i) + 1])) - ((quad[(2 * n) + 1] - quad[(2 * i) + 1]) * (x - quad[2 * i])) >= -0.01f;
    });
}
