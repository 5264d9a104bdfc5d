using System.IO.Hashing;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Runtimes.Onnx;

namespace Diptych.Runtimes.Decoding;

/// <summary>A prompt: ids, and what stands in place of those below zero.</summary>
/// <param name="Ids">An id below zero is a picture's token; its value tells one picture from another.</param>
/// <param name="Pictures">[picture tokens, width], in their order; null where there are none.</param>
public sealed record Prompt(int[] Ids, float[]? Pictures = null);

/// <summary>Eyes of adapters: a folder with a projector.onnx beside its matrices lets its decoder see through the starter's image tower.</summary>
public sealed class PictureReading(InferenceService inference, IImageDecoder images, PreparationPool preparation, string starter)
{
    private readonly Dictionary<string, string> _eyes = new(StringComparer.Ordinal);

    /// <summary>Makes an adapter's eye known; it is loaded when it is first asked to see.</summary>
    /// <returns>False where the folder has none.</returns>
    public bool Add(string adapter, string folder)
    {
        string projector = Path.Combine(folder, "projector.onnx");
        if (!File.Exists(projector))
        {
            return false;
        }
        var eye = new PictureEye($"{adapter}-eye", Path.Combine(starter, "image.onnx"), projector);
        inference.Add(eye);
        _eyes.Add(adapter, eye.Description.Name);
        return true;
    }

    public bool Sees(string? adapter) => adapter is not null && _eyes.ContainsKey(adapter);

    /// <returns>[tokens, width]</returns>
    /// <exception cref="InvalidRequestException">The file is no picture that can be read.</exception>
    /// <exception cref="OverloadedException">It would be late.</exception>
    public async Task<float[]> SeeAsync(string adapter, byte[] file, CancellationToken cancellation)
    {
        PreparedImage picture;
        try
        {
            picture = await preparation.RunAsync(() => images.Prepare(file, thumbnail: false), Lane.Generate, file.Length, cancellation).ConfigureAwait(false);
        }
        catch (InvalidDataException error)
        {
            throw new InvalidRequestException($"A picture of the conversation cannot be used. {error.Message}", error);
        }
        RequestTerms terms = RequestTerms.Current;
        var request = new InferenceRequest(_eyes[adapter], terms.Lane ?? Lane.Generate, [], picture.Pixels, terms.Left(inference.Time), terms.Tenant);
        return (await inference.RunAsync(request, cancellation).ConfigureAwait(false))[PictureEye.Output];
    }

    /// <summary>Ids for a picture's tokens: below zero, and the same only for the same picture.</summary>
    internal static IEnumerable<int> Ids(byte[] file, int tokens)
    {
        int seed = (int)(XxHash3.HashToUInt64(file) & 0x3FFF_FFFF);
        return Enumerable.Range(0, tokens).Select(i => -1 - ((seed + i) & 0x3FFF_FFFF));
    }
}
