using System.Numerics.Tensors;
using Diptych.Inference;
using Diptych.Runtimes.Encoders;
using Microsoft.ML.OnnxRuntime;

namespace Diptych.Runtimes.Onnx;

/// <summary>
/// An image tower as Optimum exports it: pixel_values [n, 3, side, side] to vectors, which are brought to unit length. One that takes any shape
/// has pixel_values [n, patches, numbers], what of them is picture (pixel_attention_mask), and rows and columns (spatial_shapes).
/// </summary>
internal sealed class OnnxImageTower(ModelDescription description, string path, PictureScaling scaling) : IModelBackend
{
    private const string Pixels = "pixel_values", Mask = "pixel_attention_mask", Shapes = "spatial_shapes";
    private static readonly string[] Outputs = ["image_embeds", "pooler_output"];

    public ModelDescription Description => description;

    public ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation)
    {
        InferenceSession session = OnnxRuntime.Open(path, device);
        string[] inputs = scaling.Patches is null ? [Pixels] : [Pixels, Mask, Shapes];
        if (!inputs.ToHashSet(StringComparer.Ordinal).SetEquals(session.InputMetadata.Keys) || Array.Find(Outputs, session.OutputMetadata.ContainsKey) is not { } output || session.OutputMetadata[output].ElementType != typeof(float))
        {
            string has = $"{string.Join(", ", session.InputMetadata.Keys)} to {string.Join(", ", session.OutputMetadata.Keys)}";
            session.Dispose();
            throw new InvalidDataException($"{path} is no image tower that can be run: it takes {has}; {string.Join(", ", inputs)} to {string.Join(" or ", Outputs)}, in single precision, is what is run.");
        }
        string name = description.Outputs.Keys.Single();
        return ValueTask.FromResult<ILoadedModel>(scaling.Patches is null ? new Square(session, output, scaling, name) : new Patched(session, output, scaling, name));
    }

    private abstract class Loaded(InferenceSession session, string output, string name) : ILoadedModel
    {
        public ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
        {
            float[][] rows = Run(batch);
            foreach (float[] row in rows)
            {
                TensorPrimitives.Divide(row, Math.Max(TensorPrimitives.Norm<float>(row), 1e-12f), row);
            }
            return ValueTask.FromResult(new BatchOutput(new Dictionary<string, float[][]> { [name] = rows }));
        }

        public ValueTask DisposeAsync()
        {
            session.Dispose();
            return ValueTask.CompletedTask;
        }

        protected abstract float[][] Run(Batch batch);

        protected float[][] Run(int pictures, params (string Name, OrtValue Value)[] inputs)
        {
            using IDisposableReadOnlyCollection<OrtValue> outputs = OnnxRuntime.Run(session, [.. inputs.Select(i => i.Name)], [.. inputs.Select(i => i.Value)], [output]);
            return BatchOutput.Cut(outputs[0].GetTensorDataAsSpan<float>(), pictures);
        }
    }

    private sealed class Square(InferenceSession session, string output, PictureScaling scaling, string name) : Loaded(session, output, name)
    {
        protected override float[][] Run(Batch batch)
        {
            int side = scaling.Side, size = 3 * side * side;
            float[] pixels = new float[batch.Count * size];
            for (int i = 0; i < batch.Count; i++)
            {
                scaling.Scale(batch.Pixels.AsSpan(batch.Offsets[i], batch.Offsets[i + 1] - batch.Offsets[i])).CopyTo(pixels, i * size);
            }
            using OrtValue input = OrtValue.CreateTensorValueFromMemory(pixels, [batch.Count, 3, side, side]);
            return Run(batch.Count, (Pixels, input));
        }
    }

    /// <summary>One picture at a time: exports resize their positions in a loop that is as long as the batch they were traced with.</summary>
    private sealed class Patched(InferenceSession session, string output, PictureScaling scaling, string name) : Loaded(session, output, name)
    {
        private readonly bool _wideMask = session.InputMetadata[Mask].ElementType == typeof(long), _wideShapes = session.InputMetadata[Shapes].ElementType == typeof(long);

        protected override float[][] Run(Batch batch)
        {
            (int patch, int most) = scaling.Patches!.Value;
            float[][] vectors = new float[batch.Count][];
            for (int i = 0; i < batch.Count; i++)
            {
                ReadOnlySpan<byte> rgb = batch.Pixels.AsSpan(batch.Offsets[i], batch.Offsets[i + 1] - batch.Offsets[i]);
                int width = batch.Widths?[i] ?? scaling.Side, height = rgb.Length / (3 * width), columns = width / patch, rows = height / patch, size = 3 * patch * patch;
                float[] planes = scaling.Scale(rgb), patches = new float[most * size];
                // A patch's pixels one after the other, each with its three colours.
                for (int at = 0, p = 0; p < rows * columns; p++)
                {
                    for (int y = p / columns * patch; y < (p / columns * patch) + patch; y++)
                    {
                        for (int x = p % columns * patch; x < (p % columns * patch) + patch; x++)
                        {
                            for (int c = 0; c < 3; c++)
                            {
                                patches[at++] = planes[(((c * height) + y) * width) + x];
                            }
                        }
                    }
                }
                long[] mask = new long[most];
                Array.Fill(mask, 1, 0, rows * columns);
                using OrtValue pixels = OrtValue.CreateTensorValueFromMemory(patches, [1, most, size]), there = Whole(mask, [1, most], _wideMask), shape = Whole([rows, columns], [1, 2], _wideShapes);
                vectors[i] = Run(1, (Pixels, pixels), (Mask, there), (Shapes, shape))[0];
            }
            return vectors;
        }

        private static OrtValue Whole(long[] numbers, long[] shape, bool wide) =>
            wide ? OrtValue.CreateTensorValueFromMemory(numbers, shape) : OrtValue.CreateTensorValueFromMemory<int>([.. numbers.Select(n => (int)n)], shape);
    }
}
