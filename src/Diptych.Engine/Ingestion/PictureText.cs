using Diptych.Core;
using Diptych.Inference;

namespace Diptych.Engine.Ingestion;

/// <summary>Lines that were read in a picture, as blocks of the document that holds it: each with its box on the page.</summary>
internal static class PictureText
{
    private const string Label = "text in the picture";

    /// <summary>Lines whose heights overlap by this share are one row.</summary>
    private const double SameRow = 0.5;

    /// <summary>A gap of more than this many line heights begins a new paragraph.</summary>
    private const double ParagraphGap = 0.9;

    /// <param name="lines">In reading order, with corners in the pixels of a picture of that size.</param>
    public static IEnumerable<Block> Blocks(Block picture, IReadOnlyList<TextLine> lines, int width, int height)
    {
        var rows = new List<(string Text, Box Box)>();
        foreach (TextLine line in lines)
        {
            Box box = BoxOf(line, width, height);
            double shared = rows.Count == 0 ? 0 : Math.Min(rows[^1].Box.Y + rows[^1].Box.Height, box.Y + box.Height) - Math.Max(rows[^1].Box.Y, box.Y);
            if (rows.Count > 0 && shared > SameRow * Math.Min(rows[^1].Box.Height, box.Height) && box.X >= rows[^1].Box.X)
            {
                rows[^1] = ($"{rows[^1].Text} {line.Text}", rows[^1].Box.Union(box));
            }
            else
            {
                rows.Add((line.Text, box));
            }
        }
        for (int i = 0; i < rows.Count;)
        {
            var (text, box) = rows[i];
            double bottom = box.Y + box.Height, high = box.Height;
            for (i++; i < rows.Count && rows[i].Box.Y - bottom < ParagraphGap * high && rows[i].Box.Y >= box.Y; i++)
            {
                (text, box) = ($"{text}\n{rows[i].Text}", box.Union(rows[i].Box));
                (bottom, high) = (rows[i].Box.Y + rows[i].Box.Height, rows[i].Box.Height);
            }
            yield return new Block(BlockKind.Paragraph, text, Page: picture.Page ?? 1, Box: On(picture.Box, box), Label: picture.Label is null ? Label : $"{picture.Label}, {Label}");
        }
    }

    private static Box BoxOf(TextLine line, int width, int height)
    {
        double[] x = [.. line.Corners.Where((_, i) => i % 2 == 0).Select(c => (double)c / width)], y = [.. line.Corners.Where((_, i) => i % 2 == 1).Select(c => (double)c / height)];
        return new Box(x.Min(), y.Min(), x.Max() - x.Min(), y.Max() - y.Min()).Clamp();
    }

    /// <summary>A box in a picture as one on the page that the picture stands on.</summary>
    private static Box On(Box? picture, Box inner) => picture is { } p
        ? new Box(p.X + (inner.X * p.Width), p.Y + (inner.Y * p.Height), inner.Width * p.Width, inner.Height * p.Height)
        : inner;
}
