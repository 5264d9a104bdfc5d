using System.Numerics.Tensors;
using System.Text.Json;
using Diptych.Runtimes.Decoding;

namespace Diptych.Runtimes.Encoders;

/// <summary>Runs a pair of towers against the cases that its folder carries: vectors of given ids and pixels.</summary>
internal static class EncoderCases
{
    public static IReadOnlyList<VerifiedCase> Run(string directory)
    {
        PairKind kind = DualEncoder.Kind(directory)!.Value;
        using JsonDocument config = DualEncoder.Config(directory);
        using var weights = new SafeTensorsFile(Path.Combine(directory, "model.safetensors"));
        using var cases = new SafeTensorsFile(Path.Combine(directory, "cases.safetensors"));
        using var text = new TextTower(weights, config.RootElement.GetProperty("text_config"), kind);
        using var image = new ImageTower(weights, config.RootElement.GetProperty("vision_config"), kind);
        var found = new List<VerifiedCase>();
        if (cases.Tensors.TryGetValue("input_ids", out StoredTensor? ids))
        {
            int[] all = [.. cases.Floats(ids).Select(v => (int)v)];
            Compare("text_embeds", [.. all.Chunk(ids.Columns).SelectMany(row => text.Run(row))]);
        }
        if (cases.Tensors.TryGetValue("pixel_values", out StoredTensor? pixels))
        {
            if (pixels.Shape.Count != 4)
            {
                throw new InvalidDataException($"{directory}/cases.safetensors: pixel_values is read as [n, 3, height, width], and has {pixels.Shape.Count} dimensions.");
            }
            float[] all = cases.Floats(pixels);
            Compare(cases.Tensors.ContainsKey("image_embeds") ? "image_embeds" : "image_embeds_of_fp16_pixels", [.. all.Chunk(all.Length / pixels.Shape[0]).SelectMany(picture => image.Run(picture, pixels.Columns))]);
        }
        return found;

        void Compare(string name, float[] actual)
        {
            float[] expected = cases.Tensors.TryGetValue(name, out StoredTensor? tensor) ? cases.Floats(tensor) : [];
            if (actual.Length != expected.Length)
            {
                found.Add(new VerifiedCase(name, double.NaN, false, $"{actual.Length} numbers instead of {expected.Length}"));
                return;
            }
            float[] errors = new float[actual.Length];
            TensorPrimitives.Subtract(actual, expected, errors);
            TensorPrimitives.Abs(errors, errors);
            float worst = TensorPrimitives.Max<float>(errors);
            found.Add(new VerifiedCase(name, worst, worst <= ModelCases.Tolerance, worst <= ModelCases.Tolerance ? null : $"number {TensorPrimitives.IndexOfMax<float>(errors)} is off by {worst}"));
        }
    }
}
