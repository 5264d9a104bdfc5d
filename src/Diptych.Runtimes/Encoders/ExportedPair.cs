using Diptych.Runtimes.Onnx;

namespace Diptych.Runtimes.Encoders;

/// <summary>The ONNX exports of a pair of towers, beneath their folder.</summary>
internal sealed record ExportedPair(string Text, string Image)
{
    /// <summary>Results of an export that has both towers in one file.</summary>
    private const string TextResult = "text_embeds", ImageResult = "image_embeds";

    /// <summary>Where exports lie, the first that is there counts.</summary>
    private static readonly ExportedPair[] Known =
    [
        .. from end in new[] { "", "_quantized", "_int8" } from at in new[] { "", "onnx/" } select new ExportedPair($"{at}text_model{end}.onnx", $"{at}vision_model{end}.onnx"),
    ];

    public static ExportedPair? Find(string directory) => Find(file => File.Exists(Path.Combine(directory, file)));

    /// <param name="all">A model's files.</param>
    public static ExportedPair? Find(IReadOnlyCollection<string> all) => Find(all.Contains);

    /// <summary>Whether a file belongs to the exports that are run, of several that there may be.</summary>
    /// <param name="all">The model's files.</param>
    public static bool IsPart(string file, IReadOnlyCollection<string> all) => Find(all) is { } pair
        // What both were cut from may have left its weights in a file beside it.
        && (file == pair.Text || file == pair.Image || file == $"{pair.Text}_data" || file == $"{pair.Image}_data" || file == $"{pair.Text.Replace("text_model", "model", StringComparison.Ordinal)}_data");

    /// <returns>The export of both towers in one file; null where there is none.</returns>
    public static string? Whole(string directory)
    {
        if (Array.Find(EncoderFolder.Exports, e => File.Exists(Path.Combine(directory, e))) is not { } export)
        {
            return null;
        }
        string[] outputs = [.. new OnnxParts(Path.Combine(directory, export)).Outputs];
        return outputs.Contains(TextResult) && outputs.Contains(ImageResult) ? export : null;
    }

    /// <summary>
    /// Makes one file of each tower where an export has both. A graph runs whole, so that a text would wait for a picture that nobody asked
    /// for; apart, each is loaded and run by itself.
    /// </summary>
    public static void Split(string directory)
    {
        if (Find(directory) is not null || Whole(directory) is not { } whole)
        {
            return;
        }
        string path = Path.Combine(directory, whole), at = Path.GetDirectoryName(path)!, name = Path.GetFileName(path);
        var parts = new OnnxParts(path);
        parts.Cut(TextResult, Path.Combine(at, $"text_{name}"));
        parts.Cut(ImageResult, Path.Combine(at, $"vision_{name}"));
        File.Delete(path);
    }

    private static ExportedPair? Find(Func<string, bool> exists) => Array.Find(Known, pair => exists(pair.Text) && exists(pair.Image));
}
