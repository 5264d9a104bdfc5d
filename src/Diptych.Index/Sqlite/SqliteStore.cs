using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Lexical;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace Diptych.Index.Sqlite;

/// <summary>
/// The embedded store: one SQLite database in WAL mode is the durable truth; vectors are also held in memory, derived from it.
/// A document's commit is one transaction; killing the process at any point leaves every acknowledged document whole and no other.
/// (WAL with synchronous=NORMAL: a power cut may lose the last commits, never corrupt.) Several processes may share a database:
/// each follows the others' commits through the log.
/// </summary>
public sealed partial class SqliteStore : IDocumentStore
{
    private readonly string _path;
    private readonly string _connectionString;
    private readonly SqliteConnection _writer;
    private readonly Lock _writing = new();
    private readonly TimeProvider _time;
    private readonly ILogger _log;

    /// <summary>Held as long as the database is open, so that none replaces its files.</summary>
    private readonly StoreLock _lock;

    private SqliteStore(string path, StoreLock held, EmbeddingSpace textSpace, EmbeddingSpace crossSpace, TimeProvider time, ILogger log)
    {
        (_time, _lock, _log) = (time, held, log);
        _mover = new BackgroundLoop("making vector graphs", MoveAsync, time, log);
        _wordsFollower = new BackgroundLoop("keeping the word indexes", FollowWordsAsync, time, log);
        _path = path;
        TextSpace = textSpace;
        CrossSpace = crossSpace;
        _connectionString = ConnectionString(path);
        _writer = Connect();
        try
        {
            _watcher = Connect();
        }
        catch
        {
            _writer.Dispose();
            throw;
        }
    }

    public EmbeddingSpace TextSpace { get; }

    public EmbeddingSpace CrossSpace { get; }

    /// <summary>Opens or creates the database, brings its schema forward (keeping a copy of what was) and loads the vectors.</summary>
    /// <exception cref="InvalidRequestException">Other models made its vectors, or a newer program wrote it.</exception>
    /// <exception cref="StoreInUseException">A backup is being put in its place, or others have it open with an older schema.</exception>
    /// <exception cref="StoreDamagedException">The database is damaged; the message says what to do.</exception>
    public static SqliteStore Open(
        string path, EmbeddingSpace textSpace, EmbeddingSpace crossSpace, TimeProvider time, ILogger<SqliteStore>? log = null)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        log ??= NullLogger<SqliteStore>.Instance;
        StoreLock? held = null;
        SqliteStore? store = null;
        try
        {
            Schema.BringForward(path, log);
            held = SqliteBackup.Share(path);
            store = new SqliteStore(path, held, textSpace, crossSpace, time, log);
            store._writer.Execute("PRAGMA journal_mode = WAL");
            Schema.Migrate(store._writer);
            store.CheckSpace(textSpace);
            store.CheckSpace(crossSpace);
            store.Load();
            return store;
        }
        catch (Exception error)
        {
            store?.Dispose();
            ClearPool(path);
            held?.Dispose();
            if (SqliteFault.ToldAtOpen(error, path) is var told && told != error)
            {
                throw told;
            }
            throw;
        }
    }

    /// <summary>Makes the collection if it is not there.</summary>
    public void EnsureCollection(string name, string? language = null)
    {
        if (name.Length is 0 or > 200 || name.Any(char.IsControl))
        {
            throw new InvalidRequestException("A collection's name has 1 to 200 printable characters.");
        }
        Storing(() =>
        {
            lock (_writing)
            {
                using SqliteTransaction transaction = _writer.BeginTransaction(deferred: false);
                if (language is not null
                    && LanguageOf(_writer, CollectionId(name, create: true, Language.Check(language))) is var has && has != language)
                {
                    throw new InvalidRequestException($"The collection '{name}' is stemmed in {has}, not in {language}.");
                }
                CollectionId(name, create: true);
                transaction.Commit();
                return true;
            }
        });
    }

    public IReadOnlyList<Document> Commit(IReadOnlyList<IngestedDocument> documents) => Storing(() =>
    {
        var committed = new List<Document>(documents.Count);
        lock (_writing)
        {
            using SqliteTransaction transaction = _writer.BeginTransaction(deferred: false);
            using var insert = new Inserts(_writer);
            foreach (IngestedDocument ingested in documents)
            {
                if (!EndItem(ingested.Item))
                {
                    committed.Add(ingested.Document);
                    continue;
                }
                long collection = CollectionId(ingested.Document.Collection, create: true);
                long? identity = null;
                if (Version(collection, ingested.Document.Source) is var (old, known))
                {
                    identity = known;
                    Remove(old);
                }
                Document document = ingested.Document with { PassageCount = ingested.Passages.Count };
                (long version, document) = InsertDocument(collection, document, identity);
                _writer.Execute(
                    "INSERT INTO contents (document_id, text, original, title, metadata) VALUES ($d, $t, $o, $title, $metadata)",
                    ("$d", version), ("$t", ingested.Text), ("$o", ingested.Original), ("$title", ingested.ReadTitle), ("$metadata", JsonSerializer.Serialize(ingested.ReadMetadata)));
                foreach (IngestedPassage passage in ingested.Passages)
                {
                    UnitVector.Check(passage, TextSpace, CrossSpace);
                    insert.Passage(version, passage);
                }
                _writer.Execute("INSERT INTO log (document_id, added) VALUES ($d, 1)", ("$d", version));
                SetDocument(ingested.Item, document.Id, identity is null ? IngestOutcome.Added : IngestOutcome.Replaced);
                committed.Add(document);
            }
            transaction.Commit();
        }
        Refresh();
        return committed;
    });

    /// <exception cref="StorageFullException">The disk is full; nothing was stored.</exception>
    /// <exception cref="StoreDamagedException">The database is damaged.</exception>
    private T Storing<T>(Func<T> work)
    {
        try
        {
            return work();
        }
        catch (SqliteException error) when (SqliteFault.IsFull(error) || SqliteFault.IsDamage(error))
        {
            throw SqliteFault.Told(error, _path);
        }
    }

    /// <returns>False when there is no such document.</returns>
    public bool Delete(long documentId) => Storing(() =>
    {
        lock (_writing)
        {
            using SqliteTransaction transaction = _writer.BeginTransaction(deferred: false);
            if (_writer.Scalar("SELECT id FROM documents WHERE identity = $d", ("$d", documentId)) is not long version)
            {
                return false;
            }
            Remove(version);
            transaction.Commit();
        }
        Refresh();
        return true;
    });

    /// <summary>Deletes the collection with all its documents.</summary>
    /// <returns>False when there is no such collection.</returns>
    public bool DeleteCollection(string name) => Storing(() =>
    {
        lock (_writing)
        {
            using SqliteTransaction transaction = _writer.BeginTransaction(deferred: false);
            if (CollectionId(name, create: false) is var collection && collection == 0)
            {
                return false;
            }
            foreach (long document in _writer.Rows("SELECT id FROM documents WHERE collection_id = $c", ("$c", collection)).Select(r => r.GetInt64(0)).ToList())
            {
                Remove(document);
            }
            Cancel(_writer, "collection = $x", name);
            foreach (string table in new[] { "feedback", "tunings" })
            {
                _writer.Execute($"DELETE FROM {table} WHERE collection_id = $c", ("$c", collection));
            }
            _writer.Execute("DELETE FROM collections WHERE id = $c", ("$c", collection));
            transaction.Commit();
            foreach (string file in Directory.Exists(GraphFolder) ? Directory.GetFiles(GraphFolder, $"{collection}-*.hnsw") : [])
            {
                File.Delete(file);
            }
            ForgetWords(name, collection);
        }
        Refresh();
        return true;
    });

    public void Dispose()
    {
        _closing.Cancel();
        // A move ends at its next portion of rows; what it had done is done again at the next start.
        Task.WaitAll([_moving, _following], CancellationToken.None);
        CloseWords();
        _queue?.Dispose();
        _writer.Dispose();
        _watcher.Dispose();
        ClearPool(_path);
        _lock.Dispose();
    }

    private static string ConnectionString(string path) =>
        new SqliteConnectionStringBuilder { DataSource = path, DefaultTimeout = 60 }.ToString();

    /// <summary>Ends the connections that wait to be used again: the file may be replaced once the store is closed.</summary>
    private static void ClearPool(string path)
    {
        using var connection = new SqliteConnection(ConnectionString(path));
        SqliteConnection.ClearPool(connection);
    }

    /// <summary>A pooled connection for one read; a pool's reuse would run settings each time, so there are none.</summary>
    private SqliteConnection ForReading()
    {
        var connection = new SqliteConnection(_connectionString);
        connection.Open();
        return connection;
    }

    private SqliteConnection Connect()
    {
        SqliteConnection connection = ForReading();
        try
        {
            connection.Execute("PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 1073741824; PRAGMA busy_timeout = 60000");
            return connection;
        }
        catch
        {
            connection.Dispose();
            throw;
        }
    }

    private void CheckSpace(EmbeddingSpace space)
    {
        string key = $"space:{space.Name}", value = $"{space.Model}@{space.Revision}/{space.Dimensions}";
        _writer.Execute("INSERT OR IGNORE INTO settings (key, value) VALUES ($k, $v)", ("$k", key), ("$v", value));
        string stored = (string)_writer.Scalar("SELECT value FROM settings WHERE key = $k", ("$k", key))!;
        if (stored != value)
        {
            throw new InvalidRequestException(
                $"The vectors of this store were made by {stored}, not by {value}. Use the model that made them, or another --data folder.");
        }
    }

    private long CollectionId(string name, bool create, string language = Language.Default)
    {
        if (_writer.Scalar("SELECT id FROM collections WHERE name = $n", ("$n", name)) is long id)
        {
            return id;
        }
        if (!create)
        {
            return 0;
        }
        return (long)_writer.Scalar(
            "INSERT INTO collections (name, created_at, language) VALUES ($n, $t, $l) RETURNING id", ("$n", name), ("$t", Iso(_time.GetUtcNow())), ("$l", language))!;
    }

    private static string LanguageOf(SqliteConnection connection, long collection) =>
        (string)connection.Scalar("SELECT language FROM collections WHERE id = $c", ("$c", collection))!;

    /// <summary>The document's present version, and its identity.</summary>
    private (long Version, long Identity)? Version(long collection, string source) =>
        _writer.Rows("SELECT id, identity FROM documents WHERE collection_id = $c AND source = $s", ("$c", collection), ("$s", source))
            .Select(r => ((long, long)?)(r.GetInt64(0), r.GetInt64(1))).FirstOrDefault();

    /// <param name="identity">Null for a document that is new: its first version's number becomes its identity.</param>
    private (long Version, Document Document) InsertDocument(long collection, Document d, long? identity)
    {
        long version = (long)_writer.Scalar(
            """
            INSERT INTO documents (collection_id, source, content_hash, media_type, title, size_bytes, ingested_at, page_count, passage_count, metadata, identity)
            VALUES ($c, $source, $hash, $type, $title, $size, $at, $pages, $passages, $metadata, $identity) RETURNING id
            """,
            ("$c", collection), ("$source", d.Source), ("$hash", d.ContentHash), ("$type", d.MediaType), ("$title", d.Title), ("$size", d.SizeBytes), ("$at", Iso(d.IngestedAt)),
            ("$pages", d.PageCount), ("$passages", d.PassageCount), ("$metadata", JsonSerializer.Serialize(d.Metadata)), ("$identity", identity))!;
        if (identity is null)
        {
            _writer.Execute("UPDATE documents SET identity = id WHERE id = $v", ("$v", version));
        }
        return (version, d with { Id = identity ?? version });
    }

    /// <param name="version">Of a document.</param>
    private void Remove(long version)
    {
        (string, object?) id = ("$d", version);
        _writer.Execute("DELETE FROM vectors WHERE passage_id IN (SELECT id FROM passages WHERE document_id = $d)", id);
        _writer.Execute("DELETE FROM pictures WHERE passage_id IN (SELECT id FROM passages WHERE document_id = $d)", id);
        _writer.Execute("DELETE FROM passages WHERE document_id = $d", id);
        _writer.Execute("DELETE FROM contents WHERE document_id = $d", id);
        _writer.Execute("DELETE FROM documents WHERE id = $d", id);
        _writer.Execute("INSERT INTO log (document_id, added) VALUES ($d, 0)", id);
    }

    /// <summary>The words that a passage is also found by.</summary>
    private static string Context(Document document, string headingPath) =>
        string.Join('\n', document.Title, headingPath, string.Join(' ', document.Metadata.SelectMany(m => m.Value)));

    private static string Iso(DateTimeOffset time) => time.ToUniversalTime().ToString("O", CultureInfo.InvariantCulture);

    /// <summary>The statements of a commit, prepared once a transaction.</summary>
    private sealed class Inserts(SqliteConnection connection) : IDisposable
    {
        private readonly SqliteCommand _passage = connection.Command(
            """
            INSERT INTO passages (document_id, ordinal, modality, text, heading_path, page, x, y, w, h, start, end, label, width_px, height_px)
            VALUES ($d, $ordinal, $modality, $text, $path, $page, $x, $y, $w, $h, $start, $end, $label, $width, $height) RETURNING id
            """);

        private readonly SqliteCommand _vector = connection.Command(
            "INSERT INTO vectors (passage_id, document_id, modality, page, text, \"cross\") VALUES ($id, $d, $modality, $page, $text, $cross)");

        public void Passage(long version, IngestedPassage ingested)
        {
            Passage p = ingested.Passage;
            Set(_passage,
                ("$d", version), ("$ordinal", p.Ordinal), ("$modality", (int)p.Modality), ("$text", p.Text), ("$path", p.HeadingPath),
                ("$page", p.Anchor.Page), ("$x", p.Anchor.Box?.X), ("$y", p.Anchor.Box?.Y), ("$w", p.Anchor.Box?.Width), ("$h", p.Anchor.Box?.Height),
                ("$start", p.Anchor.Start), ("$end", p.Anchor.End), ("$label", p.Anchor.Label), ("$width", p.WidthPx), ("$height", p.HeightPx));
            long id = (long)_passage.ExecuteScalar()!;
            Set(_vector,
                ("$id", id), ("$d", version), ("$modality", (int)p.Modality), ("$page", p.Anchor.Page),
                ("$text", ingested.TextVector is null ? null : Bytes(ingested.TextVector)), ("$cross", Bytes(ingested.CrossVector)));
            _vector.ExecuteNonQuery();
            if (ingested.Thumbnail is not null)
            {
                connection.Execute(
                    "INSERT INTO pictures (passage_id, thumbnail, image) VALUES ($id, $t, $i)", ("$id", id), ("$t", ingested.Thumbnail), ("$i", ingested.Image));
            }
        }

        public void Dispose()
        {
            _passage.Dispose();
            _vector.Dispose();
        }

        private static void Set(SqliteCommand command, params ReadOnlySpan<(string Name, object? Value)> values)
        {
            command.Parameters.Clear();
            foreach (var (name, value) in values)
            {
                command.Parameters.AddWithValue(name, value ?? DBNull.Value);
            }
        }

        private static byte[] Bytes(float[] vector) => MemoryMarshal.AsBytes(vector.AsSpan()).ToArray();
    }
}
