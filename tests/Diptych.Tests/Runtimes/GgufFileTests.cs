using System.Buffers.Binary;
using Diptych.Runtimes.Decoding;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>GGUF files that lie or are damaged are refused by a sentence that says where.</summary>
[Collection("decoders")]
public sealed class GgufFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-gguf-").FullName;

    private string FilePath => Path.Combine(_folder, "model.gguf");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_sound_file_is_taken_and_answers()
    {
        Assert.Null(Refusal(new TinyGguf()));
        using Decoder decoder = Decoder.Open(FilePath);
        using var team = new CoreTeam(1);
        using var cache = KeyValueBlocks.Holding(decoder.Config, 4);
        Assert.All(decoder.Forward([new Stretch([5, 6, 7], 0, SequenceBlocks.For(cache, 3))], cache, team)[..TinyGguf.Vocabulary], v => Assert.True(float.IsFinite(v)));
    }

    [Theory]
    [InlineData("general.alignment", 0u)]
    [InlineData("general.alignment", 48u)]
    [InlineData("general.alignment", 1u << 31)]
    [InlineData("general.alignment", "thirty-two")]
    [InlineData("llama.attention.head_count", 0u)]
    [InlineData("llama.attention.head_count", 5u)]
    [InlineData("llama.attention.head_count", -4)]
    [InlineData("llama.attention.head_count", 2.5f)]
    [InlineData("llama.attention.head_count", float.NaN)]
    [InlineData("llama.attention.head_count", "four")]
    [InlineData("llama.attention.head_count_kv", 0u)]
    [InlineData("llama.attention.head_count_kv", 3u)]
    [InlineData("llama.attention.key_length", 0u)]
    [InlineData("llama.embedding_length", 0u)]
    [InlineData("llama.embedding_length", uint.MaxValue)]
    [InlineData("llama.block_count", 0u)]
    [InlineData("llama.block_count", uint.MaxValue)]
    [InlineData("llama.block_count", ulong.MaxValue)]
    [InlineData("llama.context_length", 0u)]
    [InlineData("llama.feed_forward_length", 0u)]
    [InlineData("llama.rope.freq_base", 0f)]
    [InlineData("llama.rope.freq_base", float.NaN)]
    [InlineData("llama.attention.layer_norm_rms_epsilon", -1f)]
    [InlineData("llama.attention.sliding_window", -3)]
    [InlineData("tokenizer.ggml.tokens", 4u)]
    [InlineData("tokenizer.ggml.scores", "none")]
    [InlineData("tokenizer.ggml.bos_token_id", 259u)]
    [InlineData("tokenizer.ggml.eos_token_id", uint.MaxValue)]
    public void A_value_that_cannot_be_is_refused_by_its_key(string key, object value)
    {
        var file = new TinyGguf();
        file.Metadata[key] = value;
        Assert.Contains(key, Refusal(file), StringComparison.Ordinal);
    }

    [Fact]
    public void What_stands_twice_is_refused_by_its_name()
    {
        Assert.Contains("'general.name' stands twice", Refusal(new TinyGguf { Again = ("general.name", "other") }), StringComparison.Ordinal);
        Assert.Contains("two tensors 'blk.1.ffn_up.weight'", Refusal(new TinyGguf { Twice = "blk.1.ffn_up.weight" }), StringComparison.Ordinal);
    }

    [Fact]
    public void Tensors_of_unknown_types_or_beyond_the_end_are_refused_by_their_names()
    {
        var file = new TinyGguf();
        file.Tensors["blk.0.attn_q.weight"] = file.Tensors["blk.0.attn_q.weight"] with { Type = 99 };
        string refusal = Refusal(file)!;
        Assert.Contains("'blk.0.attn_q.weight'", refusal, StringComparison.Ordinal);
        Assert.Contains("99", refusal, StringComparison.Ordinal);

        byte[] bytes = new TinyGguf().Bytes();
        Assert.Contains("'blk.1.ffn_down.weight'", Refusal(bytes[..^64]), StringComparison.Ordinal);
        foreach (ulong claim in new[] { 0UL, 1UL << 31, 1UL << 62, ulong.MaxValue })
        {
            // The innermost dimension stands behind the name and the number of dimensions.
            byte[] changed = [.. bytes];
            BinaryPrimitives.WriteUInt64LittleEndian(changed.AsSpan(Behind(bytes, "blk.0.attn_k.weight") + 4), claim);
            Assert.Contains("'blk.0.attn_k.weight'", Refusal(changed), StringComparison.Ordinal);
            if (claim > 0)
            {
                changed = [.. bytes];
                BinaryPrimitives.WriteUInt64LittleEndian(changed.AsSpan(Behind(bytes, "blk.0.attn_k.weight") + 24), claim);
                Assert.Contains("'blk.0.attn_k.weight'", Refusal(changed), StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void Counts_and_lengths_beyond_the_end_are_refused_without_room_for_them()
    {
        byte[] bytes = new TinyGguf().Bytes();
        int text = Behind(bytes, "general.name"), list = Behind(bytes, "tokenizer.ggml.scores"), nested = Behind(bytes, "tokenizer.ggml.token_type");
        foreach (var (at, names) in new[] { (8, "number of tensors"), (16, "number of metadata entries"), (24, "key 1 of"), (text + 4, "'general.name'"), (list + 8, "'tokenizer.ggml.scores'") })
        {
            foreach (ulong claim in new[] { 1UL << 20, 1UL << 31, 1UL << 40, ulong.MaxValue })
            {
                byte[] changed = [.. bytes];
                BinaryPrimitives.WriteUInt64LittleEndian(changed.AsSpan(at), claim);
                long before = GC.GetAllocatedBytesForCurrentThread();
                Assert.Contains(names, Refusal(changed), StringComparison.Ordinal);
                Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 8 << 20);
            }
        }
        byte[] lists = [.. bytes];
        BinaryPrimitives.WriteUInt32LittleEndian(lists.AsSpan(nested + 4), 9);
        Assert.Contains("'tokenizer.ggml.token_type' is a list of lists", Refusal(lists), StringComparison.Ordinal);
        BinaryPrimitives.WriteUInt32LittleEndian(lists.AsSpan(nested + 4), 77);
        Assert.Contains("'tokenizer.ggml.token_type' is a list of type 77", Refusal(lists), StringComparison.Ordinal);
        BinaryPrimitives.WriteUInt32LittleEndian(lists.AsSpan(nested), 13);
        Assert.Contains("'tokenizer.ggml.token_type' is of type 13", Refusal(lists), StringComparison.Ordinal);
    }

    [Fact]
    public void Mutated_files_are_taken_or_refused_and_nothing_else()
    {
        byte[] sound = new TinyGguf().Bytes();
        int header = Behind(sound, "blk.1.ffn_down.weight") + 32;
        var random = new Random(23);
        int taken = 0;
        for (int i = 0; i < 600; i++)
        {
            byte[] bytes = [.. sound];
            switch (i % 4)
            {
                case 0:
                    bytes = bytes[..random.Next(bytes.Length)];
                    break;
                case 1:
                    BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(random.Next(header)), random.NextInt64() >> random.Next(64));
                    break;
                case 2:
                    bytes[random.Next(header)] ^= (byte)(1 << random.Next(8));
                    break;
                default:
                    // A piece of the header where another one stood.
                    int length = random.Next(1, 64);
                    sound.AsSpan(random.Next(header - length), length).CopyTo(bytes.AsSpan(random.Next(header - length)));
                    break;
            }
            long before = GC.GetAllocatedBytesForCurrentThread();
            taken += Refusal(bytes) is null && Opens() ? 1 : 0;
            Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 16 << 20);
        }
        Assert.InRange(taken, 1, 599);
    }

    /// <returns>False where the weights are refused.</returns>
    private bool Opens()
    {
        try
        {
            using Decoder decoder = Decoder.Open(FilePath);
            return true;
        }
        catch (InvalidDataException)
        {
            return false;
        }
    }

    private string? Refusal(TinyGguf file) => Refusal(file.Bytes());

    /// <returns>Null where it is taken.</returns>
    private string? Refusal(byte[] bytes)
    {
        File.WriteAllBytes(FilePath, bytes);
        try
        {
            LocalModel.Check(FilePath);
            return null;
        }
        catch (InvalidDataException error)
        {
            return error.Message;
        }
    }

    /// <summary>Where the bytes behind a name begin.</summary>
    private static int Behind(byte[] bytes, string name) => bytes.AsSpan().IndexOf([.. BitConverter.GetBytes((ulong)name.Length), .. System.Text.Encoding.UTF8.GetBytes(name)]) + 8 + name.Length;
}
