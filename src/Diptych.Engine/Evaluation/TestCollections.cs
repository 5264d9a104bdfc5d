using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;
using Diptych.Core;

namespace Diptych.Engine.Evaluation;

/// <summary>Reads the formats that retrieval test collections come in: Cranfield (SMART), TREC, BEIR's JSON lines.</summary>
public static partial class TestCollections
{
    /// <summary>Documents as (id, title, text); the title may be empty.</summary>
    public static IReadOnlyList<(string Id, string Title, string Text)> Corpus(string path) => Records(path, positional: false);

    /// <summary>Queries as (id, text). Those of a Cranfield file are numbered from 1 by position, as its judgements count them.</summary>
    public static IReadOnlyList<(string Id, string Text)> Queries(string path) =>
        [.. Records(path, positional: true).Select(r => (r.Id, $"{r.Title} {r.Text}".Trim()))];

    /// <summary>Relevant documents by query: TREC's four columns, or Cranfield's three, where codes 1 to 4 are relevant.</summary>
    /// <exception cref="InvalidRequestException">A line has another form.</exception>
    public static IReadOnlyDictionary<string, IReadOnlySet<string>> Qrels(string path)
    {
        var qrels = new Dictionary<string, IReadOnlySet<string>>(StringComparer.Ordinal);
        int number = 0;
        foreach (string line in File.ReadLines(path))
        {
            number++;
            string[] columns = line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
            if (columns.Length == 0)
            {
                continue;
            }
            if (columns.Length is not (3 or 4) || !int.TryParse(columns[^1], CultureInfo.InvariantCulture, out int grade))
            {
                if (number == 1 && columns[0].Contains("query", StringComparison.OrdinalIgnoreCase))
                {
                    continue;
                }
                throw new InvalidRequestException($"{path}:{number}: a judgement is 'query 0 document grade' or 'query document grade'.");
            }
            if (!qrels.TryGetValue(columns[0], out IReadOnlySet<string>? relevant))
            {
                qrels[columns[0]] = relevant = new HashSet<string>(StringComparer.Ordinal);
            }
            if (grade > 0)
            {
                ((HashSet<string>)relevant).Add(columns[^2]);
            }
        }
        return qrels;
    }

    /// <summary>A TREC run: query Q0 document rank score tag, ordered by score.</summary>
    public static IReadOnlyDictionary<string, IReadOnlyList<string>> Run(string path)
    {
        var lines = new List<(string Query, string Document, double Score, int Line)>();
        foreach (string line in File.ReadLines(path))
        {
            string[] c = line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
            if (c.Length == 0)
            {
                continue;
            }
            if (c.Length < 5 || !double.TryParse(c[4], NumberStyles.Float, CultureInfo.InvariantCulture, out double score))
            {
                throw new InvalidRequestException($"{path}:{lines.Count + 1}: a run has 'query Q0 document rank score tag'.");
            }
            lines.Add((c[0], c[2], score, lines.Count));
        }
        return lines.GroupBy(l => l.Query).ToDictionary(
            g => g.Key, g => (IReadOnlyList<string>)[.. g.OrderByDescending(l => l.Score).ThenBy(l => l.Line).Select(l => l.Document)]);
    }

    /// <summary>Captions as (file, caption), tab separated.</summary>
    public static IReadOnlyList<(string File, string Caption)> Captions(string path) =>
        [.. File.ReadLines(path).Select(l => l.Split('\t', 2)).Where(c => c.Length == 2).Select(c => (c[0], c[1].Trim()))];

    private static IReadOnlyList<(string Id, string Title, string Text)> Records(string path, bool positional)
    {
        string text = File.ReadAllText(path);
        string start = text.TrimStart();
        var records = start.StartsWith(".I", StringComparison.Ordinal) ? Smart(text, positional)
            : start.StartsWith('{') ? BeirLines(text)
            : start.StartsWith("<DOC>", StringComparison.OrdinalIgnoreCase) ? Trec(text)
            : [.. text.Split('\n').Select(l => l.Split('\t', 2)).Where(c => c.Length == 2).Select(c => (c[0].Trim(), "", c[1].Trim()))];
        return records.Count > 0 ? records : throw new InvalidRequestException($"{path} is neither Cranfield (.I), TREC (<DOC>), JSON lines nor tab-separated.");
    }

    private static List<(string, string, string)> Smart(string text, bool positional)
    {
        var records = new List<(string, string, string)>();
        foreach (string record in SmartStart().Split(text).Where(r => r.Trim().Length > 0))
        {
            string id = record[..record.IndexOf('\n')].Trim();
            // Cranfield's body begins with its title.
            string title = Section(record, "T"), body = Section(record, "W");
            body = title.Length > 0 && body.StartsWith(title, StringComparison.Ordinal) ? body[title.Length..].TrimStart(' ', '.', '\n', '\r') : body;
            records.Add((positional ? (records.Count + 1).ToString(CultureInfo.InvariantCulture) : id, title, body));
        }
        return records;
    }

    private static string Section(string record, string name)
    {
        Match match = Regex.Match(record, $@"^\.{name}[^\n]*\n(.*?)(?=^\.[A-Z]\b|\z)", RegexOptions.Multiline | RegexOptions.Singleline, TimeSpan.FromSeconds(5));
        return match.Success ? match.Groups[1].Value.Trim() : "";
    }

    private static List<(string, string, string)> BeirLines(string text) =>
    [
        .. text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Select(line =>
        {
            using var json = JsonDocument.Parse(line);
            string Get(string name) => json.RootElement.TryGetProperty(name, out JsonElement value) ? value.ToString() : "";
            return (Get("_id") is { Length: > 0 } id ? id : Get("id"), Get("title"), Get("text"));
        }),
    ];

    private static List<(string, string, string)> Trec(string text) =>
    [
        .. TrecDocument().Matches(text).Select(m => (
            TrecNumber().Match(m.Value).Groups[1].Value.Trim(), "", Tags().Replace(TrecNumber().Replace(m.Groups[1].Value, ""), " ").Trim())),
    ];

    [GeneratedRegex(@"^\.I\s+", RegexOptions.Multiline | RegexOptions.CultureInvariant, 5000)]
    private static partial Regex SmartStart();

    [GeneratedRegex("<DOC>(.*?)</DOC>", RegexOptions.Singleline | RegexOptions.IgnoreCase | RegexOptions.CultureInvariant, 60_000)]
    private static partial Regex TrecDocument();

    [GeneratedRegex("<DOCNO>(.*?)</DOCNO>", RegexOptions.Singleline | RegexOptions.IgnoreCase | RegexOptions.CultureInvariant, 5000)]
    private static partial Regex TrecNumber();

    [GeneratedRegex("<[^>]*>", RegexOptions.CultureInvariant, 5000)]
    private static partial Regex Tags();
}
