using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Jobs;
using Npgsql;

namespace Diptych.Index.Postgres;

/// <summary>Content that is there already, under another source: rows are copied or handed on, nothing is read or embedded again.</summary>
public sealed partial class PostgresStore
{
    private const string PassageColumns =
        "ordinal, modality, text, heading_path, page, x, y, w, h, start_at, end_at, label, width_px, height_px, text_vector, cross_vector, token_count, config";

    public IReadOnlyList<Document?> Place(string collection, IReadOnlyList<Placement> placements) => Write(connection =>
    {
        var placed = new Document?[placements.Count];
        if (connection.Scalar("SELECT id FROM collections WHERE name = $1", collection) is not long collectionId)
        {
            return placed;
        }
        var copies = new List<(int Index, long Copy, Document Document)>();
        var moves = new List<(int Index, Document Document)>();
        var ends = new List<ItemEnd>();
        for (int i = 0; i < placements.Count; i++)
        {
            Placement p = placements[i];
            Document? from = connection.Rows(
                r => ReadDocument(r, 0), $"{SelectDocument} WHERE d.id = $1 AND d.collection_id = $2 AND d.content_hash = $3 FOR UPDATE OF d", p.ContentOf, collectionId, p.ContentHash).FirstOrDefault();
            long? target = connection.Scalar("SELECT id FROM documents WHERE collection_id = $1 AND source = $2 FOR UPDATE", collectionId, Clean(p.Source)) as long?;
            if (from is null || (p.Moves && target is not null) || (p.Item is { } lease && !MayEnd(connection, lease)))
            {
                continue;
            }
            Document document = Placed(connection, p, from);
            if (p.Item is { } item)
            {
                ends.Add(new ItemEnd(item.Item, p.Moves ? IngestOutcome.Moved : target is null ? IngestOutcome.Duplicate : IngestOutcome.Replaced, null, null));
            }
            if (p.Moves)
            {
                moves.Add((i, document with { Id = from.Id }));
            }
            else
            {
                // Made beside what it will replace, since that may be copied from too.
                long copy = Insert(connection, collectionId, document with { Source = $"\u0001{i}" });
                CopyContent(connection, collectionId, from.Id, copy, p, document);
                copies.Add((i, copy, document with { Id = target ?? copy }));
            }
        }
        foreach (var (index, document) in moves)
        {
            connection.Execute("UPDATE feedback SET source = $1 WHERE collection_id = $2 AND source = (SELECT source FROM documents WHERE id = $3)", Clean(document.Source), collectionId, document.Id);
            Update(connection, document);
            connection.Execute(
                "UPDATE passages SET context = $3 || E'\n' || heading_path || E'\n' || $4 WHERE collection_id = $1 AND document_id = $2", collectionId, document.Id, Clean(document.Title), Clean(Words(document.Metadata)));
            placed[index] = document;
        }
        foreach (var (index, copy, document) in copies)
        {
            if (document.Id != copy)
            {
                RemoveContent(connection, collectionId, document.Id);
                connection.Execute("UPDATE passages SET document_id = $3 WHERE collection_id = $1 AND document_id = $2", collectionId, copy, document.Id);
                connection.Execute("UPDATE contents SET document_id = $2 WHERE document_id = $1", copy, document.Id);
                connection.Execute("UPDATE pictures SET document_id = $2 WHERE document_id = $1", copy, document.Id);
                connection.Execute("DELETE FROM documents WHERE id = $1", copy);
            }
            Update(connection, document);
            placed[index] = document;
        }
        var ids = placements.Zip(placed).Where(p => p is { First.Item: not null, Second: not null }).ToDictionary(p => p.First.Item!.Item, p => p.Second!.Id);
        End(connection, [.. ends.Select(e => e with { DocumentId = ids[e.Key] })], null);
        connection.Execute("INSERT INTO log (document_id, added) SELECT unnest($1::bigint[]), true", placed.OfType<Document>().Select(d => d.Id).ToArray());
        return (IReadOnlyList<Document?>)placed;
    });

    private static Document Placed(NpgsqlConnection connection, Placement placement, Document before)
    {
        var (title, metadata) = connection.Rows(
            r => (r.IsDBNull(0) ? null : r.GetString(0), r.IsDBNull(1) ? null : r.GetString(1)), "SELECT title, metadata::text FROM contents WHERE document_id = $1", before.Id)[0];
        return before with
        {
            Id = 0,
            Source = placement.Source,
            Title = title ?? placement.Name,
            Metadata = (metadata is null ? before.Metadata : JsonSerializer.Deserialize<Metadata>(metadata)!).With(placement.Given),
            IngestedAt = placement.At,
        };
    }

    private static void CopyContent(NpgsqlConnection connection, long collection, long from, long to, Placement placement, Document document)
    {
        connection.Execute(
            "INSERT INTO contents (document_id, text, original, title, metadata) SELECT $2, text, $3, title, metadata FROM contents WHERE document_id = $1", from, to, Bytes(placement.Original));
        connection.Execute(
            $"""
            INSERT INTO passages (id, collection_id, document_id, context, {PassageColumns})
            SELECT nextval('passage_ids'), collection_id, $3, $4 || E'\n' || heading_path || E'\n' || $5, {PassageColumns}
            FROM (SELECT * FROM passages WHERE collection_id = $1 AND document_id = $2 ORDER BY id) p
            """,
            collection, from, to, Clean(document.Title), Clean(Words(document.Metadata)));
        connection.Execute(
            """
            INSERT INTO pictures (passage_id, document_id, thumbnail, image) SELECT n.id, $3, t.thumbnail, t.image
            FROM (SELECT id, row_number() OVER (ORDER BY id) AS at FROM passages WHERE collection_id = $1 AND document_id = $3) n
            JOIN (SELECT id, row_number() OVER (ORDER BY id) AS at FROM passages WHERE collection_id = $1 AND document_id = $2) o USING (at)
            JOIN pictures t ON t.passage_id = o.id
            """,
            collection, from, to);
    }
}
