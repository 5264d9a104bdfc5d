namespace Diptych.Runtimes.Encoders;

/// <summary>The ONNX exports of a pair of towers, beneath their folder.</summary>
internal sealed record ExportedPair(string Text, string Image)
{
    /// <summary>Where exports lie, the first that is there counts.</summary>
    private static readonly ExportedPair[] Known =
    [
        .. from end in new[] { "", "_quantized", "_int8" } from at in new[] { "", "onnx/" } select new ExportedPair($"{at}text_model{end}.onnx", $"{at}vision_model{end}.onnx"),
    ];

    public static ExportedPair? Find(string directory) => Find(file => File.Exists(Path.Combine(directory, file)));

    /// <summary>Whether a file belongs to the exports that are run, of several that there may be.</summary>
    /// <param name="all">The model's files.</param>
    public static bool IsPart(string file, IReadOnlyCollection<string> all) =>
        Find(all.Contains) is { } pair && (file == pair.Text || file == pair.Image || file == $"{pair.Text}_data" || file == $"{pair.Image}_data");

    /// <param name="all">A model's files.</param>
    public static ExportedPair? Find(IReadOnlyCollection<string> all) => Find(all.Contains);

    private static ExportedPair? Find(Func<string, bool> exists) => Array.Find(Known, pair => exists(pair.Text) && exists(pair.Image));
}
