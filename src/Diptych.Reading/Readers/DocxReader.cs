using System.Globalization;
using Diptych.Core;
using DocumentFormat.OpenXml;
using DocumentFormat.OpenXml.Packaging;
using DocumentFormat.OpenXml.Wordprocessing;
using A = DocumentFormat.OpenXml.Drawing;

namespace Diptych.Reading.Readers;

/// <summary>Word: headings by style, paragraphs, list items, tables, pictures with their alternative text.</summary>
internal sealed class DocxReader : IFormatReader
{
    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation)
    {
        using MemoryStream stream = OfficePackage.Open(file.Bytes, cancellation);
        return OfficePackage.Guard(() =>
        {
            using WordprocessingDocument document = WordprocessingDocument.Open(stream, false);
            MainDocumentPart main = document.MainDocumentPart ?? throw new UnreadableException("The document is damaged: it has no main part.");
            var styles = (main.StyleDefinitionsPart?.Styles?.Elements<Style>() ?? [])
                .Where(s => s.StyleId?.Value is not null)
                .GroupBy(s => s.StyleId!.Value!)
                .ToDictionary(g => g.Key, g => g.First().StyleName?.Val?.Value ?? "");
            var blocks = new List<Block>();
            foreach (OpenXmlElement element in main.Document?.Body?.ChildElements ?? default)
            {
                cancellation.ThrowIfCancellationRequested();
                if (element is Paragraph paragraph)
                {
                    Add(paragraph, main, styles, blocks);
                }
                else if (element is DocumentFormat.OpenXml.Wordprocessing.Table table)
                {
                    foreach (TableRow row in table.Elements<TableRow>())
                    {
                        blocks.Add(new Block(BlockKind.TableRow, string.Join(" | ", row.Elements<TableCell>().Select(c => c.InnerText.Trim()))));
                    }
                }
                else
                {
                    foreach (Paragraph inner in element.Descendants<Paragraph>())
                    {
                        Add(inner, main, styles, blocks);
                    }
                }
            }
            Metadata metadata = OfficePackage.Properties(document);
            string? title = document.PackageProperties.Title is { Length: > 0 } t ? t : blocks.FirstOrDefault(b => b.Kind == BlockKind.Heading)?.Text;
            return new ReadDocument(title, metadata, blocks);
        });
    }

    private static void Add(Paragraph paragraph, MainDocumentPart main, Dictionary<string, string> styles, List<Block> blocks)
    {
        string text = string.Concat(paragraph.Descendants().Select(e => e switch
        {
            Text t => t.Text,
            TabChar => "\t",
            Break => "\n",
            _ => "",
        })).Trim();
        if (text.Length > 0)
        {
            string? id = paragraph.ParagraphProperties?.ParagraphStyleId?.Val?.Value;
            string style = id is not null && styles.TryGetValue(id, out string? name) ? name : id ?? "";
            int level = Level(style, paragraph);
            bool item = paragraph.ParagraphProperties?.NumberingProperties is not null || style.StartsWith("List", StringComparison.OrdinalIgnoreCase);
            blocks.Add(new Block(level > 0 ? BlockKind.Heading : item ? BlockKind.ListItem : BlockKind.Paragraph, text, level));
        }
        foreach (A.Blip blip in paragraph.Descendants<A.Blip>())
        {
            if (OfficePackage.Picture(main, blip.Embed?.Value) is { } bytes)
            {
                string alt = blip.Ancestors<DocumentFormat.OpenXml.Drawing.Wordprocessing.Inline>().FirstOrDefault()?.DocProperties?.Description?.Value ?? "";
                blocks.Add(new Block(BlockKind.Picture, alt, Image: bytes));
            }
        }
    }

    private static int Level(string style, Paragraph paragraph)
    {
        if (style.Equals("Title", StringComparison.OrdinalIgnoreCase))
        {
            return 1;
        }
        if (style.StartsWith("heading", StringComparison.OrdinalIgnoreCase))
        {
            return int.TryParse(style.AsSpan(7).Trim(), CultureInfo.InvariantCulture, out int level) ? Math.Clamp(level, 1, 6) : 2;
        }
        return paragraph.ParagraphProperties?.OutlineLevel?.Val?.Value is { } outline and < 6 ? outline + 1 : 0;
    }
}
