using System.Numerics.Tensors;
using System.Text.Json;
using Diptych.Core;
using Diptych.Runtimes.Decoding;

namespace Diptych.Runtimes.Encoders;

/// <summary>
/// A tower of CLIP (Radford et al. 2021) or SigLIP (Zhai et al. 2023), from the safetensors of Hugging Face's layout: layers of attention and
/// a feed-forward part, each behind a norm. One item at a time, so that a result does not depend on its batchmates.
/// </summary>
internal abstract unsafe class EncoderTower : IDisposable
{
    private readonly List<WeightMatrix> _all = [];
    private readonly SafeTensorsFile _file;
    private readonly Layer[] _layers;
    private readonly bool _causal;
    private readonly Action<Span<float>> _activation;

    /// <summary>What a config leaves out is what transformers takes then.</summary>
    /// <param name="settings">text_config or vision_config.</param>
    protected EncoderTower(SafeTensorsFile file, JsonElement settings, PairKind kind, string prefix, bool text)
    {
        bool clip = kind == PairKind.Clip;
        (_file, _causal) = (file, clip && text);
        Width = Int(settings, "hidden_size", clip && text ? 512 : 768);
        Heads = Int(settings, "num_attention_heads", clip && text ? 8 : 12);
        Epsilon = settings.TryGetProperty("layer_norm_eps", out JsonElement epsilon) ? epsilon.GetSingle() : clip ? 1e-5f : 1e-6f;
        _activation = (settings.TryGetProperty("hidden_act", out JsonElement act) ? act.GetString() : clip ? "quick_gelu" : "gelu_pytorch_tanh") switch
        {
            "quick_gelu" => QuickGelu,
            "gelu_pytorch_tanh" => GeluTanh,
            "gelu" => Gelu,
            var other => throw new InvalidDataException($"{file.Path}: the activation '{other}' cannot be run."),
        };
        if (Heads < 1 || Width % Heads != 0)
        {
            throw new InvalidDataException($"{file.Path}: {Width} numbers cannot be shared by {Heads} heads.");
        }
        try
        {
            _layers = [.. Enumerable.Range(0, Int(settings, "num_hidden_layers", 12)).Select(l => new Layer(
                Norm($"{prefix}.encoder.layers.{l}.layer_norm1"), Linear($"{prefix}.encoder.layers.{l}.self_attn.q_proj"), Linear($"{prefix}.encoder.layers.{l}.self_attn.k_proj"),
                Linear($"{prefix}.encoder.layers.{l}.self_attn.v_proj"), Linear($"{prefix}.encoder.layers.{l}.self_attn.out_proj"),
                Norm($"{prefix}.encoder.layers.{l}.layer_norm2"), Linear($"{prefix}.encoder.layers.{l}.mlp.fc1"), Linear($"{prefix}.encoder.layers.{l}.mlp.fc2")))];
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    protected int Width { get; }

    protected int Heads { get; }

    protected float Epsilon { get; }

    /// <summary>The work is shared out by whoever calls: a tower itself stays on one core.</summary>
    protected static CoreTeam Alone { get; } = new(1);

    public void Dispose()
    {
        foreach (WeightMatrix matrix in _all)
        {
            matrix.Dispose();
        }
        _all.Clear();
    }

    protected static int Int(JsonElement settings, string name, int otherwise) => !settings.TryGetProperty(name, out JsonElement value) ? otherwise
        : value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int number) && number > 0 ? number
        : throw new InvalidDataException($"config.json: {name} is no number above 0.");

    protected float[] Vector(string name) => _file.Tensors.TryGetValue(name, out StoredTensor? tensor) ? _file.Floats(tensor) : throw new InvalidDataException($"{_file.Path} lacks '{name}'.");

    protected bool Has(string name) => _file.Tensors.ContainsKey(name);

    protected LinearMap Linear(string name)
    {
        StoredTensor tensor = _file.Tensors.GetValueOrDefault($"{name}.weight") ?? throw new InvalidDataException($"{_file.Path} lacks '{name}.weight'.");
        return Keep(WeightMatrix.Load(_file, tensor, WeightFormat.AsStored), Has($"{name}.bias") ? Vector($"{name}.bias") : null);
    }

    protected LinearMap Map(ReadOnlySpan<float> values, int rows, int columns, float[]? bias) => Keep(WeightMatrix.Of(values, rows, columns), bias);

    private LinearMap Keep(WeightMatrix matrix, float[]? bias)
    {
        _all.Add(matrix);
        return new LinearMap(matrix, bias);
    }

    protected NormWeights Norm(string name) => new(Vector($"{name}.weight"), Vector($"{name}.bias"));

    /// <summary>All layers over [n, width], in place.</summary>
    protected void RunLayers(float[] x, int n)
    {
        float[] h = new float[x.Length], q = new float[x.Length], k = new float[x.Length], v = new float[x.Length], mixed = new float[x.Length];
        foreach (Layer layer in _layers)
        {
            Apply(layer.First, x, h);
            layer.Q.Run(h, n, q);
            layer.K.Run(h, n, k);
            layer.V.Run(h, n, v);
            Attend(q, k, v, mixed, n, n, _causal);
            layer.Out.Run(mixed, n, h);
            TensorPrimitives.Add<float>(x, h, x);
            Apply(layer.Second, x, h);
            FeedForward(layer.In, layer.Back, h, n, h);
            TensorPrimitives.Add<float>(x, h, x);
        }
    }

    protected void FeedForward(LinearMap into, LinearMap back, float[] x, int n, float[] y)
    {
        float[] inner = new float[n * into.Rows];
        into.Run(x, n, inner);
        _activation(inner);
        back.Run(inner, n, y);
    }

    protected void Apply(NormWeights norm, float[] from, float[] to)
    {
        for (int at = 0; at < from.Length; at += Width)
        {
            ReadOnlySpan<float> row = from.AsSpan(at, Width);
            Span<float> result = to.AsSpan(at, Width);
            float mean = TensorPrimitives.Sum(row) / Width;
            TensorPrimitives.Subtract(row, mean, result);
            TensorPrimitives.Multiply(result, 1 / MathF.Sqrt((TensorPrimitives.SumOfSquares<float>(result) / Width) + Epsilon), result);
            TensorPrimitives.MultiplyAdd(result, norm.Weight, norm.Bias, result);
        }
    }

    /// <summary>[queries, width] looking at [n, width].</summary>
    protected void Attend(float[] q, float[] k, float[] v, float[] mixed, int queries, int n, bool causal)
    {
        int hw = Width / Heads;
        float[] scores = new float[n];
        Array.Clear(mixed);
        for (int i = 0; i < queries; i++)
        {
            int seen = causal ? i + 1 : n;
            for (int head = 0; head < Heads; head++)
            {
                int at = head * hw;
                ReadOnlySpan<float> query = q.AsSpan((i * Width) + at, hw);
                for (int j = 0; j < seen; j++)
                {
                    scores[j] = TensorPrimitives.Dot(query, k.AsSpan((j * Width) + at, hw)) / MathF.Sqrt(hw);
                }
                Softmax.Apply(scores.AsSpan(0, seen));
                Span<float> sum = mixed.AsSpan((i * Width) + at, hw);
                for (int j = 0; j < seen; j++)
                {
                    TensorPrimitives.MultiplyAdd(v.AsSpan((j * Width) + at, hw), scores[j], sum, sum);
                }
            }
        }
    }

    protected static float[] UnitLength(float[] vector)
    {
        TensorPrimitives.Divide(vector, TensorPrimitives.Norm<float>(vector), vector);
        return vector;
    }

    private static void QuickGelu(Span<float> x)
    {
        float[] gate = new float[x.Length];
        TensorPrimitives.Multiply(x, 1.702f, gate);
        TensorPrimitives.Sigmoid<float>(gate, gate);
        TensorPrimitives.Multiply(x, gate, x);
    }

    private static void GeluTanh(Span<float> x)
    {
        foreach (ref float value in x)
        {
            value = 0.5f * value * (1 + MathF.Tanh(0.7978845608f * (value + (0.044715f * value * value * value))));
        }
    }

    private static void Gelu(Span<float> x)
    {
        foreach (ref float value in x)
        {
            value = (float)(0.5 * value * (1 + Llama4Vision.Erf(value / Math.Sqrt(2))));
        }
    }

    /// <summary>y = W x + b.</summary>
    internal sealed class LinearMap(WeightMatrix matrix, float[]? bias)
    {
        public int Rows => matrix.Rows;

        public void Run(float[] x, int n, float[] y)
        {
            fixed (float* from = x, to = y)
            {
                matrix.Multiply(Alone, from, n, to);
            }
            for (int i = 0; bias is not null && i < n; i++)
            {
                TensorPrimitives.Add(y.AsSpan(i * Rows, Rows), bias, y.AsSpan(i * Rows, Rows));
            }
        }
    }

    internal sealed record NormWeights(float[] Weight, float[] Bias);

    private sealed record Layer(NormWeights First, LinearMap Q, LinearMap K, LinearMap V, LinearMap Out, NormWeights Second, LinearMap In, LinearMap Back);
}

/// <summary>Token ids to a vector of unit length.</summary>
internal sealed class TextTower : EncoderTower
{
    private readonly float[] _tokens, _positions;
    private readonly NormWeights _last;
    private readonly LinearMap _projection;
    private readonly bool _siglip;
    private readonly int _end;

    public TextTower(SafeTensorsFile file, JsonElement settings, PairKind kind)
        : base(file, settings, kind, "text_model", text: true)
    {
        _siglip = kind != PairKind.Clip;
        (_tokens, _positions) = (Vector("text_model.embeddings.token_embedding.weight"), Vector("text_model.embeddings.position_embedding.weight"));
        _last = Norm("text_model.final_layer_norm");
        _projection = Linear(_siglip ? "text_model.head" : "text_projection");
        MaxTokens = Int(settings, "max_position_embeddings", _siglip ? 64 : 77);
        Vocabulary = _tokens.Length / Width;
        _end = settings.TryGetProperty("eos_token_id", out JsonElement end) && end.TryGetInt32(out int id) ? id : 49407;
    }

    public int MaxTokens { get; }

    public int Vocabulary { get; }

    public int Dimensions => _projection.Rows;

    /// <exception cref="InvalidDataException">An id is none of the vocabulary's.</exception>
    public float[] Run(ReadOnlySpan<int> ids)
    {
        // What comes after the end is never seen; SigLIP was trained on texts filled up to one length, and looks at all of it.
        int n = _siglip ? Math.Min(ids.Length, MaxTokens) : End(ids) + 1;
        float[] x = new float[n * Width];
        for (int i = 0; i < n; i++)
        {
            if (ids[i] < 0 || ids[i] >= Vocabulary)
            {
                throw new InvalidDataException($"The id {ids[i]} is none of the {Vocabulary} of this model.");
            }
            TensorPrimitives.Add<float>(_tokens.AsSpan(ids[i] * Width, Width), _positions.AsSpan(i * Width, Width), x.AsSpan(i * Width, Width));
        }
        RunLayers(x, n);
        Apply(_last, x, x);
        float[] vector = new float[Dimensions];
        _projection.Run(x[((n - 1) * Width)..], 1, vector);
        return UnitLength(vector);
    }

    /// <summary>Old checkpoints say 2 and mean the greatest id.</summary>
    private int End(ReadOnlySpan<int> ids)
    {
        int end = _end == 2 ? ids.IndexOf(TensorPrimitives.Max(ids)) : ids.IndexOf(_end);
        return Math.Min(end < 0 ? ids.Length - 1 : end, MaxTokens - 1);
    }
}

/// <summary>Pixels to a vector of unit length.</summary>
internal sealed class ImageTower : EncoderTower
{
    private readonly LinearMap _patches;
    private readonly float[] _positions;
    private readonly float[]? _class;
    private readonly NormWeights? _before;
    private readonly NormWeights _after;
    private readonly LinearMap? _projection;
    private readonly PoolingHead? _head;

    public ImageTower(SafeTensorsFile file, JsonElement settings, PairKind kind)
        : base(file, settings, kind, "vision_model", text: false)
    {
        Patch = Int(settings, "patch_size", kind == PairKind.Clip ? 32 : 16);
        Side = kind == PairKind.Siglip2 ? Patch * (int)Math.Sqrt(Int(settings, "num_patches", 256)) : Int(settings, "image_size", 224);
        float[] kernel = Vector("vision_model.embeddings.patch_embedding.weight");
        bool siglip = kind != PairKind.Clip;
        if (kind == PairKind.Siglip2)
        {
            kernel = PlaneByPlane(kernel, Patch * Patch);
        }
        _patches = Map(kernel, Width, kernel.Length / Width, Has("vision_model.embeddings.patch_embedding.bias") ? Vector("vision_model.embeddings.patch_embedding.bias") : null);
        _positions = Vector("vision_model.embeddings.position_embedding.weight");
        _class = siglip ? null : Vector("vision_model.embeddings.class_embedding");
        _before = siglip ? null : Norm("vision_model.pre_layrnorm");
        _after = Norm("vision_model.post_layernorm");
        _projection = siglip ? null : Linear("visual_projection");
        if (siglip)
        {
            float[] weight = Vector("vision_model.head.attention.in_proj_weight"), bias = Vector("vision_model.head.attention.in_proj_bias");
            LinearMap Third(int i) => Map(weight.AsSpan(i * Width * Width, Width * Width), Width, Width, bias[(i * Width)..((i + 1) * Width)]);
            _head = new PoolingHead(
                Vector("vision_model.head.probe"), Third(0), Third(1), Third(2), Linear("vision_model.head.attention.out_proj"), Norm("vision_model.head.layernorm"),
                Linear("vision_model.head.mlp.fc1"), Linear("vision_model.head.mlp.fc2"));
        }
    }

    /// <summary>Pixels of the picture's side; where any shape is taken, of the one that positions were learnt for.</summary>
    public int Side { get; }

    /// <summary>Pixels of a patch's side.</summary>
    public int Patch { get; }

    public int Dimensions => _projection?.Rows ?? Width;

    /// <param name="pixels">[3, height, width], scaled as the model wants them.</param>
    public float[] Run(ReadOnlySpan<float> pixels, int width)
    {
        int height = pixels.Length / (3 * width), columns = width / Patch, rows = height / Patch, patches = rows * columns, size = Patch * Patch, first = _class is null ? 0 : 1, n = patches + first;
        float[] cut = new float[patches * 3 * size], x = new float[n * Width], h = new float[patches * Width];
        for (int p = 0; p < patches; p++)
        {
            for (int c = 0; c < 3; c++)
            {
                for (int row = 0; row < Patch; row++)
                {
                    int from = (c * height * width) + (((p / columns * Patch) + row) * width) + (p % columns * Patch);
                    pixels.Slice(from, Patch).CopyTo(cut.AsSpan((p * 3 * size) + (c * size) + (row * Patch)));
                }
            }
        }
        _patches.Run(cut, patches, h);
        h.CopyTo(x, first * Width);
        _class?.CopyTo(x, 0);
        int learnt = Side / Patch;
        TensorPrimitives.Add<float>(x, rows == learnt && columns == learnt ? _positions : Resampling.Resize(_positions, learnt, learnt, rows, columns), x);
        if (_before is not null)
        {
            Apply(_before, x, x);
        }
        RunLayers(x, n);
        if (_head is null)
        {
            float[] vector = new float[Dimensions], one = x[..Width];
            Apply(_after, one, one);
            _projection!.Run(one, 1, vector);
            return UnitLength(vector);
        }
        Apply(_after, x, x);
        return UnitLength(Pool(_head, x, n));
    }

    /// <summary>From the channels side by side to one after the other.</summary>
    /// <param name="kernel">[width, pixels, 3]</param>
    /// <returns>[width, 3, pixels]</returns>
    private static float[] PlaneByPlane(float[] kernel, int pixels)
    {
        float[] planes = new float[kernel.Length];
        for (int at = 0; at < kernel.Length; at += 3 * pixels)
        {
            for (int i = 0; i < 3 * pixels; i++)
            {
                planes[at + (i % 3 * pixels) + (i / 3)] = kernel[at + i];
            }
        }
        return planes;
    }

    /// <summary>One learnt query looks at all patches.</summary>
    private float[] Pool(PoolingHead head, float[] x, int n)
    {
        float[] q = new float[Width], k = new float[n * Width], v = new float[n * Width], mixed = new float[Width], pooled = new float[Width], h = new float[Width];
        head.Q.Run(head.Probe, 1, q);
        head.K.Run(x, n, k);
        head.V.Run(x, n, v);
        Attend(q, k, v, mixed, 1, n, causal: false);
        head.Out.Run(mixed, 1, pooled);
        Apply(head.Norm, pooled, h);
        FeedForward(head.In, head.Back, h, 1, h);
        TensorPrimitives.Add<float>(pooled, h, pooled);
        return pooled;
    }

    private sealed record PoolingHead(float[] Probe, LinearMap Q, LinearMap K, LinearMap V, LinearMap Out, NormWeights Norm, LinearMap In, LinearMap Back);
}
