using Diptych.Core;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Npgsql;
using NpgsqlTypes;
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
    private readonly BackgroundLoop _listener;
    private readonly ILogger _log;
    private Task _listening = Task.CompletedTask;
    private readonly System.Collections.Concurrent.ConcurrentDictionary<string, long> _partitions = new(StringComparer.Ordinal);
    private long _seq;

    /// <summary>Where the primary's log stood after this node's last commit.</summary>
    private NpgsqlLogSequenceNumber _written;

    private PostgresStore(string connectionString, EmbeddingSpace textSpace, EmbeddingSpace crossSpace, TimeProvider time, ILogger log)
    {
        (TextSpace, CrossSpace, _time, _log) = (textSpace, crossSpace, time, log);
        _listener = new BackgroundLoop("hearing of other nodes' commits", ListenAsync, time, log);
        var settings = new NpgsqlConnectionStringBuilder(connectionString);
        settings.ApplicationName ??= "diptych";
        // A search is the same few statements again and again: the server plans them once a connection.
        settings.MaxAutoPrepare = settings.MaxAutoPrepare == 0 ? 128 : settings.MaxAutoPrepare;
        settings.AutoPrepareMinUsages = 2;
        // Nothing here changes a session, so there is nothing to undo between two uses of one.
        settings.NoResetOnClose = true;
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
    public static PostgresStore Open(
        string connectionString, EmbeddingSpace textSpace, EmbeddingSpace crossSpace, TimeProvider time, ILogger<PostgresStore>? log = null)
    {
        log ??= NullLogger<PostgresStore>.Instance;
        var store = new PostgresStore(PostgresAddress.ToConnectionString(connectionString), textSpace, crossSpace, time, log);
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
            store._listening = store._listener.RunAsync(store._closing.Token);
            return store;
        }
        catch
        {
            store.Dispose();
            throw;
        }
    }

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

    public IReadOnlyList<BackgroundLoop> Loops => [_listener];

    public void Ask() => Told(() =>
    {
        using NpgsqlConnection connection = _primary.OpenConnection();
        return connection.Scalar("SELECT 1");
    });

    public void Refresh()
    {
        long seq = Read(c => (long)c.Scalar("SELECT coalesce(max(seq), 0) FROM log")!);
        Volatile.Write(ref _seq, seq);
    }

    public void Dispose()
    {
        _closing.Cancel();
        _listening.Wait(CancellationToken.None);
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
        try
        {
            Refresh();
        }
        catch (StoreUnavailableException)
        {
            // What was committed stays committed, whatever became of the server since; the listener refreshes once it is back.
        }
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
        ShouldHandle = new PredicateBuilder().Handle<NpgsqlException>(e => IsUnreachable(e) || e.IsTransient
            || e is PostgresException { SqlState: PostgresErrorCodes.UniqueViolation or PostgresErrorCodes.UndefinedTable or PostgresErrorCodes.FeatureNotSupported }),
        OnRetry = retry =>
        {
            if (retry.AttemptNumber == 0)
            {
                Log.TriedAgain(_log, retry.Outcome.Exception?.Message);
            }
            // A collection that another node deleted, or made anew, has another table.
            _partitions.Clear();
            return default;
        },
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
        catch (PostgresException error) when (error.SqlState == PostgresErrorCodes.DiskFull)
        {
            throw new StorageFullException($"The disk of the PostgreSQL server is full. Nothing of this was stored; make room, and send it again.", error);
        }
    }

    /// <summary>No answer from the server at all, not an answer that refuses.</summary>
    private static bool IsUnreachable(NpgsqlException error) => error is not PostgresException;

    /// <summary>Hears of others' commits; when the connection is lost, connects again.</summary>
    private async Task ListenAsync(CancellationToken stopping)
    {
        bool told = false;
        while (true)
        {
            try
            {
                await using NpgsqlConnection connection = await _primary.OpenConnectionAsync(stopping).ConfigureAwait(false);
                await using var listen = new NpgsqlCommand("LISTEN diptych_changes", connection);
                await listen.ExecuteNonQueryAsync(stopping).ConfigureAwait(false);
                // What was committed before this moment was not heard.
                Refresh();
                if (told)
                {
                    Log.Back(_log);
                }
                told = false;
                while (true)
                {
                    await connection.WaitAsync(stopping).ConfigureAwait(false);
                    Refresh();
                }
            }
            catch (Exception error) when (error is NpgsqlException or StoreUnavailableException && !stopping.IsCancellationRequested)
            {
                if (!told)
                {
                    Log.Lost(_log, error);
                }
                told = true;
                await Task.Delay(TimeSpan.FromSeconds(1), _time, stopping).ConfigureAwait(false);
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

    private static partial class Log
    {
        [LoggerMessage(2, LogLevel.Warning, "PostgreSQL refused or did not answer, and is asked again: {Cause}")]
        public static partial void TriedAgain(ILogger log, string? cause);

        [LoggerMessage(3, LogLevel.Warning, "The connection on which other nodes' commits are heard was lost, and is tried each second")]
        public static partial void Lost(ILogger log, Exception error);

        [LoggerMessage(4, LogLevel.Information, "Other nodes' commits are heard again")]
        public static partial void Back(ILogger log);
    }
}
