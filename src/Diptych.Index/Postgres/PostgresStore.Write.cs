using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Jobs;
using Diptych.Index.Lexical;
using Npgsql;
using NpgsqlTypes;
using Pgvector;

namespace Diptych.Index.Postgres;

/// <summary>What changes the database: a transaction each, passages by binary COPY.</summary>
public sealed partial class PostgresStore
{
    public void EnsureCollection(string name, string? language = null)
    {
        if (name.Length is 0 or > 200 || name.Any(char.IsControl))
        {
            throw new InvalidRequestException("A collection's name has 1 to 200 printable characters.");
        }
        string wanted = Language.Check(language ?? Language.Default);
        string has = Write(connection => (string)connection.Scalar("SELECT language FROM collections WHERE id = $1", CollectionId(connection, name, wanted))!);
        if (language is not null && has != language)
        {
            throw new InvalidRequestException($"The collection '{name}' is stemmed in {has}, not in {language}.");
        }
    }

    public IReadOnlyList<Document> Commit(IReadOnlyList<IngestedDocument> documents)
    {
        foreach (IngestedPassage passage in documents.SelectMany(d => d.Passages))
        {
            UnitVector.Check(passage, TextSpace, CrossSpace);
        }
        return Write(connection =>
        {
            var committed = new List<Document>(documents.Count);
            var rows = new List<(long Collection, Document Document, IngestedPassage Passage)>();
            var ends = new List<ItemEnd>();
            // In one order everywhere, so that two nodes with the same documents do not wait for each other in a ring.
            foreach (IngestedDocument ingested in documents.OrderBy(d => d.Document.Source, StringComparer.Ordinal))
            {
                if (ingested.Item is { } lease && !MayEnd(connection, lease))
                {
                    // A commit that is tried again, though its answer alone was lost, finds its document there.
                    committed.Add(ingested.Document with { Id = Ended(connection, lease) });
                    continue;
                }
                long collection = CollectionId(connection, ingested.Document.Collection);
                Document document = ingested.Document with { PassageCount = ingested.Passages.Count };
                long? before = connection.Scalar("SELECT id FROM documents WHERE collection_id = $1 AND source = $2 FOR UPDATE", collection, Clean(document.Source)) as long?;
                if (before is { } old)
                {
                    RemoveContent(connection, collection, old);
                    document = document with { Id = old };
                    Update(connection, document);
                }
                else
                {
                    document = document with { Id = Insert(connection, collection, document) };
                }
                connection.Execute(
                    "INSERT INTO contents (document_id, text, original, title, metadata) VALUES ($1, $2, $3, $4, $5)",
                    document.Id, Clean(ingested.Text), Bytes(ingested.Original), ingested.ReadTitle is { } title ? Clean(title) : null, Json(ingested.ReadMetadata));
                rows.AddRange(ingested.Passages.Select(p => (collection, document, p)));
                connection.Execute("INSERT INTO log (document_id, added) VALUES ($1, true)", document.Id);
                committed.Add(document);
                if (ingested.Item is { } item)
                {
                    ends.Add(new ItemEnd(item.Item, before is null ? IngestOutcome.Added : IngestOutcome.Replaced, null, document.Id));
                }
            }
            Copy(connection, rows);
            foreach (long collection in rows.Select(r => r.Collection).Distinct())
            {
                // What typing errors are compared with.
                connection.Execute(
                    $"""
                    INSERT INTO vocabulary SELECT DISTINCT $1::bigint, word FROM passages_{collection} p, unnest(tsvector_to_array(p.words)) word
                    WHERE p.document_id = ANY($2) AND length(word) BETWEEN 4 AND 40 ON CONFLICT DO NOTHING
                    """,
                    collection, committed.Select(d => d.Id).ToArray());
            }
            End(connection, ends, null);
            var byKey = committed.ToDictionary(d => (d.Collection, d.Source));
            return documents.Select(d => byKey[(d.Document.Collection, d.Document.Source)]).ToList();
        });
    }

    public bool Delete(long documentId) => Write(connection =>
    {
        if (connection.Scalar("SELECT collection_id FROM documents WHERE id = $1 FOR UPDATE", documentId) is not long collection)
        {
            return false;
        }
        Remove(connection, collection, documentId);
        return true;
    });

    public bool DeleteCollection(string name) => Write(connection =>
    {
        if (connection.Scalar("SELECT id FROM collections WHERE name = $1 FOR UPDATE", name) is not long id)
        {
            return false;
        }
        Cancel(connection, "collection = $1", name);
        connection.Execute("INSERT INTO log (document_id, added) SELECT id, false FROM documents WHERE collection_id = $1", id);
        connection.Execute("DELETE FROM documents WHERE collection_id = $1", id);
        connection.Execute($"DROP TABLE passages_{id}");
        connection.Execute("DELETE FROM collections WHERE id = $1", id);
        _partitions.TryRemove(name, out _);
        return true;
    });

    private long CollectionId(NpgsqlConnection connection, string name, string language = Language.Default)
    {
        if (connection.Scalar("SELECT id FROM collections WHERE name = $1", name) is long id)
        {
            return id;
        }
        id = (long)connection.Scalar("INSERT INTO collections (name, created_at, language) VALUES ($1, $2, $3) RETURNING id", name, _time.GetUtcNow(), language)!;
        connection.Execute(PostgresSchema.Partition(id));
        return id;
    }

    private static long Insert(NpgsqlConnection connection, long collection, Document d) => (long)connection.Scalar(
        """
        INSERT INTO documents (collection_id, source, content_hash, media_type, title, size_bytes, ingested_at, page_count, passage_count, metadata)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id
        """,
        collection, Clean(d.Source), d.ContentHash, d.MediaType, Clean(d.Title), d.SizeBytes, d.IngestedAt.ToUniversalTime(), d.PageCount, d.PassageCount,
        Json(d.Metadata))!;

    /// <summary>The same document with other content, or elsewhere.</summary>
    private static void Update(NpgsqlConnection connection, Document d) => connection.Execute(
        """
        UPDATE documents SET source = $2, content_hash = $3, media_type = $4, title = $5, size_bytes = $6, ingested_at = $7, page_count = $8, passage_count = $9, metadata = $10
        WHERE id = $1
        """,
        d.Id, Clean(d.Source), d.ContentHash, d.MediaType, Clean(d.Title), d.SizeBytes, d.IngestedAt.ToUniversalTime(), d.PageCount, d.PassageCount, Json(d.Metadata));

    private static NpgsqlParameter Json(Metadata metadata) => new() { Value = Clean(JsonSerializer.Serialize(metadata)), NpgsqlDbType = NpgsqlDbType.Jsonb };

    private static NpgsqlParameter Bytes(byte[]? bytes) => new() { Value = bytes ?? (object)DBNull.Value, NpgsqlDbType = NpgsqlDbType.Bytea };

    private static void RemoveContent(NpgsqlConnection connection, long collection, long document)
    {
        connection.Execute("DELETE FROM passages WHERE collection_id = $1 AND document_id = $2", collection, document);
        connection.Execute("DELETE FROM pictures WHERE document_id = $1", document);
        connection.Execute("DELETE FROM contents WHERE document_id = $1", document);
    }

    private static void Remove(NpgsqlConnection connection, long collection, long document)
    {
        RemoveContent(connection, collection, document);
        connection.Execute("DELETE FROM documents WHERE id = $1", document);
        connection.Execute("INSERT INTO log (document_id, added) VALUES ($1, false)", document);
    }

    /// <summary>All passages of a commit in one binary COPY, and their pictures in another.</summary>
    private static void Copy(NpgsqlConnection connection, List<(long Collection, Document Document, IngestedPassage Passage)> rows)
    {
        if (rows.Count == 0)
        {
            return;
        }
        var configurations = connection.Rows(r => (r.GetInt64(0), r.GetFieldValue<uint>(1)), "SELECT id, ('diptych_' || language)::regconfig::oid FROM collections WHERE id = ANY($1)", rows.Select(r => r.Collection).Distinct().ToArray())
            .ToDictionary();
        List<long> ids = connection.Rows(r => r.GetInt64(0), "SELECT nextval('passage_ids') FROM generate_series(1, $1)", rows.Count);
        using (NpgsqlBinaryImporter copy = connection.BeginBinaryImport(
            """
            COPY passages (id, collection_id, document_id, ordinal, modality, text, heading_path, page, x, y, w, h, start_at, end_at, label,
              width_px, height_px, text_vector, cross_vector, context, token_count, config) FROM STDIN (FORMAT binary)
            """))
        {
            for (int i = 0; i < rows.Count; i++)
            {
                var (collection, document, ingested) = rows[i];
                Passage p = ingested.Passage;
                string text = Clean(p.Text), path = Clean(p.HeadingPath);
                string context = Clean(string.Join('\n', document.Title, path, Words(document.Metadata)));
                copy.StartRow();
                copy.Write(ids[i], NpgsqlDbType.Bigint);
                copy.Write(collection, NpgsqlDbType.Bigint);
                copy.Write(document.Id, NpgsqlDbType.Bigint);
                copy.Write(p.Ordinal, NpgsqlDbType.Integer);
                copy.Write((short)p.Modality, NpgsqlDbType.Smallint);
                copy.Write(text, NpgsqlDbType.Text);
                copy.Write(path, NpgsqlDbType.Text);
                Nullable(copy, p.Anchor.Page, NpgsqlDbType.Integer);
                Nullable(copy, p.Anchor.Box?.X, NpgsqlDbType.Double);
                Nullable(copy, p.Anchor.Box?.Y, NpgsqlDbType.Double);
                Nullable(copy, p.Anchor.Box?.Width, NpgsqlDbType.Double);
                Nullable(copy, p.Anchor.Box?.Height, NpgsqlDbType.Double);
                Nullable(copy, p.Anchor.Start, NpgsqlDbType.Integer);
                Nullable(copy, p.Anchor.End, NpgsqlDbType.Integer);
                if (p.Anchor.Label is { } label)
                {
                    copy.Write(Clean(label), NpgsqlDbType.Text);
                }
                else
                {
                    copy.WriteNull();
                }
                copy.Write(p.WidthPx, NpgsqlDbType.Integer);
                copy.Write(p.HeightPx, NpgsqlDbType.Integer);
                if (ingested.TextVector is { } vector)
                {
                    copy.Write(Halves(vector), "halfvec");
                }
                else
                {
                    copy.WriteNull();
                }
                copy.Write(Halves(ingested.CrossVector), "halfvec");
                copy.Write(context, NpgsqlDbType.Text);
                copy.Write(Math.Max(1, FullTextQuery.Words(text).Count() + FullTextQuery.Words(context).Count()), NpgsqlDbType.Integer);
                copy.Write(configurations[collection], NpgsqlDbType.Regconfig);
            }
            copy.Complete();
        }
        if (!rows.Exists(r => r.Passage.Thumbnail is not null))
        {
            return;
        }
        using NpgsqlBinaryImporter pictures = connection.BeginBinaryImport("COPY pictures (passage_id, document_id, thumbnail, image) FROM STDIN (FORMAT binary)");
        for (int i = 0; i < rows.Count; i++)
        {
            if (rows[i].Passage.Thumbnail is { } thumbnail)
            {
                pictures.StartRow();
                pictures.Write(ids[i], NpgsqlDbType.Bigint);
                pictures.Write(rows[i].Document.Id, NpgsqlDbType.Bigint);
                pictures.Write(thumbnail, NpgsqlDbType.Bytea);
                if (rows[i].Passage.Image is { } image)
                {
                    pictures.Write(image, NpgsqlDbType.Bytea);
                }
                else
                {
                    pictures.WriteNull();
                }
            }
        }
        pictures.Complete();
    }

    private static string Words(Metadata metadata) => string.Join(' ', metadata.SelectMany(m => m.Value));

    private static void Nullable<T>(NpgsqlBinaryImporter copy, T? value, NpgsqlDbType type)
        where T : struct
    {
        if (value is { } present)
        {
            copy.Write(present, type);
        }
        else
        {
            copy.WriteNull();
        }
    }

    private static HalfVector Halves(ReadOnlySpan<float> vector)
    {
        var halves = new Half[vector.Length];
        System.Numerics.Tensors.TensorPrimitives.ConvertToHalf(vector, halves);
        return new HalfVector(halves);
    }

    /// <summary>PostgreSQL's text holds no NUL; nothing that a person reads does.</summary>
    private static string Clean(string text) => text.Replace("\0", "", StringComparison.Ordinal).Replace("\\u0000", "", StringComparison.Ordinal);
}
