using System.Runtime.CompilerServices;
using Diptych.Index.Sqlite;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.VectorData;

namespace Diptych.Index.VectorData;

/// <summary>
/// Microsoft.Extensions.VectorData over one SQLite file and the HNSW index: for Semantic Kernel and Microsoft.Extensions.AI programs.
/// Records are durable when an upsert returns. One process at a time; any number of threads.
/// </summary>
public sealed class DiptychVectorStore : VectorStore
{
    private readonly SqliteConnection _connection;
    private readonly Lock _lock = new();
    private readonly Dictionary<string, RecordSet> _sets = new(StringComparer.Ordinal);
    private readonly IEmbeddingGenerator? _generator;
    private readonly string _path;

    /// <param name="path">The file; made where it is not there.</param>
    /// <param name="embeddingGenerator">Makes vectors of properties that hold text or other inputs; null where records bring their vectors.</param>
    public DiptychVectorStore(string path, IEmbeddingGenerator? embeddingGenerator = null)
    {
        _path = path;
        _generator = embeddingGenerator;
        _connection = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = path, Pooling = false }.ToString());
        _connection.Open();
        _connection.Execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL");
        _connection.Execute(
            """
            CREATE TABLE IF NOT EXISTS record_collections (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
            CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY AUTOINCREMENT, collection_id INTEGER NOT NULL, key TEXT NOT NULL, data TEXT NOT NULL, UNIQUE (collection_id, key));
            CREATE TABLE IF NOT EXISTS record_vectors (record_id INTEGER NOT NULL, property TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (record_id, property)) WITHOUT ROWID;
            """);
    }

    public override VectorStoreCollection<TKey, TRecord> GetCollection<TKey, TRecord>(string name, VectorStoreCollectionDefinition? definition = null) =>
        typeof(TRecord) == typeof(Dictionary<string, object?>)
            ? throw new ArgumentException("Dictionaries are records of a dynamic collection: call GetDynamicCollection.")
            : new RecordCollection<TKey, TRecord>(this, name, new RecordModel().Build(typeof(TRecord), typeof(TKey), definition, _generator));

    public override VectorStoreCollection<object, Dictionary<string, object?>> GetDynamicCollection(string name, VectorStoreCollectionDefinition definition) =>
        new RecordCollection<object, Dictionary<string, object?>>(this, name, new RecordModel().BuildDynamic(definition, _generator));

    public override async IAsyncEnumerable<string> ListCollectionNamesAsync([EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        await Task.CompletedTask.ConfigureAwait(false);
        List<string> names;
        lock (_lock)
        {
            names = [.. _connection.Rows("SELECT name FROM record_collections ORDER BY name").Select(r => r.GetString(0))];
        }
        foreach (string name in names)
        {
            cancellationToken.ThrowIfCancellationRequested();
            yield return name;
        }
    }

    public override Task<bool> CollectionExistsAsync(string name, CancellationToken cancellationToken = default) => Task.FromResult(IdOf(name) is not null);

    public override Task EnsureCollectionDeletedAsync(string name, CancellationToken cancellationToken = default)
    {
        lock (_lock)
        {
            if (IdOf(name) is { } id)
            {
                using SqliteTransaction transaction = _connection.BeginTransaction(deferred: false);
                _connection.Execute("DELETE FROM record_vectors WHERE record_id IN (SELECT id FROM records WHERE collection_id = $c)", ("$c", id));
                _connection.Execute("DELETE FROM records WHERE collection_id = $c", ("$c", id));
                _connection.Execute("DELETE FROM record_collections WHERE id = $c", ("$c", id));
                transaction.Commit();
                _sets.Remove(name);
            }
        }
        return Task.CompletedTask;
    }

    public override object? GetService(Type serviceType, object? serviceKey = null) =>
        serviceKey is not null ? null
        : serviceType == typeof(VectorStoreMetadata) ? new VectorStoreMetadata { VectorStoreSystemName = "diptych", VectorStoreName = _path }
        : serviceType.IsInstanceOfType(this) ? this : null;

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _connection.Dispose();
        }
        base.Dispose(disposing);
    }

    internal void Ensure(string name)
    {
        lock (_lock)
        {
            _connection.Execute("INSERT OR IGNORE INTO record_collections (name) VALUES ($n)", ("$n", name));
        }
    }

    /// <summary>The collection's records, read from the file the first time.</summary>
    /// <param name="dimensions">Of each vector property, by storage name.</param>
    /// <exception cref="VectorStoreException">There is no such collection.</exception>
    internal RecordSet Open(string name, IReadOnlyDictionary<string, int> dimensions)
    {
        lock (_lock)
        {
            if (!_sets.TryGetValue(name, out RecordSet? set))
            {
                long id = IdOf(name) ?? throw new VectorStoreException($"There is no collection '{name}'. Call EnsureCollectionExistsAsync first.") { CollectionName = name, VectorStoreSystemName = "diptych" };
                _sets[name] = set = new RecordSet(_connection, _lock, id, dimensions);
            }
            return set;
        }
    }

    private long? IdOf(string name)
    {
        lock (_lock)
        {
            return _connection.Scalar("SELECT id FROM record_collections WHERE name = $n", ("$n", name)) as long?;
        }
    }
}
