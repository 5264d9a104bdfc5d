using System.Text;
using Diptych.Core;
using Diptych.Engine.Ingestion;
using Diptych.Runtimes.Text;
using Xunit;

namespace Diptych.Tests.Engine;

public sealed class ChunkerTests
{
    private static readonly WordPieceTokenizer Tokenizer = new(Path.Combine(Shared.Starter, "vocab.txt"), 256);
    private readonly Chunker _chunker = new(Tokenizer);

    [Fact]
    public void Any_document_is_covered_within_the_window_and_in_order()
    {
        var random = new Random(11);
        string[] words = ["harbour", "light", "a", "the", "antidisestablishmentarianism", "fog", "Dr.", "3.14", "north"];
        for (int round = 0; round < 40; round++)
        {
            var blocks = Enumerable.Range(0, random.Next(1, 20)).Select(_ => new Block(
                (BlockKind)random.Next(0, 5),
                string.Join(' ', Enumerable.Range(0, random.Next(1, 500)).Select(_ => words[random.Next(words.Length)] + (random.Next(9) == 0 ? "." : ""))),
                random.Next(1, 4),
                random.Next(3))).Select(b => b.Kind == BlockKind.Heading ? b with { Text = b.Text[..Math.Min(b.Text.Length, 60)] } : b).ToList();
            var (text, chunks) = _chunker.Cut(new ReadDocument(null, Metadata.Empty, blocks), TestContext.Current.CancellationToken);
            Assert.All(chunks, c => Assert.True(Tokenizer.Count(c.EmbeddedText) <= 254, $"{Tokenizer.Count(c.EmbeddedText)} tokens"));
            Assert.Equal(chunks.Select((_, i) => i), chunks.Select(c => c.Passage.Ordinal));
            string all = string.Concat(chunks.Select(c => c.Passage.Text).SelectMany(t => t.Where(char.IsLetter)));
            foreach (Block block in blocks.Where(b => b.Kind != BlockKind.Heading))
            {
                Assert.Contains(new string([.. block.Text.Where(char.IsLetter)])[..Math.Min(20, block.Text.Count(char.IsLetter))], all, StringComparison.Ordinal);
            }
            Assert.All(chunks, c => Assert.True(c.Passage.Anchor.Start >= 0 && c.Passage.Anchor.End <= text.Length && c.Passage.Anchor.Start < c.Passage.Anchor.End));
        }
    }

    /// <summary>Texts without the ends that prose has, by how they go on.</summary>
    public static TheoryData<string, Func<int, string>> Endless() => new()
    {
        { "log", n => Repeat(n, i => $"2026-11-26T10:{i / 60 % 60:00}:{i % 60:00}.{i % 1000:000}Z INFO worker[{i % 97}] request {i * 7919 % 65536:x4} took {i % 313} ms status=200\n") },
        { "base64", n => Convert.ToBase64String(Bytes(n * 3 / 4)) },
        { "one line of words", n => Repeat(n, i => $"word{i % 1000} ") },
        { "lines without blanks", n => Repeat(n, i => $"{i:x8}{i * 31:x8}\n") },
        { "Chinese without ends", n => Repeat(n, i => $"{(char)(0x4e00 + (i * 37 % 20000))}") },
        { "emoji", n => Repeat(n, _ => "\U0001F600") },
        { "one letter and its accents", n => "a" + new string('\u0301', n) },
        { "dots", n => new string('.', n) },
        { "dots and quotes", n => Repeat(n, _ => ".\"") },
        { "abbreviations", n => Repeat(n, _ => "e.g. ") },
        { "controls", n => Repeat(n, _ => "\u0001\u0002 ") },
        { "blank lines", n => Repeat(n, i => i % 3 == 0 ? "x" : "\n \n") },
    };

    [Theory]
    [MemberData(nameof(Endless))]
    public void Work_on_any_text_grows_with_its_length_and_what_is_cut_fits_and_is_whole(string kind, Func<int, string> make)
    {
        string text = make(200_000);
        long Allocated(string of)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            _chunker.Cut(new ReadDocument(null, Metadata.Empty, [new Block(BlockKind.Paragraph, of)]), TestContext.Current.CancellationToken);
            return GC.GetAllocatedBytesForCurrentThread() - before;
        }
        Allocated(text[..1000]);
        long half = Allocated(text[..100_000]), all = Allocated(text);
        Assert.True(all < 3 * half && all < 5000L * text.Length, $"{kind}: {half / 100_000.0:0} bytes a character for half of it, {all / (double)text.Length:0} for all");
        var (read, chunks) = _chunker.Cut(new ReadDocument(null, Metadata.Empty, [new Block(BlockKind.Paragraph, text)]), TestContext.Current.CancellationToken);
        Assert.All(chunks, c => Assert.True(Tokenizer.Count(c.EmbeddedText) <= 254 && c.EmbeddedText.Length <= 254 * 16));
        Assert.Equal(read.Where(c => !char.IsWhiteSpace(c)), chunks.SelectMany(c => c.Passage.Text).Where(c => !char.IsWhiteSpace(c)));
        Assert.All(chunks, c => Assert.False(char.IsLowSurrogate(c.Passage.Text[0]) || char.IsHighSurrogate(c.Passage.Text[^1])));
    }

    [Fact]
    public void Lines_of_a_log_stay_whole()
    {
        string log = Repeat(20_000, i => $"{i:0000} pump {i % 7} reports pressure {i % 13} and goes on\n");
        var (_, chunks) = Cut(new Block(BlockKind.Paragraph, log));
        Assert.True(chunks.Count > 10);
        Assert.All(chunks, c => Assert.All(c.Passage.Text.Split('\n'), line => Assert.EndsWith("goes on", line, StringComparison.Ordinal)));
    }

    [Fact]
    public void Long_headings_and_first_rows_are_not_repeated_in_every_passage()
    {
        string giant = new('x', 1_000_000);
        Block[] blocks = [.. Enumerable.Range(1, 6).Select(l => new Block(BlockKind.Heading, giant, l)), .. Enumerable.Range(0, 500).Select(i => new Block(BlockKind.Paragraph, $"Line {i}."))];
        var (_, chunks) = Cut(blocks);
        Assert.True(chunks.Sum(c => (long)c.EmbeddedText.Length) < 1_000_000);
        (_, chunks) = Cut([.. Enumerable.Range(0, 500).Select(i => new Block(BlockKind.TableRow, i == 0 ? giant : $"row {i}"))]);
        Assert.True(chunks.Sum(c => (long)c.EmbeddedText.Length) < 2_000_000);
    }

    [Fact]
    public void A_document_of_headings_alone_is_its_text_however_long()
    {
        var (text, chunks) = Cut([.. Enumerable.Range(0, 400).Select(i => new Block(BlockKind.Heading, $"Chapter {i} about the harbour", 1))]);
        Assert.True(chunks.Count > 3);
        Assert.All(chunks, c => Assert.True(Tokenizer.Count(c.EmbeddedText) <= 254));
        Assert.Equal(text.Where(char.IsLetter), chunks.SelectMany(c => c.Passage.Text).Where(char.IsLetter));
    }

    private static string Repeat(int length, Func<int, string> piece)
    {
        var text = new StringBuilder(length);
        for (int i = 0; text.Length < length; i++)
        {
            text.Append(piece(i));
        }
        return text.ToString();
    }

    private static byte[] Bytes(int length)
    {
        byte[] bytes = new byte[length];
        new Random(7).NextBytes(bytes);
        return bytes;
    }

    [Fact]
    public void A_passage_carries_its_heading_path_and_never_spans_two_headings()
    {
        var (_, chunks) = Cut(new Block(BlockKind.Heading, "Care", 1), new Block(BlockKind.Heading, "Food", 2), new Block(BlockKind.Paragraph, "Twice a day."),
            new Block(BlockKind.Heading, "Health", 2), new Block(BlockKind.Paragraph, "Once a year."));
        Assert.Equal([("Care › Food", "Twice a day."), ("Care › Health", "Once a year.")], chunks.Select(c => (c.Passage.HeadingPath, c.Passage.Text)));
        Assert.Equal("Care › Food\nTwice a day.", chunks[0].EmbeddedText);
    }

    [Fact]
    public void A_long_table_repeats_its_header()
    {
        var rows = Enumerable.Range(0, 200).Select(i => new Block(BlockKind.TableRow, i == 0 ? "city | people" : $"town {i} | {i * 1000}")).ToArray();
        var (_, chunks) = Cut(rows);
        Assert.True(chunks.Count > 3);
        Assert.All(chunks, c => Assert.StartsWith("city | people\n", c.Passage.Text, StringComparison.Ordinal));
    }

    [Fact]
    public void A_sentence_is_cut_only_when_it_is_longer_than_the_window()
    {
        string sentence = string.Join(' ', Enumerable.Repeat("word", 100)) + ". ";
        var (_, chunks) = Cut(new Block(BlockKind.Paragraph, sentence + sentence + sentence + sentence + sentence));
        Assert.All(chunks, c => Assert.EndsWith(".", c.Passage.Text, StringComparison.Ordinal));
        var (_, cut) = Cut(new Block(BlockKind.Paragraph, string.Join(' ', Enumerable.Repeat("word", 1000))));
        Assert.True(cut.Count >= 4);
    }

    [Fact]
    public void A_picture_is_tied_to_its_caption_or_the_words_before_it()
    {
        var (_, chunks) = Cut(new Block(BlockKind.Paragraph, "The harbour at dawn."), new Block(BlockKind.Picture, "", Image: [1]), new Block(BlockKind.Paragraph, "Figure 2. Boats."));
        Chunk picture = chunks.Single(c => c.Passage.Modality == Modality.Image);
        Assert.Equal("Figure 2. Boats.", picture.Passage.Text);
        var (_, before) = Cut(new Block(BlockKind.Paragraph, "The harbour at dawn."), new Block(BlockKind.Picture, "a photo", Image: [1]));
        Assert.Equal("a photo\nThe harbour at dawn.", before.Single(c => c.Passage.Modality == Modality.Image).Passage.Text);
    }

    [Theory]
    [InlineData("One. Two! Three?", 3)]
    [InlineData("Dr. Smith met Mr. Jones. They talked.", 2)]
    [InlineData("It costs 3.50 euro. Cheap.", 2)]
    [InlineData("北京欢迎你。你好！", 2)]
    [InlineData("J. S. Bach wrote it. So what.", 2)]
    public void Sentences_end_where_a_reader_would_end_them(string text, int count)
    {
        var ranges = Sentences.Split(text).ToList();
        Assert.Equal(count, ranges.Count);
        Assert.Equal(text, string.Concat(ranges.Select(r => text[r.Start..r.End])));
    }

    private (string Text, IReadOnlyList<Chunk> Chunks) Cut(params Block[] blocks) => _chunker.Cut(new ReadDocument(null, Metadata.Empty, blocks));
}
