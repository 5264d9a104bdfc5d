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

namespace Diptych.Reading.Readers;

/// <summary>PDF: blocks of text in reading order and embedded images, each with its page and box.</summary>
internal sealed class PdfReader : IFormatReader
{
    /// <summary>Smaller pictures are rules, bullets and icons.</summary>
    private const int MinPictureSide = 32;

    /// <summary>A file with more pages that cannot be read is given up.</summary>
    private const int MaxFailedPages = 100;

    /// <summary>A line this much larger than the body text, and short, is a heading.</summary>
    private const double HeadingScale = 1.15;

    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation)
    {
        var filters = new PdfFilters();
        using PdfDocument pdf = Open(file.Bytes, filters);
        new PdfForms(pdf).OpenCircles();
        var pages = new List<(int Number, List<Paragraph> Texts, List<Block> Pictures)>();
        var warnings = new List<string>();
        var failed = new List<Exception>();
        var sizes = new SortedDictionary<double, int>();
        // A page's letters are let go before the next page is read: a long manual has millions.
        for (int number = 1; number <= pdf.NumberOfPages; number++)
        {
            cancellation.ThrowIfCancellationRequested();
            try
            {
                Page page = pdf.GetPage(number);
                pages.Add((page.Number, [.. Texts(page, sizes)], [.. Pictures(page, filters, warnings)]));
            }
            catch (Exception error) when (IsDamage(error) && failed.Count < MaxFailedPages)
            {
                failed.Add(error);
                warnings.Add($"Page {number} could not be read. {error.Message.Split('\n')[0]}");
            }
        }
        if (pages.Count == 0 && failed.Count > 0)
        {
            throw failed[0];
        }
        double body = Median(sizes);
        var blocks = new List<Block>();
        foreach (var (number, texts, pictures) in pages)
        {
            // A picture goes before the first text that stands below its middle, where its caption usually is.
            var waiting = new Queue<Block>(pictures.OrderBy(p => p.Box!.Value.Y));
            foreach (Paragraph text in texts)
            {
                while (waiting.TryPeek(out Block? picture) && picture.Box!.Value.Y + (picture.Box.Value.Height / 2) < text.Box.Y)
                {
                    blocks.Add(waiting.Dequeue());
                }
                blocks.Add(TextOf(text, number, body));
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
        return new ReadDocument(title, metadata, blocks, pdf.NumberOfPages) { Warnings = warnings };
    }

    private static PdfDocument Open(byte[] bytes, PdfFilters filters)
    {
        PdfCrossReferences.Check(bytes);
        try
        {
            return PdfDocument.Open(bytes, new ParsingOptions { UseLenientParsing = true, SkipMissingFonts = true, FilterProvider = filters });
        }
        catch (PdfDocumentEncryptedException error)
        {
            throw new UnreadableException("The PDF is encrypted with a password.", error);
        }
    }

    /// <param name="sizes">Letter sizes in points, and how many words have each: added to.</param>
    private static IEnumerable<Paragraph> Texts(Page page, SortedDictionary<double, int> sizes)
    {
        List<Word> words = [.. NearestNeighbourWordExtractor.Instance.GetWords(page.Letters).Where(w => !string.IsNullOrWhiteSpace(w.Text))];
        if (words.Count == 0)
        {
            return [];
        }
        foreach (Word word in words)
        {
            double size = Size(word);
            sizes[size] = sizes.GetValueOrDefault(size) + 1;
        }
        IReadOnlyList<TextBlock> blocks = DocstrumBoundingBoxes.Instance.GetBlocks(words);
        return UnsupervisedReadingOrderDetector.Instance.Get(blocks).Select(b => new Paragraph(
            Unhyphenate(b.TextLines.Select(l => l.Text.Trim())),
            b.TextLines.Count,
            Median(b.TextLines.SelectMany(l => l.Words).Select(Size)),
            Relative(b.BoundingBox, page)));
    }

    private static Block TextOf(Paragraph text, int page, double body)
    {
        bool heading = text.Size >= body * HeadingScale && text.Lines <= 3 && text.Text.Length <= 160 && text.Text.Any(char.IsLetter);
        int level = text.Size >= body * 1.8 ? 1 : text.Size >= body * 1.4 ? 2 : 3;
        return new Block(heading ? BlockKind.Heading : BlockKind.Paragraph, text.Text, heading ? level : 0, page, text.Box);
    }

    private static List<Block> Pictures(Page page, PdfFilters filters, List<string> warnings)
    {
        var pictures = new List<Block>();
        using IEnumerator<IPdfImage> images = page.GetImages().GetEnumerator();
        while (true)
        {
            try
            {
                if (!images.MoveNext())
                {
                    return pictures;
                }
            }
            catch (Exception error) when (IsDamage(error))
            {
                warnings.Add($"Pictures on page {page.Number} are left out. {error.Message.Split('\n')[0]}");
                return pictures;
            }
            IPdfImage image = images.Current;
            if (image.WidthInSamples < MinPictureSide || image.HeightInSamples < MinPictureSide || image.IsImageMask)
            {
                continue;
            }
            try
            {
                filters.Refusal = null;
                byte[]? bytes = PdfJpeg.Of(image, filters) ?? (image.TryGetPng(out byte[]? png) ? png : null);
                if (filters.Refusal is { } refused)
                {
                    throw refused;
                }
                if (bytes is not null)
                {
                    pictures.Add(new Block(BlockKind.Picture, "", 0, page.Number, Relative(image.BoundingBox, page), null, bytes));
                }
            }
            catch (Exception error) when (IsDamage(error))
            {
                warnings.Add($"A picture on page {page.Number} is left out. {error.Message.Split('\n')[0]}");
            }
        }
    }

    /// <summary>Whether an error is of the page or picture that it came from.</summary>
    private static bool IsDamage(Exception error) => error is not (OutOfMemoryException or OperationCanceledException);

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

    private static double Median(SortedDictionary<double, int> counts)
    {
        int left = counts.Values.Sum() / 2;
        foreach (var (value, count) in counts)
        {
            if (left < count)
            {
                return value;
            }
            left -= count;
        }
        return 0;
    }

    /// <param name="Size">Median letter size in points.</param>
    private sealed record Paragraph(string Text, int Lines, double Size, Box Box);
}
