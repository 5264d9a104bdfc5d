using System.Globalization;
using Diptych.Core;
using DocumentFormat.OpenXml;
using DocumentFormat.OpenXml.Packaging;
using DocumentFormat.OpenXml.Spreadsheet;

namespace Diptych.Reading.Readers;

/// <summary>Excel: each sheet a page and a table whose first row names the columns.</summary>
internal sealed class XlsxReader : IFormatReader
{
    private const int MaxRows = 200_000;

    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation)
    {
        using MemoryStream stream = OfficePackage.Open(file.Bytes, cancellation);
        return OfficePackage.Guard(() =>
        {
            using SpreadsheetDocument document = SpreadsheetDocument.Open(stream, false);
            WorkbookPart main = document.WorkbookPart ?? throw new UnreadableException("The document is damaged: it has no workbook part.");
            string[] shared = [.. Elements<SharedStringItem>(main.SharedStringTablePart).Select(i => i.InnerText)];
            var dates = DateStyles(main);
            var blocks = new List<Block>();
            int number = 0;
            foreach (Sheet sheet in main.Workbook?.Sheets?.Elements<Sheet>() ?? [])
            {
                number++;
                if (sheet.Id?.Value is not { } id || !main.TryGetPartById(id, out OpenXmlPart? part) || part is not WorksheetPart worksheet)
                {
                    continue;
                }
                string name = sheet.Name?.Value ?? $"Sheet{number}";
                blocks.Add(new Block(BlockKind.Heading, name, 1, number));
                var rows = new List<List<(int Column, string Text)>>();
                foreach (Row row in Elements<Row>(worksheet).Take(MaxRows))
                {
                    cancellation.ThrowIfCancellationRequested();
                    rows.Add(Cells(row, shared, dates));
                }
                blocks.AddRange(Table.Blocks(Compact(rows), (from, to) => $"{name} rows {from}-{to}", limits, number));
                foreach (ImagePart image in worksheet.DrawingsPart?.ImageParts ?? [])
                {
                    blocks.Add(new Block(BlockKind.Picture, "", 0, number, null, name, OfficePackage.Bytes(image)));
                }
            }
            string? title = document.PackageProperties.Title is { Length: > 0 } t ? t : null;
            return new ReadDocument(title, OfficePackage.Properties(document), blocks, number);
        });
    }

    /// <summary>The elements of a kind, one at a time: the tree of a whole sheet takes thirty times its file.</summary>
    private static IEnumerable<T> Elements<T>(OpenXmlPart? part)
        where T : OpenXmlElement
    {
        if (part is null)
        {
            yield break;
        }
        using var reader = OpenXmlReader.Create(part);
        while (reader.Read())
        {
            while (reader.ElementType == typeof(T) && reader.IsStartElement)
            {
                yield return (T)reader.LoadCurrentElement()!;
            }
        }
    }

    private static List<(int Column, string Text)> Cells(Row row, string[] shared, HashSet<uint> dates)
    {
        var cells = new List<(int, string)>();
        int next = 0;
        foreach (Cell cell in row.Elements<Cell>())
        {
            int column = Column(cell.CellReference?.Value) ?? next;
            if (Text(cell, shared, dates) is var text && !string.IsNullOrWhiteSpace(text))
            {
                cells.Add((column, text));
            }
            next = column + 1;
        }
        return cells;
    }

    /// <summary>Rows from the first with something in it on, over the columns that have something anywhere: a cell far out costs no more than one beside.</summary>
    private static string[][] Compact(List<List<(int Column, string Text)>> rows)
    {
        var places = rows.SelectMany(r => r.Select(c => c.Column)).Distinct().Order().Select((column, place) => (column, place)).ToDictionary();
        return [.. rows.SkipWhile(r => r.Count == 0).Select(r =>
        {
            string[] cells = new string[r.Count == 0 ? 0 : r.Max(c => places[c.Column]) + 1];
            Array.Fill(cells, "");
            r.ForEach(c => cells[places[c.Column]] = c.Text);
            return cells;
        })];
    }

    private static string Text(Cell cell, string[] shared, HashSet<uint> dates)
    {
        string raw = cell.CellValue?.InnerText ?? cell.InlineString?.InnerText ?? "";
        if (cell.DataType?.Value == CellValues.SharedString)
        {
            return int.TryParse(raw, CultureInfo.InvariantCulture, out int index) && index >= 0 && index < shared.Length ? shared[index] : "";
        }
        if (cell.DataType?.Value == CellValues.Boolean)
        {
            return raw == "1" ? "true" : "false";
        }
        bool isDate = (cell.DataType is null || cell.DataType.Value == CellValues.Number) && cell.StyleIndex?.Value is { } style && dates.Contains(style);
        return isDate && double.TryParse(raw, NumberStyles.Float, CultureInfo.InvariantCulture, out double days) && days is > 0 and < 2_958_465
            ? DateTime.FromOADate(days).ToString(days % 1 == 0 ? "yyyy-MM-dd" : "yyyy-MM-dd HH:mm", CultureInfo.InvariantCulture)
            : raw;
    }

    /// <summary>Indexes of the cell styles whose number format is a date (built-in 14-22 and 45-47, or custom with d, m, y or h).</summary>
    private static HashSet<uint> DateStyles(WorkbookPart main)
    {
        Stylesheet? styles = main.WorkbookStylesPart?.Stylesheet;
        var custom = (styles?.NumberingFormats?.Elements<NumberingFormat>() ?? [])
            .Where(f => f.NumberFormatId is not null && (f.FormatCode?.Value ?? "").AsSpan().ContainsAny("dyh"))
            .Select(f => f.NumberFormatId!.Value).ToHashSet();
        return [.. (styles?.CellFormats?.Elements<CellFormat>() ?? [])
            .Select((f, i) => (Format: f.NumberFormatId?.Value ?? 0, Index: (uint)i))
            .Where(f => f.Format is (>= 14 and <= 22) or (>= 45 and <= 47) || custom.Contains(f.Format))
            .Select(f => f.Index)];
    }

    private static int? Column(string? reference)
    {
        int column = 0;
        foreach (char c in reference ?? "")
        {
            if (!char.IsAsciiLetterUpper(c))
            {
                break;
            }
            column = (column * 26) + c - 'A' + 1;
        }
        return column == 0 ? null : column - 1;
    }
}
