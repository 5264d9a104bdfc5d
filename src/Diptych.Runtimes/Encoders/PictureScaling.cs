using System.Text.Json;
using Diptych.Inference;
using Diptych.Runtimes.Images;

namespace Diptych.Runtimes.Encoders;

/// <summary>
/// What preprocessor_config.json says of pictures: the size, whether the shorter side is brought to it and the middle cut out, and how
/// numbers are scaled. Resized as Pillow does.
/// </summary>
internal sealed record PictureScaling(int Side, int ShorterSide, bool Crops, float[] Mean, float[] Deviation)
{
    /// <summary>Pillow's numbers of its filters.</summary>
    private const int Bilinear = 2, Bicubic = 3;

    public bool IsBilinear { get; init; }

    /// <exception cref="InvalidDataException">It asks for what is not done here.</exception>
    public static PictureScaling Read(string directory, int side, bool siglip)
    {
        string path = Path.Combine(directory, "preprocessor_config.json");
        PictureScaling usual = siglip
            ? new PictureScaling(side, side, false, [0.5f, 0.5f, 0.5f], [0.5f, 0.5f, 0.5f])
            : new PictureScaling(side, side, true, [0.48145466f, 0.4578275f, 0.40821073f], [0.26862954f, 0.26130258f, 0.27577711f]);
        if (!File.Exists(path))
        {
            return usual;
        }
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            JsonElement c = json.RootElement;
            if (c.TryGetProperty("resample", out JsonElement filter) && filter.ValueKind == JsonValueKind.Number && filter.GetInt32() is not (Bilinear or Bicubic))
            {
                throw new InvalidDataException($"{path}: pictures are resized by filter {filter.GetInt32()}; 2 (bilinear) and 3 (bicubic) are what is done here.");
            }
            float[] Three(string name, float[] otherwise) => c.TryGetProperty(name, out JsonElement values) && values.ValueKind == JsonValueKind.Array && values.GetArrayLength() == 3 ? [.. values.EnumerateArray().Select(v => v.GetSingle())] : otherwise;
            int shorter = !c.TryGetProperty("size", out JsonElement size) ? side
                : size.ValueKind == JsonValueKind.Number ? size.GetInt32()
                : size.TryGetProperty("shortest_edge", out JsonElement edge) ? edge.GetInt32() : size.GetProperty("height").GetInt32();
            bool crops = c.TryGetProperty("do_center_crop", out JsonElement crop) ? crop.ValueKind == JsonValueKind.True : size.ValueKind == JsonValueKind.Object && size.TryGetProperty("shortest_edge", out _);
            return new PictureScaling(side, shorter, crops, Three("image_mean", usual.Mean), Three("image_std", usual.Deviation)) { IsBilinear = filter.ValueKind == JsonValueKind.Number && filter.GetInt32() == Bilinear };
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or KeyNotFoundException or FormatException)
        {
            throw new InvalidDataException($"{path} cannot be read: {error.Message}", error);
        }
    }

    /// <summary>The picture as bytes [side, side, 3].</summary>
    public byte[] Shape(RgbImage picture)
    {
        if (!Crops)
        {
            return Resampling.Resize(picture, Side, Side, IsBilinear);
        }
        // The longer side is cut down to a whole number, as the reference does.
        bool tall = picture.Height > picture.Width;
        int width = tall ? ShorterSide : (int)((long)ShorterSide * picture.Width / picture.Height), height = tall ? (int)((long)ShorterSide * picture.Height / picture.Width) : ShorterSide;
        byte[] resized = Resampling.Resize(picture, width, height, IsBilinear), cut = new byte[3 * Side * Side];
        int left = (width - Side) / 2, top = (height - Side) / 2;
        for (int y = 0; y < Side; y++)
        {
            for (int x = 0; x < Side; x++)
            {
                int fromX = left + x, fromY = top + y;
                if (fromX >= 0 && fromX < width && fromY >= 0 && fromY < height)
                {
                    resized.AsSpan(3 * ((fromY * width) + fromX), 3).CopyTo(cut.AsSpan(3 * ((y * Side) + x)));
                }
            }
        }
        return cut;
    }

    /// <summary>From bytes [side, side, 3] to numbers [3, side, side].</summary>
    public float[] Scale(ReadOnlySpan<byte> rgb)
    {
        int plane = Side * Side;
        float[] planes = new float[3 * plane];
        for (int i = 0; i < plane; i++)
        {
            for (int c = 0; c < 3; c++)
            {
                planes[(c * plane) + i] = ((rgb[(3 * i) + c] / 255f) - Mean[c]) / Deviation[c];
            }
        }
        return planes;
    }
}
