using System.IO.Hashing;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Runtimes.Onnx;

namespace Diptych.Runtimes.Decoding;

/// <summary>A prompt: ids, and what stands in place of those below zero.</summary>
/// <param name="Ids">An id below zero is a picture's token; its value tells one picture from another.</param>
/// <param name="Pictures">[picture tokens, width], in their order; null where there are none.</param>
public sealed record Prompt(int[] Ids, float[]? Pictures = null)
{
    /// <summary>Whose prompts alone may find what was kept of this one's beginning, and the other way round; empty for anyone's.</summary>
    public string Owner { get; init; } = "";
}

/// <summary>What a decoder sees of a picture.</summary>
/// <param name="Tokens">[tokens, width]</param>
/// <param name="Rows">Tiles from top to bottom; 0 where the picture is not cut into tiles.</param>
/// <param name="Columns">Tiles from left to right.</param>
public sealed record SeenPicture(float[] Tokens, int Rows = 0, int Columns = 0);

/// <summary>
/// Eyes of decoders: Llama 4's own; and an adapter's, where its folder has a projector.onnx beside its matrices, through the starter's
/// image tower. What was seen is kept for a while, since conversations send their pictures again with every turn.
/// </summary>
public sealed class PictureReading
{
    private const long CacheBytes = 64 << 20;

    /// <summary>Beyond this a picture is shrunk before it is cut into tiles: no canvas of tiles is larger.</summary>
    private const int MostSide = 8192;

    private readonly InferenceService _inference;
    private readonly IImageDecoder _images;
    private readonly PreparationPool _preparation;
    private readonly string _starter;
    private readonly Dictionary<string, (string Model, Llama4Eye? Tiled)> _eyes = new(StringComparer.Ordinal);
    private readonly LeastRecentlyUsed<(string Eye, UInt128 Picture), SeenPicture> _seen = new(CacheBytes);

    public PictureReading(InferenceService inference, IImageDecoder images, PreparationPool preparation, string starter) =>
        (_inference, _images, _preparation, _starter) = (inference, images, preparation, starter);

    /// <summary>Makes the eye of an adapter or of a decoder known; it is loaded when it is first asked to see.</summary>
    /// <returns>False where the folder has none.</returns>
    public bool Add(string name, string folder)
    {
        string projector = Path.Combine(folder, "projector.onnx");
        if (File.Exists(projector))
        {
            Add(name, new PictureEye($"{name}-eye", Path.Combine(_starter, "image.onnx"), projector), null);
            return true;
        }
        if (Llama4Eye.Find($"{name}-eye", folder) is { } tiled)
        {
            Add(name, tiled, tiled);
            return true;
        }
        return false;
    }

    private void Add(string name, IModelBackend eye, Llama4Eye? tiled)
    {
        _inference.Add(eye);
        if (_eyes.Count == 0)
        {
            _inference.AddCache("pictures seen", CacheBytes, _seen.Clear);
        }
        _eyes.Add(name, (eye.Description.Name, tiled));
    }

    public bool Sees(string? name) => name is not null && _eyes.ContainsKey(name);

    /// <summary>Tiles of a picture at the most, the whole one more among them; 1 for an eye that takes a picture whole, 0 where there is none.</summary>
    public int MostTiles(string name) => _eyes.TryGetValue(name, out var eye) ? eye.Tiled?.Description.MaxUnits ?? 1 : 0;

    /// <exception cref="InvalidRequestException">The file is no picture that can be read.</exception>
    /// <exception cref="OverloadedException">It would be late.</exception>
    public async Task<SeenPicture> SeeAsync(string name, byte[] file, CancellationToken cancellation)
    {
        var (model, tiled) = _eyes[name];
        var key = (model, XxHash128.HashToUInt128(file));
        if (_seen.TryGet(key, out SeenPicture known))
        {
            return known;
        }
        byte[] pixels;
        Llama4Tiles? tiles = null;
        try
        {
            (pixels, tiles) = await _preparation.RunAsync(() => Prepare(file, tiled, cancellation), Lane.Generate, file.Length, cancellation).ConfigureAwait(false);
        }
        catch (UnreadableException error)
        {
            throw new InvalidRequestException($"A picture of the conversation cannot be used. {error.Message}", error);
        }
        InferenceRequest request = RequestTerms.Current.Apply(new InferenceRequest(model, Lane.Generate, [], pixels), _inference.Time);
        float[] tokens = (await _inference.RunAsync(request, cancellation).ConfigureAwait(false))[PictureEye.Output];
        var seen = new SeenPicture(tokens, tiles?.Rows ?? 0, tiles?.Columns ?? 0);
        _seen.Put(key, seen, sizeof(float) * tokens.LongLength);
        return seen;
    }

    /// <summary>Ids for a picture's tokens: below zero, and the same only for the same picture.</summary>
    internal static IEnumerable<int> Ids(byte[] file, int tokens)
    {
        int seed = (int)(XxHash3.HashToUInt64(file) & 0x3FFF_FFFF);
        return Enumerable.Range(0, tokens).Select(i => -1 - ((seed + i) & 0x3FFF_FFFF));
    }

    private (byte[] Pixels, Llama4Tiles? Tiles) Prepare(byte[] file, Llama4Eye? tiled, CancellationToken cancellation)
    {
        if (tiled is null)
        {
            return (_images.Prepare(file, thumbnail: false, cancellation: cancellation).Pixels, null);
        }
        Llama4Tiles tiles = Llama4Tiles.Cut(_images.Prepare(file, thumbnail: false, fullSide: MostSide, cancellation).Full!, tiled.Side, tiled.MostTiles);
        return (tiles.Pixels, tiles);
    }
}
