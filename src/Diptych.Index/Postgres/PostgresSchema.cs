using Diptych.Core;
using Diptych.Index.Lexical;
using Npgsql;

namespace Diptych.Index.Postgres;

/// <summary>The tables, as steps forward: step n takes a database from version n to n + 1. One node migrates, others wait.</summary>
internal static class PostgresSchema
{
    /// <summary>The advisory lock under which migrations run: any number, as long as it is always this one.</summary>
    private const long MigrationLock = 0x6469707479636801;

    public static int Version => Steps(0, 0).Length;

    private static string[] Steps(int textDimensions, int crossDimensions) =>
    [
        $"""
        CREATE TABLE settings (key text PRIMARY KEY, value text NOT NULL);
        CREATE TABLE collections (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, created_at timestamptz NOT NULL);
        CREATE TABLE documents (
          id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
          collection_id bigint NOT NULL REFERENCES collections (id),
          source text NOT NULL,
          content_hash text NOT NULL,
          media_type text NOT NULL,
          title text NOT NULL,
          size_bytes bigint NOT NULL,
          ingested_at timestamptz NOT NULL,
          page_count integer NOT NULL,
          passage_count integer NOT NULL,
          metadata jsonb NOT NULL,
          UNIQUE (collection_id, source));
        CREATE INDEX documents_by_hash ON documents (collection_id, content_hash);
        CREATE TABLE contents (document_id bigint PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE, text text NOT NULL, original bytea);
        CREATE TEXT SEARCH CONFIGURATION diptych_english (COPY = english);
        ALTER TEXT SEARCH CONFIGURATION diptych_english ALTER MAPPING FOR hword, hword_part, word WITH unaccent, english_stem;
        CREATE SEQUENCE passage_ids;
        CREATE TABLE passages (
          id bigint NOT NULL,
          collection_id bigint NOT NULL,
          document_id bigint NOT NULL,
          ordinal integer NOT NULL,
          modality smallint NOT NULL,
          text text NOT NULL,
          heading_path text NOT NULL,
          page integer, x float8, y float8, w float8, h float8, start_at integer, end_at integer, label text,
          width_px integer NOT NULL,
          height_px integer NOT NULL,
          text_vector halfvec({textDimensions}),
          cross_vector halfvec({crossDimensions}) NOT NULL,
          context text NOT NULL,
          token_count integer NOT NULL,
          words tsvector GENERATED ALWAYS AS (
            to_tsvector('diptych_english', regexp_replace(text || ' ' || context, '[^[:alnum:]]+', ' ', 'g'))) STORED,
          PRIMARY KEY (collection_id, id)) PARTITION BY LIST (collection_id);
        CREATE INDEX passages_by_id ON passages (id);
        CREATE INDEX passages_by_document ON passages (document_id, ordinal);
        CREATE INDEX passages_by_words ON passages USING gin (words);
        CREATE TABLE pictures (
          passage_id bigint PRIMARY KEY, document_id bigint NOT NULL REFERENCES documents (id) ON DELETE CASCADE, thumbnail bytea NOT NULL, image bytea);
        CREATE INDEX pictures_by_document ON pictures (document_id);
        CREATE TABLE log (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, document_id bigint NOT NULL, added boolean NOT NULL);

        -- Numbers compare as numbers, anything else as text without regard to case.
        CREATE FUNCTION diptych_compare(a text, b text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
          SELECT CASE
            WHEN a ~ '^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$' AND b ~ '^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$'
              THEN sign(a::float8 - b::float8)::integer
            ELSE CASE WHEN upper(a) COLLATE "C" < upper(b) COLLATE "C" THEN -1 WHEN upper(a) COLLATE "C" > upper(b) COLLATE "C" THEN 1 ELSE 0 END
          END $$;

        -- The values of a metadata key, one or several, whatever the key's case.
        CREATE FUNCTION diptych_values(metadata jsonb, field text) RETURNS SETOF text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
          SELECT v FROM jsonb_each(metadata) m, jsonb_array_elements_text(CASE jsonb_typeof(m.value) WHEN 'array' THEN m.value ELSE jsonb_build_array(m.value) END) v
          WHERE lower(m.key) = lower(field) $$;

        -- BM25 over a tsvector's positions, k1 1.2, b 0.75 (Robertson and Zaragoza 2009).
        CREATE FUNCTION diptych_bm25(words tsvector, tokens integer, terms text[], weights float8[], mean float8) RETURNS float8
        LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
          SELECT coalesce(sum(t.weight * f.n * 2.2 / (f.n + 1.2 * (0.25 + 0.75 * tokens / mean))), 0)
          FROM unnest(terms, weights) t(term, weight)
          JOIN LATERAL (SELECT coalesce(array_length(u.positions, 1), 1)::float8 AS n FROM unnest(words) u WHERE u.lexeme = t.term) f ON true $$;
        """,
        $"""
        ALTER TABLE collections ADD COLUMN language text NOT NULL DEFAULT 'english';
        {string.Join('\n', Language.Known.Where(l => l != Language.Default).Select(l => $"""
            CREATE TEXT SEARCH CONFIGURATION diptych_{l} (COPY = {l});
            ALTER TEXT SEARCH CONFIGURATION diptych_{l} ALTER MAPPING FOR hword, hword_part, word WITH unaccent, {l}_stem;
            """))}
        ALTER TABLE passages DROP COLUMN words;
        ALTER TABLE passages ADD COLUMN config regconfig NOT NULL DEFAULT 'diptych_english';
        ALTER TABLE passages ADD COLUMN words tsvector GENERATED ALWAYS AS (
          to_tsvector(config, regexp_replace(text || ' ' || context, '[^[:alnum:]]+', ' ', 'g'))) STORED;
        CREATE INDEX passages_by_words ON passages USING gin (words);
        CREATE TABLE vocabulary (
          collection_id bigint NOT NULL REFERENCES collections (id) ON DELETE CASCADE, word text COLLATE "C" NOT NULL, PRIMARY KEY (collection_id, word));
        INSERT INTO vocabulary SELECT DISTINCT p.collection_id, word FROM passages p, unnest(tsvector_to_array(p.words)) word WHERE length(word) BETWEEN 4 AND 40;
        """,
        """
        CREATE TABLE feedback (
          id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, collection_id bigint NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
          at timestamptz NOT NULL, query text NOT NULL, source text NOT NULL, ordinal integer NOT NULL, positive boolean NOT NULL);
        CREATE INDEX feedback_by_collection ON feedback (collection_id);
        CREATE TABLE tunings (
          collection_id bigint NOT NULL REFERENCES collections (id) ON DELETE CASCADE, version integer NOT NULL, created_at timestamptz NOT NULL,
          adapter bytea NOT NULL, before float8 NOT NULL, after float8 NOT NULL, active boolean NOT NULL, PRIMARY KEY (collection_id, version));
        """,
        """
        ALTER TABLE contents ADD COLUMN title text, ADD COLUMN metadata jsonb;
        """,
        """
        CREATE TABLE spool_files (name text PRIMARY KEY, bytes bigint NOT NULL, at timestamptz NOT NULL DEFAULT now());
        CREATE TABLE spool_parts (name text NOT NULL REFERENCES spool_files (name) ON DELETE CASCADE, part integer NOT NULL, content bytea NOT NULL, PRIMARY KEY (name, part));
        ALTER TABLE spool_parts ALTER COLUMN content SET STORAGE EXTERNAL;
        CREATE TABLE jobs (
          id text PRIMARY KEY, collection text NOT NULL, created_at timestamptz NOT NULL, state smallint NOT NULL DEFAULT 0, ended_at timestamptz, items integer NOT NULL,
          ended integer NOT NULL DEFAULT 0, turn bigint NOT NULL DEFAULT 0);
        CREATE INDEX jobs_by_age ON jobs (created_at, id);
        CREATE TABLE job_items (
          job text NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, number integer NOT NULL, source text NOT NULL, name text NOT NULL, media_type text, metadata jsonb NOT NULL,
          url text, host text, spool text REFERENCES spool_files (name) ON DELETE SET NULL, bytes bigint NOT NULL, state smallint NOT NULL, node text, lease_until timestamptz, attempts integer NOT NULL DEFAULT 0,
          outcome smallint, reason text, document_id bigint, position integer, ended_by text, PRIMARY KEY (job, number));
        CREATE INDEX job_items_open ON job_items (job, state, attempts, number) WHERE state < 4;
        CREATE INDEX job_items_by_source ON job_items (source) WHERE state < 4;
        CREATE INDEX job_items_by_node ON job_items (node) WHERE node IS NOT NULL;
        CREATE INDEX job_items_by_spool ON job_items (spool) WHERE spool IS NOT NULL;
        CREATE INDEX job_items_spent ON job_items (spool) WHERE state = 4 AND spool IS NOT NULL;
        CREATE INDEX job_items_ended ON job_items (job, position) WHERE state = 4;
        """,
    ];

    /// <exception cref="InvalidRequestException">A newer program wrote the database, or it lacks pgvector.</exception>
    public static void Migrate(NpgsqlConnection connection, int textDimensions, int crossDimensions)
    {
        using NpgsqlTransaction transaction = connection.BeginTransaction();
        connection.Execute("SELECT pg_advisory_xact_lock($1)", MigrationLock);
        try
        {
            connection.Execute("CREATE EXTENSION IF NOT EXISTS vector");
            connection.Execute("CREATE EXTENSION IF NOT EXISTS unaccent");
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.FeatureNotSupported or PostgresErrorCodes.UndefinedFile or PostgresErrorCodes.InsufficientPrivilege)
        {
            throw new InvalidRequestException(
                $"The PostgreSQL server needs the extensions 'vector' (pgvector 0.8 or later) and 'unaccent': {error.MessageText}. Have its administrator run CREATE EXTENSION vector; CREATE EXTENSION unaccent; in this database.",
                error);
        }
        connection.Execute("CREATE TABLE IF NOT EXISTS diptych_schema (version integer NOT NULL)");
        int version = connection.Scalar("SELECT version FROM diptych_schema") as int? ?? 0;
        string[] steps = Steps(textDimensions, crossDimensions);
        if (version > steps.Length)
        {
            throw new InvalidRequestException($"The database has schema version {version}; this program knows {steps.Length}. Use a newer diptych, or another database.");
        }
        for (int step = version; step < steps.Length; step++)
        {
            connection.Execute(steps[step]);
        }
        if (version < steps.Length)
        {
            connection.Execute("DELETE FROM diptych_schema");
            connection.Execute("INSERT INTO diptych_schema VALUES ($1)", steps.Length);
        }
        transaction.Commit();
    }

    /// <summary>
    /// A collection's part of the passages, with a graph for each space and modality: a search touches one collection's rows only, and a
    /// collection is dropped in one step.
    /// </summary>
    public static string Partition(long collection) => $"""
        CREATE TABLE passages_{collection} PARTITION OF passages FOR VALUES IN ({collection});
        CREATE INDEX ON passages_{collection} USING hnsw (text_vector halfvec_ip_ops) WITH (m = 16, ef_construction = 128) WHERE modality = 0;
        CREATE INDEX ON passages_{collection} USING hnsw (text_vector halfvec_ip_ops) WITH (m = 16, ef_construction = 128) WHERE modality = 1;
        CREATE INDEX ON passages_{collection} USING hnsw (cross_vector halfvec_ip_ops) WITH (m = 16, ef_construction = 128) WHERE modality = 0;
        CREATE INDEX ON passages_{collection} USING hnsw (cross_vector halfvec_ip_ops) WITH (m = 16, ef_construction = 128) WHERE modality = 1;
        """;
}

internal static class NpgsqlExtensions
{
    public static int Execute(this NpgsqlConnection connection, string sql, params ReadOnlySpan<object?> parameters)
    {
        using NpgsqlCommand command = connection.Command(sql, parameters);
        return command.ExecuteNonQuery();
    }

    public static object? Scalar(this NpgsqlConnection connection, string sql, params ReadOnlySpan<object?> parameters)
    {
        using NpgsqlCommand command = connection.Command(sql, parameters);
        object? value = command.ExecuteScalar();
        return value is DBNull ? null : value;
    }

    public static List<T> Rows<T>(this NpgsqlConnection connection, Func<NpgsqlDataReader, T> read, string sql, params ReadOnlySpan<object?> parameters)
    {
        using NpgsqlCommand command = connection.Command(sql, parameters);
        using NpgsqlDataReader reader = command.ExecuteReader();
        var rows = new List<T>();
        while (reader.Read())
        {
            rows.Add(read(reader));
        }
        return rows;
    }

    private static NpgsqlCommand Command(this NpgsqlConnection connection, string sql, ReadOnlySpan<object?> parameters)
    {
        var command = new NpgsqlCommand(sql, connection);
        foreach (object? value in parameters)
        {
            command.Parameters.Add(value as NpgsqlParameter ?? new NpgsqlParameter { Value = value ?? DBNull.Value });
        }
        return command;
    }
}
