using System.Diagnostics;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Diptych.Inference;

namespace Diptych.Bench.Index;

/// <summary>
/// The definitions of WordNet's 117,659 glosses (Debian's wordnet-base), embedded by the text tower, and the glosses' example
/// sentences as queries held apart. Embedded once, and kept in the user's cache folder.
/// </summary>
internal sealed class WordNet
{
    public const int Dimensions = 384;
    private const int QueryCount = 2000;
    private const string Folder = "/usr/share/wordnet";

    private WordNet(float[] vectors, float[] queries, string file)
    {
        Vectors = vectors;
        Queries = queries;
        File = file;
    }

    /// <summary>[n, 384], unit rows.</summary>
    public float[] Vectors { get; }

    /// <summary>[2000, 384], unit rows.</summary>
    public float[] Queries { get; }

    /// <summary>Both, one after the other, as fp32: what the peers read.</summary>
    public string File { get; }

    public int Count => Vectors.Length / Dimensions;

    public static async Task<WordNet> LoadAsync()
    {
        string cache = Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.Create), "diptych-bench");
        Directory.CreateDirectory(cache);
        string file = Path.Combine(cache, "wordnet-384.f32");
        if (!System.IO.File.Exists(file))
        {
            await EmbedAsync(file);
        }
        float[] all = MemoryMarshal.Cast<byte, float>(await System.IO.File.ReadAllBytesAsync(file)).ToArray();
        return new WordNet(all[..^(QueryCount * Dimensions)], all[^(QueryCount * Dimensions)..], file);
    }

    /// <summary>Up to <paramref name="count"/> rows: the real ones, then each again with noise of a tenth of its length, seeded.</summary>
    public float[] Grow(int count)
    {
        float[] grown = new float[count * Dimensions];
        Vectors.AsSpan(0, Math.Min(Vectors.Length, grown.Length)).CopyTo(grown);
        // Noise of standard deviation s in every dimension has the length s * sqrt(384).
        const float deviation = 0.5f / 19.6f;
        Parallel.For(Count, count, row =>
        {
            var random = new Random(row);
            Span<float> target = grown.AsSpan(row * Dimensions, Dimensions);
            Vectors.AsSpan(row % Count * Dimensions, Dimensions).CopyTo(target);
            foreach (ref float value in target)
            {
                value += deviation * (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
            }
            TensorPrimitives.Divide(target, TensorPrimitives.Norm<float>(target), target);
        });
        return grown;
    }

    /// <summary>The definitions, and the example sentences in a seeded order.</summary>
    public static async Task<(IReadOnlyList<string> Definitions, IReadOnlyList<string> Examples)> TextsAsync()
    {
        if (!Directory.Exists(Folder))
        {
            foreach (string arguments in new[] { "update", "install -y --no-install-recommends wordnet-base" })
            {
                using Process apt = Process.Start(new ProcessStartInfo("apt-get", arguments) { RedirectStandardOutput = true })!;
                await apt.StandardOutput.ReadToEndAsync();
                await apt.WaitForExitAsync();
            }
        }
        var definitions = new List<string>();
        var examples = new List<string>();
        foreach (string line in new[] { "noun", "verb", "adj", "adv" }.SelectMany(p => System.IO.File.ReadLines(Path.Combine(Folder, $"data.{p}"))))
        {
            if (line.StartsWith(' ') || line.IndexOf('|', StringComparison.Ordinal) is not (> 0 and var bar))
            {
                continue;
            }
            string gloss = line[(bar + 1)..].Trim();
            int quote = gloss.IndexOf("; \"", StringComparison.Ordinal);
            definitions.Add(quote > 0 ? gloss[..quote] : gloss);
            if (quote > 0)
            {
                examples.Add(gloss[(quote + 2)..].Split("; \"")[0].Trim('"', ' '));
            }
        }
        string[] shuffled = [.. examples];
        new Random(7).Shuffle(shuffled);
        return (definitions, shuffled);
    }

    private static async Task EmbedAsync(string file)
    {
        var (definitions, examples) = await TextsAsync();
        Console.Error.WriteLine($"Embedding {definitions.Count:n0} definitions and {QueryCount:n0} queries; this takes some minutes, once.");
        string temporary = file + ".part";
        await Report.WithProductAsync(async product =>
        {
            await using FileStream output = System.IO.File.Create(temporary);
            foreach (string[] chunk in definitions.Concat(examples.Take(QueryCount)).Chunk(4096))
            {
                TextEmbedding[] embedded = await Task.WhenAll(chunk.Select(t => product.Embedder.EmbedTextAsync(t, Lane.Bulk, CancellationToken.None)));
                foreach (TextEmbedding e in embedded)
                {
                    output.Write(MemoryMarshal.AsBytes(e.Text.AsSpan()));
                }
            }
        });
        System.IO.File.Move(temporary, file);
    }
}
