using System.Security.Cryptography;
using Diptych.Inference;
using Diptych.Runtimes.Onnx;
using Microsoft.ML.OnnxRuntime;

namespace Diptych.Runtimes.Ocr;

/// <summary>
/// A model over pictures of any size. Items of one size run as one tensor, others beside each other: no item is padded for its
/// batchmates, so a result does not depend on them.
/// </summary>
internal sealed class OcrBackend : IModelBackend
{
    private readonly string _path;
    private readonly Func<OrtValue, int, float[][]> _read;

    /// <param name="unitBytes">Bytes of one unit; an item's units are its bytes divided by it.</param>
    /// <param name="probeWidth">Width of a picture with so many units.</param>
    /// <param name="read">The rows of an output tensor, for so many items.</param>
    public OcrBackend(string name, string path, int unitBytes, int maxUnits, Func<int, int> probeWidth, Func<OrtValue, int, float[][]> read)
    {
        (_path, _read) = (path, read);
        using FileStream file = File.OpenRead(path);
        Description = new ModelDescription(
            name, Convert.ToHexStringLower(SHA256.HashData(file))[..12], InputKind.Pixels, new Dictionary<string, int> { ["out"] = 0 }, maxUnits, file.Length, unitBytes, probeWidth);
    }

    public ModelDescription Description { get; }

    public ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation) =>
        ValueTask.FromResult<ILoadedModel>(new Loaded(OnnxRuntime.Open(_path, device), _read));

    private sealed class Loaded(InferenceSession session, Func<OrtValue, int, float[][]> read) : ILoadedModel
    {
        private readonly string[] _inputs = [.. session.InputMetadata.Keys];
        private readonly string[] _outputs = [.. session.OutputMetadata.Keys];

        public ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
        {
            float[][] rows = new float[batch.Count][];
            foreach (var group in Enumerable.Range(0, batch.Count).GroupBy(i => (Width: batch.Widths![i], Bytes: batch.Offsets[i + 1] - batch.Offsets[i])))
            {
                int[] items = [.. group];
                int width = group.Key.Width, height = group.Key.Bytes / (3 * width), plane = width * height;
                float[] values = new float[items.Length * 3 * plane];
                for (int i = 0; i < items.Length; i++)
                {
                    ToPlanes(batch.Pixels.AsSpan(batch.Offsets[items[i]], 3 * plane), values.AsSpan(i * 3 * plane, 3 * plane));
                }
                using var input = OrtValue.CreateTensorValueFromMemory(values, [items.Length, 3, height, width]);
                using IDisposableReadOnlyCollection<OrtValue> outputs = OnnxRuntime.Run(session, _inputs, [input], _outputs);
                float[][] found = read(outputs[0], items.Length);
                for (int i = 0; i < items.Length; i++)
                {
                    rows[items[i]] = found[i];
                }
            }
            return ValueTask.FromResult(new BatchOutput(new Dictionary<string, float[][]> { ["out"] = rows }));
        }

        public ValueTask DisposeAsync()
        {
            session.Dispose();
            return ValueTask.CompletedTask;
        }

        /// <summary>(x / 255 - 0.5) / 0.5, blue first.</summary>
        private static void ToPlanes(ReadOnlySpan<byte> rgb, Span<float> planes)
        {
            int plane = rgb.Length / 3;
            for (int i = 0, j = 0; i < plane; i++, j += 3)
            {
                planes[i] = Scale(rgb[j + 2]);
                planes[plane + i] = Scale(rgb[j + 1]);
                planes[(2 * plane) + i] = Scale(rgb[j]);
            }
        }

        private static float Scale(byte value) => (value / 127.5f) - 1;
    }
}
