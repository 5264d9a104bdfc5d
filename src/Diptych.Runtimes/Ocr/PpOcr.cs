using System.Text;
using Diptych.Core;
using Diptych.Inference;
using Microsoft.ML.OnnxRuntime;

namespace Diptych.Runtimes.Ocr;

/// <summary>
/// PP-OCRv4 (Apache-2.0): a detector finds lines at any angle, a classifier turns those upside down, a recogniser reads them. Each
/// is a model of the service, so that reading a picture is scheduled, bounded and accounted for as everything else is.
/// </summary>
public sealed class PpOcr : IPictureReader
{
    public const string DetectorName = "ppocr-detector";
    public const string ClassifierName = "ppocr-classifier";
    public const string RecogniserName = "ppocr-recogniser";

    private const int LineHeight = 48;
    private const int ClassifierWidth = 192;
    private const int DetectorSide = 736;
    private const int Grid = 32;

    /// <summary>A recogniser's canvas grows in steps, so that lines of near lengths share a batch.</summary>
    private const int CanvasStep = 64;
    private const int LeastCanvas = 320;
    private const int MostCanvas = 3200;
    private const float TurnThreshold = 0.9f;
    private const double LeastScore = 0.5;

    private readonly InferenceService _service;
    private readonly string[] _characters;

    private PpOcr(InferenceService service, string[] characters) => (_service, _characters) = (service, characters);

    public int MaxSide => 2000;

    /// <summary>The files of a folder with PP-OCR models; null where it has none.</summary>
    public static (string Detector, string Classifier, string Recogniser, string Characters)? Find(string directory)
    {
        string? One(string pattern) => Directory.EnumerateFiles(directory, pattern).Order(StringComparer.Ordinal).FirstOrDefault();
        return One("*det*.onnx") is { } detector && One("*cls*.onnx") is { } classifier && One("*rec*.onnx") is { } recogniser && One("*keys*.txt") is { } characters
            ? (detector, classifier, recogniser, characters)
            : null;
    }

    /// <summary>Adds the models of a folder to the service, and reads with them.</summary>
    /// <exception cref="FileNotFoundException">The folder lacks one of the files.</exception>
    public static PpOcr Open(string directory, InferenceService service)
    {
        var (detector, classifier, recogniser, characters) = Find(directory)
            ?? throw new FileNotFoundException($"{directory} lacks one of: a detector (*det*.onnx), a classifier (*cls*.onnx), a recogniser (*rec*.onnx), its characters (*keys*.txt).");
        // The first class is "no character", the last is the space.
        string[] list = ["", .. File.ReadAllText(characters).TrimEnd('\n').Split('\n').Select(c => c.TrimEnd('\r')), " "];
        service.Add(new OcrBackend(DetectorName, detector, 3 * Grid * Grid, 4096, units => Grid * Math.Max(1, (int)Math.Sqrt(units)), (value, count) => BatchOutput.Cut(value.GetTensorDataAsSpan<float>(), count)));
        service.Add(new OcrBackend(ClassifierName, classifier, 3 * LineHeight * ClassifierWidth, 1, _ => ClassifierWidth, (value, count) => BatchOutput.Cut(value.GetTensorDataAsSpan<float>(), count)));
        service.Add(new OcrBackend(RecogniserName, recogniser, 3 * LineHeight, MostCanvas, units => units, Best));
        return new PpOcr(service, list);
    }

    public async Task<IReadOnlyList<TextLine>> ReadAsync(RgbImage picture, Lane lane, CancellationToken cancellation)
    {
        RgbImage whole = Heightened(picture);
        var (width, height) = DetectorSize(whole.Width, whole.Height);
        RgbImage seen = Raster.Resize(whole, width, height);
        float[] map = await RunAsync(DetectorName, seen.Pixels, width, lane, cancellation).ConfigureAwait(false);
        List<Quad> quads = TextRegions.Find(map, width, height, whole.Width, whole.Height);
        TextLine?[] lines = await Task.WhenAll(quads.Select(q => ReadAsync(whole, q, lane, cancellation))).ConfigureAwait(false);
        return [.. lines.OfType<TextLine>().Select(l => l with { Corners = [.. l.Corners.Select((c, i) => Math.Min(c, i % 2 == 0 ? picture.Width : picture.Height))] })];
    }

    private async Task<TextLine?> ReadAsync(RgbImage picture, Quad quad, Lane lane, CancellationToken cancellation)
    {
        RgbImage line = Raster.Cut(picture, quad);
        int narrow = Math.Clamp((int)Math.Ceiling((double)LineHeight * line.Width / line.Height), 1, ClassifierWidth);
        float[] turned = await RunAsync(ClassifierName, Raster.OnCanvas(Raster.Resize(line, narrow, LineHeight), ClassifierWidth), ClassifierWidth, lane, cancellation).ConfigureAwait(false);
        if (turned[1] > turned[0] && turned[1] > TurnThreshold)
        {
            line = Raster.HalfTurned(line);
        }
        int wide = Math.Clamp((int)Math.Ceiling((double)LineHeight * line.Width / line.Height), 1, MostCanvas);
        int canvas = Math.Min(MostCanvas, Math.Max(LeastCanvas, (wide + CanvasStep - 1) / CanvasStep * CanvasStep));
        float[] steps = await RunAsync(RecogniserName, Raster.OnCanvas(Raster.Resize(line, wide, LineHeight), canvas), canvas, lane, cancellation).ConfigureAwait(false);
        var (text, score) = Decode(steps);
        return score >= LeastScore && text.Trim().Length > 0 ? new TextLine(text.Trim(), score, quad.Corners) : null;
    }

    private async Task<float[]> RunAsync(string model, byte[] pixels, int width, Lane lane, CancellationToken cancellation)
    {
        RequestTerms terms = RequestTerms.Current;
        var request = new InferenceRequest(model, lane, [], pixels, terms.Left(_service.Time), terms.Tenant, width);
        return (await _service.RunAsync(request, cancellation).ConfigureAwait(false))["out"];
    }

    /// <summary>A picture of a single line is given white above and below, without which the detector sees nothing.</summary>
    private static RgbImage Heightened(RgbImage picture)
    {
        int height = Math.Max(picture.Width / 8, 30);
        if (picture.Height > 30 && picture.Width <= 8 * picture.Height)
        {
            return picture;
        }
        byte[] pixels = new byte[picture.Width * (picture.Height + height) * 3];
        pixels.AsSpan().Fill(255);
        picture.Pixels.CopyTo(pixels, 0);
        return new RgbImage(pixels, picture.Width, picture.Height + height);
    }

    /// <summary>The shorter side at least 736, both multiples of 32, within what the detector's largest input holds.</summary>
    private static (int Width, int Height) DetectorSize(int width, int height)
    {
        double scale = Math.Max(1, (double)DetectorSide / Math.Min(width, height));
        scale = Math.Min(scale, Math.Sqrt(4000.0 * Grid * Grid / ((double)width * height)));
        static int OnGrid(double side) => Math.Max(Grid, (int)Math.Round((int)side / (double)Grid) * Grid);
        return (OnGrid(width * scale), OnGrid(height * scale));
    }

    /// <summary>Connectionist temporal classification, greedily: repeated classes are one, and class 0 is none (Graves et al. 2006).</summary>
    private (string Text, double Score) Decode(float[] steps)
    {
        var text = new StringBuilder();
        double sum = 0;
        int count = 0, last = 0;
        for (int i = 0; i < steps.Length; i += 2)
        {
            int c = (int)steps[i];
            if (c != 0 && c != last)
            {
                text.Append(c < _characters.Length ? _characters[c] : "");
                sum += steps[i + 1];
                count++;
            }
            last = c;
        }
        return (text.ToString(), count == 0 ? 0 : sum / count);
    }

    /// <summary>Of the probabilities [n, t, classes] only the best class and its probability leave the model: [n, 2 t].</summary>
    private static float[][] Best(OrtValue value, int count)
    {
        long[] shape = value.GetTensorTypeAndShape().Shape;
        int steps = (int)shape[1], classes = (int)shape[2];
        ReadOnlySpan<float> all = value.GetTensorDataAsSpan<float>();
        float[][] rows = new float[count][];
        for (int i = 0; i < count; i++)
        {
            rows[i] = new float[2 * steps];
            for (int t = 0; t < steps; t++)
            {
                ReadOnlySpan<float> step = all.Slice(((i * steps) + t) * classes, classes);
                int best = System.Numerics.Tensors.TensorPrimitives.IndexOfMax(step);
                (rows[i][2 * t], rows[i][(2 * t) + 1]) = (best, step[best]);
            }
        }
        return rows;
    }
}
