using System.Globalization;
using Diptych.Core;
using UglyToad.PdfPig;
using UglyToad.PdfPig.Content;
using UglyToad.PdfPig.Core;
using UglyToad.PdfPig.DocumentLayoutAnalysis;
using UglyToad.PdfPig.DocumentLayoutAnalysis.PageSegmenter;
using UglyToad.PdfPig.DocumentLayoutAnalysis.ReadingOrderDetector;
using UglyToad.PdfPig.DocumentLayoutAnalysis.WordExtractor;
using UglyToad.PdfPig.Exceptions;

namespace Diptych.Engine.Ingestion.Readers;

/// <summary>PDF: blocks of text in reading order and embedded images, each with its page and box.</summary>
internal sealed class PdfReader : IDocumentReader
{
    /// <summary>Smaller pictures are rules, bullets and icons.</summary>
    private const int MinPictureSide = 32;

    /// <summary>A line this much larger than the body text, and short, is a heading.</summary>
    private const double HeadingScale = 1.15;

    public ReadDocument Read(SourceFile file, CancellationToken cancellation)
    {
        using PdfDocument pdf = Open(file.Bytes);
        var pages = new List<(int Number, List<(TextBlock Text, Box Box)> Texts, List<Block> Pictures)>();
        foreach (Page page in pdf.GetPages())
        {
            cancellation.ThrowIfCancellationRequested();
            pages.Add((page.Number, [.. Texts(page)], [.. Pictures(page)]));
        }
        double body = Median(pages.SelectMany(p => p.Texts).SelectMany(t => t.Text.TextLines).SelectMany(l => l.Words).Select(Size));
        var blocks = new List<Block>();
        foreach (var (number, texts, pictures) in pages)
        {
            // A picture goes before the first text that stands below its middle, where its caption usually is.
            var waiting = new Queue<Block>(pictures.OrderBy(p => p.Box!.Value.Y));
            foreach (var (text, box) in texts)
            {
                while (waiting.TryPeek(out Block? picture) && picture.Box!.Value.Y + (picture.Box.Value.Height / 2) < box.Y)
                {
                    blocks.Add(waiting.Dequeue());
                }
                blocks.Add(TextOf(text, box, number, body));
            }
            blocks.AddRange(waiting);
        }
        DocumentInformation info = pdf.Information;
        Metadata metadata = Metadata.Empty
            .With("author", info.Author)
            .With("subject", info.Subject is "(unspecified)" ? null : info.Subject)
            .With("keywords", info.Keywords?.Split([',', ';']) ?? [])
            .With("date", info.GetCreatedDateTimeOffset()?.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture));
        string? title = string.IsNullOrWhiteSpace(info.Title) ? blocks.FirstOrDefault(b => b.Kind == BlockKind.Heading)?.Text : info.Title.Trim();
        return new ReadDocument(title, metadata, blocks, pdf.NumberOfPages);
    }

    private static PdfDocument Open(byte[] bytes)
    {
        try
        {
            return PdfDocument.Open(bytes, new ParsingOptions { UseLenientParsing = true, SkipMissingFonts = true });
        }
        catch (PdfDocumentEncryptedException error)
        {
            throw new UnreadableException("The PDF is encrypted with a password.", error);
        }
    }

    private static IEnumerable<(TextBlock Text, Box Box)> Texts(Page page)
    {
        List<Word> words = [.. NearestNeighbourWordExtractor.Instance.GetWords(page.Letters).Where(w => !string.IsNullOrWhiteSpace(w.Text))];
        if (words.Count == 0)
        {
            return [];
        }
        IReadOnlyList<TextBlock> blocks = DocstrumBoundingBoxes.Instance.GetBlocks(words);
        return UnsupervisedReadingOrderDetector.Instance.Get(blocks).Select(b => (b, Relative(b.BoundingBox, page)));
    }

    private static Block TextOf(TextBlock text, Box box, int page, double body)
    {
        string joined = Unhyphenate(text.TextLines.Select(l => l.Text.Trim()));
        double size = Median(text.TextLines.SelectMany(l => l.Words).Select(Size));
        bool heading = size >= body * HeadingScale && text.TextLines.Count <= 3 && joined.Length <= 160 && joined.Any(char.IsLetter);
        int level = size >= body * 1.8 ? 1 : size >= body * 1.4 ? 2 : 3;
        return new Block(heading ? BlockKind.Heading : BlockKind.Paragraph, joined, heading ? level : 0, page, box);
    }

    private static IEnumerable<Block> Pictures(Page page)
    {
        foreach (IPdfImage image in page.GetImages())
        {
            if (image.WidthInSamples < MinPictureSide || image.HeightInSamples < MinPictureSide || image.IsImageMask)
            {
                continue;
            }
            byte[]? bytes = PdfJpeg.Of(image) ?? (image.TryGetPng(out byte[]? png) ? png : null);
            if (bytes is not null)
            {
                yield return new Block(BlockKind.Picture, "", 0, page.Number, Relative(image.BoundingBox, page), null, bytes);
            }
        }
    }

    private static Box Relative(PdfRectangle box, Page page)
    {
        PdfRectangle frame = page.CropBox.Bounds;
        double left = Math.Min(box.Left, box.Right), top = Math.Max(box.Top, box.Bottom);
        return new Box((left - frame.Left) / frame.Width, (frame.Top - top) / frame.Height, Math.Abs(box.Width) / frame.Width, Math.Abs(box.Height) / frame.Height).Clamp();
    }

    private static string Unhyphenate(IEnumerable<string> lines)
    {
        string joined = "";
        foreach (string line in lines.Where(l => l.Length > 0))
        {
            bool broken = joined.Length > 1 && joined[^1] is '-' or '\u00AD' && char.IsLetter(joined.Length > 1 ? joined[^2] : ' ') && char.IsLower(line[0]);
            joined = joined.Length == 0 ? line : broken ? joined[..^1] + line : $"{joined} {line}";
        }
        return joined;
    }

    private static double Size(Word word) => word.Letters.Average(l => l.PointSize);

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted.Length == 0 ? 0 : sorted[sorted.Length / 2];
    }
}
