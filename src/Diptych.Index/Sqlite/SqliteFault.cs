using System.Text.Json;
using Diptych.Core;
using Microsoft.Data.Sqlite;

namespace Diptych.Index.Sqlite;

/// <summary>What an error of a database means, and what can be done about it.</summary>
public static class SqliteFault
{
    /// <summary>Result codes (sqlite.org/rescode.html). The log's shared memory cannot grow on a full disk.</summary>
    private const int Full = 13, Corrupt = 11, NotADatabase = 26, SharedMemorySize = 10 | (19 << 8);

    /// <summary>Whether an error says that there is no room left.</summary>
    public static bool IsFull(Exception error) =>
        error is SqliteException { SqliteErrorCode: Full } or SqliteException { SqliteExtendedErrorCode: SharedMemorySize };

    /// <summary>Whether an error says that the file is damaged.</summary>
    public static bool IsDamage(Exception error) => error is SqliteException { SqliteErrorCode: Corrupt or NotADatabase };

    /// <summary>An error as one whose message says what to do; others as they are.</summary>
    public static Exception Told(Exception error, string database) =>
        IsFull(error)
            ? new StorageFullException($"The disk of {database} is full. Nothing of this was stored; make room, and send it again.", error)
        : IsDamage(error) ? Damaged(error, database)
        : error;

    /// <summary>The same of what was read at opening, where damage also shows as rows that cannot be.</summary>
    internal static Exception ToldAtOpen(Exception error, string database) =>
        error is KeyNotFoundException or JsonException or FormatException or InvalidCastException or ArgumentException or OverflowException
            or IndexOutOfRangeException
            ? Damaged(error, database)
            : Told(error, database);

    /// <summary>What to do about a damaged database, step by step.</summary>
    public static string Advice(string database)
    {
        string folder = Path.GetDirectoryName(Path.GetFullPath(database))!, name = Path.GetFileName(database);
        string[] copies = Directory.Exists(folder) ? [.. Directory.GetFiles(folder, "*.backup").Order(StringComparer.Ordinal)] : [];
        return $"Stop every diptych that uses it, then put a backup in its place: diptych restore FILE --force --data {folder}. "
            + (copies.Length > 0 ? $"Copies beside it: {string.Join(", ", copies)}. " : "")
            + $"Without a backup, move {name}, {name}-wal and {name}-shm out of {folder}, and ingest again.";
    }

    private static StoreDamagedException Damaged(Exception error, string database) =>
        new($"The database {database} is damaged ({error.Message.TrimEnd('.')}). {Advice(database)}", error);
}
