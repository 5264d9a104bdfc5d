using System.Security.Cryptography;
using Diptych.Inference;
using Microsoft.ML.OnnxRuntime;

namespace Diptych.Runtimes.Onnx;

/// <summary>
/// What lets a decoder see: the starter image tower up to its patches [49, 1280], and a projector of patches to soft tokens
/// [tokens, decoder width], which stand in a prompt where words would.
/// </summary>
internal sealed class PictureEye : IModelBackend
{
    public const string Output = "soft_tokens";
    private static readonly PixelScaling Scaling = PixelScaling.Starter;
    private readonly string _tower;
    private readonly string _projector;

    /// <param name="tower">The starter's image.onnx.</param>
    public PictureEye(string name, string tower, string projector)
    {
        (_tower, _projector) = (tower, projector);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (string file in new[] { tower, projector })
        {
            hash.AppendData(File.ReadAllBytes(file));
        }
        Description = new ModelDescription(
            name, Convert.ToHexStringLower(hash.GetHashAndReset())[..12], InputKind.Pixels, new Dictionary<string, int> { [Output] = 0 }, 1,
            new FileInfo(tower).Length + new FileInfo(projector).Length, 3 * Scaling.Side * Scaling.Side);
    }

    public ModelDescription Description { get; }

    public ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation)
    {
        InferenceSession tower = OnnxRuntime.Open(_tower, device);
        try
        {
            return ValueTask.FromResult<ILoadedModel>(new Loaded(tower, OnnxRuntime.Open(_projector, device)));
        }
        catch
        {
            tower.Dispose();
            throw;
        }
    }

    private sealed class Loaded(InferenceSession tower, InferenceSession projector) : ILoadedModel
    {
        public ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
        {
            int plane = Scaling.Side * Scaling.Side;
            float[][] rows = new float[batch.Count][];
            // One after another: a picture's tokens are the same whatever comes beside it.
            for (int i = 0; i < batch.Count; i++)
            {
                float[] pixels = new float[3 * plane];
                Scaling.ToChannelsFirst(batch.Pixels.AsSpan(batch.Offsets[i], 3 * plane), pixels);
                using var input = OrtValue.CreateTensorValueFromMemory(pixels, [1, 3, Scaling.Side, Scaling.Side]);
                using IDisposableReadOnlyCollection<OrtValue> patches = OnnxRuntime.Run(tower, ["pixels"], [input], ["patches"]);
                using IDisposableReadOnlyCollection<OrtValue> tokens = OnnxRuntime.Run(projector, [.. projector.InputMetadata.Keys], [patches[0]], [.. projector.OutputMetadata.Keys]);
                rows[i] = tokens[0].GetTensorDataAsSpan<float>().ToArray();
            }
            return ValueTask.FromResult(new BatchOutput(new Dictionary<string, float[][]> { [Output] = rows }));
        }

        public ValueTask DisposeAsync()
        {
            tower.Dispose();
            projector.Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
