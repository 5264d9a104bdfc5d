using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;
using Diptych.Core;
using Microsoft.Data.Sqlite;

namespace Diptych.Index.Sqlite;

/// <summary>Reads: each on a pooled connection of its own, beside the writer.</summary>
public sealed partial class SqliteStore
{
    public IReadOnlyList<Collection> Collections()
    {
        using SqliteConnection connection = ForReading();
        return [.. connection.Rows(
            """
            SELECT c.name, c.created_at, count(d.id), coalesce(sum(d.passage_count), 0),
              (SELECT count(*) FROM documents e JOIN passages p ON p.document_id = e.id WHERE e.collection_id = c.id AND p.modality = 1), c.language
            FROM collections c LEFT JOIN documents d ON d.collection_id = c.id GROUP BY c.id ORDER BY c.name
            """).Select(r => new Collection(r.GetString(0), Time(r.GetString(1)), r.GetInt32(2), r.GetInt32(3), r.GetInt32(4), r.GetString(5)))];
    }

    public bool CollectionExists(string name)
    {
        using SqliteConnection connection = ForReading();
        return connection.Scalar("SELECT 1 FROM collections WHERE name = $n", ("$n", name)) is not null;
    }

    /// <param name="prefix">Only sources that begin with it.</param>
    public IReadOnlyList<Document> Documents(string? collection, string? prefix = null, int limit = int.MaxValue, int offset = 0)
    {
        using SqliteConnection connection = ForReading();
        return [.. connection.Rows(
            $"{DocumentQueries.Select} WHERE ($c IS NULL OR c.name = $c) AND ($p IS NULL OR substr(d.source, 1, length($p)) = $p) ORDER BY d.identity LIMIT $l OFFSET $o",
            ("$c", collection), ("$p", prefix), ("$l", limit), ("$o", offset)).Select(DocumentQueries.Read)];
    }

    public Document? Document(long id)
    {
        using SqliteConnection connection = ForReading();
        return connection.Rows($"{DocumentQueries.Select} WHERE d.identity = $d", ("$d", id)).Select(DocumentQueries.Read).FirstOrDefault();
    }

    public Document? Document(string collection, string source)
    {
        using SqliteConnection connection = ForReading();
        return connection.Rows($"{DocumentQueries.Select} WHERE c.name = $c AND d.source = $s", ("$c", collection), ("$s", source))
            .Select(DocumentQueries.Read).FirstOrDefault();
    }

    public IReadOnlyList<Document> DocumentsByHash(string collection, string contentHash)
    {
        using SqliteConnection connection = ForReading();
        return [.. connection.Rows($"{DocumentQueries.Select} WHERE c.name = $c AND d.content_hash = $h ORDER BY d.identity", ("$c", collection), ("$h", contentHash)).Select(DocumentQueries.Read)];
    }

    public string DocumentText(long id) => Column<string>($"SELECT text FROM contents WHERE document_id = {VersionOf}", id) ?? "";

    /// <summary>The original bytes, where the store keeps them (uploads, URLs, standard input); else null.</summary>
    public byte[]? DocumentOriginal(long id) => Column<byte[]>($"SELECT original FROM contents WHERE document_id = {VersionOf}", id);

    /// <summary>JPEG bytes, or null for a passage that is no image.</summary>
    public byte[]? Thumbnail(long passageId) => Column<byte[]>("SELECT thumbnail FROM pictures WHERE passage_id = $id", passageId);

    /// <summary>The encoded image of a passage inside a document; null when the document itself is the image.</summary>
    public byte[]? Image(long passageId) => Column<byte[]>("SELECT image FROM pictures WHERE passage_id = $id", passageId);

    public IReadOnlyList<Passage> Passages(long documentId)
    {
        using SqliteConnection connection = ForReading();
        return [.. connection.Rows($"{DocumentQueries.SelectPassage} WHERE p.document_id = {VersionOf} ORDER BY p.ordinal", ("$id", documentId)).Select(DocumentQueries.ReadPassage)];
    }

    /// <returns>By id; ids that do not exist are absent.</returns>
    public IReadOnlyDictionary<long, Passage> PassagesById(IEnumerable<long> ids)
    {
        using SqliteConnection connection = ForReading();
        return connection.Rows($"{DocumentQueries.SelectPassage} WHERE p.id IN ({string.Join(',', ids)})").Select(DocumentQueries.ReadPassage).ToDictionary(p => p.Id);
    }

    /// <returns>By passage id: text vector [384] (null for an image without words) and cross vector [256].</returns>
    public IReadOnlyDictionary<long, (float[]? Text, float[] Cross)> Vectors(IEnumerable<long> passageIds)
    {
        using SqliteConnection connection = ForReading();
        var vectors = new Dictionary<long, (float[]?, float[])>();
        foreach (SqliteDataReader row in connection.Rows($"SELECT passage_id, text, \"cross\" FROM vectors WHERE passage_id IN ({string.Join(',', passageIds)})"))
        {
            vectors[row.GetInt64(0)] = (row.IsDBNull(1) ? null : Vector(row, 1), Vector(row, 2));
        }
        return vectors;
    }

    public IReadOnlyList<BackgroundLoop> Loops => [_mover, _wordsFollower];

    public void Ask() => Storing(() =>
    {
        using SqliteConnection connection = ForReading();
        return connection.Scalar("SELECT max(seq) FROM log");
    });

    /// <summary>Whether faults are the database's own, and not those of what is derived from it.</summary>
    public bool IsDamaged(IReadOnlyList<string> faults) => CheckFile().Intersect(faults, StringComparer.Ordinal).Any();

    /// <summary>What SQLite's own check finds wrong; empty when the file is sound.</summary>
    private IReadOnlyList<string> CheckFile()
    {
        try
        {
            using SqliteConnection connection = ForReading();
            return [.. connection.Rows("PRAGMA integrity_check").Select(r => r.GetString(0)).Where(m => m != "ok")];
        }
        catch (SqliteException error) when (SqliteFault.IsDamage(error))
        {
            return [error.Message];
        }
    }

    public IReadOnlyList<string> CheckIntegrity()
    {
        var faults = new List<string>(CheckFile());
        if (_graphFileError is { } file)
        {
            faults.Add(file);
        }
        if (_wordsFileError is { } unwritten)
        {
            faults.Add(unwritten);
        }
        foreach (string collection in _words.Keys)
        {
            if (WordsOf(collection)?.Check() is { } damage)
            {
                faults.Add(damage);
            }
        }
        if (_wordsFollower.Failure is { } stopped)
        {
            faults.Add($"Keeping the word index stopped, and each search brings it up to date instead: {stopped.GetBaseException().Message}");
        }
        if (_mover.Failure is { } failure)
        {
            faults.Add($"Making the vector graphs failed, and exact search answers instead: {failure.GetBaseException().Message}");
        }
        return faults;
    }

    /// <summary>The present version of the document $id.</summary>
    private const string VersionOf = "(SELECT id FROM documents WHERE identity = $id)";

    private T? Column<T>(string sql, long id)
        where T : class
    {
        using SqliteConnection connection = ForReading();
        return connection.Scalar(sql, ("$id", id)) as T;
    }

    private static float[] Vector(SqliteDataReader row, int column) => MemoryMarshal.Cast<byte, float>(row.GetFieldValue<byte[]>(column)).ToArray();

    private static DateTimeOffset Time(string iso) => DateTimeOffset.Parse(iso, CultureInfo.InvariantCulture, DateTimeStyles.RoundtripKind);

    private static class DocumentQueries
    {
        public const string Select =
            """
            SELECT d.identity, c.name, d.source, d.content_hash, d.media_type, d.title, d.size_bytes, d.ingested_at, d.page_count, d.passage_count, d.metadata, d.id
            FROM documents d JOIN collections c ON c.id = d.collection_id
            """;

        public const string SelectPassage =
            """
            SELECT p.id, d.identity, p.ordinal, p.modality, p.text, p.heading_path, p.page, p.x, p.y, p.w, p.h, p.start, p.end, p.label, p.width_px, p.height_px
            FROM passages p JOIN documents d ON d.id = p.document_id
            """;

        /// <summary>Of a row of <see cref="Select"/>.</summary>
        public static long Version(SqliteDataReader r) => r.GetInt64(11);

        public static Document Read(SqliteDataReader r) => new()
        {
            Id = r.GetInt64(0),
            Collection = r.GetString(1),
            Source = r.GetString(2),
            ContentHash = r.GetString(3),
            MediaType = r.GetString(4),
            Title = r.GetString(5),
            SizeBytes = r.GetInt64(6),
            IngestedAt = Time(r.GetString(7)),
            PageCount = r.GetInt32(8),
            PassageCount = r.GetInt32(9),
            Metadata = r.GetString(10) is var json && json == "{}" ? Metadata.Empty : JsonSerializer.Deserialize<Metadata>(json)!,
        };

        public static Passage ReadPassage(SqliteDataReader r) => new()
        {
            Id = r.GetInt64(0),
            DocumentId = r.GetInt64(1),
            Ordinal = r.GetInt32(2),
            Modality = (Modality)r.GetInt32(3),
            Text = r.GetString(4),
            HeadingPath = r.GetString(5),
            Anchor = new Anchor(
                r.IsDBNull(6) ? null : r.GetInt32(6),
                r.IsDBNull(7) ? null : new Box(r.GetDouble(7), r.GetDouble(8), r.GetDouble(9), r.GetDouble(10)),
                r.IsDBNull(11) ? null : r.GetInt32(11),
                r.IsDBNull(12) ? null : r.GetInt32(12),
                r.IsDBNull(13) ? null : r.GetString(13)),
            WidthPx = r.GetInt32(14),
            HeightPx = r.GetInt32(15),
        };
    }
}
