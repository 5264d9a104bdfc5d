using Diptych.Core;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.Logging;

namespace Diptych.Index.Sqlite;

/// <summary>The tables, as steps forward: step n takes a database from version n to n + 1.</summary>
internal static partial class Schema
{
    private static readonly Action<SqliteConnection>[] Steps =
    [
        Sql("""
        CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE collections (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL);
        CREATE TABLE documents (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          collection_id INTEGER NOT NULL REFERENCES collections (id),
          source TEXT NOT NULL,
          content_hash TEXT NOT NULL,
          media_type TEXT NOT NULL,
          title TEXT NOT NULL,
          size_bytes INTEGER NOT NULL,
          ingested_at TEXT NOT NULL,
          page_count INTEGER NOT NULL,
          passage_count INTEGER NOT NULL,
          metadata TEXT NOT NULL,
          UNIQUE (collection_id, source));
        CREATE INDEX documents_by_hash ON documents (collection_id, content_hash);
        CREATE TABLE contents (document_id INTEGER PRIMARY KEY, text TEXT NOT NULL, original BLOB);
        CREATE TABLE passages (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          document_id INTEGER NOT NULL,
          ordinal INTEGER NOT NULL,
          modality INTEGER NOT NULL,
          text TEXT NOT NULL,
          heading_path TEXT NOT NULL,
          page INTEGER, x REAL, y REAL, w REAL, h REAL, start INTEGER, end INTEGER, label TEXT,
          width_px INTEGER NOT NULL,
          height_px INTEGER NOT NULL);
        CREATE INDEX passages_by_document ON passages (document_id, ordinal);
        CREATE TABLE vectors (
          passage_id INTEGER PRIMARY KEY,
          document_id INTEGER NOT NULL,
          modality INTEGER NOT NULL,
          page INTEGER,
          text BLOB,
          "cross" BLOB NOT NULL);
        CREATE TABLE pictures (passage_id INTEGER PRIMARY KEY, thumbnail BLOB NOT NULL, image BLOB);
        CREATE TABLE log (seq INTEGER PRIMARY KEY AUTOINCREMENT, document_id INTEGER NOT NULL, added INTEGER NOT NULL);
        """),
        Sql("""
        CREATE INDEX passage_keys ON passages (document_id, modality, page);
        CREATE INDEX passages_wordless ON passages (id) WHERE modality = 1 AND text = '';
        """),
        Sql("ALTER TABLE collections ADD COLUMN language TEXT NOT NULL DEFAULT 'english'"),
        DropFullText,
        Sql("""
        CREATE TABLE feedback (
          id INTEGER PRIMARY KEY, collection_id INTEGER NOT NULL, at TEXT NOT NULL, query TEXT NOT NULL, source TEXT NOT NULL, ordinal INTEGER NOT NULL, positive INTEGER NOT NULL);
        CREATE INDEX feedback_by_collection ON feedback (collection_id);
        CREATE TABLE tunings (
          collection_id INTEGER NOT NULL, version INTEGER NOT NULL, created_at TEXT NOT NULL, adapter BLOB NOT NULL, before REAL NOT NULL, after REAL NOT NULL, active INTEGER NOT NULL,
          PRIMARY KEY (collection_id, version));
        """),
        // A row of documents is a version of one: its id rises with every change, and the indexes go by it. The identity stays.
        Sql("""
        ALTER TABLE documents ADD COLUMN identity INTEGER;
        UPDATE documents SET identity = id;
        CREATE UNIQUE INDEX documents_by_identity ON documents (identity);
        ALTER TABLE contents ADD COLUMN title TEXT;
        ALTER TABLE contents ADD COLUMN metadata TEXT;
        """),
        Sql("""
        CREATE TABLE jobs (
          id TEXT PRIMARY KEY, collection TEXT NOT NULL, created_at TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0, ended_at TEXT, items INTEGER NOT NULL,
          ended INTEGER NOT NULL DEFAULT 0, turn INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
        CREATE INDEX jobs_by_age ON jobs (created_at, id);
        CREATE TABLE job_items (
          job TEXT NOT NULL, number INTEGER NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL, media_type TEXT, metadata TEXT NOT NULL, url TEXT, host TEXT, spool TEXT,
          bytes INTEGER NOT NULL, state INTEGER NOT NULL, node TEXT, lease_until INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
          outcome INTEGER, reason TEXT, document_id INTEGER, position INTEGER, PRIMARY KEY (job, number)) WITHOUT ROWID;
        CREATE INDEX job_items_open ON job_items (job, state, attempts, number) WHERE state < 4;
        CREATE INDEX job_items_by_source ON job_items (source) WHERE state < 4;
        CREATE INDEX job_items_by_node ON job_items (node) WHERE node IS NOT NULL;
        CREATE INDEX job_items_spent ON job_items (spool) WHERE state = 4 AND spool IS NOT NULL;
        CREATE INDEX job_items_ended ON job_items (job, position) WHERE state = 4;
        """),
    ];

    public static int Version => Steps.Length;

    /// <returns>The database's version.</returns>
    /// <exception cref="InvalidRequestException">A newer program wrote the database.</exception>
    public static long Check(SqliteConnection connection)
    {
        long version = (long)connection.Scalar("PRAGMA user_version")!;
        return version <= Version
            ? version
            : throw new InvalidRequestException(
                $"The database has schema version {version}; this program knows {Version}. Use a newer diptych, or another --data folder.");
    }

    /// <summary>
    /// Brings a database of an older version forward that nobody has open. What was is kept beside it, as a backup that names the version.
    /// </summary>
    /// <exception cref="InvalidRequestException">A newer program wrote the database.</exception>
    /// <exception cref="StoreInUseException">Another process has it open.</exception>
    /// <exception cref="StorageFullException">There is no room for the copy; nothing was changed.</exception>
    public static void BringForward(string database, ILogger log)
    {
        using (SqliteBackup.Share(database))
        {
            if (!File.Exists(database) || Read(database) is 0 || Read(database) == Version)
            {
                return;
            }
        }
        using StoreLock alone = StoreLock.TryAlone(database) ?? throw new StoreInUseException(
            $"{database} has an older schema, which this program brings forward, and another diptych has it open. "
            + "Stop that, then start this again.");
        using SqliteConnection connection = SqliteBackup.Unpooled(database, SqliteOpenMode.ReadWrite);
        long version = Check(connection);
        string copy = Path.ChangeExtension(database, $".schema-{version}.backup");
        for (int number = 2; File.Exists(copy); number++)
        {
            copy = Path.ChangeExtension(database, $".schema-{version}.{number}.backup");
        }
        try
        {
            SqliteBackup.Make(connection, copy, replace: false);
        }
        catch (Exception error) when (SqliteFault.IsFull(error) || StorageFullException.Is(error))
        {
            throw new StorageFullException(
                $"Before the schema of {database} is brought from {version} to {Version} it is copied, and its disk has no room for that. "
                + "Make room, and start again.",
                error);
        }
        Migrate(connection);
        LogMigrated(log, database, version, Version, copy);
    }

    private static long Read(string database)
    {
        using SqliteConnection connection = SqliteBackup.Unpooled(database, SqliteOpenMode.ReadWrite);
        return Check(connection);
    }

    [LoggerMessage(1, LogLevel.Warning, "The schema of {Database} was brought from version {From} to {To}; what was is kept as {Copy}")]
    private static partial void LogMigrated(ILogger log, string database, long from, int to, string copy);

    /// <exception cref="InvalidRequestException">A newer program wrote the database.</exception>
    public static void Migrate(SqliteConnection connection)
    {
        long version = Check(connection);
        for (; version < Version; version++)
        {
            using SqliteTransaction transaction = connection.BeginTransaction(deferred: false);
            // Another process may have migrated while this one waited for the write lock.
            if ((long)connection.Scalar("PRAGMA user_version")! == version)
            {
                Steps[version](connection);
                connection.Execute($"PRAGMA user_version = {version + 1}");
            }
            transaction.Commit();
        }
    }

    private static Action<SqliteConnection> Sql(string statements) => connection => connection.Execute(statements);

    /// <summary>Words had a table for each collection; they have an index of their own beside the database.</summary>
    private static void DropFullText(SqliteConnection connection)
    {
        foreach (string table in connection.Rows("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE fulltext%'").Select(r => r.GetString(0)).ToList())
        {
            connection.Execute($"DROP TABLE {table}");
        }
    }
}

internal static class SqliteExtensions
{
    public static SqliteCommand Command(this SqliteConnection connection, string sql, params ReadOnlySpan<(string Name, object? Value)> parameters)
    {
        SqliteCommand command = connection.CreateCommand();
        command.CommandText = sql;
        foreach (var (name, value) in parameters)
        {
            command.Parameters.AddWithValue(name, value ?? DBNull.Value);
        }
        return command;
    }

    public static int Execute(this SqliteConnection connection, string sql, params ReadOnlySpan<(string Name, object? Value)> parameters)
    {
        using SqliteCommand command = connection.Command(sql, parameters);
        return command.ExecuteNonQuery();
    }

    public static object? Scalar(this SqliteConnection connection, string sql, params ReadOnlySpan<(string Name, object? Value)> parameters)
    {
        using SqliteCommand command = connection.Command(sql, parameters);
        object? value = command.ExecuteScalar();
        return value is DBNull ? null : value;
    }

    public static IEnumerable<SqliteDataReader> Rows(this SqliteConnection connection, string sql, params (string Name, object? Value)[] parameters)
    {
        using SqliteCommand command = connection.Command(sql, parameters);
        using SqliteDataReader reader = command.ExecuteReader();
        while (reader.Read())
        {
            yield return reader;
        }
    }
}
