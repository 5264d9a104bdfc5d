using System.Security.Cryptography;
using System.Text;
using Diptych.Core;
using Microsoft.Data.Sqlite;

namespace Diptych.Index.Sqlite;

/// <summary>Copies of a live store, and making anew what is derived.</summary>
public sealed partial class SqliteStore
{
    /// <summary>
    /// Copies the database while it is read and written (SQLite's online backup), then reads the copy back: it must be sound and hold the
    /// same content. The graphs and the word indexes are not in it; a restored store makes them anew.
    /// </summary>
    /// <returns>The content's digest: SHA-256 over every document and passage.</returns>
    /// <exception cref="IOException">The copy does not hold what was copied.</exception>
    public string Backup(string file)
    {
        string temporary = $"{file}.{Environment.ProcessId}.part";
        try
        {
            string expected;
            using (SqliteConnection source = Connect())
            {
                // A read transaction holds the version that is copied, whatever is committed meanwhile.
                using SqliteTransaction version = source.BeginTransaction(deferred: true);
                expected = Digest(source);
                using var target = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = temporary, Pooling = false }.ToString());
                target.Open();
                source.BackupDatabase(target);
            }
            if (Verify(temporary) != expected)
            {
                throw new IOException($"{file}: the copy's content is not what was copied.");
            }
            File.Move(temporary, file, overwrite: true);
            return expected;
        }
        finally
        {
            File.Delete(temporary);
        }
    }

    /// <summary>Puts a backup in the place of a store that is not open.</summary>
    /// <param name="replace">Whether a store that is there may go.</param>
    /// <returns>The content's digest.</returns>
    /// <exception cref="InvalidRequestException">There is a store already, or the file is no sound backup.</exception>
    public static string Restore(string file, string path, bool replace)
    {
        if (!File.Exists(file))
        {
            throw new InvalidRequestException($"There is no file {file}.");
        }
        if (File.Exists(path) && !replace)
        {
            throw new InvalidRequestException($"{path} exists. Give another --data folder, or --force to replace what is there.");
        }
        string temporary = $"{path}.{Environment.ProcessId}.part", digest;
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        try
        {
            File.Copy(file, temporary);
            digest = Verify(temporary);
            foreach (string beside in new[] { "-wal", "-shm" })
            {
                File.Delete(path + beside);
            }
            foreach (string derived in new[] { Path.ChangeExtension(path, ".graphs"), Path.ChangeExtension(path, ".words") })
            {
                if (Directory.Exists(derived))
                {
                    Directory.Delete(derived, recursive: true);
                }
            }
            File.Move(temporary, path, overwrite: true);
        }
        catch (SqliteException error)
        {
            throw new InvalidRequestException($"{file} is no sound backup: {error.Message}", error);
        }
        finally
        {
            File.Delete(temporary);
        }
        return digest;
    }

    public void Repair()
    {
        lock (_writing)
        {
            using SqliteTransaction transaction = _writer.BeginTransaction(deferred: false);
            foreach (string table in new[] { "passages", "contents", "vectors" })
            {
                _writer.Execute($"DELETE FROM {table} WHERE document_id NOT IN (SELECT id FROM documents)");
            }
            _writer.Execute("DELETE FROM pictures WHERE passage_id NOT IN (SELECT id FROM passages)");
            transaction.Commit();
            _writer.Execute("REINDEX");
        }
        Refresh();
        foreach (var (id, collection) in _writer.Rows("SELECT id, name FROM collections").Select(r => (r.GetInt64(0), r.GetString(1))).ToList())
        {
            ForgetWords(collection, id);
        }
        Exclusive(() =>
        {
            if (Directory.Exists(GraphFolder))
            {
                Directory.Delete(GraphFolder, recursive: true);
            }
            _spaces.Clear();
            AddVectors("");
        });
        SignalMover();
    }

    /// <returns>The content's digest.</returns>
    /// <exception cref="SqliteException">The file is damaged.</exception>
    private static string Verify(string file)
    {
        using var copy = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = file, Mode = SqliteOpenMode.ReadOnly, Pooling = false }.ToString());
        copy.Open();
        string[] faults = [.. copy.Rows("PRAGMA integrity_check").Select(r => r.GetString(0)).Where(m => m != "ok")];
        return faults.Length == 0 ? Digest(copy) : throw new SqliteException(faults[0], SqliteCorrupt);
    }

    private const int SqliteCorrupt = 11;

    private static string Digest(SqliteConnection connection)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (string table in new[] { "collections", "documents", "contents", "passages", "vectors", "pictures", "feedback", "tunings", "log" })
        {
            foreach (SqliteDataReader row in connection.Rows($"SELECT * FROM {table} ORDER BY 1"))
            {
                for (int i = 0; i < row.FieldCount; i++)
                {
                    hash.AppendData(row.IsDBNull(i) ? [0] : row.GetValue(i) is byte[] bytes ? bytes : Encoding.UTF8.GetBytes(row.GetString(i)));
                    hash.AppendData([31]);
                }
            }
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
