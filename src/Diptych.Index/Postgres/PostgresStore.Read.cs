using System.Globalization;
using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Lexical;
using Npgsql;
using Pgvector;

namespace Diptych.Index.Postgres;

/// <summary>Reads and searches: each one statement, or a few, on a pooled connection.</summary>
public sealed partial class PostgresStore
{
    private const string SelectDocument =
        """
        SELECT d.id, c.name, d.source, d.content_hash, d.media_type, d.title, d.size_bytes, d.ingested_at, d.page_count, d.passage_count, d.metadata::text
        FROM documents d JOIN collections c ON c.id = d.collection_id
        """;

    private const string SelectPassage =
        "SELECT id, document_id, ordinal, modality, text, heading_path, page, x, y, w, h, start_at, end_at, label, width_px, height_px FROM passages";

    /// <summary>Documents' columns behind a candidate's four.</summary>
    private const int DocumentAt = 4;

    public bool CollectionExists(string name) => Read(c => c.Scalar("SELECT 1 FROM collections WHERE name = $1", name) is not null);

    public IReadOnlyList<Collection> Collections() => Read(c => c.Rows(
        r => new Collection(r.GetString(0), r.GetFieldValue<DateTimeOffset>(1), r.GetInt32(2), r.GetInt32(3), r.GetInt32(4), r.GetString(5)),
        """
        SELECT c.name, c.created_at, count(d.id)::integer, coalesce(sum(d.passage_count), 0)::integer,
          (SELECT count(*) FROM passages p WHERE p.collection_id = c.id AND p.modality = 1)::integer, c.language
        FROM collections c LEFT JOIN documents d ON d.collection_id = c.id GROUP BY c.id ORDER BY c.name
        """));

    public IReadOnlyList<Document> Documents(string? collection, string? prefix = null, int limit = int.MaxValue, int offset = 0) => Read(c => c.Rows(
        r => ReadDocument(r, 0),
        $"{SelectDocument} WHERE ($1::text IS NULL OR c.name = $1) AND ($2::text IS NULL OR starts_with(d.source, $2)) ORDER BY d.id LIMIT $3 OFFSET $4",
        collection, prefix, limit, offset));

    public Document? Document(long id) => Read(c => c.Rows(r => ReadDocument(r, 0), $"{SelectDocument} WHERE d.id = $1", id).FirstOrDefault());

    public Document? Document(string collection, string source) =>
        Read(c => c.Rows(r => ReadDocument(r, 0), $"{SelectDocument} WHERE c.name = $1 AND d.source = $2", collection, source).FirstOrDefault());

    public IReadOnlyList<Document> DocumentsByHash(string collection, string contentHash) => Read(c => c.Rows(
        r => ReadDocument(r, 0), $"{SelectDocument} WHERE c.name = $1 AND d.content_hash = $2 ORDER BY d.id", collection, contentHash));

    public string DocumentText(long id) => Read(c => c.Scalar("SELECT text FROM contents WHERE document_id = $1", id) as string ?? "");

    public byte[]? DocumentOriginal(long id) => Read(c => c.Scalar("SELECT original FROM contents WHERE document_id = $1", id) as byte[]);

    public byte[]? Thumbnail(long passageId) => Read(c => c.Scalar("SELECT thumbnail FROM pictures WHERE passage_id = $1", passageId) as byte[]);

    public byte[]? Image(long passageId) => Read(c => c.Scalar("SELECT image FROM pictures WHERE passage_id = $1", passageId) as byte[]);

    public IReadOnlyList<Passage> Passages(long documentId) =>
        Read(c => c.Rows(ReadPassage, $"{SelectPassage} WHERE document_id = $1 ORDER BY ordinal", documentId));

    public IReadOnlyDictionary<long, Passage> PassagesById(IEnumerable<long> ids) =>
        Read(c => c.Rows(ReadPassage, $"{SelectPassage} WHERE id = ANY($1)", ids.ToArray())).ToDictionary(p => p.Id);

    public IReadOnlyDictionary<long, (float[]? Text, float[] Cross)> Vectors(IEnumerable<long> passageIds) => Read(c => c.Rows(
        r => (Id: r.GetInt64(0), Text: r.IsDBNull(1) ? null : Floats(r.GetFieldValue<HalfVector>(1)), Cross: Floats(r.GetFieldValue<HalfVector>(2))),
        "SELECT id, text_vector, cross_vector FROM passages WHERE id = ANY($1)", passageIds.ToArray())).ToDictionary(v => v.Id, v => (v.Text, v.Cross));

    public int ImageCount(string collection) => Read(c => (int)c.Scalar(
        "SELECT count(*)::integer FROM passages WHERE collection_id = (SELECT id FROM collections WHERE name = $1) AND modality = 1", collection)!);

    public IReadOnlyList<Candidate> SearchText(string collection, ReadOnlyMemory<float> query, int k, Filter? filter, Modality modality) =>
        Nearest("text_vector", collection, query, k, filter, modality);

    public IReadOnlyList<Candidate> SearchCross(string collection, ReadOnlyMemory<float> query, int k, Filter? filter, Modality modality) =>
        Nearest("cross_vector", collection, query, k, filter, modality);

    public IReadOnlyList<Candidate> SearchLexical(string collection, string text, int k, Filter? filter, Modality modality)
    {
        IReadOnlyList<FullTextQuery.Part> parts = FullTextQuery.Parts(text);
        return parts.Count == 0 ? [] : Read<IReadOnlyList<Candidate>>(connection =>
        {
            if (Partition(connection, collection) is not { } id)
            {
                return [];
            }
            string language = (string)connection.Scalar("SELECT language FROM collections WHERE id = $1", id)!;
            parts = [.. parts.SelectMany(p => Known(connection, id, p, language))];
            // A word may be a stop word to PostgreSQL: then nothing is left of it.
            string[] terms = [.. connection.Rows(r => r.GetString(0), $"SELECT DISTINCT unnest(tsvector_to_array(to_tsvector('diptych_{language}', $1)))", string.Join(' ', parts.Select(p => p.Words)))];
            if (terms.Length == 0 && !parts.Any(p => p.IsPrefix))
            {
                return [];
            }
            var (passages, mean) = connection.Rows(r => (r.GetInt64(0), r.GetDouble(1)), $"SELECT count(*), coalesce(avg(token_count), 1)::float8 FROM passages_{id}")[0];
            double[] weights = [.. terms.Select(term =>
            {
                double frequency = Frequency(connection, id, term);
                return Math.Max(1e-6, Math.Log((passages - frequency + 0.5) / (frequency + 0.5)));
            })];
            string[] whole = [.. parts.Where(p => !p.IsPrefix).Select(p => p.Words)], begun = [.. parts.Where(p => p.IsPrefix).Select(p => $"'{p.Words}':*")];
            var parameters = new List<object?> { whole, terms, weights, mean, k, begun };
            string condition = FilterSql.Of(filter, parameters);
            return connection.Rows(
                r => ReadCandidate(r, modality, null),
                $"""
                WITH asked AS (
                  SELECT string_agg(q::text, ' | ')::tsquery AS query FROM (
                    SELECT phraseto_tsquery('diptych_{language}', part) AS q FROM unnest($1::text[]) part
                    UNION ALL SELECT part::tsquery FROM unnest($6::text[]) part) s WHERE q::text <> ''),
                best AS (
                  SELECT p.id, p.document_id, p.page, diptych_bm25(p.words, p.token_count, $2, $3, $4) AS score
                  FROM passages_{id} p JOIN documents d ON d.id = p.document_id, asked
                  WHERE p.words @@ asked.query AND p.modality = {(int)modality} AND {condition} ORDER BY score DESC, p.id LIMIT $5)
                {Join("score DESC")}
                """,
                [.. parameters]);
        });
    }

    /// <summary>A word that the collection does not have is taken for a typing error, and stands for its nearest that begin with the same letter.</summary>
    private static IEnumerable<FullTextQuery.Part> Known(NpgsqlConnection connection, long collection, FullTextQuery.Part part, string language)
    {
        if (part.IsPrefix || part.Words.Length < 4 || part.Words.Any(c => !char.IsLetter(c)))
        {
            return [part];
        }
        string? stem = connection.Rows(r => r.GetString(0), $"SELECT unnest(tsvector_to_array(to_tsvector('diptych_{language}', $1)))", part.Words).FirstOrDefault();
        if (stem is not { Length: >= 3 } || connection.Scalar($"SELECT 1 FROM passages_{collection} WHERE words @@ phraseto_tsquery('diptych_{language}', $1) LIMIT 1", part.Words) is not null)
        {
            return [part];
        }
        int most = stem.Length < 8 ? 1 : 2;
        var near = connection.Rows(r => r.GetString(0), "SELECT word FROM vocabulary WHERE collection_id = $1 AND starts_with(word, $2) AND length(word) BETWEEN $3 AND $4", collection, stem[..1], stem.Length - most, stem.Length + most)
            .Select(word => (Word: word, Distance: FullTextQuery.Distance(stem, word, most))).Where(w => w.Distance <= most).OrderBy(w => w.Distance).ThenBy(w => w.Word, StringComparer.Ordinal).Take(3).ToList();
        return near.Count == 0 ? [part] : near.Where(w => w.Distance == near[0].Distance).Select(w => new FullTextQuery.Part(w.Word, IsPrefix: true));
    }

    public (IReadOnlyDictionary<string, int> Frequencies, int Passages) WordFrequencies(string collection, IReadOnlyList<string> words) => Read(connection =>
    {
        var frequencies = new Dictionary<string, int>(StringComparer.Ordinal);
        if (Partition(connection, collection) is not { } id)
        {
            return (frequencies, 0);
        }
        string language = (string)connection.Scalar("SELECT language FROM collections WHERE id = $1", id)!;
        foreach (string word in words)
        {
            frequencies[word] = (int)connection.Scalar($"SELECT count(*)::integer FROM passages_{id} WHERE words @@ phraseto_tsquery('diptych_{language}', $1)", word)!;
        }
        return ((IReadOnlyDictionary<string, int>)frequencies, (int)connection.Scalar($"SELECT count(*)::integer FROM passages_{id}")!);
    });

    public IReadOnlyList<string> CheckIntegrity() => Read(c => c.Rows(
        r => r.GetString(0),
        """
        SELECT format('document %s (%s) should have %s passages and has %s', d.id, d.source, d.passage_count, count(p.id))
        FROM documents d LEFT JOIN passages p ON p.document_id = d.id AND p.collection_id = d.collection_id GROUP BY d.id HAVING count(p.id) <> d.passage_count
        """));

    private IReadOnlyList<Candidate> Nearest(string column, string collection, ReadOnlyMemory<float> query, int k, Filter? filter, Modality modality) =>
        Read<IReadOnlyList<Candidate>>(connection =>
        {
            if (Partition(connection, collection) is not { } id)
            {
                return [];
            }
            var parameters = new List<object?> { Halves(query.Span), k };
            string condition = FilterSql.Of(filter, parameters);
            string join = filter is null ? "" : "JOIN documents d ON d.id = p.document_id";
            return connection.Rows(
                r => ReadCandidate(r, modality, "pgvector"),
                $"""
                WITH best AS MATERIALIZED (
                  SELECT p.id, p.document_id, p.page, -(p.{column} <#> $1) AS score FROM passages_{id} p {join}
                  WHERE p.modality = {(int)modality} AND p.{column} IS NOT NULL AND {condition} ORDER BY p.{column} <#> $1 LIMIT $2)
                {Join("score DESC")}
                """,
                [.. parameters]);
        });

    private static string Join(string order) =>
        $"""
        SELECT best.id, best.document_id, best.page, best.score,
          d.id, c.name, d.source, d.content_hash, d.media_type, d.title, d.size_bytes, d.ingested_at, d.page_count, d.passage_count, d.metadata::text
        FROM best JOIN documents d ON d.id = best.document_id JOIN collections c ON c.id = d.collection_id ORDER BY {order}, best.id
        """;

    /// <summary>The collection's number, which is part of its table's name; looked up once.</summary>
    private long? Partition(NpgsqlConnection connection, string collection)
    {
        if (_partitions.TryGetValue(collection, out long known))
        {
            return known;
        }
        long? id = connection.Scalar("SELECT id FROM collections WHERE name = $1", collection) as long?;
        if (id is { } found)
        {
            _partitions[collection] = found;
        }
        return id;
    }

    private static double Frequency(NpgsqlConnection connection, long collection, string lexeme) => Convert.ToDouble(
        connection.Scalar($"SELECT count(*) FROM passages_{collection} WHERE words @@ $1::text::tsquery", $"'{lexeme.Replace("'", "''", StringComparison.Ordinal)}'"),
        CultureInfo.InvariantCulture);

    private static Candidate ReadCandidate(NpgsqlDataReader r, Modality modality, string? plan) => new(
        new PassageKey(r.GetInt64(0), ReadDocument(r, DocumentAt), modality, r.IsDBNull(2) ? null : r.GetInt32(2)), r.GetDouble(3), plan);

    private static Document ReadDocument(NpgsqlDataReader r, int at) => new()
    {
        Id = r.GetInt64(at),
        Collection = r.GetString(at + 1),
        Source = r.GetString(at + 2),
        ContentHash = r.GetString(at + 3),
        MediaType = r.GetString(at + 4),
        Title = r.GetString(at + 5),
        SizeBytes = r.GetInt64(at + 6),
        IngestedAt = r.GetFieldValue<DateTimeOffset>(at + 7),
        PageCount = r.GetInt32(at + 8),
        PassageCount = r.GetInt32(at + 9),
        Metadata = r.GetString(at + 10) is var json && json == "{}" ? Metadata.Empty : JsonSerializer.Deserialize<Metadata>(json)!,
    };

    private static Passage ReadPassage(NpgsqlDataReader r) => new()
    {
        Id = r.GetInt64(0),
        DocumentId = r.GetInt64(1),
        Ordinal = r.GetInt32(2),
        Modality = (Modality)r.GetInt16(3),
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

    private static float[] Floats(HalfVector vector)
    {
        float[] floats = new float[vector.Memory.Length];
        System.Numerics.Tensors.TensorPrimitives.ConvertToSingle(vector.Memory.Span, floats);
        return floats;
    }
}
