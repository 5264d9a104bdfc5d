using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Diptych.Core;
using Microsoft.Data.Sqlite;

namespace Diptych.Index.Sqlite;

/// <summary>
/// Copies of a database, and putting one in its place. A backup is the database as one file, and behind it a mark and the SHA-256 of all
/// before. The graphs and the word indexes are not in it; a restored store makes them anew.
/// </summary>
public static class SqliteBackup
{
    private const int SqliteBusy = 5, SqliteCorrupt = 11;

    /// <summary>What stands behind the database in a backup, before its digest.</summary>
    private static readonly byte[] Mark = "diptych backup 1"u8.ToArray();

    /// <summary>
    /// Copies a database while it is read and written (SQLite's online backup), then reads the copy back: it must be sound and hold the
    /// same content. The file has its name only when it is whole and on the disk.
    /// </summary>
    /// <param name="replace">Whether a file that is there may go.</param>
    /// <returns>The content's digest: SHA-256 over every row.</returns>
    /// <exception cref="InvalidRequestException">There is no database, or there is a file already.</exception>
    /// <exception cref="IOException">The copy does not hold what was copied.</exception>
    public static string Make(string database, string file, bool replace)
    {
        if (!File.Exists(database) && !IsPending(database))
        {
            throw new InvalidRequestException($"There is no database at {database}.");
        }
        using StoreLock held = Share(database);
        using SqliteConnection source = Unpooled(database, SqliteOpenMode.ReadWrite);
        return Make(source, file, replace);
    }

    /// <param name="source">An open connection outside any transaction.</param>
    internal static string Make(SqliteConnection source, string file, bool replace)
    {
        Refuse(file, replace);
        string temporary = $"{file}.{Environment.ProcessId}.part";
        try
        {
            DropUnfinished(file);
            string expected;
            // A read transaction holds the version that is copied, whatever is committed meanwhile.
            using (SqliteTransaction version = source.BeginTransaction(deferred: true))
            {
                expected = Digest(source);
                using SqliteConnection target = Unpooled(temporary, SqliteOpenMode.ReadWriteCreate);
                source.BackupDatabase(target);
                // One file, with nothing beside it.
                target.Execute("PRAGMA journal_mode = DELETE");
            }
            if (Verify(temporary) != expected)
            {
                throw new IOException($"{file}: the copy's content is not what was copied.");
            }
            Seal(temporary);
            // Somebody may have made the file meanwhile.
            Refuse(file, replace);
            Durable.Rename(temporary, file, replace);
            return expected;
        }
        finally
        {
            File.Delete(temporary);
        }
    }

    /// <summary>
    /// Puts a backup in the place of a database that nobody has open. It is copied and verified beside the old one, which stays as it is
    /// until one rename makes the new one count; a restore that was killed after that is finished by whoever opens the database next.
    /// </summary>
    /// <param name="replace">Whether a database that is there may go.</param>
    /// <returns>The content's digest.</returns>
    /// <exception cref="InvalidRequestException">There is a database already, or the file is no whole backup: nothing changed.</exception>
    /// <exception cref="StoreInUseException">A process has the database open; nothing was changed.</exception>
    public static string Restore(string file, string database, bool replace)
    {
        if (!File.Exists(file))
        {
            throw new InvalidRequestException($"There is no file {file}.");
        }
        string folder = Path.GetDirectoryName(Path.GetFullPath(database))!;
        Directory.CreateDirectory(folder);
        using StoreLock alone = StoreLock.TryAlone(database)
            ?? throw new StoreInUseException(
                $"{database} is open in another diptych (a server, or a command that runs). Stop it, then restore.");
        Finish(database);
        if (File.Exists(database) && !replace)
        {
            throw new InvalidRequestException($"{database} exists. Give another --data folder, or --force to replace what is there.");
        }
        string copy = Path.Combine(Unfinished(database), "database"), digest;
        try
        {
            Directory.CreateDirectory(Unfinished(database));
            Unseal(file, copy);
            digest = Verify(copy);
            Durable.FlushFolder(Unfinished(database));
            RefuseOpen(database);
            Directory.Move(Unfinished(database), Finished(database));
            Durable.FlushFolder(folder);
        }
        catch (SqliteException error)
        {
            throw new InvalidRequestException($"{file} is no sound backup: {error.Message}", error);
        }
        finally
        {
            Delete(Unfinished(database));
        }
        Finish(database);
        return digest;
    }

    /// <summary>Takes the lock that everyone shares who has the database open, after finishing what a killed restore left.</summary>
    /// <exception cref="StoreInUseException">A backup is being put in its place.</exception>
    internal static StoreLock Share(string database)
    {
        while (true)
        {
            if (IsPending(database))
            {
                using StoreLock alone = StoreLock.TryAlone(database) ?? throw BeingRestored(database);
                Finish(database);
            }
            StoreLock held = StoreLock.TryShare(database) ?? throw BeingRestored(database);
            if (!IsPending(database))
            {
                return held;
            }
            held.Dispose();
        }
    }

    private static StoreInUseException BeingRestored(string database) =>
        new($"A backup is being put in the place of {database}. Try again when that has ended.");

    /// <summary>Where a backup is copied to and verified; it does not count yet.</summary>
    private static string Unfinished(string database) => database + ".restoring";

    /// <summary>What that folder is called once it counts.</summary>
    private static string Finished(string database) => database + ".restored";

    private static bool IsPending(string database) => Directory.Exists(Unfinished(database)) || Directory.Exists(Finished(database));

    /// <summary>
    /// Holding the lock alone: drops a copy that does not count, and puts one that does in its place. Every step may be done twice.
    /// </summary>
    private static void Finish(string database)
    {
        Delete(Unfinished(database));
        string copy = Path.Combine(Finished(database), "database");
        if (File.Exists(copy))
        {
            foreach (string beside in new[] { "-wal", "-shm", "-journal" })
            {
                File.Delete(database + beside);
            }
            Delete(Path.ChangeExtension(database, ".graphs"));
            Delete(Path.ChangeExtension(database, ".words"));
            // The old log is gone for good before the new database stands where SQLite would play it in.
            Durable.FlushFolder(Path.GetDirectoryName(Path.GetFullPath(database))!);
            Durable.Rename(copy, database, replace: true);
        }
        Delete(Finished(database));
    }

    /// <summary>Deletes what a backup to this file left that was killed.</summary>
    private static void DropUnfinished(string file)
    {
        string folder = Path.GetDirectoryName(Path.GetFullPath(file))!, name = Path.GetFileName(file);
        foreach (string part in Directory.Exists(folder) ? Directory.GetFiles(folder, $"{name}.*.part*") : [])
        {
            string process = Path.GetFileName(part)[(name.Length + 1)..].Split('.')[0];
            if (int.TryParse(process, CultureInfo.InvariantCulture, out int id) && (id == Environment.ProcessId || !Lives(id)))
            {
                File.Delete(part);
            }
        }

        static bool Lives(int id)
        {
            try
            {
                using var process = Process.GetProcessById(id);
                return true;
            }
            catch (ArgumentException)
            {
                return false;
            }
        }
    }

    /// <summary>A program that knows nothing of the lock, such as SQLite's own, may have the database open all the same.</summary>
    /// <exception cref="StoreInUseException">It has.</exception>
    private static void RefuseOpen(string database)
    {
        if (!File.Exists(database))
        {
            return;
        }
        try
        {
            using SqliteConnection connection = Unpooled(database, SqliteOpenMode.ReadWrite, patienceSeconds: 1);
            connection.Execute("PRAGMA locking_mode = EXCLUSIVE");
            connection.Execute("BEGIN EXCLUSIVE; ROLLBACK");
        }
        catch (SqliteException error) when (error.SqliteErrorCode == SqliteBusy)
        {
            throw new StoreInUseException($"{database} is open in another program. Stop that, then restore.");
        }
        catch (SqliteException error) when (SqliteFault.IsDamage(error))
        {
            // What is damaged is to be replaced.
        }
    }

    private static void Delete(string folder)
    {
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static void Refuse(string file, bool replace)
    {
        if (File.Exists(StoreLock.FileOf(file)))
        {
            throw new InvalidRequestException($"{file} is a database, and no place for a backup. Give another name.");
        }
        if (Directory.Exists(file) || (File.Exists(file) && !replace))
        {
            string force = Directory.Exists(file) ? "" : ", or --force to replace it";
            throw new InvalidRequestException($"{file} exists. Give another name{force}.");
        }
    }

    /// <summary>Writes the digest behind the file, and brings it to the disk.</summary>
    private static void Seal(string file)
    {
        using var stream = new FileStream(file, FileMode.Open, FileAccess.ReadWrite, FileShare.None);
        byte[] digest = SHA256.HashData(stream);
        stream.Write(Mark);
        stream.Write(digest);
        stream.Flush(flushToDisk: true);
    }

    /// <summary>Copies what the digest is of, and brings it to the disk.</summary>
    private static void Unseal(string file, string copy)
    {
        using FileStream from = File.OpenRead(file);
        byte[] end = new byte[Mark.Length + SHA256.HashSizeInBytes];
        long length = from.Length - end.Length;
        if (length > 0)
        {
            from.Seek(length, SeekOrigin.Begin);
            from.ReadExactly(end);
            from.Seek(0, SeekOrigin.Begin);
        }
        if (!end.AsSpan(0, Mark.Length).SequenceEqual(Mark))
        {
            throw new InvalidRequestException($"{file} is no whole backup: the digest at its end is missing.");
        }
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using var to = new FileStream(copy, FileMode.CreateNew, FileAccess.Write, FileShare.None);
        byte[] buffer = new byte[1 << 20];
        for (int read; length > 0; length -= read)
        {
            read = from.Read(buffer, 0, (int)Math.Min(buffer.Length, length));
            if (read == 0)
            {
                throw new InvalidRequestException($"{file} became shorter while it was read.");
            }
            hash.AppendData(buffer, 0, read);
            to.Write(buffer, 0, read);
        }
        if (!hash.GetHashAndReset().AsSpan().SequenceEqual(end.AsSpan(Mark.Length)))
        {
            throw new InvalidRequestException($"{file} is damaged: its content does not have the digest that it carries.");
        }
        to.Flush(flushToDisk: true);
    }

    /// <returns>The content's digest.</returns>
    /// <exception cref="SqliteException">The file is damaged.</exception>
    /// <exception cref="InvalidRequestException">A newer program wrote it.</exception>
    private static string Verify(string file)
    {
        using SqliteConnection copy = Unpooled(file, SqliteOpenMode.ReadOnly);
        Schema.Check(copy);
        string[] faults = [.. copy.Rows("PRAGMA integrity_check").Select(r => r.GetString(0)).Where(m => m != "ok")];
        return faults.Length == 0 ? Digest(copy) : throw new SqliteException(faults[0], SqliteCorrupt);
    }

    /// <summary>A connection that is gone when it is closed.</summary>
    internal static SqliteConnection Unpooled(string file, SqliteOpenMode mode, int patienceSeconds = 60)
    {
        var settings = new SqliteConnectionStringBuilder { DataSource = file, Mode = mode, Pooling = false };
        var connection = new SqliteConnection(settings.ToString()) { DefaultTimeout = patienceSeconds };
        try
        {
            connection.Open();
            return connection;
        }
        catch
        {
            connection.Dispose();
            throw;
        }
    }

    private static string Digest(SqliteConnection connection)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        const string tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name";
        foreach (string table in connection.Rows(tables).Select(r => r.GetString(0)).ToList())
        {
            foreach (SqliteDataReader row in connection.Rows($"SELECT * FROM \"{table}\" ORDER BY 1"))
            {
                for (int i = 0; i < row.FieldCount; i++)
                {
                    hash.AppendData(
                        row.IsDBNull(i) ? [0] : row.GetValue(i) is byte[] bytes ? bytes : Encoding.UTF8.GetBytes(row.GetString(i)));
                    hash.AppendData([31]);
                }
            }
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
