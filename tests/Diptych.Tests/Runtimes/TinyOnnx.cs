using System.Text;

namespace Diptych.Tests.Runtimes;

/// <summary>Writes small ONNX files, field by field of the format's protocol buffers: what a test needs, no more.</summary>
internal static class TinyOnnx
{
    private const int Float = 1, Int64 = 7, Bool = 9;

    /// <summary>
    /// A cross-encoder of one weight a token: a pair's score is the sum of the weights of its second text's tokens.
    /// </summary>
    public static byte[] PairScorer(float[] weights)
    {
        byte[] graph =
        [
            .. Message(1, Node("Gather", ["weights", "input_ids"], "each")),
            .. Message(1, Node("Cast", ["token_type_ids"], "second", Attribute("to", Float))),
            .. Message(1, Node("Cast", ["attention_mask"], "there", Attribute("to", Float))),
            .. Message(1, Node("Mul", ["each", "second"], "of_second")),
            .. Message(1, Node("Mul", ["of_second", "there"], "counted")),
            .. Message(1, Node("ReduceSum", ["counted", "axis"], "logits", Attribute("keepdims", 1))),
            .. Text(2, "pair"),
            .. Message(5, Tensor("weights", Float, [weights.Length], [.. weights.SelectMany(BitConverter.GetBytes)])),
            .. Message(5, Tensor("axis", Int64, [1], BitConverter.GetBytes(1L))),
            .. new[] { "input_ids", "attention_mask", "token_type_ids" }.SelectMany(name => Message(11, Value(name, Int64, "batch", "tokens"))),
            .. Message(12, Value("logits", Float, "batch", "one")),
        ];
        return Model(graph);
    }

    /// <summary>A text tower of one vector a token: a text's is their sum.</summary>
    /// <param name="vectors">[tokens, width]</param>
    public static byte[] TextTower(float[] vectors, int width) => Model(
        [
            .. Message(1, Node("Gather", ["vectors", "input_ids"], "each")),
            .. Message(1, Node("ReduceSum", ["each", "axis"], "text_embeds", Attribute("keepdims", 0))),
            .. Text(2, "text"),
            .. Message(5, Tensor("vectors", Float, [vectors.Length / width, width], [.. vectors.SelectMany(BitConverter.GetBytes)])),
            .. Message(5, Tensor("axis", Int64, [1], BitConverter.GetBytes(1L))),
            .. Message(11, Value("input_ids", Int64, "batch", "tokens")),
            .. Message(12, Value("text_embeds", Float, "batch", "width")),
        ]);

    /// <summary>An image tower that gives a picture's mean colour.</summary>
    /// <param name="output">What the result is called.</param>
    public static byte[] ImageTower(string output) => Model(
        [
            .. Message(1, Node("ReduceMean", ["pixel_values"], output, Attribute("keepdims", 0), Attribute("axes", 2, 3))),
            .. Text(2, "image"),
            .. Message(11, Value("pixel_values", Float, "batch", "channels", "height", "width")),
            .. Message(12, Value(output, Float, "batch", "colours")),
        ]);

    /// <summary>A tower over patches: the sum of their mean colours, as far as they are picture, with the rows and columns behind it.</summary>
    /// <param name="side">Pixels of a patch's side.</param>
    public static byte[] PatchTower(int side)
    {
        float[] mean = new float[side * side * 9];
        for (int i = 0; i < side * side * 3; i++)
        {
            mean[(3 * i) + (i % 3)] = 1f / (side * side);
        }
        return Model(
        [
            .. Message(1, Node("Cast", ["pixel_attention_mask"], "there", Attribute("to", Float))),
            .. Message(1, Node("Unsqueeze", ["there", "one"], "row")),
            .. Message(1, Node("MatMul", ["row", "pixel_values"], "summed")),
            .. Message(1, Node("MatMul", ["summed", "mean"], "colours")),
            .. Message(1, Node("ReduceSum", ["colours", "one"], "colour", Attribute("keepdims", 0))),
            .. Message(1, Node("Cast", ["spatial_shapes"], "shape", Attribute("to", Float))),
            .. Message(1, Node("Concat", ["colour", "shape"], "pooler_output", Attribute("axis", 1))),
            .. Text(2, "patches"),
            .. Message(5, Tensor("mean", Float, [side * side * 3, 3], [.. mean.SelectMany(BitConverter.GetBytes)])),
            .. Message(5, Tensor("one", Int64, [1], BitConverter.GetBytes(1L))),
            .. Message(11, Value("pixel_values", Float, "batch", "patches", "numbers")),
            .. Message(11, Value("pixel_attention_mask", Int64, "batch", "patches")),
            .. Message(11, Value("spatial_shapes", Int64, "batch", "two")),
            .. Message(12, Value("pooler_output", Float, "batch", "width")),
        ]);
    }

    /// <summary>Both towers in one graph, as Optimum exports them, with what compares them; the text's in a branch that takes its vectors from outside.</summary>
    /// <param name="vectors">[tokens, width]</param>
    public static byte[] Pair(float[] vectors, int width)
    {
        byte[] Branch(string name) => [.. Message(1, Node("ReduceSum", ["each", "axis"], $"{name}_sum", Attribute("keepdims", 0))), .. Text(2, name), .. Message(12, Value($"{name}_sum", Float, "batch", "width"))];
        return Model(
        [
            .. Message(1, Node("ReduceMean", ["pixel_values"], "image_embeds", Attribute("keepdims", 0), Attribute("axes", 2, 3))),
            .. Message(1, Node("Gather", ["vectors", "input_ids"], "each")),
            .. Message(1, Node("If", ["always"], "text_embeds", Attribute("then_branch", Branch("then")), Attribute("else_branch", Branch("else")))),
            .. Message(1, Node("Transpose", ["text_embeds"], "turned")),
            .. Message(1, Node("MatMul", ["image_embeds", "turned"], "logits_per_image")),
            .. Text(2, "pair"),
            .. Message(5, Tensor("vectors", Float, [vectors.Length / width, width], [.. vectors.SelectMany(BitConverter.GetBytes)])),
            .. Message(5, Tensor("axis", Int64, [1], BitConverter.GetBytes(1L))),
            .. Message(5, Tensor("always", Bool, [1], [1])),
            .. Message(11, Value("input_ids", Int64, "batch", "tokens")),
            .. Message(11, Value("pixel_values", Float, "pictures", "channels", "height", "width")),
            .. Message(12, Value("logits_per_image", Float, "pictures", "batch")),
            .. Message(12, Value("text_embeds", Float, "batch", "width")),
            .. Message(12, Value("image_embeds", Float, "pictures", "colours")),
        ]);
    }

    private static byte[] Model(byte[] graph) => [.. Number(1, 8), .. Message(7, graph), .. Message(8, [.. Text(1, ""), .. Number(2, 17)])];

    /// <summary>Of the kind INTS.</summary>
    private static byte[] Attribute(string name, long first, long second) => [.. Text(1, name), .. Number(8, first), .. Number(8, second), .. Number(20, 7)];

    private static byte[] Node(string kind, string[] inputs, string output, params byte[][] attributes) =>
        [.. inputs.SelectMany(i => Text(1, i)), .. Text(2, output), .. Text(4, kind), .. attributes.SelectMany(a => Message(5, a))];

    /// <summary>Of the kind GRAPH.</summary>
    private static byte[] Attribute(string name, byte[] graph) => [.. Text(1, name), .. Message(6, graph), .. Number(20, 5)];

    /// <summary>Of the kind INT.</summary>
    private static byte[] Attribute(string name, long value) => [.. Text(1, name), .. Number(3, value), .. Number(20, 2)];

    private static byte[] Tensor(string name, int type, long[] shape, byte[] raw) =>
        [.. shape.SelectMany(d => Number(1, d)), .. Number(2, type), .. Text(8, name), .. Message(9, raw)];

    private static byte[] Value(string name, int type, params string[] shape) =>
        [.. Text(1, name), .. Message(2, Message(1, [.. Number(1, type), .. Message(2, [.. shape.SelectMany(d => Message(1, Text(2, d)))])]))];

    private static byte[] Text(int field, string text) => Message(field, Encoding.UTF8.GetBytes(text));

    private static byte[] Message(int field, byte[] content) => [.. Varint(((ulong)field << 3) | 2), .. Varint((ulong)content.Length), .. content];

    private static byte[] Number(int field, long value) => [.. Varint((ulong)field << 3), .. Varint((ulong)value)];

    private static List<byte> Varint(ulong value)
    {
        var bytes = new List<byte>();
        for (; value > 127; value >>= 7)
        {
            bytes.Add((byte)(value | 128));
        }
        bytes.Add((byte)value);
        return bytes;
    }
}
