using System.Text.Json;
using Diptych.Inference;

namespace Diptych.Runtimes.Decoding;

/// <summary>Llama 4's eye as a model of the inference service: an item is a picture's tiles, and becomes their tokens.</summary>
internal sealed class Llama4Eye : IModelBackend
{
    public const string Output = "soft_tokens";
    private readonly string _directory;

    private Llama4Eye(string name, string directory, int side, int mostTiles, long weightBytes)
    {
        (_directory, Side, MostTiles) = (directory, side, mostTiles);
        // Where there are several tiles the whole picture is one more.
        Description = new ModelDescription(name, Path.GetFileName(directory), InputKind.Pixels, new Dictionary<string, int> { [Output] = 0 }, mostTiles + 1, weightBytes, 3 * side * side);
    }

    public ModelDescription Description { get; }

    /// <summary>Of a tile, in pixels.</summary>
    public int Side { get; }

    public int MostTiles { get; }

    /// <returns>Null where the directory's model has no such eye.</returns>
    public static Llama4Eye? Find(string name, string directory)
    {
        if (!File.Exists(Path.Combine(directory, "config.json")))
        {
            return null;
        }
        using var json = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(directory, "config.json")));
        if (!json.RootElement.TryGetProperty("vision_config", out JsonElement vision) || json.RootElement.GetProperty("model_type").GetString() != "llama4")
        {
            return null;
        }
        string preprocessing = Path.Combine(directory, "preprocessor_config.json");
        int most = 16;
        if (File.Exists(preprocessing))
        {
            using var settings = JsonDocument.Parse(File.ReadAllBytes(preprocessing));
            most = settings.RootElement.TryGetProperty("max_patches", out JsonElement patches) ? patches.GetInt32() : most;
        }
        long width = vision.GetProperty("hidden_size").GetInt32(), inner = vision.GetProperty("intermediate_size").GetInt32();
        return new Llama4Eye(name, directory, vision.GetProperty("image_size").GetInt32(), most, sizeof(float) * vision.GetProperty("num_hidden_layers").GetInt32() * ((4 * width * width) + (2 * width * inner)));
    }

    public ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation) => device.Name == "cpu"
        ? ValueTask.FromResult<ILoadedModel>(new Loaded(Llama4Vision.Open(_directory)!))
        : throw new Core.InvalidRequestException($"{Description.Name} runs on the cpu, not on '{device.Name}'.");

    private sealed class Loaded(Llama4Vision vision) : ILoadedModel
    {
        public ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
        {
            using var team = new CoreTeam(1);
            int tile = 3 * vision.TileSide * vision.TileSide;
            float[] pixels = new float[tile];
            float[][] rows = new float[batch.Count][];
            for (int i = 0; i < batch.Count; i++)
            {
                var tokens = new List<float>();
                for (int from = batch.Offsets[i]; from < batch.Offsets[i + 1]; from += tile)
                {
                    Llama4Tiles.Scale(batch.Pixels.AsSpan(from, tile), pixels);
                    tokens.AddRange(vision.Encode(pixels, team).Tokens);
                }
                rows[i] = [.. tokens];
            }
            return ValueTask.FromResult(new BatchOutput(new Dictionary<string, float[][]> { [Output] = rows }));
        }

        public ValueTask DisposeAsync()
        {
            vision.Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
