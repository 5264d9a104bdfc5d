using System.Security.Cryptography;
using Diptych.Inference;
using Microsoft.ML.OnnxRuntime;

namespace Diptych.Runtimes.Onnx;

/// <summary>Runs an ONNX file: a text tower (token ids and mask) or an image tower (pixels).</summary>
public sealed class OnnxBackend : IModelBackend
{
    private readonly string _path;
    private readonly PixelScaling? _scaling;

    private OnnxBackend(string path, ModelDescription description, PixelScaling? scaling)
    {
        _path = path;
        _scaling = scaling;
        Description = description;
    }

    public ModelDescription Description { get; }

    /// <param name="outputs">Name and width of the outputs to compute; others of the file are not asked for.</param>
    public static OnnxBackend Text(string name, string path, int maxTokens, IReadOnlyDictionary<string, int> outputs) =>
        new(path, Describe(name, path, InputKind.Tokens, maxTokens, outputs, 0), null);

    public static OnnxBackend Image(string name, string path, PixelScaling scaling, IReadOnlyDictionary<string, int> outputs) =>
        new(path, Describe(name, path, InputKind.Pixels, 1, outputs, 3 * scaling.Side * scaling.Side), scaling);

    public ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation) =>
        ValueTask.FromResult<ILoadedModel>(new Loaded(OnnxRuntime.Open(_path, device), [.. Description.Outputs.Keys], _scaling));

    private sealed class Loaded(InferenceSession session, string[] outputNames, PixelScaling? scaling) : ILoadedModel
    {
        public ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
        {
            using DisposableList<OrtValue> inputs = scaling is null ? TokenInputs(batch) : PixelInputs(batch, scaling);
            string[] names = scaling is null ? ["input_ids", "attention_mask"] : ["pixels"];
            using IDisposableReadOnlyCollection<OrtValue> outputs = OnnxRuntime.Run(session, names, inputs, outputNames);
            var rows = new Dictionary<string, float[][]>(outputNames.Length);
            for (int i = 0; i < outputNames.Length; i++)
            {
                rows[outputNames[i]] = BatchOutput.Cut(outputs[i].GetTensorDataAsSpan<float>(), batch.Count);
            }
            return ValueTask.FromResult(new BatchOutput(rows));
        }

        public ValueTask DisposeAsync()
        {
            session.Dispose();
            return ValueTask.CompletedTask;
        }
    }

    private static ModelDescription Describe(string name, string path, InputKind kind, int maxUnits, IReadOnlyDictionary<string, int> outputs, int unitBytes)
    {
        using FileStream file = File.OpenRead(path);
        string revision = Convert.ToHexStringLower(SHA256.HashData(file))[..12];
        return new ModelDescription(name, revision, kind, outputs, maxUnits, file.Length, unitBytes);
    }

    private static DisposableList<OrtValue> TokenInputs(Batch batch)
    {
        int longest = 0;
        for (int i = 0; i < batch.Count; i++)
        {
            longest = Math.Max(longest, batch.Offsets[i + 1] - batch.Offsets[i]);
        }
        long[] ids = new long[batch.Count * longest], mask = new long[batch.Count * longest];
        for (int i = 0; i < batch.Count; i++)
        {
            for (int j = batch.Offsets[i]; j < batch.Offsets[i + 1]; j++)
            {
                int at = (i * longest) + j - batch.Offsets[i];
                ids[at] = batch.Tokens[j];
                mask[at] = 1;
            }
        }
        long[] shape = [batch.Count, longest];
        return [OrtValue.CreateTensorValueFromMemory(ids, shape), OrtValue.CreateTensorValueFromMemory(mask, shape)];
    }

    private static DisposableList<OrtValue> PixelInputs(Batch batch, PixelScaling scaling)
    {
        int plane = scaling.Side * scaling.Side;
        float[] values = new float[batch.Count * 3 * plane];
        for (int i = 0; i < batch.Count; i++)
        {
            scaling.ToChannelsFirst(batch.Pixels.AsSpan(batch.Offsets[i], 3 * plane), values.AsSpan(i * 3 * plane, 3 * plane));
        }
        return [OrtValue.CreateTensorValueFromMemory(values, [batch.Count, 3, scaling.Side, scaling.Side])];
    }
}

/// <summary>From RGB bytes [side, side, 3] to (value - offset) / divisor, channels first [3, side, side].</summary>
public sealed record PixelScaling(int Side, float Offset, float Divisor)
{
    public static PixelScaling Starter { get; } = new(224, 127, 128);

    public void ToChannelsFirst(ReadOnlySpan<byte> rgb, Span<float> planes)
    {
        int plane = Side * Side;
        Span<float> table = stackalloc float[256];
        for (int i = 0; i < 256; i++)
        {
            table[i] = (i - Offset) / Divisor;
        }
        Span<float> red = planes[..plane], green = planes.Slice(plane, plane), blue = planes.Slice(2 * plane, plane);
        for (int i = 0, j = 0; i < plane; i++, j += 3)
        {
            red[i] = table[rgb[j]];
            green[i] = table[rgb[j + 1]];
            blue[i] = table[rgb[j + 2]];
        }
    }
}

internal sealed class DisposableList<T> : List<T>, IDisposable
    where T : IDisposable
{
    public void Dispose()
    {
        foreach (T item in this)
        {
            item.Dispose();
        }
    }
}
