using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Diptych.Runtimes.Decoding;

/// <summary>A token of a batch: of which stretch, and where in its sequence.</summary>
internal readonly record struct BatchRow(int Stretch, int Position);

/// <summary>
/// Causal grouped-query attention over blocks of sixteen tokens. A block's keys lie by dimension, sixteen tokens side by side, so that a
/// register holds the scores of a block; its values lie by token. Four query heads are scored in one reading of the keys.
/// </summary>
internal static unsafe class Attention
{
    private const int Together = 4, Tokens = KeyValueBlocks.TokensPerBlock;

    /// <param name="q">[rows, heads, head width]</param>
    /// <param name="mixed">[rows, heads, head width], the result.</param>
    public static void Run(DecoderConfig config, float* q, float* mixed, BatchRow[] rows, IReadOnlyList<Stretch> batch, KeyValueBlocks cache, int layer, CoreTeam team)
    {
        int group = config.Heads / config.KeyValueHeads, hw = config.HeadWidth, pages = cache.Layout.GroupOf(layer), longest = 0;
        foreach (BatchRow row in rows)
        {
            longest = Math.Max(longest, row.Position + 1);
        }
        // Query heads of one key head, over tokens that follow each other in one sequence, four at a time.
        int room = (longest + Tokens - 1) / Tokens * Tokens;
        float scale = 1 / MathF.Sqrt(hw);
        team.Run((part, parts) =>
        {
            float[] scores = System.Buffers.ArrayPool<float>.Shared.Rent(Together * room);
            fixed (float* score = scores)
            {
                int job = 0;
                for (int start = 0, s = 0; s < batch.Count; start += batch[s].Tokens.Length, s++)
                {
                    List<int> blocks = batch[s].Blocks.Of(pages);
                    int queries = batch[s].Tokens.Length * group;
                    for (int kv = 0; kv < config.KeyValueHeads; kv++)
                    {
                        // Long stretches are shared out from both ends, since later tokens see more.
                        for (int first = 0; first < queries; first += Together, job++)
                        {
                            if (job % parts == part)
                            {
                                Some(first, Math.Min(Together, queries - first), start, kv, blocks, score);
                            }
                        }
                    }
                }
            }
            System.Buffers.ArrayPool<float>.Shared.Return(scores);
        });

        void Some(int first, int count, int start, int kv, List<int> blocks, float* score)
        {
            float** query = stackalloc float*[Together];
            int from = int.MaxValue, to = 0;
            for (int i = 0; i < Together; i++)
            {
                int at = first + Math.Min(i, count - 1), row = start + (at / group), position = rows[row].Position;
                query[i] = q + (((long)row * config.Heads) + (kv * group) + (at % group)) * hw;
                from = Math.Min(from, config.FirstSeen(layer, position));
                to = Math.Max(to, position + 1);
            }
            for (int t = from / Tokens * Tokens; t < to; t += Tokens)
            {
                Score(cache.Keys(blocks[t / Tokens], layer, kv), query, hw, scale, score + t, room);
            }
            for (int i = 0; i < count; i++)
            {
                int at = first + i, row = start + (at / group), end = rows[row].Position + 1, begin = config.FirstSeen(layer, rows[row].Position);
                float* weights = score + (i * room);
                var span = new Span<float>(weights + begin, end - begin);
                Softmax.Apply(span);
                Mix(weights, begin, end, blocks, kv, mixed + (((long)row * config.Heads) + (kv * group) + (at % group)) * hw);
            }
        }

        void Mix(float* weights, int begin, int end, List<int> blocks, int kv, float* result)
        {
            int width = cache.RowWidth, d = 0;
            for (; d + 64 <= hw; d += 64)
            {
                Vector512<float> a = default, b = default, c = default, e = default;
                for (int t = begin; t < end; t++)
                {
                    float* value = cache.Values(blocks[t / Tokens], layer) + ((t % Tokens) * width) + (kv * hw) + d;
                    var weight = Vector512.Create(weights[t]);
                    a = Vector512.FusedMultiplyAdd(Vector512.Load(value), weight, a);
                    b = Vector512.FusedMultiplyAdd(Vector512.Load(value + 16), weight, b);
                    c = Vector512.FusedMultiplyAdd(Vector512.Load(value + 32), weight, c);
                    e = Vector512.FusedMultiplyAdd(Vector512.Load(value + 48), weight, e);
                }
                a.Store(result + d);
                b.Store(result + d + 16);
                c.Store(result + d + 32);
                e.Store(result + d + 48);
            }
            if (d < hw)
            {
                var rest = new Span<float>(result + d, hw - d);
                rest.Clear();
                for (int t = begin; t < end; t++)
                {
                    float* value = cache.Values(blocks[t / Tokens], layer) + ((t % Tokens) * width) + (kv * hw) + d;
                    TensorPrimitives.MultiplyAdd(new ReadOnlySpan<float>(value, rest.Length), weights[t], rest, rest);
                }
            }
        }
    }

    /// <summary>Four queries by the sixteen keys of a block.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Score(float* keys, float** query, int hw, float scale, float* scores, int room)
    {
        float* q0 = query[0], q1 = query[1], q2 = query[2], q3 = query[3];
        Vector512<float> a = default, b = default, c = default, d = default;
        for (int i = 0; i < hw; i++)
        {
            var key = Vector512.Load(keys + (i * Tokens));
            a = Vector512.FusedMultiplyAdd(key, Vector512.Create(q0[i]), a);
            b = Vector512.FusedMultiplyAdd(key, Vector512.Create(q1[i]), b);
            c = Vector512.FusedMultiplyAdd(key, Vector512.Create(q2[i]), c);
            d = Vector512.FusedMultiplyAdd(key, Vector512.Create(q3[i]), d);
        }
        (a * scale).Store(scores);
        (b * scale).Store(scores + room);
        (c * scale).Store(scores + (2 * room));
        (d * scale).Store(scores + (3 * room));
    }
}
