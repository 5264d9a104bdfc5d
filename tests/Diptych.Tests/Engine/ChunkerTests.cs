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
