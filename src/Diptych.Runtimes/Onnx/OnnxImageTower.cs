using System.Numerics.Tensors;
using Diptych.Inference;
using Microsoft.ML.OnnxRuntime;

namespace Diptych.Runtimes.Onnx;

/// <summary>An image tower as Optimum exports it: pixel_values [n, 3, side, side] to vectors, which are brought to unit length.</summary>
/// <param name="scale">From bytes [side, side, 3] to numbers [3, side, side].</param>
internal sealed class OnnxImageTower(ModelDescription description, string path, int side, Func<ReadOnlyMemory<byte>, float[]> scale) : IModelBackend
{
    private static readonly string[] Outputs = ["image_embeds", "pooler_output"];

    public ModelDescription Description => description;

    public ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation)
    {
        InferenceSession session = OnnxRuntime.Open(path, device);
        if (!session.InputMetadata.ContainsKey("pixel_values") || session.InputMetadata.Count != 1 || Array.Find(Outputs, session.OutputMetadata.ContainsKey) is not { } output || session.OutputMetadata[output].ElementType != typeof(float))
        {
            string has = $"{string.Join(", ", session.InputMetadata.Keys)} to {string.Join(", ", session.OutputMetadata.Keys)}";
            session.Dispose();
            throw new InvalidDataException($"{path} is no image tower that can be run: it takes {has}; pixel_values to {string.Join(" or ", Outputs)}, in single precision, is what is run.");
        }
        return ValueTask.FromResult<ILoadedModel>(new Loaded(session, output, side, scale, description.Outputs.Keys.Single()));
    }

    private sealed class Loaded(InferenceSession session, string output, int side, Func<ReadOnlyMemory<byte>, float[]> scale, string name) : ILoadedModel
    {
        public ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
        {
            float[] pixels = new float[batch.Count * 3 * side * side];
            for (int i = 0; i < batch.Count; i++)
            {
                scale(batch.Pixels.AsMemory(batch.Offsets[i], batch.Offsets[i + 1] - batch.Offsets[i])).CopyTo(pixels, i * 3 * side * side);
            }
            using OrtValue input = OrtValue.CreateTensorValueFromMemory(pixels, [batch.Count, 3, side, side]);
            using IDisposableReadOnlyCollection<OrtValue> outputs = OnnxRuntime.Run(session, ["pixel_values"], [input], [output]);
            float[][] rows = BatchOutput.Cut(outputs[0].GetTensorDataAsSpan<float>(), batch.Count);
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
    }
}
