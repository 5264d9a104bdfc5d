using Diptych.Core;
using DocumentFormat.OpenXml;
using DocumentFormat.OpenXml.Packaging;
using DocumentFormat.OpenXml.Presentation;
using A = DocumentFormat.OpenXml.Drawing;

namespace Diptych.Reading.Readers;

/// <summary>PowerPoint: each slide a page, its shapes with their boxes, its notes, its pictures.</summary>
internal sealed class PptxReader : IFormatReader
{
    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation)
    {
        using MemoryStream stream = OfficePackage.Open(file.Bytes, cancellation);
        return OfficePackage.Guard(() =>
        {
            using PresentationDocument document = PresentationDocument.Open(stream, false);
            PresentationPart main = document.PresentationPart ?? throw new UnreadableException("The document is damaged: it has no presentation part.");
            double width = main.Presentation?.SlideSize?.Cx?.Value ?? 9_144_000, height = main.Presentation?.SlideSize?.Cy?.Value ?? 6_858_000;
            var blocks = new List<Block>();
            int number = 0;
            foreach (SlideId id in main.Presentation?.SlideIdList?.Elements<SlideId>() ?? [])
            {
                cancellation.ThrowIfCancellationRequested();
                number++;
                if (id.RelationshipId?.Value is { } relationship && main.TryGetPartById(relationship, out OpenXmlPart? part) && part is SlidePart slide)
                {
                    Add(slide, number, width, height, blocks);
                }
            }
            string? title = document.PackageProperties.Title is { Length: > 0 } t ? t : blocks.FirstOrDefault(b => b.Kind == BlockKind.Heading)?.Text;
            return new ReadDocument(title, OfficePackage.Properties(document), blocks, number);
        });
    }

    private static void Add(SlidePart slide, int number, double width, double height, List<Block> blocks)
    {
        string label = $"slide {number}";
        foreach (OpenXmlElement element in slide.Slide?.CommonSlideData?.ShapeTree?.Descendants() ?? [])
        {
            switch (element)
            {
                case DocumentFormat.OpenXml.Presentation.Shape shape:
                    PlaceholderValues? role = shape.NonVisualShapeProperties?.ApplicationNonVisualDrawingProperties?.PlaceholderShape?.Type?.Value;
                    bool title = role == PlaceholderValues.Title || role == PlaceholderValues.CenteredTitle;
                    Box? box = BoxOf(shape.ShapeProperties?.Transform2D, width, height);
                    foreach (A.Paragraph paragraph in shape.TextBody?.Elements<A.Paragraph>() ?? [])
                    {
                        blocks.Add(new Block(title ? BlockKind.Heading : BlockKind.ListItem, paragraph.InnerText, title ? 1 : 0, number, box, label));
                    }
                    break;
                case A.TableRow row:
                    blocks.Add(new Block(BlockKind.TableRow, string.Join(" | ", row.Elements<A.TableCell>().Select(c => c.InnerText.Trim())), 0, number, null, label));
                    break;
                case DocumentFormat.OpenXml.Presentation.Picture picture when OfficePackage.Picture(slide, picture.BlipFill?.Blip?.Embed?.Value) is { } bytes:
                    string alt = picture.NonVisualPictureProperties?.NonVisualDrawingProperties?.Description?.Value ?? "";
                    blocks.Add(new Block(BlockKind.Picture, alt, 0, number, BoxOf(picture.ShapeProperties?.Transform2D, width, height), label, bytes));
                    break;
            }
        }
        string notes = slide.NotesSlidePart?.NotesSlide is { } sheet
            ? string.Join('\n', sheet.Descendants<DocumentFormat.OpenXml.Presentation.Shape>()
                .Where(s => s.NonVisualShapeProperties?.ApplicationNonVisualDrawingProperties?.PlaceholderShape?.Type?.Value == PlaceholderValues.Body)
                .Select(s => s.TextBody?.InnerText ?? ""))
            : "";
        if (notes.Length > 0)
        {
            blocks.Add(new Block(BlockKind.Paragraph, notes, 0, number, null, $"{label} notes"));
        }
    }

    private static Box? BoxOf(A.Transform2D? transform, double width, double height) =>
        transform is { Offset: { X: not null, Y: not null } offset, Extents: { Cx: not null, Cy: not null } extents }
            ? new Box(offset.X!.Value / width, offset.Y!.Value / height, extents.Cx!.Value / width, extents.Cy!.Value / height).Clamp()
            : null;
}
