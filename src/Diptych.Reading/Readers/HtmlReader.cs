using System.Buffers;
using System.Text;
using AngleSharp.Dom;
using AngleSharp.Html.Parser;
using Diptych.Core;
using Markdig;

namespace Diptych.Reading.Readers;

/// <summary>HTML by its structure, without what surrounds the content (navigation, scripts, footers).</summary>
internal sealed class HtmlReader : IFormatReader
{
    private static readonly HashSet<string> Skipped = new(
        ["SCRIPT", "STYLE", "NOSCRIPT", "TEMPLATE", "NAV", "FOOTER", "ASIDE", "FORM", "IFRAME", "SVG", "HEAD", "BUTTON", "SELECT"], StringComparer.Ordinal);

    /// <summary>Elements that have no end, or need none.</summary>
    private static readonly HashSet<string> Unended = new(
        ["area", "base", "br", "col", "colgroup", "dd", "dt", "embed", "hr", "img", "input", "li", "link", "meta", "optgroup", "option", "p", "param", "rp", "rt", "source", "tbody", "td",
            "tfoot", "th", "thead", "tr", "track", "wbr"],
        StringComparer.OrdinalIgnoreCase);

    private static readonly SearchValues<char> TagLetters = SearchValues.Create("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");

    /// <summary>Elements within each other; a long thread of quoted mails has some hundred.</summary>
    private const int MaxDepth = 4_096;

    private const int MaxTagLength = 32;

    private static readonly HashSet<string> Containers = new(
        ["P", "DIV", "SECTION", "ARTICLE", "MAIN", "BODY", "HTML", "UL", "OL", "DL", "LI", "DT", "DD", "TABLE", "THEAD", "TBODY", "TFOOT", "TR", "PRE", "BLOCKQUOTE",
            "FIGURE", "FIGCAPTION", "HEADER", "H1", "H2", "H3", "H4", "H5", "H6", "HR", "ADDRESS", "DETAILS", "SUMMARY"],
        StringComparer.Ordinal);

    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation) => Parse(TextEncoding.Decode(file.Bytes), file.Directory, file.Root, cancellation);

    public static ReadDocument Parse(string html, string? directory, string? root, CancellationToken cancellation)
    {
        CheckDepth(html);
        using var document = new HtmlParser().ParseDocument(html);
        Metadata metadata = Metadata.Empty;
        foreach (var (name, key) in new[] { ("author", "author"), ("description", "description"), ("keywords", "keywords"), ("date", "date") })
        {
            string? value = document.QuerySelector($"meta[name='{name}']")?.GetAttribute("content");
            metadata = key == "keywords" ? metadata.With(key, value?.Split(',') ?? []) : metadata.With(key, value);
        }
        metadata = metadata.With("language", document.DocumentElement?.GetAttribute("lang"));
        var walk = new Walk(directory, root ?? directory, cancellation);
        IElement? content = document.QuerySelector("main") ?? document.QuerySelector("article") ?? document.Body;
        if (content is not null)
        {
            walk.Visit(content, 0);
        }
        string? title = document.QuerySelector("title")?.TextContent.Trim();
        return new ReadDocument(string.IsNullOrEmpty(title) ? document.QuerySelector("h1")?.TextContent.Trim() : title, metadata, walk.Blocks);
    }

    /// <summary>
    /// The parser's time grows with the square of the depth, so that elements are counted first: roughly, without those that need no end.
    /// </summary>
    private static void CheckDepth(string html)
    {
        int depth = 0;
        for (int at = html.IndexOf('<'); at >= 0 && at + 1 < html.Length; at = html.IndexOf('<', at + 1))
        {
            bool ends = html[at + 1] == '/';
            ReadOnlySpan<char> rest = html.AsSpan(at + (ends ? 2 : 1));
            int length = rest[..Math.Min(rest.Length, MaxTagLength)].IndexOfAnyExcept(TagLetters);
            ReadOnlySpan<char> tag = rest[..(length < 0 ? Math.Min(rest.Length, MaxTagLength) : length)];
            if (tag.Length == 0 || Unended.Contains(tag.ToString()))
            {
                continue;
            }
            depth = ends ? Math.Max(0, depth - 1) : depth + 1;
            if (depth > MaxDepth)
            {
                throw new UnreadableException($"The page is nested too deeply: more than {MaxDepth} elements within each other.", null, ReadFailure.Depth);
            }
            if (!ends && (tag.Equals("script", StringComparison.OrdinalIgnoreCase) || tag.Equals("style", StringComparison.OrdinalIgnoreCase)))
            {
                // What looks like tags in there is text.
                int end = html.IndexOf($"</{tag}", at, StringComparison.OrdinalIgnoreCase);
                if (end < 0)
                {
                    return;
                }
                at = end - 1;
            }
        }
    }

    private sealed class Walk(string? directory, string? root, CancellationToken cancellation)
    {
        private const int MaxWalked = 512;

        public List<Block> Blocks { get; } = [];

        public void Visit(IElement element, int depth)
        {
            cancellation.ThrowIfCancellationRequested();
            if (Skipped.Contains(element.TagName) || depth > MaxWalked)
            {
                return;
            }
            switch (element.TagName)
            {
                case "H1" or "H2" or "H3" or "H4" or "H5" or "H6":
                    Blocks.Add(new Block(BlockKind.Heading, Collapse(element.TextContent), element.TagName[1] - '0'));
                    break;
                case "PRE":
                    Blocks.Add(new Block(BlockKind.Code, element.TextContent));
                    break;
                case "TABLE":
                    foreach (IElement row in element.QuerySelectorAll("tr"))
                    {
                        Blocks.Add(new Block(BlockKind.TableRow, string.Join(" | ", row.Children.Select(c => Collapse(c.TextContent)))));
                    }
                    Pictures(element);
                    break;
                case "IMG":
                    Picture(element);
                    break;
                default:
                    Children(element, depth);
                    break;
            }
        }

        private void Children(IElement element, int depth)
        {
            BlockKind kind = element.TagName is "LI" or "DT" or "DD" ? BlockKind.ListItem : BlockKind.Paragraph;
            var inline = new StringBuilder();
            foreach (INode node in element.ChildNodes)
            {
                if (node is IElement child && (Containers.Contains(child.TagName) || Skipped.Contains(child.TagName) || child.QuerySelector("p,div,table,ul,ol,pre") is not null))
                {
                    Close(inline, kind);
                    Visit(child, depth + 1);
                }
                else if (node is IElement { TagName: "IMG" } image)
                {
                    Close(inline, kind);
                    Picture(image);
                }
                else if (node is IElement { TagName: "BR" })
                {
                    inline.Append('\n');
                }
                else
                {
                    inline.Append(node.TextContent);
                    if (node is IElement wrapper && wrapper.QuerySelector("img") is not null)
                    {
                        Close(inline, kind);
                        Pictures(wrapper);
                    }
                }
            }
            Close(inline, kind);
        }

        private void Close(StringBuilder inline, BlockKind kind)
        {
            string text = Collapse(inline.ToString());
            inline.Clear();
            if (text.Length > 0)
            {
                Blocks.Add(new Block(kind, text));
            }
        }

        private void Pictures(IElement element)
        {
            foreach (IElement image in element.QuerySelectorAll("img"))
            {
                Picture(image);
            }
        }

        private void Picture(IElement image)
        {
            string source = image.GetAttribute("src") ?? "";
            string words = string.Join('\n', new[] { image.GetAttribute("alt"), image.GetAttribute("title") }.Where(w => !string.IsNullOrWhiteSpace(w)));
            if (Bytes(source) is { } bytes)
            {
                Blocks.Add(new Block(BlockKind.Picture, words, Image: bytes));
            }
        }

        /// <summary>A picture carried in the page, or one beside it; never one from the network or from above the folder that is ingested.</summary>
        private byte[]? Bytes(string source)
        {
            if (source.StartsWith("data:image/", StringComparison.OrdinalIgnoreCase) && source.IndexOf(";base64,", StringComparison.OrdinalIgnoreCase) is var at and > 0)
            {
                byte[] buffer = new byte[source.Length - at];
                return Convert.TryFromBase64String(source[(at + 8)..], buffer, out int length) ? buffer[..length] : null;
            }
            if (directory is null || root is null || source.Length == 0 || source.Contains("://", StringComparison.Ordinal))
            {
                return null;
            }
            string within = Path.TrimEndingDirectorySeparator(Path.GetFullPath(root)) + Path.DirectorySeparatorChar;
            string path = Path.GetFullPath(Path.Combine(directory, Uri.UnescapeDataString(source.Split('?', '#')[0])));
            return path.StartsWith(within, StringComparison.Ordinal) && MediaTypes.IsKnown(path) && File.Exists(path) ? File.ReadAllBytes(path) : null;
        }

        private static string Collapse(string text) =>
            string.Join('\n', text.Split('\n').Select(l => string.Join(' ', l.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries))).Where(l => l.Length > 0)).Trim();
    }
}

/// <summary>Markdown, through HTML: CommonMark with tables, and front matter as metadata.</summary>
internal sealed class MarkdownReader : IFormatReader
{
    private static readonly MarkdownPipeline Pipeline = new MarkdownPipelineBuilder()
        .UsePipeTables().UseGridTables().UseAutoLinks().UseFootnotes().UseDefinitionLists().UseEmphasisExtras().UseTaskLists().UseFigures().UseYamlFrontMatter().Build();

    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation)
    {
        string text = TextEncoding.Decode(file.Bytes);
        ReadDocument read = HtmlReader.Parse(Markdown.ToHtml(text, Pipeline), file.Directory, file.Root, cancellation);
        Metadata metadata = FrontMatter(text);
        return read with { Title = metadata.First("title") ?? read.Title, Metadata = read.Metadata.With(metadata) };
    }

    /// <summary>The plain "key: value" and "key: [a, b]" lines between the opening --- and the next.</summary>
    private static Metadata FrontMatter(string text)
    {
        string[] lines = text.ReplaceLineEndings("\n").Split('\n');
        Metadata metadata = Metadata.Empty;
        if (lines[0].TrimEnd() != "---")
        {
            return metadata;
        }
        foreach (string line in lines.Skip(1).TakeWhile(l => l.TrimEnd() != "---"))
        {
            int colon = line.IndexOf(':');
            if (colon > 0 && !char.IsWhiteSpace(line[0]))
            {
                string value = line[(colon + 1)..].Trim().Trim('"', '\'');
                metadata = value.StartsWith('[') && value.EndsWith(']')
                    ? metadata.With(line[..colon].Trim(), value[1..^1].Split(',').Select(v => v.Trim().Trim('"', '\'')))
                    : metadata.With(line[..colon].Trim(), value);
            }
        }
        return metadata;
    }
}
