using System.Globalization;
using System.Text;
using System.Text.Json;
using Diptych.Core;
using Sylvan.Data.Csv;

namespace Diptych.Reading.Readers;

/// <summary>Plain text: paragraphs stand between blank lines.</summary>
internal sealed class PlainTextReader : IFormatReader
{
    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation) =>
        new(null, Metadata.Empty, [.. Paragraphs(TextEncoding.Decode(file.Bytes)).Select(p => new Block(BlockKind.Paragraph, p))]);

    public static IEnumerable<string> Paragraphs(string text) =>
        text.ReplaceLineEndings("\n").Split("\n\n", StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
}

/// <summary>CSV and TSV: each row reads "column: value; …", so that a row found alone still says what its values are.</summary>
internal sealed class CsvReader : IFormatReader
{
    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation)
    {
        var options = new CsvDataReaderOptions { HasHeaders = false, MaxBufferSize = 1 << 24, BufferSize = 1 << 16, CsvStyle = CsvStyle.Lax };
        var rows = new List<string[]>();
        try
        {
            using CsvDataReader csv = CsvDataReader.Create(new StringReader(TextEncoding.Decode(file.Bytes)), options);
            while (csv.Read())
            {
                cancellation.ThrowIfCancellationRequested();
                string[] row = new string[csv.RowFieldCount];
                for (int i = 0; i < row.Length; i++)
                {
                    row[i] = csv.GetString(i);
                }
                rows.Add(row);
            }
        }
        catch (Exception error) when (error is FormatException or System.Data.Common.DbException)
        {
            throw new UnreadableException($"Row {rows.Count + 1} is not valid CSV: {error.Message}", error);
        }
        return new ReadDocument(null, Metadata.Empty, [.. Table.Blocks(rows, (from, to) => $"rows {from}-{to}", limits)]);
    }
}

/// <summary>Rows of a spreadsheet or CSV file as blocks.</summary>
internal static class Table
{
    /// <summary>Rows that one label covers.</summary>
    private const int Group = 20;

    /// <param name="label">Makes a label of the first and last row number of a group, from 1.</param>
    /// <exception cref="UnreadableException">More text comes out than may: names of columns and shared cells stand in every row.</exception>
    public static IEnumerable<Block> Blocks(IReadOnlyList<string[]> rows, Func<int, int, string> label, ReaderLimits limits, int? page = null)
    {
        if (rows.Count == 0)
        {
            yield break;
        }
        string[] header = rows[0];
        bool named = rows.Count > 1 && header.All(h => !double.TryParse(h, NumberStyles.Float, CultureInfo.InvariantCulture, out _));
        long characters = 0;
        for (int i = named ? 1 : 0; i < rows.Count; i++)
        {
            IEnumerable<string> cells = named
                ? rows[i].Select((value, column) => (Name: column < header.Length ? header[column].Trim() : "", value))
                    .Where(c => c.value.Trim().Length > 0).Select(c => c.Name.Length > 0 ? $"{c.Name}: {c.value.Trim()}" : c.value.Trim())
                : rows[i].Where(v => v.Trim().Length > 0).Select(v => v.Trim());
            string text = string.Join("; ", cells);
            characters += text.Length;
            OutputMeter.CheckCharacters(characters, limits);
            if (text.Length > 0)
            {
                int from = (i / Group * Group) + 1;
                yield return new Block(BlockKind.ListItem, text, 0, page, null, label(Math.Max(from, named ? 2 : 1), Math.Min(from + Group - 1, rows.Count)));
            }
        }
    }
}

/// <summary>JSON: each value under its path; the items of a top-level array, and the lines of JSONL, are items of their own.</summary>
internal sealed class JsonReader(bool lines) : IFormatReader
{
    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation)
    {
        string text = TextEncoding.Decode(file.Bytes);
        var blocks = new List<Block>();
        int number = 0;
        foreach (string part in lines ? text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries) : [text])
        {
            cancellation.ThrowIfCancellationRequested();
            number++;
            try
            {
                using var json = JsonDocument.Parse(part, new JsonDocumentOptions { AllowTrailingCommas = true, CommentHandling = JsonCommentHandling.Skip });
                JsonElement root = json.RootElement;
                int item = 0;
                foreach (JsonElement element in !lines && root.ValueKind == JsonValueKind.Array ? root.EnumerateArray().ToArray() : [root])
                {
                    item++;
                    var flat = new StringBuilder();
                    Flatten(element, "", flat);
                    blocks.Add(new Block(BlockKind.Paragraph, flat.ToString(), 0, null, null, lines ? $"line {number}" : root.ValueKind == JsonValueKind.Array ? $"item {item}" : null));
                }
            }
            catch (JsonException error)
            {
                throw new UnreadableException($"Line {(lines ? number : (error.LineNumber ?? 0) + 1)} is not valid JSON.", error);
            }
        }
        return new ReadDocument(null, Metadata.Empty, blocks);
    }

    private static void Flatten(JsonElement element, string path, StringBuilder into)
    {
        switch (element.ValueKind)
        {
            case JsonValueKind.Object:
                foreach (JsonProperty property in element.EnumerateObject())
                {
                    Flatten(property.Value, path.Length == 0 ? property.Name : $"{path}.{property.Name}", into);
                }
                break;
            case JsonValueKind.Array:
                foreach (JsonElement item in element.EnumerateArray())
                {
                    Flatten(item, path, into);
                }
                break;
            case JsonValueKind.Null:
                break;
            default:
                into.Append(path.Length == 0 ? "" : $"{path}: ").Append(element).Append('\n');
                break;
        }
    }
}
