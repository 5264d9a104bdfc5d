using System.Text;
using System.Text.Json;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Text;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>
/// Tokenizers in Hugging Face's format beside its own library (tokenizers, by Tokenizers.DotNet 1.4.1): tokenizers.json holds small ones of
/// each family's build, awkward strings, and the ids that the library gives for them.
/// </summary>
public sealed class TokenizerFileTests : IDisposable
{
    private static readonly JsonElement Data = Read();
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-tokenizer-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("xlmr")]
    [InlineData("siglip")]
    [InlineData("roberta")]
    [InlineData("llama3")]
    [InlineData("llama2")]
    [InlineData("gemma")]
    public void Ids_of_encoders_are_the_librarys(string name)
    {
        IEncoderTokenizer tokenizer = EncoderTokenizer.Open(Write(name), 512);
        foreach (var (text, ids) in Cases(name))
        {
            Assert.True(ids.SequenceEqual(tokenizer.Encode(text)), $"'{text}': {string.Join(' ', ids)} but {string.Join(' ', tokenizer.Encode(text))}");
        }
    }

    [Theory]
    [InlineData("llama3")]
    [InlineData("llama2")]
    [InlineData("mistral")]
    [InlineData("gemma")]
    public void Ids_of_decoders_are_the_librarys_and_come_back_as_the_text(string name)
    {
        var tokenizer = BytePairTokenizer.FromJson(Path.Combine(Write(name), "tokenizer.json"));
        Assert.Equal(name switch { "gemma" => null, "llama3" => 0, _ => 1 }, tokenizer.Begin);
        foreach (var (text, expected) in Cases(name))
        {
            int[] ids = tokenizer.Encode(text, specials: true);
            Assert.Equal(name == "gemma" ? expected[..^1] : expected, tokenizer.Begin is { } begin ? [begin, .. ids] : ids);
            string back = tokenizer.Decode(ids);
            if (!text.Contains('<', StringComparison.Ordinal))
            {
                Assert.Equal(name == "llama3" ? text.Normalize() : text.Replace('\u2581', ' '), name == "llama2" || (name == "mistral" && text[0] is not (' ' or '\u2581')) ? back[1..] : back);
            }
        }
    }

    [Fact]
    public void A_gguf_files_scores_give_the_ids_that_merges_give()
    {
        JsonElement model = Data.GetProperty("tokenizers").GetProperty("llama2").GetProperty("model");
        string[] tokens = [.. model.GetProperty("vocab").EnumerateObject().OrderBy(t => t.Value.GetInt32()).Select(t => t.Name)];
        var ranks = model.GetProperty("merges").EnumerateArray().Select((m, i) => (Union: m.GetString()!.Replace(" ", "", StringComparison.Ordinal), i)).DistinctBy(m => m.Union).ToDictionary(m => m.Union, m => -(float)m.i, StringComparer.Ordinal);
        string path = Path.Combine(_folder, "model.gguf");
        File.WriteAllBytes(path, Gguf(tokens, [.. tokens.Select(t => ranks.GetValueOrDefault(t, -1e6f))], [.. tokens.Select((t, i) => i < 3 ? i == 0 ? 2 : 3 : t.StartsWith("<0x", StringComparison.Ordinal) ? 6 : 1)]));
        using var file = new GgufFile(path);
        var tokenizer = BytePairTokenizer.FromGguf(file);
        Assert.Equal(1, tokenizer.Begin);
        foreach (var (text, ids) in Cases("llama2"))
        {
            Assert.Equal(ids, tokenizer.Encode(text, specials: true).Prepend(1));
        }
    }

    [Fact]
    public void Pairs_are_framed_and_cut_and_short_texts_are_filled_up()
    {
        var xlmr = EncoderTokenizer.Open(Write("xlmr"), 16);
        int[] one = xlmr.Encode("step"), pair = xlmr.EncodePair("step", "a time");
        Assert.Equal([0, .. one[1..^1], 2, 2, .. xlmr.Encode("a time")[1..^1], 2], pair);
        int[] cut = xlmr.EncodePair(string.Join(' ', Enumerable.Repeat("step", 40)), "a time");
        Assert.Equal(16, cut.Length);
        Assert.Equal([2, 2, .. xlmr.Encode("a time")[1..]], cut[^(xlmr.Encode("a time").Length + 1)..]);
        Assert.Equal(16, xlmr.Encode(string.Join(' ', Enumerable.Repeat("step", 40))).Length);

        var siglip = EncoderTokenizer.Open(Write("siglip"), 64, siglip: true);
        int[] filled = siglip.Encode("A cat, on a mat!");
        Assert.Equal(64, filled.Length);
        Assert.Equal(siglip.Encode("a cat on a mat"), filled);
        Assert.All(filled[(Array.IndexOf(filled, 2) + 1)..], id => Assert.Equal(1, id));
    }

    [Theory]
    [InlineData("""{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "added_tokens": []}""", "WordLevel")]
    [InlineData("""{"model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", 0]]}, "added_tokens": []}""", "unknown token")]
    [InlineData("""{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0]]}, "added_tokens": [], "normalizer": {"type": "Shout"}}""", "Shout")]
    [InlineData("""{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0]]}, "added_tokens": [], "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}""", "cut off")]
    [InlineData("""{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}""", "bytes")]
    [InlineData("""{"model": 1}""", "tokenizer")]
    [InlineData("not json", "tokenizer")]
    public void What_is_no_tokenizer_is_refused_by_its_file(string json, string why)
    {
        File.WriteAllText(Path.Combine(_folder, "tokenizer.json"), json);
        var error = Assert.Throws<InvalidDataException>(() => EncoderTokenizer.Open(_folder, 16));
        Assert.Contains(why, error.Message, StringComparison.Ordinal);
        Assert.Contains(_folder, error.Message, StringComparison.Ordinal);
    }

    private static IEnumerable<(string Text, int[] Ids)> Cases(string name) => Data.GetProperty("strings").EnumerateArray()
        .Zip(Data.GetProperty("ids").GetProperty(name).EnumerateArray(), (text, ids) => (text.GetString()!, ids.EnumerateArray().Select(i => i.GetInt32()).ToArray())).Where(c => c.Item1.Length > 0);

    private static JsonElement Read()
    {
        using Stream stream = typeof(TokenizerFileTests).Assembly.GetManifestResourceStream("tokenizers.json")!;
        using var json = JsonDocument.Parse(stream);
        return json.RootElement.Clone();
    }

    private string Write(string name)
    {
        File.WriteAllText(Path.Combine(_folder, "tokenizer.json"), Data.GetProperty("tokenizers").GetProperty(name).GetRawText());
        return _folder;
    }

    /// <summary>A file that holds a tokenizer of SentencePiece's kind and no tensor.</summary>
    private static byte[] Gguf(string[] tokens, float[] scores, int[] kinds)
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream, Encoding.UTF8);
        void Text(string text)
        {
            byte[] bytes = Encoding.UTF8.GetBytes(text);
            writer.Write((long)bytes.Length);
            writer.Write(bytes);
        }
        void List(string key, int type, int count)
        {
            Text(key);
            writer.Write(9);
            writer.Write(type);
            writer.Write((long)count);
        }
        writer.Write("GGUF"u8);
        writer.Write(3);
        writer.Write(0L);
        writer.Write(5L);
        Text("tokenizer.ggml.model");
        writer.Write(8);
        Text("llama");
        List("tokenizer.ggml.tokens", 8, tokens.Length);
        Array.ForEach(tokens, Text);
        List("tokenizer.ggml.scores", 6, scores.Length);
        Array.ForEach(scores, writer.Write);
        List("tokenizer.ggml.token_type", 5, kinds.Length);
        Array.ForEach(kinds, writer.Write);
        Text("tokenizer.ggml.bos_token_id");
        writer.Write(4);
        writer.Write(1);
        writer.Write(new byte[-stream.Length & 31]);
        return stream.ToArray();
    }
}
