using System.Text;

namespace Diptych.Tests.Runtimes;

/// <summary>A GGUF file of a few layers with random weights and a tokenizer of bytes, to be changed before it is written.</summary>
internal sealed class TinyGguf
{
    public const int Layers = 2, Width = 32, Heads = 4, KeyValueHeads = 2, Inner = 64, Vocabulary = 259, HeadWidth = 8;

    public TinyGguf(string architecture = "llama")
    {
        var random = new Random(7);
        Metadata = new()
        {
            ["general.architecture"] = architecture,
            ["general.name"] = "tiny",
            [$"{architecture}.block_count"] = (uint)Layers,
            [$"{architecture}.context_length"] = 256u,
            [$"{architecture}.embedding_length"] = (uint)Width,
            [$"{architecture}.feed_forward_length"] = (uint)Inner,
            [$"{architecture}.attention.head_count"] = (uint)Heads,
            [$"{architecture}.attention.head_count_kv"] = (uint)KeyValueHeads,
            [$"{architecture}.attention.layer_norm_rms_epsilon"] = 1e-5f,
            [$"{architecture}.rope.freq_base"] = 10000f,
            [$"{architecture}.rope.dimension_count"] = (uint)HeadWidth,
            [$"{architecture}.vocab_size"] = (uint)Vocabulary,
            ["tokenizer.ggml.model"] = "llama",
            ["tokenizer.ggml.tokens"] = (string[])["<unk>", "<s>", "</s>", .. Enumerable.Range(0, 256).Select(b => $"<0x{b:X2}>")],
            ["tokenizer.ggml.scores"] = new float[Vocabulary],
            ["tokenizer.ggml.token_type"] = (int[])[2, 3, 3, .. Enumerable.Repeat(6, 256)],
            ["tokenizer.ggml.bos_token_id"] = 1u,
            ["tokenizer.ggml.eos_token_id"] = 2u,
        };
        void Add(string name, params int[] shape) => Tensors[name] = (shape, 0, [.. Enumerable.Range(0, shape.Aggregate(1, (a, b) => a * b)).Select(_ => (float)(random.NextDouble() - 0.5))]);
        Add("token_embd.weight", Vocabulary, Width);
        Add("output_norm.weight", Width);
        Add("output.weight", Vocabulary, Width);
        for (int l = 0; l < Layers; l++)
        {
            Add($"blk.{l}.attn_norm.weight", Width);
            Add($"blk.{l}.ffn_norm.weight", Width);
            Add($"blk.{l}.attn_q.weight", Heads * HeadWidth, Width);
            Add($"blk.{l}.attn_k.weight", KeyValueHeads * HeadWidth, Width);
            Add($"blk.{l}.attn_v.weight", KeyValueHeads * HeadWidth, Width);
            Add($"blk.{l}.attn_output.weight", Width, Heads * HeadWidth);
            Add($"blk.{l}.ffn_gate.weight", Inner, Width);
            Add($"blk.{l}.ffn_up.weight", Inner, Width);
            Add($"blk.{l}.ffn_down.weight", Width, Inner);
        }
    }

    public Dictionary<string, object> Metadata { get; }

    /// <summary>Shape, outermost dimension first; the type's number; values.</summary>
    public Dictionary<string, (int[] Shape, uint Type, float[] Values)> Tensors { get; } = new(StringComparer.Ordinal);

    /// <summary>Puts an entry behind the others that its dictionary would not take.</summary>
    public (string Key, object Value)? Again { get; set; }

    /// <summary>Name of a tensor that is described twice.</summary>
    public string? Twice { get; set; }

    public byte[] Bytes()
    {
        using var file = new MemoryStream();
        using var to = new BinaryWriter(file);
        List<(string Key, object Value)> entries = [.. Metadata.Select(m => (m.Key, m.Value)), .. Again is { } again ? [again] : Array.Empty<(string, object)>()];
        List<string> names = [.. Tensors.Keys, .. Twice is null ? Array.Empty<string>() : [Twice]];
        to.Write("GGUF"u8);
        to.Write(3u);
        to.Write((ulong)names.Count);
        to.Write((ulong)entries.Count);
        foreach (var (key, value) in entries)
        {
            Text(to, key);
            Value(to, value);
        }
        long offset = 0;
        foreach (string name in names)
        {
            var (shape, type, values) = Tensors[name];
            Text(to, name);
            to.Write((uint)shape.Length);
            foreach (int size in shape.Reverse())
            {
                to.Write((ulong)size);
            }
            to.Write(type);
            to.Write((ulong)offset);
            offset += (sizeof(float) * values.Length + 31L) / 32 * 32;
        }
        foreach (string name in names)
        {
            to.Write(new byte[(32 - (file.Position % 32)) % 32]);
            foreach (float value in Tensors[name].Values)
            {
                to.Write(value);
            }
        }
        return file.ToArray();
    }

    private static void Text(BinaryWriter to, string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        to.Write((ulong)bytes.Length);
        to.Write(bytes);
    }

    private static void Value(BinaryWriter to, object value)
    {
        uint Type(object of) => of switch { int => 5, uint => 4, float => 6, bool => 7, string => 8, Array => 9, ulong => 10, _ => throw new NotSupportedException(of.GetType().Name) };
        to.Write(Type(value));
        Bare(value);

        void Bare(object of)
        {
            switch (of)
            {
                case int number:
                    to.Write(number);
                    break;
                case uint number:
                    to.Write(number);
                    break;
                case float number:
                    to.Write(number);
                    break;
                case ulong number:
                    to.Write(number);
                    break;
                case bool flag:
                    to.Write(flag);
                    break;
                case string text:
                    Text(to, text);
                    break;
                case Array list:
                    to.Write(Type(list.GetValue(0)!));
                    to.Write((ulong)list.Length);
                    foreach (object one in list)
                    {
                        Bare(one);
                    }
                    break;
            }
        }
    }
}
