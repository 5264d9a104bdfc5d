using System.Text.Json;
using Diptych.Core;
using Microsoft.Data.Sqlite;

namespace Diptych.Index.Sqlite;

/// <summary>Content that is there already, under another source: rows are copied or handed on, nothing is read or embedded again.</summary>
public sealed partial class SqliteStore
{
    public IReadOnlyList<Document?> Place(string collection, IReadOnlyList<Placement> placements) => Storing<IReadOnlyList<Document?>>(() =>
    {
        var placed = new Document?[placements.Count];
        lock (_writing)
        {
            using SqliteTransaction transaction = _writer.BeginTransaction(deferred: false);
            long collectionId = CollectionId(collection, create: false);
            if (collectionId == 0)
            {
                return placed;
            }
            var steps = new List<(int Index, long From, long? Identity)>();
            var replaced = new List<long>();
            for (int i = 0; i < placements.Count; i++)
            {
                Placement p = placements[i];
                long? from = _writer.Scalar(
                    "SELECT id FROM documents WHERE identity = $d AND collection_id = $c AND content_hash = $h", ("$d", p.ContentOf), ("$c", collectionId), ("$h", p.ContentHash)) as long?;
                var target = Version(collectionId, p.Source);
                if (from is null || (p.Moves && target is not null) || !EndItem(p.Item))
                {
                    continue;
                }
                steps.Add((i, from.Value, p.Moves ? p.ContentOf : target?.Identity));
                if ((p.Moves ? from : target?.Version) is { } old)
                {
                    replaced.Add(old);
                }
            }
            // What is replaced stays to be copied from, under names that nobody else has.
            foreach (long version in replaced)
            {
                _writer.Execute("UPDATE documents SET source = source || char(0) || id, identity = NULL WHERE id = $v", ("$v", version));
            }
            // Copies come first: what moves takes its rows along.
            foreach (var (index, from, identity) in steps.OrderBy(s => placements[s.Index].Moves))
            {
                Document document = Place(collectionId, collection, placements[index], from, identity);
                SetDocument(placements[index].Item, document.Id, identity is null ? IngestOutcome.Duplicate : placements[index].Moves ? IngestOutcome.Moved : IngestOutcome.Replaced);
                placed[index] = document;
            }
            replaced.ForEach(Remove);
            transaction.Commit();
        }
        Refresh();
        return placed;
    });

    private Document Place(long collectionId, string collection, Placement placement, long from, long? identity)
    {
        Document document = _writer.Rows(
            """
            SELECT t.title, coalesce(t.metadata, d.metadata), d.media_type, d.size_bytes, d.page_count, d.passage_count
            FROM documents d JOIN contents t ON t.document_id = d.id WHERE d.id = $v
            """,
            ("$v", from)).Select(r => new Document
            {
                Collection = collection,
                Source = placement.Source,
                ContentHash = placement.ContentHash,
                Title = r.IsDBNull(0) ? placement.Name : r.GetString(0),
                Metadata = JsonSerializer.Deserialize<Metadata>(r.GetString(1))!.With(placement.Given),
                MediaType = r.GetString(2),
                SizeBytes = r.GetInt64(3),
                PageCount = r.GetInt32(4),
                PassageCount = r.GetInt32(5),
                IngestedAt = placement.At,
            }).First();
        (long version, document) = InsertDocument(collectionId, document, identity);
        (string, object?)[] parameters = [("$to", version), ("$from", from)];
        if (placement.Moves)
        {
            foreach (string table in new[] { "contents", "passages", "vectors" })
            {
                _writer.Execute($"UPDATE {table} SET document_id = $to WHERE document_id = $from", parameters);
            }
            _writer.Execute(
                "UPDATE feedback SET source = $s WHERE collection_id = $c AND source = (SELECT substr(source, 1, instr(source, char(0)) - 1) FROM documents WHERE id = $from)",
                ("$s", placement.Source), ("$c", collectionId), ("$from", from));
        }
        else
        {
            _writer.Execute(
                "INSERT INTO contents (document_id, text, original, title, metadata) SELECT $to, text, $o, title, metadata FROM contents WHERE document_id = $from",
                [.. parameters, ("$o", placement.Original)]);
            _writer.Execute(
                """
                INSERT INTO passages (document_id, ordinal, modality, text, heading_path, page, x, y, w, h, start, end, label, width_px, height_px)
                SELECT $to, ordinal, modality, text, heading_path, page, x, y, w, h, start, end, label, width_px, height_px FROM passages WHERE document_id = $from ORDER BY id
                """,
                parameters);
            const string pairs =
                """
                FROM (SELECT id, row_number() OVER (ORDER BY id) AS at FROM passages WHERE document_id = $to) n
                JOIN (SELECT id, row_number() OVER (ORDER BY id) AS at FROM passages WHERE document_id = $from) o USING (at)
                """;
            _writer.Execute(
                $"""
                INSERT INTO vectors (passage_id, document_id, modality, page, text, "cross")
                SELECT n.id, $to, v.modality, v.page, v.text, v."cross" {pairs} JOIN vectors v ON v.passage_id = o.id
                """,
                parameters);
            _writer.Execute($"INSERT INTO pictures (passage_id, thumbnail, image) SELECT n.id, t.thumbnail, t.image {pairs} JOIN pictures t ON t.passage_id = o.id", parameters);
        }
        _writer.Execute("INSERT INTO log (document_id, added) VALUES ($to, 1)", ("$to", version));
        return document;
    }
}
