using System.Text.Json;
using Diptych.Core;

namespace Diptych.Runtimes.Encoders;

/// <summary>
/// What preprocessor_config.json says of pictures: the size, whether the shorter side is brought to it and the middle cut out, and how
/// numbers are scaled. Resized as Pillow does.
/// </summary>
/// <param name="Side">Of the picture that comes out; of a square one where it may have any shape.</param>
internal sealed record PictureScaling(int Side, int ShorterSide, bool Crops, float[] Mean, float[] Deviation)
{
    /// <summary>Pillow's numbers of its filters.</summary>
    private const int Bilinear = 2, Bicubic = 3;

    public bool IsBilinear { get; init; }

    /// <summary>For a model that takes pictures of any shape: pixels of a patch's side, and patches at most. Null for one that takes squares.</summary>
    public (int Side, int Most)? Patches { get; init; }

    /// <exception cref="InvalidDataException">It asks for what is not done here.</exception>
    public static PictureScaling Read(string directory, int side, PairKind kind)
    {
        string path = Path.Combine(directory, "preprocessor_config.json");
        PictureScaling usual = kind != PairKind.Clip
            ? new PictureScaling(side, side, false, [0.5f, 0.5f, 0.5f], [0.5f, 0.5f, 0.5f]) { IsBilinear = kind == PairKind.Siglip2 }
            : new PictureScaling(side, side, true, [0.48145466f, 0.4578275f, 0.40821073f], [0.26862954f, 0.26130258f, 0.27577711f]);
        if (!File.Exists(path))
        {
            return kind == PairKind.Siglip2 ? usual.Flexible(16, 256) : usual;
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
            if (kind == PairKind.Siglip2)
            {
                return (usual with { Mean = Three("image_mean", usual.Mean), Deviation = Three("image_std", usual.Deviation), IsBilinear = filter.ValueKind != JsonValueKind.Number || filter.GetInt32() == Bilinear })
                    .Flexible(DualEncoder.Number(c, "patch_size") ?? 16, DualEncoder.Number(c, "max_num_patches") ?? 256);
            }
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

    /// <summary>The picture in the size that the model takes: [side, side, 3], or of its own shape in whole patches.</summary>
    public RgbImage Shape(RgbImage picture)
    {
        if (Patches is not null)
        {
            (int rows, int columns) = Grid(picture.Width, picture.Height);
            return new RgbImage(Resampling.Resize(picture, columns * Patches.Value.Side, rows * Patches.Value.Side, IsBilinear), columns * Patches.Value.Side, rows * Patches.Value.Side);
        }
        return new RgbImage(Crops ? Cut(picture) : Resampling.Resize(picture, Side, Side, IsBilinear), Side, Side);
    }

    /// <summary>The most patches, in rows and columns, that a picture of this shape fills: the largest scale, to a hundred-thousandth, at which they are not too many.</summary>
    internal (int Rows, int Columns) Grid(int width, int height)
    {
        const double Precision = 1e-5, MostScale = 100;
        (int side, int most) = Patches!.Value;
        int Filled(int pixels, double scale) => Math.Max(1, (int)Math.Ceiling(pixels * scale / side));
        double fits = Precision / 10;
        for (double above = MostScale; above - fits >= Precision;)
        {
            double middle = (fits + above) / 2;
            (fits, above) = (long)Filled(width, middle) * Filled(height, middle) <= most ? (middle, above) : (fits, middle);
        }
        return (Filled(height, fits), Filled(width, fits));
    }

    private PictureScaling Flexible(int patch, int most) => this with { Side = patch * (int)Math.Sqrt(most), Patches = (patch, most) };

    private byte[] Cut(RgbImage picture)
    {
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

    /// <summary>From bytes [height, width, 3] to numbers [3, height, width].</summary>
    public float[] Scale(ReadOnlySpan<byte> rgb)
    {
        int plane = rgb.Length / 3;
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
