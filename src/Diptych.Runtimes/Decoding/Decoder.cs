using System.Numerics.Tensors;

namespace Diptych.Runtimes.Decoding;

/// <summary>A stretch of one sequence in a batch.</summary>
/// <param name="Tokens">Ids to compute.</param>
/// <param name="Position">Of the first of them.</param>
/// <param name="Blocks">The sequence's pages, enough for all its tokens.</param>
/// <param name="AllLogits">Whether every token's logits are wanted, not the last one's alone.</param>
/// <param name="Pictures">[image tokens, width]: what stands in place of the image tokens, in their order; null where there are none.</param>
internal sealed record Stretch(int[] Tokens, int Position, SequenceBlocks Blocks, LoraAdapter? Adapter = null, bool AllLogits = false, float[]? Pictures = null);

/// <summary>
/// A decoder of Llama's family: RMSNorm, rotary positions, grouped-query attention, SwiGLU. A batch is stretches of any sequences laid
/// end to end: answers that decode a token and chunks of prompts run together, nothing is padded, and each has its own adapter.
/// </summary>
public sealed unsafe partial class Decoder : IDisposable
{
    private readonly WeightMatrix _embedding;
    private readonly WeightMatrix _head;
    private readonly float[] _lastNorm;
    private readonly Layer[] _layers;
    private readonly float[] _frequencies;
    private readonly List<WeightMatrix> _all = [];

    private Decoder(DecoderConfig config, Func<string, StoredTensor?> find, Func<string, TensorFile> fileOf, TensorNames names, WeightFormat format)
    {
        Config = config;
        WeightMatrix Matrix(string tensor, int rows, int columns)
        {
            StoredTensor stored = find(tensor) ?? throw new InvalidDataException($"The model lacks '{tensor}'.");
            if (stored.Shape.Count != 2 || stored.Shape[0] != rows || stored.Shape[1] != columns)
            {
                throw new InvalidDataException($"'{tensor}' is [{string.Join(", ", stored.Shape)}], and should be [{rows}, {columns}].");
            }
            WeightMatrix matrix = WeightMatrix.Load(fileOf(tensor), stored, format);
            _all.Add(matrix);
            return matrix;
        }
        float[] Vector(string tensor)
        {
            StoredTensor stored = find(tensor) ?? throw new InvalidDataException($"The model lacks '{tensor}'.");
            return stored.Count == config.Width ? fileOf(tensor).Floats(stored) : throw new InvalidDataException($"'{tensor}' has {stored.Count} numbers, and should have {config.Width}.");
        }
        float[]? Optional(string tensor, int count) => find(tensor) is not { } stored ? null
            : stored.Count == count ? fileOf(tensor).Floats(stored) : throw new InvalidDataException($"'{tensor}' has {stored.Count} numbers, and should have {count}.");
        try
        {
            _embedding = Matrix(names.Embedding, config.Vocabulary, config.Width);
            _head = find(names.Head) is null || config.Tied == true ? _embedding : Matrix(names.Head, config.Vocabulary, config.Width);
            _lastNorm = Vector(names.Norm);
            _layers = [.. Enumerable.Range(0, config.Layers).Select(l =>
            {
                WeightMatrix Of(string module)
                {
                    (int rows, int columns) = Shape(config, module);
                    return Matrix(names.Module(l, module), rows, columns);
                }
                float[]? Bias(string module) => Optional(names.Bias(l, module), Shape(config, module).Rows);
                return new Layer(
                    Vector(names.Module(l, "input_layernorm")), Of("q_proj"), Of("k_proj"), Of("v_proj"), Of("o_proj"), Vector(names.Module(l, "post_attention_layernorm")),
                    config.Llama4?.HasExperts[l] == true ? Experts(l) : new DenseFeedForward(Of("gate_proj"), Of("up_proj"), Of("down_proj")))
                {
                    Biases = [Bias("q_proj"), Bias("k_proj"), Bias("v_proj"), Bias("o_proj")],
                    QueryNorm = Optional(names.Module(l, "q_norm"), config.HeadWidth),
                    KeyNorm = Optional(names.Module(l, "k_norm"), config.HeadWidth),
                };
            })];

            FeedForward Experts(int layer)
            {
                Llama4Additions added = config.Llama4!;
                string at = names.Module(layer, "feed_forward");
                return new ExpertFeedForward(
                    Matrix($"{at}.router.weight", added.Experts, config.Width),
                    new DenseFeedForward(
                        Matrix($"{at}.shared_expert.gate_proj.weight", added.ExpertWidth, config.Width), Matrix($"{at}.shared_expert.up_proj.weight", added.ExpertWidth, config.Width),
                        Matrix($"{at}.shared_expert.down_proj.weight", config.Width, added.ExpertWidth), adapted: false),
                    [.. Enumerable.Range(0, added.Experts).Select(e => Expert($"{at}.experts", e, added))]);
            }

            // Experts are stored side by side and the other way round: [experts, in, out].
            DenseFeedForward Expert(string at, int expert, Llama4Additions added)
            {
                float[] both = Slice($"{at}.gate_up_proj", expert, config.Width, 2 * added.ExpertWidth), down = Slice($"{at}.down_proj", expert, added.ExpertWidth, config.Width);
                TensorType type = find($"{at}.gate_up_proj")!.Type;
                return new DenseFeedForward(
                    Turned(both, type, config.Width, 2 * added.ExpertWidth, 0, added.ExpertWidth), Turned(both, type, config.Width, 2 * added.ExpertWidth, added.ExpertWidth, added.ExpertWidth),
                    Turned(down, type, added.ExpertWidth, config.Width, 0, config.Width), adapted: false);
            }

            float[] Slice(string tensor, int expert, int inputs, int outputs)
            {
                StoredTensor stored = find(tensor) ?? throw new InvalidDataException($"The model lacks '{tensor}'.");
                return stored.Shape.Count != 3 || stored.Shape[1] != inputs || stored.Shape[2] != outputs || expert >= stored.Shape[0]
                    ? throw new InvalidDataException($"'{tensor}' is [{string.Join(", ", stored.Shape)}], and should be [{config.Llama4!.Experts}, {inputs}, {outputs}].")
                    : fileOf(tensor).Floats(stored with { Shape = [inputs, outputs], Offset = stored.Offset + (expert * (stored.Bytes / stored.Shape[0])), Bytes = stored.Bytes / stored.Shape[0] });
            }

            WeightMatrix Turned(float[] values, TensorType type, int inputs, int outputs, int first, int count)
            {
                float[] turned = new float[inputs * count];
                for (int o = 0; o < count; o++)
                {
                    for (int i = 0; i < inputs; i++)
                    {
                        turned[(o * inputs) + i] = values[(i * outputs) + first + o];
                    }
                }
                WeightMatrix matrix = WeightMatrix.Of(turned, count, inputs, format, type);
                _all.Add(matrix);
                return matrix;
            }
        }
        catch
        {
            Dispose();
            throw;
        }
        float[]? factors = names.RopeFactors is { } divided ? Optional(divided, config.HeadWidth / 2) : null;
        if (factors is not null && !factors.All(f => f > 0 && float.IsFinite(f)))
        {
            Dispose();
            throw new InvalidDataException($"'{names.RopeFactors}' has a factor that is not above 0.");
        }
        _frequencies = [.. Enumerable.Range(0, config.HeadWidth / 2).Select(i =>
        {
            float frequency = MathF.Pow(config.RopeTheta, -2f * i / config.HeadWidth);
            return (config.Scaling?.Apply(frequency) ?? frequency) / (factors?[i] ?? 1);
        })];
    }

    public DecoderConfig Config { get; }

    /// <summary>Numbers in its matrices.</summary>
    public long Parameters => _all.Sum(m => (long)m.Rows * m.Columns);

    /// <summary>Bytes of memory of the weights.</summary>
    public long ByteSize => _all.Sum(m => m.ByteSize);

    /// <summary>Shape of a matrix by its name in Hugging Face's layout.</summary>
    internal static (int Rows, int Columns) Shape(DecoderConfig config, string module) => module switch
    {
        "q_proj" => (config.Heads * config.HeadWidth, config.Width),
        "k_proj" or "v_proj" => (config.KeyValueHeads * config.HeadWidth, config.Width),
        "o_proj" => (config.Width, config.Heads * config.HeadWidth),
        "down_proj" => (config.Width, config.InnerWidth),
        _ => (config.InnerWidth, config.Width),
    };

    /// <summary>Computes a batch: keys and values go into the blocks.</summary>
    /// <param name="into">Used for the logits where it is large enough.</param>
    /// <returns>[logits wanted, vocabulary], in the order of the stretches; may be longer.</returns>
    internal float[] Forward(IReadOnlyList<Stretch> batch, KeyValueBlocks cache, CoreTeam team, float[]? into = null)
    {
        int n = batch.Sum(s => s.Tokens.Length), width = Config.Width;
        int qWidth = Config.Heads * Config.HeadWidth, kvWidth = cache.RowWidth;
        using var scratch = new Scratch(n * (long)((3 * width) + (2 * qWidth) + (2 * kvWidth) + Config.HeadWidth));
        float* x = scratch.Take(n * width), h = scratch.Take(n * width), o = scratch.Take(n * width);
        float* q = scratch.Take(n * qWidth), mixed = scratch.Take(n * qWidth), k = scratch.Take(n * kvWidth), v = scratch.Take(n * kvWidth);
        var rows = new BatchRow[n];
        int half = Config.HeadWidth / 2;
        float* turns = scratch.Take(n * 2 * half);
        for (int s = 0, at = 0; s < batch.Count; s++)
        {
            int picture = 0;
            for (int t = 0; t < batch[s].Tokens.Length; t++, at++)
            {
                rows[at] = new BatchRow(s, batch[s].Position + t);
                for (int i = 0; i < half; i++)
                {
                    (turns[(at * 2 * half) + i], turns[(at * 2 * half) + half + i]) = MathF.SinCos(rows[at].Position * _frequencies[i]);
                }
                if (batch[s].Pictures is { } pictures && Config.IsPicture(batch[s].Tokens[t]))
                {
                    pictures.AsSpan(picture++ * width, width).CopyTo(new Span<float>(x + ((long)at * width), width));
                    continue;
                }
                _embedding.Unpack(batch[s].Tokens[t], x + ((long)at * width));
            }
        }
        for (int l = 0; l < _layers.Length; l++)
        {
            Layer layer = _layers[l];
            Norm(x, layer.InputNorm, h, n, team);
            Multiply(layer.Q, "q_proj", l, h, n, q, batch, team);
            Multiply(layer.K, "k_proj", l, h, n, k, batch, team);
            Multiply(layer.V, "v_proj", l, h, n, v, batch, team);
            int at = l, pages = cache.Layout.GroupOf(l);
            ByRows(team, n, i =>
            {
                AddTo(q + ((long)i * qWidth), layer.Biases[0]);
                AddTo(k + ((long)i * kvWidth), layer.Biases[1]);
                AddTo(v + ((long)i * kvWidth), layer.Biases[2]);
                NormHeads(q + ((long)i * qWidth), layer.QueryNorm, Config.Heads);
                NormHeads(k + ((long)i * kvWidth), layer.KeyNorm, Config.KeyValueHeads);
                Place(q + ((long)i * qWidth), k + ((long)i * kvWidth), rows[i].Position, turns + ((long)i * 2 * half), at);
                cache.Write(batch[rows[i].Stretch].Blocks.Of(pages)[rows[i].Position / KeyValueBlocks.TokensPerBlock], at, rows[i].Position, k + ((long)i * kvWidth), v + ((long)i * kvWidth));
            });
            Attention.Run(Config, q, mixed, rows, batch, cache, l, team);
            Multiply(layer.O, "o_proj", l, mixed, n, o, batch, team);
            for (int i = 0; layer.Biases[3] is not null && i < n; i++)
            {
                AddTo(o + ((long)i * width), layer.Biases[3]);
            }
            Add(o, x, n * width);
            Norm(x, layer.PostNorm, h, n, team);
            layer.FeedForward.Run(h, n, o, batch, l, team);
            Add(o, x, n * width);
        }
        Norm(x, _lastNorm, h, n, team);
        int wanted = 0;
        for (int s = 0, at = 0; s < batch.Count; at += batch[s].Tokens.Length, s++)
        {
            int from = batch[s].AllLogits ? at : at + batch[s].Tokens.Length - 1, to = at + batch[s].Tokens.Length;
            for (; from < to; from++, wanted++)
            {
                Copy(h + ((long)from * width), o + ((long)wanted * width), width);
            }
        }
        float[] logits = into?.Length >= wanted * Config.Vocabulary ? into : new float[wanted * Config.Vocabulary];
        fixed (float* y = logits)
        {
            _head.Multiply(team, o, wanted, y);
        }
        return logits;
    }

    public void Dispose()
    {
        foreach (WeightMatrix matrix in _all)
        {
            matrix.Dispose();
        }
        _all.Clear();
    }

    /// <summary>The product, and each sequence's adapter on top.</summary>
    internal static void Multiply(WeightMatrix w, string module, int layer, float* x, int n, float* y, IReadOnlyList<Stretch> batch, CoreTeam team)
    {
        w.Multiply(team, x, n, y);
        int at = 0;
        foreach (Stretch stretch in batch)
        {
            int count = stretch.Tokens.Length;
            if (stretch.Adapter?.Of(layer, module) is { } pair)
            {
                if (pair.A.Columns != w.Columns || pair.B.Rows != w.Rows)
                {
                    throw new InvalidOperationException($"The adapter {stretch.Adapter.Name} was made for another model: its {module} is [{pair.B.Rows}, {pair.A.Columns}], not [{w.Rows}, {w.Columns}].");
                }
                using var scratch = new Scratch(count * (long)(pair.A.Rows + w.Rows));
                float* low = scratch.Take(count * pair.A.Rows), high = scratch.Take(count * w.Rows);
                pair.A.Multiply(team, x + ((long)at * w.Columns), count, low);
                pair.B.Multiply(team, low, count, high);
                var to = new Span<float>(y + ((long)at * w.Rows), count * w.Rows);
                TensorPrimitives.MultiplyAdd(new ReadOnlySpan<float>(high, to.Length), pair.Scale, to, to);
            }
            at += count;
        }
    }

    /// <summary>Work on one row after another, shared out where there are many.</summary>
    internal static void ByRows(CoreTeam team, int n, Action<int> row)
    {
        if (n < 4)
        {
            for (int i = 0; i < n; i++)
            {
                row(i);
            }
            return;
        }
        team.Run((part, parts) =>
        {
            for (int i = (int)((long)n * part / parts); i < (int)((long)n * (part + 1) / parts); i++)
            {
                row(i);
            }
        });
    }

    private void Norm(float* x, float[] weight, float* y, int n, CoreTeam team)
    {
        int width = Config.Width;
        ByRows(team, n, i =>
        {
            var from = new ReadOnlySpan<float>(x + ((long)i * width), width);
            var to = new Span<float>(y + ((long)i * width), width);
            float scale = 1 / MathF.Sqrt((TensorPrimitives.SumOfSquares(from) / width) + Config.NormEpsilon);
            TensorPrimitives.Multiply(from, scale, to);
            TensorPrimitives.Multiply(to, weight, to);
        });
    }

    /// <summary>Gives queries and keys their position, as the layer has it.</summary>
    private void Place(float* q, float* k, int position, float* turns, int layer)
    {
        if (Config.Llama4 is { } llama4 && !llama4.HasPositions[layer])
        {
            if (llama4.Sharpens)
            {
                float sharper = 1 + (llama4.Sharpness * MathF.Log(1 + MathF.Floor((position + 1) / llama4.FloorScale)));
                TensorPrimitives.Multiply(new ReadOnlySpan<float>(q, Config.Heads * Config.HeadWidth), sharper, new Span<float>(q, Config.Heads * Config.HeadWidth));
            }
            return;
        }
        Rotate(q, Config.Heads, turns);
        Rotate(k, Config.KeyValueHeads, turns);
        for (int head = 0; Config.Llama4?.NormalizesQueries == true && head < Config.Heads + Config.KeyValueHeads; head++)
        {
            var of = new Span<float>(head < Config.Heads ? q + (head * Config.HeadWidth) : k + ((head - Config.Heads) * Config.HeadWidth), Config.HeadWidth);
            TensorPrimitives.Multiply(of, 1 / MathF.Sqrt((TensorPrimitives.SumOfSquares<float>(of) / Config.HeadWidth) + Config.NormEpsilon), of);
        }
    }

    /// <param name="turns">Sines, then cosines.</param>
    private void Rotate(float* heads, int count, float* turns)
    {
        int half = Config.HeadWidth / 2;
        for (int i = 0; i < half; i++)
        {
            float sin = turns[i], cos = turns[half + i];
            int first = Config.RopeInterleaved ? 2 * i : i, second = Config.RopeInterleaved ? first + 1 : i + half;
            for (int head = 0; head < count; head++)
            {
                float* at = heads + (head * Config.HeadWidth);
                (at[first], at[second]) = ((at[first] * cos) - (at[second] * sin), (at[second] * cos) + (at[first] * sin));
            }
        }
    }

    private static void AddTo(float* row, float[]? bias)
    {
        if (bias is not null)
        {
            var to = new Span<float>(row, bias.Length);
            TensorPrimitives.Add(to, bias, to);
        }
    }

    private void NormHeads(float* heads, float[]? weight, int count)
    {
        for (int head = 0; weight is not null && head < count; head++)
        {
            var of = new Span<float>(heads + (head * Config.HeadWidth), Config.HeadWidth);
            TensorPrimitives.Multiply(of, 1 / MathF.Sqrt((TensorPrimitives.SumOfSquares<float>(of) / Config.HeadWidth) + Config.NormEpsilon), of);
            TensorPrimitives.Multiply(of, weight, of);
        }
    }

    private static void Add(float* from, float* to, int count) =>
        TensorPrimitives.Add(new ReadOnlySpan<float>(to, count), new ReadOnlySpan<float>(from, count), new Span<float>(to, count));

    private static void Copy(float* from, float* to, int count) => new ReadOnlySpan<float>(from, count).CopyTo(new Span<float>(to, count));

    private sealed record Layer(
        float[] InputNorm, WeightMatrix Q, WeightMatrix K, WeightMatrix V, WeightMatrix O, float[] PostNorm, FeedForward FeedForward)
    {
        /// <summary>Of queries, keys, values and the output; null where there is none (Qwen 2 has the first three).</summary>
        public float[]?[] Biases { get; init; } = new float[]?[4];

        /// <summary>Weights of each query head's norm (Qwen 3); null where there is none.</summary>
        public float[]? QueryNorm { get; init; }

        public float[]? KeyNorm { get; init; }
    }
}
