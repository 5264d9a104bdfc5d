using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Lexical;
using Npgsql;
using NpgsqlTypes;
using Pgvector;
using Polly;
using Polly.Retry;

namespace Diptych.Index.Postgres;

/// <summary>
/// The store of many nodes: PostgreSQL 17 with pgvector 0.8. Nodes keep nothing that the database does not; each hears of the others'
/// commits by NOTIFY. Vectors are kept as 16-bit floats, in a graph for each space, modality and collection.
/// With several hosts in the connection string, reads go to a standby that has caught up with what this node has written, and to the
/// primary while none has. Errors that pass (a failover, a deadlock, a lost connection) are tried again; a commit is safe to repeat,
/// since it replaces by source.
/// </summary>
public sealed partial class PostgresStore : IDocumentStore
{
    /// <summary>Candidates of a graph's traversal; a scan goes on from there where a filter leaves too few.</summary>
    private const int EfSearch = 200;

    private readonly string _connectionString;
    private readonly NpgsqlDataSource _hosts, _primary, _standby;
    private readonly bool _replicated;
    private readonly TimeProvider _time;
    private readonly ResiliencePipeline _retryReads, _retryWrites;
    private readonly CancellationTokenSource _closing = new();
    private Task _listener = Task.CompletedTask;
    private long _seq;

    /// <summary>Where the primary's log stood after this node's last commit.</summary>
    private NpgsqlLogSequenceNumber _written;

    private PostgresStore(string connectionString, EmbeddingSpace textSpace, EmbeddingSpace crossSpace, TimeProvider time)
    {
        (TextSpace, CrossSpace, _time) = (textSpace, crossSpace, time);
        var settings = new NpgsqlConnectionStringBuilder(connectionString);
        settings.ApplicationName ??= "diptych";
        settings.Options = $"{settings.Options} -c hnsw.ef_search={EfSearch} -c hnsw.iterative_scan=strict_order".Trim();
        _replicated = settings.Host?.Contains(',', StringComparison.Ordinal) ?? false;
        if (_replicated)
        {
            // A host that was away is asked again soon, not after the default ten seconds.
            settings.HostRecheckSeconds = 1;
        }
        _connectionString = settings.ConnectionString;
        _hosts = Hosts();
        _primary = _hosts is NpgsqlMultiHostDataSource several ? several.WithTargetSession(TargetSessionAttributes.Primary) : _hosts;
        _standby = _hosts is NpgsqlMultiHostDataSource some ? some.WithTargetSession(TargetSessionAttributes.PreferStandby) : _hosts;
        // A person who searches is told after some seconds; what is written waits for a failover.
        (_retryReads, _retryWrites) = (Retry(6), Retry(16));
    }

    public EmbeddingSpace TextSpace { get; }

    public EmbeddingSpace CrossSpace { get; }

    public long Sequence => Volatile.Read(ref _seq);

    /// <summary>Connects, and brings the schema forward.</summary>
    /// <param name="connectionString">Npgsql's key=value form, or a postgres:// address.</param>
    /// <exception cref="InvalidRequestException">The address is wrong, the server lacks pgvector, other models made its vectors, or a newer program wrote it.</exception>
    /// <exception cref="StoreUnavailableException">The server does not answer.</exception>
    public static PostgresStore Open(string connectionString, EmbeddingSpace textSpace, EmbeddingSpace crossSpace, TimeProvider time)
    {
        var store = new PostgresStore(PostgresAddress.ToConnectionString(connectionString), textSpace, crossSpace, time);
        try
        {
            // Not tried again: whoever starts the program learns at once that the address is wrong.
            Told(() =>
            {
                // On a connection of its own: the pools read the database's types once, and vectors must be among them.
                using (NpgsqlDataSource source = store.Hosts())
                using (NpgsqlConnection bare = source is NpgsqlMultiHostDataSource several ? several.OpenConnection(TargetSessionAttributes.Primary) : source.OpenConnection())
                {
                    PostgresSchema.Migrate(bare, textSpace.Dimensions, crossSpace.Dimensions);
                }
                using NpgsqlConnection connection = store._primary.OpenConnection();
                store.CheckSpace(connection, textSpace);
                store.CheckSpace(connection, crossSpace);
                store._seq = (long)connection.Scalar("SELECT coalesce(max(seq), 0) FROM log")!;
                return 0;
            });
            store._listener = Task.Run(store.ListenAsync, CancellationToken.None);
            return store;
        }
        catch
        {
            store.Dispose();
            throw;
        }
    }

    public void EnsureCollection(string name)
    {
        if (name.Length is 0 or > 200 || name.Any(char.IsControl))
        {
            throw new InvalidRequestException("A collection's name has 1 to 200 printable characters.");
        }
        Write(connection => CollectionId(connection, name));
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
            // In one order everywhere, so that two nodes with the same documents do not wait for each other in a ring.
            foreach (IngestedDocument ingested in documents.OrderBy(d => d.Document.Source, StringComparer.Ordinal))
            {
                long collection = CollectionId(connection, ingested.Document.Collection);
                if (connection.Scalar("SELECT id FROM documents WHERE collection_id = $1 AND source = $2 FOR UPDATE", collection, ingested.Document.Source) is long old)
                {
                    Remove(connection, collection, old);
                }
                Document document = ingested.Document with { PassageCount = ingested.Passages.Count };
                document = document with { Id = Insert(connection, collection, document) };
                connection.Execute("INSERT INTO contents VALUES ($1, $2, $3)", document.Id, Clean(ingested.Text), new NpgsqlParameter { Value = ingested.Original ?? (object)DBNull.Value, NpgsqlDbType = NpgsqlDbType.Bytea });
                rows.AddRange(ingested.Passages.Select(p => (collection, document, p)));
                connection.Execute("INSERT INTO log (document_id, added) VALUES ($1, true)", document.Id);
                committed.Add(document);
            }
            Copy(connection, rows);
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
        connection.Execute("INSERT INTO log (document_id, added) SELECT id, false FROM documents WHERE collection_id = $1", id);
        connection.Execute("DELETE FROM documents WHERE collection_id = $1", id);
        connection.Execute($"DROP TABLE passages_{id}");
        connection.Execute("DELETE FROM collections WHERE id = $1", id);
        return true;
    });

    public void Repair() => Told(() =>
    {
        using NpgsqlConnection connection = _primary.OpenConnection();
        connection.Execute("DELETE FROM passages p WHERE NOT EXISTS (SELECT 1 FROM documents d WHERE d.id = p.document_id)");
        // One partition at a time, since a partitioned table's cannot be made anew in one transaction.
        foreach (string partition in connection.Rows(r => r.GetString(0), "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'passages'::regclass"))
        {
            connection.Execute($"REINDEX TABLE {partition}");
        }
        return 0;
    });

    public void Refresh()
    {
        long seq = Read(c => (long)c.Scalar("SELECT coalesce(max(seq), 0) FROM log")!);
        Volatile.Write(ref _seq, seq);
    }

    public void Dispose()
    {
        _closing.Cancel();
        Task.WaitAny([_listener], CancellationToken.None);
        _hosts.Dispose();
    }

    private NpgsqlDataSource Hosts()
    {
        var source = new NpgsqlDataSourceBuilder(_connectionString);
        source.UseVector();
        return _replicated ? source.BuildMultiHost() : source.Build();
    }

    /// <summary>A transaction on the primary, whole or not at all, tried again where that may help; then others are told.</summary>
    private T Write<T>(Func<NpgsqlConnection, T> work)
    {
        T result = Told(() => _retryWrites.Execute(() =>
        {
            using NpgsqlConnection connection = _primary.OpenConnection();
            using NpgsqlTransaction transaction = connection.BeginTransaction();
            T done = work(connection);
            connection.Execute("NOTIFY diptych_changes");
            transaction.Commit();
            if (_replicated)
            {
                _written = (NpgsqlLogSequenceNumber)connection.Scalar("SELECT pg_current_wal_insert_lsn()")!;
            }
            return done;
        }));
        Refresh();
        return result;
    }

    private T Read<T>(Func<NpgsqlConnection, T> work) => Told(() => _retryReads.Execute(() =>
    {
        using NpgsqlConnection connection = ForReading();
        return work(connection);
    }));

    private NpgsqlConnection ForReading()
    {
        if (!_replicated)
        {
            return _primary.OpenConnection();
        }
        NpgsqlConnection connection = _standby.OpenConnection();
        // A node reads what it wrote: a standby that is not there yet is passed over.
        object? replayed = connection.Scalar("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END");
        if (replayed is NpgsqlLogSequenceNumber lsn && lsn < _written)
        {
            connection.Dispose();
            return _primary.OpenConnection();
        }
        return connection;
    }

    private ResiliencePipeline Retry(int attempts) => new ResiliencePipelineBuilder { TimeProvider = _time }.AddRetry(new RetryStrategyOptions
    {
        ShouldHandle = new PredicateBuilder().Handle<NpgsqlException>(e => IsUnreachable(e) || e.IsTransient || e is PostgresException { SqlState: PostgresErrorCodes.UniqueViolation }),
        MaxRetryAttempts = attempts,
        Delay = TimeSpan.FromMilliseconds(50),
        MaxDelay = TimeSpan.FromSeconds(3),
        BackoffType = DelayBackoffType.Exponential,
        UseJitter = true,
    }).Build();

    /// <summary>What the driver says of a server that does not answer, as the store's own error.</summary>
    private static T Told<T>(Func<T> work)
    {
        try
        {
            return work();
        }
        catch (NpgsqlException error) when (IsUnreachable(error) || error.IsTransient)
        {
            string why = error.InnerException is AggregateException { InnerExceptions: [var first, ..] } ? first.Message : error.Message;
            throw new StoreUnavailableException($"PostgreSQL does not answer: {why}", error);
        }
    }

    /// <summary>No answer from the server at all, not an answer that refuses.</summary>
    private static bool IsUnreachable(NpgsqlException error) => error is not PostgresException;

    /// <summary>Hears of others' commits; when the connection is lost, connects again.</summary>
    private async Task ListenAsync()
    {
        while (!_closing.IsCancellationRequested)
        {
            try
            {
                await using NpgsqlConnection connection = await _primary.OpenConnectionAsync(_closing.Token).ConfigureAwait(false);
                await using var listen = new NpgsqlCommand("LISTEN diptych_changes", connection);
                await listen.ExecuteNonQueryAsync(_closing.Token).ConfigureAwait(false);
                // What was committed before this moment was not heard.
                Refresh();
                while (true)
                {
                    await connection.WaitAsync(_closing.Token).ConfigureAwait(false);
                    Refresh();
                }
            }
            catch (Exception error) when (error is NpgsqlException or StoreUnavailableException)
            {
                await Task.Delay(TimeSpan.FromSeconds(1), _time, _closing.Token).ConfigureAwait(false);
            }
        }
    }

    private void CheckSpace(NpgsqlConnection connection, EmbeddingSpace space)
    {
        string key = $"space:{space.Name}", value = $"{space.Model}@{space.Revision}/{space.Dimensions}";
        connection.Execute("INSERT INTO settings VALUES ($1, $2) ON CONFLICT DO NOTHING", key, value);
        string stored = (string)connection.Scalar("SELECT value FROM settings WHERE key = $1", key)!;
        if (stored != value)
        {
            throw new InvalidRequestException(
                $"The vectors of this store were made by {stored}, not by {value}. Use the model that made them, or another database.");
        }
    }

    private long CollectionId(NpgsqlConnection connection, string name)
    {
        if (connection.Scalar("SELECT id FROM collections WHERE name = $1", name) is long id)
        {
            return id;
        }
        id = (long)connection.Scalar("INSERT INTO collections (name, created_at) VALUES ($1, $2) RETURNING id", name, _time.GetUtcNow())!;
        connection.Execute(PostgresSchema.Partition(id));
        return id;
    }

    private static long Insert(NpgsqlConnection connection, long collection, Document d) => (long)connection.Scalar(
        """
        INSERT INTO documents (collection_id, source, content_hash, media_type, title, size_bytes, ingested_at, page_count, passage_count, metadata)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id
        """,
        collection, Clean(d.Source), d.ContentHash, d.MediaType, Clean(d.Title), d.SizeBytes, d.IngestedAt.ToUniversalTime(), d.PageCount, d.PassageCount,
        new NpgsqlParameter { Value = Clean(JsonSerializer.Serialize(d.Metadata)), NpgsqlDbType = NpgsqlDbType.Jsonb })!;

    private static void Remove(NpgsqlConnection connection, long collection, long document)
    {
        connection.Execute("DELETE FROM passages WHERE collection_id = $1 AND document_id = $2", collection, document);
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
        List<long> ids = connection.Rows(r => r.GetInt64(0), "SELECT nextval('passage_ids') FROM generate_series(1, $1)", rows.Count);
        using (NpgsqlBinaryImporter copy = connection.BeginBinaryImport(
            """
            COPY passages (id, collection_id, document_id, ordinal, modality, text, heading_path, page, x, y, w, h, start_at, end_at, label,
              width_px, height_px, text_vector, cross_vector, context, token_count) FROM STDIN (FORMAT binary)
            """))
        {
            for (int i = 0; i < rows.Count; i++)
            {
                var (collection, document, ingested) = rows[i];
                Passage p = ingested.Passage;
                string text = Clean(p.Text), path = Clean(p.HeadingPath);
                string context = Clean(string.Join('\n', document.Title, path, string.Join(' ', document.Metadata.SelectMany(m => m.Value))));
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
