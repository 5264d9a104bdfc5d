using System.Text;
using System.Text.RegularExpressions;
using Diptych.Core;
using Diptych.Inference;

namespace Diptych.Engine.Ingestion;

/// <summary>A passage before it is embedded.</summary>
/// <param name="EmbeddedText">What the text tower reads: the passage under its headings. Empty for a picture without words.</param>
/// <param name="Picture">The picture's block, for an image passage.</param>
public sealed record Chunk(Passage Passage, string EmbeddedText, Block? Picture);

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

    /// <summary>
    /// Characters that count as a token at least: a word that the vocabulary has not is one token however long it is, and a passage is
    /// for people too.
    /// </summary>
    private const int MaxTokenCharacters = 16;

    /// <summary>Characters of a paragraph that are looked at for what it says about a picture.</summary>
    private const int PictureContextCharacters = PictureContextTokens * MaxTokenCharacters;

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
        bool picturesAlone = document.Blocks.All(b => b.Kind == BlockKind.Picture);
        for (int i = 0; i < document.Blocks.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            Block block = document.Blocks[i];
            if (block.Kind == BlockKind.Picture)
            {
                Flush(chunks, open, path, tableHeader);
                AddPicture(chunks, document.Blocks, i, path, picturesAlone);
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
                string heading = content.Length <= MaxHeadingLength ? content : content[..WholeCharacters(content, 0, MaxHeadingLength)];
                headings.Add((block.Level, heading));
                path = string.Join(PathSeparator, headings.Select(h => h.Text));
                if (Measure(path) > MaxPathTokens)
                {
                    path = heading;
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
                tableHeader = Measure(content) <= MaxHeaderTokens ? content : null;
            }
            int start = text.Length;
            text.Append(content).Append(block.Kind is BlockKind.TableRow or BlockKind.ListItem ? "\n" : "\n\n");
            if (block.Kind != BlockKind.Heading)
            {
                Append(chunks, open, new Piece(block, content, start), path, tableHeader, cancellation);
            }
        }
        Flush(chunks, open, path, tableHeader);
        if (chunks.Count > 0 || text.Length == 0)
        {
            return (text.ToString(), chunks);
        }
        // A document of headings alone: they are its text.
        return Cut(document with { Blocks = [.. document.Blocks.Select(b => b with { Kind = BlockKind.Paragraph })] }, cancellation);
    }

    private static bool Splits(Block before, Block next) =>
        before.Page != next.Page || before.Label != next.Label || (before.Kind == BlockKind.TableRow) != (next.Kind == BlockKind.TableRow);

    private void Append(List<Chunk> chunks, List<Piece> open, Piece piece, string path, string? tableHeader, CancellationToken cancellation)
    {
        int budget = Budget(path) - (tableHeader is null || piece.Text == tableHeader ? 0 : Measure(tableHeader));
        int used = open.Sum(p => p.Tokens);
        foreach (Piece part in Fit(piece, budget))
        {
            cancellation.ThrowIfCancellationRequested();
            if (open.Count > 0 && used + part.Tokens > budget)
            {
                Flush(chunks, open, path, tableHeader);
                used = 0;
            }
            open.Add(part);
            used += part.Tokens;
        }
    }

    /// <summary>The piece whole if it fits; else its sentences, joined up to the budget; one that is too long is cut at line ends, and a line at words.</summary>
    private IEnumerable<Piece> Fit(Piece piece, int budget)
    {
        piece.Tokens = Measure(piece.Text);
        if (piece.Tokens <= budget)
        {
            yield return piece;
            yield break;
        }
        // Parts of about one length: a short tail would be a passage that says little.
        budget = Math.Min(budget, (piece.Tokens / ((piece.Tokens + budget - 1) / budget)) + (budget / 8));
        int start = 0, tokens = 0, end = 0;
        foreach (var (unit, count) in Sentences.Split(piece.Text).SelectMany(s => Units(piece.Text, s, budget)))
        {
            if (end > start && tokens + count > budget)
            {
                yield return piece.Slice(start, end, tokens);
                (start, tokens) = (unit.Start, 0);
            }
            (end, tokens) = (unit.End, tokens + count);
        }
        yield return piece.Slice(start, end, tokens);
    }

    /// <summary>Ranges that cover a sentence, none above the budget, each with its measure. Every character is counted a bounded number of times.</summary>
    private IEnumerable<(TextRange Range, int Tokens)> Units(string text, TextRange sentence, int budget)
    {
        int whole = Measure(text[sentence.Start..sentence.End]);
        if (whole <= budget)
        {
            yield return (sentence, whole);
            yield break;
        }
        for (int start = sentence.Start, end; start < sentence.End; start = end)
        {
            int newline = text.IndexOf('\n', start, sentence.End - start);
            end = newline < 0 ? sentence.End : newline + 1;
            int tokens = Measure(text[start..end]);
            if (tokens <= budget)
            {
                yield return (new TextRange(start, end), tokens);
                continue;
            }
            foreach (var part in Words(text, start, end, budget))
            {
                yield return part;
            }
        }
    }

    /// <summary>The words of a line, joined up to the budget; a word that is above it is cut.</summary>
    private IEnumerable<(TextRange Range, int Tokens)> Words(string text, int start, int end, int budget)
    {
        int tokens = 0;
        for (int at = start; at < end;)
        {
            int space = text.IndexOf(' ', at, Math.Min(budget, end - at)), next = space >= 0 ? space + 1 : end;
            if (space >= 0 || end - at <= budget)
            {
                int count = Measure(text[at..next]);
                if (tokens + count <= budget)
                {
                    (at, tokens) = (next, tokens + count);
                    continue;
                }
            }
            if (at == start)
            {
                // No more characters than a part may have are looked at, so that a line without a blank costs no more than one with.
                at = Longest(text, at, space >= 0 ? next : Math.Min(end, at + (budget * MaxTokenCharacters)), budget);
                tokens = Measure(text[start..at]);
            }
            yield return (new TextRange(start, at), tokens);
            (start, tokens) = (at, 0);
        }
        if (start < end)
        {
            yield return (new TextRange(start, end), tokens);
        }
    }

    /// <summary>Where the longest part ends that begins at a place and fits, by bisection between powers of two; one character at least, so that it ends.</summary>
    private int Longest(string text, int start, int end, int budget)
    {
        int fits = start + 1, above = end;
        for (int length = budget; start + length < end; length *= 2)
        {
            if (Measure(text[start..(start + length)]) > budget)
            {
                above = start + length;
                break;
            }
            fits = start + length;
        }
        while (fits + 1 < above)
        {
            int middle = (fits + above) / 2;
            (fits, above) = Measure(text[start..middle]) <= budget ? (middle, above) : (fits, middle);
        }
        return Math.Min(end, WholeCharacters(text, start, fits));
    }

    /// <summary>An end that does not lie within a character: moved back before its second half, or behind it where nothing else is left.</summary>
    private static int WholeCharacters(string text, int start, int end) =>
        end >= text.Length || !char.IsLowSurrogate(text[end]) || !char.IsHighSurrogate(text[end - 1]) ? end : end - 1 > start ? end - 1 : end + 1;

    /// <summary>What a text takes of a window, in tokens.</summary>
    private int Measure(string text) => Math.Max(tokenizer.Count(text), (text.Length + MaxTokenCharacters - 1) / MaxTokenCharacters);

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

    private void AddPicture(List<Chunk> chunks, IReadOnlyList<Block> blocks, int at, string path, bool alone)
    {
        Block picture = blocks[at];
        string words = Clean(picture.Text);
        if (!alone)
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
        chunks.Add(new Chunk(passage, words.Length == 0 ? "" : UnderHeadings(path, words), picture));
    }

    private static string? Nearest(IReadOnlyList<Block> blocks, int at, int step, Func<Block, bool> accept)
    {
        for (int i = at + step; i >= 0 && i < blocks.Count && Math.Abs(i - at) <= 2 && blocks[i].Page == blocks[at].Page; i += step)
        {
            if (blocks[i].Kind is BlockKind.Paragraph or BlockKind.ListItem && accept(blocks[i]))
            {
                string near = blocks[i].Text;
                return Clean(near.Length <= PictureContextCharacters ? near : near[..WholeCharacters(near, 0, PictureContextCharacters)]);
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

    private int Budget(string path) => path.Length == 0 ? _window : _window - Measure(path);

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
