using System.Text;
using System.Text.RegularExpressions;
using Diptych.Core;
using Diptych.Inference;

namespace Diptych.Engine.Ingestion;

/// <summary>A passage before it is embedded.</summary>
/// <param name="EmbeddedText">What the text tower reads: the passage under its headings. Empty for a picture without words.</param>
/// <param name="Image">The encoded picture, for an image passage.</param>
public sealed record Chunk(Passage Passage, string EmbeddedText, byte[]? Image);

/// <summary>
/// Cuts a document into passages along its structure: a passage never spans two headings, pages, or a table and prose; a sentence is
/// cut only when it is longer than the window; tokens are counted by the embedder's own tokenizer.
/// </summary>
public sealed partial class Chunker(ITokenizer tokenizer)
{
    private const string PathSeparator = " › ";

    /// <summary>Words around a picture that describe it, at most.</summary>
    private const int PictureContextTokens = 96;

    /// <summary>A longer path is shortened to its last heading, so that the passage has the greater part of the window.</summary>
    private const int MaxPathTokens = 96;

    private const int MaxHeadingLength = 200;

    /// <summary>A longer first row is no header worth repeating.</summary>
    private const int MaxHeaderTokens = 64;

    private readonly int _window = tokenizer.MaxTokens - 2;

    /// <returns>The extracted text, and the passages whose character ranges count in it.</returns>
    public (string Text, IReadOnlyList<Chunk> Chunks) Cut(ReadDocument document, CancellationToken cancellation = default)
    {
        var text = new StringBuilder();
        var chunks = new List<Chunk>();
        var headings = new List<(int Level, string Text)>();
        var open = new List<Piece>();
        string path = "";
        string? tableHeader = null;
        for (int i = 0; i < document.Blocks.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            Block block = document.Blocks[i];
            if (block.Kind == BlockKind.Picture)
            {
                Flush(chunks, open, path, tableHeader);
                AddPicture(chunks, document.Blocks, i, path);
                continue;
            }
            string content = Clean(block.Text);
            if (content.Length == 0)
            {
                continue;
            }
            bool startsTable = block.Kind == BlockKind.TableRow && (i == 0 || document.Blocks[i - 1].Kind != BlockKind.TableRow);
            if (block.Kind == BlockKind.Heading)
            {
                Flush(chunks, open, path, tableHeader);
                headings.RemoveAll(h => h.Level >= block.Level);
                headings.Add((block.Level, content));
                path = string.Join(PathSeparator, headings.Select(h => h.Text));
                if (tokenizer.Count(path) > MaxPathTokens)
                {
                    path = content.Length <= MaxHeadingLength ? content : content[..MaxHeadingLength];
                }
            }
            else if (startsTable || (open.Count > 0 && Splits(open[^1].Block, block)))
            {
                Flush(chunks, open, path, tableHeader);
            }
            if (block.Kind != BlockKind.TableRow)
            {
                tableHeader = null;
            }
            else if (startsTable)
            {
                tableHeader = tokenizer.Count(content) <= MaxHeaderTokens ? content : null;
            }
            int start = text.Length;
            text.Append(content).Append(block.Kind is BlockKind.TableRow or BlockKind.ListItem ? "\n" : "\n\n");
            if (block.Kind != BlockKind.Heading)
            {
                Append(chunks, open, new Piece(block, content, start), path, tableHeader);
            }
        }
        Flush(chunks, open, path, tableHeader);
        return (text.ToString(), chunks.Count > 0 ? chunks : HeadingsOnly(document, text.ToString()));
    }

    private static bool Splits(Block before, Block next) =>
        before.Page != next.Page || before.Label != next.Label || (before.Kind == BlockKind.TableRow) != (next.Kind == BlockKind.TableRow);

    private void Append(List<Chunk> chunks, List<Piece> open, Piece piece, string path, string? tableHeader)
    {
        int budget = Budget(path) - (tableHeader is null || piece.Text == tableHeader ? 0 : tokenizer.Count(tableHeader));
        int used = open.Sum(p => p.Tokens);
        foreach (Piece part in Fit(piece, budget))
        {
            if (open.Count > 0 && used + part.Tokens > budget)
            {
                Flush(chunks, open, path, tableHeader);
                used = 0;
            }
            open.Add(part);
            used += part.Tokens;
        }
    }

    /// <summary>The piece whole if it fits; else its sentences, joined up to the budget; a sentence that is too long is cut at words.</summary>
    private IEnumerable<Piece> Fit(Piece piece, int budget)
    {
        piece.Tokens = tokenizer.Count(piece.Text);
        if (piece.Tokens <= budget)
        {
            yield return piece;
            yield break;
        }
        // Parts of about one length: a short tail would be a passage that says little.
        budget = Math.Min(budget, (piece.Tokens / ((piece.Tokens + budget - 1) / budget)) + (budget / 8));
        int start = 0, tokens = 0, end = 0;
        foreach (TextRange unit in Sentences.Split(piece.Text).SelectMany(s => SplitLong(piece.Text, s, budget)))
        {
            int count = tokenizer.Count(piece.Text[unit.Start..unit.End]);
            if (end > start && tokens + count > budget)
            {
                yield return piece.Slice(start, end, tokens);
                (start, tokens) = (unit.Start, 0);
            }
            (end, tokens) = (unit.End, tokens + count);
        }
        yield return piece.Slice(start, end, tokens);
    }

    private IEnumerable<TextRange> SplitLong(string text, TextRange sentence, int budget)
    {
        int start = sentence.Start;
        while (start < sentence.End && tokenizer.Count(text[start..sentence.End]) > budget)
        {
            // The longest run of words that fits, by bisection over characters; at least one character, so that it ends.
            int low = start + 1, high = sentence.End;
            while (low < high)
            {
                int middle = (low + high + 1) / 2;
                (low, high) = tokenizer.Count(text[start..middle]) <= budget ? (middle, high) : (low, middle - 1);
            }
            int space = text.LastIndexOf(' ', low - 1, low - start);
            int cut = space > start ? space + 1 : low;
            yield return new TextRange(start, cut);
            start = cut;
        }
        if (start < sentence.End)
        {
            yield return new TextRange(start, sentence.End);
        }
    }

    private void Flush(List<Chunk> chunks, List<Piece> open, string path, string? tableHeader)
    {
        if (open.Count == 0)
        {
            return;
        }
        Block first = open[0].Block;
        bool table = first.Kind == BlockKind.TableRow;
        string body = string.Join(table || first.Kind == BlockKind.ListItem ? "\n" : "\n\n", open.Select(p => p.Text));
        if (table && tableHeader is not null && open[0].Text != tableHeader)
        {
            body = $"{tableHeader}\n{body}";
        }
        Box? box = null;
        foreach (Piece piece in open)
        {
            box = piece.Block.Box is { } next ? box?.Union(next) ?? next : box;
        }
        var passage = new Passage
        {
            Ordinal = chunks.Count,
            Modality = Modality.Text,
            Text = body,
            HeadingPath = path,
            Anchor = new Anchor(first.Page, box, open[0].Start, open[^1].Start + open[^1].Text.Length, first.Label),
        };
        chunks.Add(new Chunk(passage, UnderHeadings(path, body), null));
        open.Clear();
    }

    private void AddPicture(List<Chunk> chunks, IReadOnlyList<Block> blocks, int at, string path)
    {
        Block picture = blocks[at];
        string words = Clean(picture.Text);
        bool inside = blocks.Any(b => b.Kind != BlockKind.Picture);
        if (inside)
        {
            // A caption stands after its picture; failing that, the paragraph before says what is shown.
            string? near = Nearest(blocks, at, 1, b => CaptionStart().IsMatch(b.Text)) ?? Nearest(blocks, at, -1, _ => true) ?? Nearest(blocks, at, 1, _ => true);
            words = string.Join('\n', new[] { words, Shorten(near ?? "") }.Where(w => w.Length > 0).Distinct(StringComparer.Ordinal));
        }
        var passage = new Passage
        {
            Ordinal = chunks.Count,
            Modality = Modality.Image,
            Text = words,
            HeadingPath = path,
            Anchor = new Anchor(picture.Page, picture.Box, null, null, picture.Label),
        };
        chunks.Add(new Chunk(passage, words.Length == 0 ? "" : UnderHeadings(path, words), picture.Image));
    }

    private static string? Nearest(IReadOnlyList<Block> blocks, int at, int step, Func<Block, bool> accept)
    {
        for (int i = at + step; i >= 0 && i < blocks.Count && Math.Abs(i - at) <= 2 && blocks[i].Page == blocks[at].Page; i += step)
        {
            if (blocks[i].Kind is BlockKind.Paragraph or BlockKind.ListItem && accept(blocks[i]))
            {
                return Clean(blocks[i].Text);
            }
        }
        return null;
    }

    private string Shorten(string text)
    {
        var kept = new StringBuilder();
        int tokens = 0;
        foreach (TextRange sentence in Sentences.Split(text))
        {
            string part = text[sentence.Start..sentence.End];
            tokens += tokenizer.Count(part);
            if (tokens > PictureContextTokens)
            {
                break;
            }
            kept.Append(part);
        }
        return kept.ToString().Trim();
    }

    /// <summary>A document of headings alone is one passage: its text.</summary>
    private static IReadOnlyList<Chunk> HeadingsOnly(ReadDocument document, string text) => string.IsNullOrWhiteSpace(text)
        ? []
        : [new Chunk(
            new Passage { Modality = Modality.Text, Text = text.Trim(), Anchor = new Anchor(document.Blocks[0].Page, null, 0, text.Length) }, text.Trim(), null)];

    private int Budget(string path) => path.Length == 0 ? _window : _window - tokenizer.Count(path);

    private static string UnderHeadings(string path, string body) => path.Length == 0 ? body : $"{path}\n{body}";

    private static string Clean(string text) => Blanks().Replace(text.ReplaceLineEndings("\n"), " ").Trim();

    [GeneratedRegex(@"[^\S\n]+", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Blanks();

    [GeneratedRegex(@"^\s*(figure|fig\.|photo|image|table)\b", RegexOptions.IgnoreCase | RegexOptions.CultureInvariant, 1000)]
    private static partial Regex CaptionStart();

    private sealed record Piece(Block Block, string Text, int Start)
    {
        public int Tokens { get; set; }

        public Piece Slice(int start, int end, int tokens) => new(Block, Text[start..end].TrimEnd(), Start + start) { Tokens = tokens };
    }
}

/// <summary>Splits prose into sentences.</summary>
public static partial class Sentences
{
    private static readonly HashSet<string> Abbreviations = new(
        ["mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "fig", "figs", "no", "vol", "pp", "ca", "cf", "al", "inc", "ltd", "jr", "sr", "approx", "dept"],
        StringComparer.OrdinalIgnoreCase);

    /// <returns>Ranges that cover the text without gaps; blanks after a sentence belong to it.</returns>
    public static IEnumerable<TextRange> Split(string text)
    {
        int start = 0;
        foreach (Match end in SentenceEnd().Matches(text))
        {
            int stop = end.Index + end.Length;
            if (end.Value[0] == '.' && EndsInAbbreviation(text.AsSpan(start, end.Index - start)))
            {
                continue;
            }
            if (stop < text.Length)
            {
                yield return new TextRange(start, stop);
                start = stop;
            }
        }
        if (start < text.Length)
        {
            yield return new TextRange(start, text.Length);
        }
    }

    private static bool EndsInAbbreviation(ReadOnlySpan<char> before)
    {
        int word = before.LastIndexOfAny(' ', '\n', '(') + 1;
        ReadOnlySpan<char> last = before[word..];
        return last.Length == 1 && char.IsLetter(last[0]) || Abbreviations.Contains(last.ToString());
    }

    [GeneratedRegex(@"[.!?…][""'”’)\]]*\s+(?=[\p{Lu}\p{Lo}\p{N}""'“‘(\[]|\p{Ll})|[。！？]\s*|\n\s*\n\s*", RegexOptions.CultureInvariant, 2000)]
    private static partial Regex SentenceEnd();
}
