using System.Numerics.Tensors;
using System.Text.Json;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Llama 4's eye: patches of a tile, a class token behind them, two-dimensional rotary positions, layers with biases, pixel shuffle, and a
/// projection into the decoder's width. One tile at a time.
/// </summary>
public sealed unsafe class Llama4Vision : IDisposable
{
    private readonly int _width, _heads, _side, _patch, _grid;
    private readonly float _theta;
    private readonly WeightMatrix _patches, _adapterIn, _adapterOut, _projector;
    private readonly float[] _class, _positions;
    private readonly (float[] Weight, float[] Bias) _before, _after;
    private readonly Layer[] _layers;
    private readonly List<WeightMatrix> _all = [];

    private Llama4Vision(JsonElement config, Dictionary<string, TensorFile> files)
    {
        _width = config.GetProperty("hidden_size").GetInt32();
        _heads = config.GetProperty("num_attention_heads").GetInt32();
        _side = config.GetProperty("image_size").GetInt32();
        _patch = config.GetProperty("patch_size").GetInt32();
        _grid = _side / _patch;
        _theta = config.TryGetProperty("rope_parameters", out JsonElement rope) ? rope.GetProperty("rope_theta").GetSingle() : config.GetProperty("rope_theta").GetSingle();
        TensorFile Find(string name) => files.GetValueOrDefault(name) ?? throw new InvalidDataException($"The model's files lack '{name}'.");
        WeightMatrix Matrix(string name)
        {
            WeightMatrix matrix = WeightMatrix.Load(Find(name), Find(name).Tensors[name], WeightFormat.F32);
            _all.Add(matrix);
            return matrix;
        }
        float[] Vector(string name) => Find(name).Floats(Find(name).Tensors[name]);
        (float[], float[]) Norm(string name) => (Vector($"{name}.weight"), Vector($"{name}.bias"));
        _patches = Matrix("vision_model.patch_embedding.linear.weight");
        _class = Vector("vision_model.class_embedding");
        _positions = Vector("vision_model.positional_embedding_vlm");
        (_before, _after) = (Norm("vision_model.layernorm_pre"), Norm("vision_model.layernorm_post"));
        _layers = [.. Enumerable.Range(0, config.GetProperty("num_hidden_layers").GetInt32()).Select(l =>
        {
            string at = $"vision_model.model.layers.{l}";
            Linear Of(string name) => new(Matrix($"{at}.{name}.weight"), Vector($"{at}.{name}.bias"));
            return new Layer(
                Norm($"{at}.input_layernorm"), Of("self_attn.q_proj"), Of("self_attn.k_proj"), Of("self_attn.v_proj"), Of("self_attn.o_proj"),
                Norm($"{at}.post_attention_layernorm"), Of("mlp.fc1"), Of("mlp.fc2"));
        })];
        (_adapterIn, _adapterOut) = (Matrix("vision_model.vision_adapter.mlp.fc1.weight"), Matrix("vision_model.vision_adapter.mlp.fc2.weight"));
        _projector = Matrix("multi_modal_projector.linear_1.weight");
    }

    /// <summary>Side of a tile in pixels.</summary>
    public int TileSide => _side;

    /// <summary>Tokens that a tile becomes.</summary>
    public int TokensPerTile => _grid * _grid / 4;

    /// <summary>Opens the eye of a directory in Hugging Face's layout; null where its model has none.</summary>
    /// <exception cref="InvalidDataException">Its weights are not as its configuration says.</exception>
    public static Llama4Vision? Open(string directory)
    {
        using var json = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(directory, "config.json")));
        if (!json.RootElement.TryGetProperty("vision_config", out JsonElement config) || json.RootElement.GetProperty("model_type").GetString() != "llama4")
        {
            return null;
        }
        Dictionary<string, TensorFile> files = Decoder.Files(directory);
        try
        {
            return new Llama4Vision(config, files);
        }
        finally
        {
            foreach (TensorFile file in files.Values.Distinct())
            {
                file.Dispose();
            }
        }
    }

    /// <param name="pixels">[3, side, side], normalised.</param>
    /// <returns>What the eye sees, [tokens per tile, its own output width], and that projected into the decoder's width.</returns>
    internal (float[] Seen, float[] Tokens) Encode(ReadOnlySpan<float> pixels, CoreTeam team)
    {
        int patches = _grid * _grid, n = patches + 1, area = 3 * _patch * _patch;
        using var scratch = new Scratch(((long)patches * area) + (12L * n * _width) + ((long)n * _layers[0].Up.Matrix.Rows) + (8L * n * _projector.Rows));
        float* cut = scratch.Take(patches * area), x = scratch.Take(n * _width), h = scratch.Take(n * _width), o = scratch.Take(n * _width);
        float* q = scratch.Take(n * _width), k = scratch.Take(n * _width), v = scratch.Take(n * _width), inner = scratch.Take(n * _layers[0].Up.Matrix.Rows);
        for (int p = 0; p < patches; p++)
        {
            for (int i = 0; i < area; i++)
            {
                int channel = i / (_patch * _patch), row = (p / _grid * _patch) + (i / _patch % _patch), column = (p % _grid * _patch) + (i % _patch);
                cut[(p * area) + i] = pixels[(((channel * _side) + row) * _side) + column];
            }
        }
        _patches.Multiply(team, cut, patches, x);
        _class.CopyTo(new Span<float>(x + (patches * _width), _width));
        TensorPrimitives.Add(new ReadOnlySpan<float>(x, n * _width), _positions, new Span<float>(x, n * _width));
        LayerNorm(x, _before, x, n);
        foreach (Layer layer in _layers)
        {
            LayerNorm(x, layer.InputNorm, h, n);
            layer.Q.Run(h, n, q, team);
            layer.K.Run(h, n, k, team);
            layer.V.Run(h, n, v, team);
            Rotate(q, patches);
            Rotate(k, patches);
            Attend(q, k, v, h, n);
            layer.O.Run(h, n, o, team);
            Add(o, x, n * _width);
            LayerNorm(x, layer.PostNorm, h, n);
            layer.Up.Run(h, n, inner, team);
            Gelu(inner, n * layer.Up.Matrix.Rows);
            layer.Down.Run(inner, n, o, team);
            Add(o, x, n * _width);
        }
        LayerNorm(x, _after, x, n);
        int tokens = TokensPerTile, wide = 4 * _width;
        float* shuffled = scratch.Take(tokens * wide), first = scratch.Take(tokens * _adapterIn.Rows), second = scratch.Take(tokens * _adapterOut.Rows);
        // Four neighbouring patches become one token of four times the width.
        int half = _grid / 2;
        for (int t = 0; t < tokens; t++)
        {
            for (int part = 0; part < 4; part++)
            {
                int patch = (((2 * (t / half)) + (part / 2)) * _grid) + (2 * (t % half)) + (part % 2);
                new ReadOnlySpan<float>(x + (patch * _width), _width).CopyTo(new Span<float>(shuffled + (t * wide) + (part * _width), _width));
            }
        }
        _adapterIn.Multiply(team, shuffled, tokens, first);
        Gelu(first, tokens * _adapterIn.Rows);
        _adapterOut.Multiply(team, first, tokens, second);
        Gelu(second, tokens * _adapterOut.Rows);
        float[] projected = new float[tokens * _projector.Rows];
        fixed (float* to = projected)
        {
            _projector.Multiply(team, second, tokens, to);
        }
        return (new ReadOnlySpan<float>(second, tokens * _adapterOut.Rows).ToArray(), projected);
    }

    public void Dispose() => _all.ForEach(m => m.Dispose());

    /// <summary>The first half of a head turns by the column, the second by the row; the class token does not turn.</summary>
    private void Rotate(float* x, int patches)
    {
        int hw = _width / _heads, quarter = hw / 4;
        for (int p = 0; p < patches; p++)
        {
            for (int i = 0; i < 2 * quarter; i++)
            {
                float place = i < quarter ? (p % _grid) + 1 : (p / _grid) + 1;
                (float sin, float cos) = MathF.SinCos(place * MathF.Pow(_theta, -2f * (i % quarter) / (hw / 2)));
                for (int head = 0; head < _heads; head++)
                {
                    float* at = x + (p * _width) + (head * hw) + (2 * i);
                    (at[0], at[1]) = ((at[0] * cos) - (at[1] * sin), (at[1] * cos) + (at[0] * sin));
                }
            }
        }
    }

    private void Attend(float* q, float* k, float* v, float* mixed, int n)
    {
        int hw = _width / _heads;
        float[] weights = new float[n];
        for (int i = 0; i < n; i++)
        {
            for (int head = 0; head < _heads; head++)
            {
                var query = new ReadOnlySpan<float>(q + (i * _width) + (head * hw), hw);
                for (int j = 0; j < n; j++)
                {
                    weights[j] = TensorPrimitives.Dot(query, new ReadOnlySpan<float>(k + (j * _width) + (head * hw), hw)) / MathF.Sqrt(hw);
                }
                Softmax.Apply(weights);
                var sum = new Span<float>(mixed + (i * _width) + (head * hw), hw);
                sum.Clear();
                for (int j = 0; j < n; j++)
                {
                    TensorPrimitives.MultiplyAdd(new ReadOnlySpan<float>(v + (j * _width) + (head * hw), hw), weights[j], sum, sum);
                }
            }
        }
    }

    private void LayerNorm(float* x, (float[] Weight, float[] Bias) norm, float* y, int n)
    {
        for (int i = 0; i < n; i++)
        {
            var from = new ReadOnlySpan<float>(x + (i * _width), _width);
            var to = new Span<float>(y + (i * _width), _width);
            TensorPrimitives.Subtract(from, TensorPrimitives.Sum(from) / _width, to);
            TensorPrimitives.Multiply(to, 1 / MathF.Sqrt((TensorPrimitives.SumOfSquares(to) / _width) + 1e-5f), to);
            TensorPrimitives.MultiplyAdd(to, norm.Weight, norm.Bias, to);
        }
    }

    private static void Add(float* from, float* to, int count) =>
        TensorPrimitives.Add(new ReadOnlySpan<float>(to, count), new ReadOnlySpan<float>(from, count), new Span<float>(to, count));

    /// <summary>x Phi(x), with the error function itself and not its usual approximation.</summary>
    private static void Gelu(float* x, int count)
    {
        for (int i = 0; i < count; i++)
        {
            x[i] = (float)(0.5 * x[i] * (1 + Erf(x[i] / Math.Sqrt(2))));
        }
    }

    internal static double Erf(double x)
    {
        double z = Math.Abs(x);
        if (z > 6)
        {
            return Math.Sign(x);
        }
        if (z < 2.5)
        {
            // The Taylor series, whose terms fall from the start here.
            double term = x, sum = x;
            for (int n = 1; Math.Abs(term) > 1e-17 * Math.Abs(sum) && n < 200; n++)
            {
                term *= -x * x / n;
                sum += term / ((2 * n) + 1);
            }
            return sum * 2 / Math.Sqrt(Math.PI);
        }
        // The continued fraction of the complement.
        double fraction = 0;
        for (int n = 60; n > 0; n--)
        {
            fraction = n / 2.0 / (z + fraction);
        }
        return Math.Sign(x) * (1 - (Math.Exp(-z * z) / (Math.Sqrt(Math.PI) * (z + fraction))));
    }

    private sealed record Linear(WeightMatrix Matrix, float[] Bias)
    {
        public void Run(float* x, int n, float* y, CoreTeam team)
        {
            Matrix.Multiply(team, x, n, y);
            for (int i = 0; i < n; i++)
            {
                var row = new Span<float>(y + ((long)i * Matrix.Rows), Matrix.Rows);
                TensorPrimitives.Add(row, Bias, row);
            }
        }
    }

    private sealed record Layer(
        (float[] Weight, float[] Bias) InputNorm, Linear Q, Linear K, Linear V, Linear O, (float[] Weight, float[] Bias) PostNorm, Linear Up, Linear Down);
}
