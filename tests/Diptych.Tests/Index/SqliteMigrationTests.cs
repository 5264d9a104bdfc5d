using Diptych.Core;
using Diptych.Index.Sqlite;
using Microsoft.Data.Sqlite;
using Xunit;

namespace Diptych.Tests.Index;

public sealed class SqliteMigrationTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("diptych-test-").FullName;

    private string Database => Path.Combine(_directory, "d.db");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public void A_database_of_an_older_schema_is_copied_under_its_version_before_it_is_changed()
    {
        MakeOlder();
        using (SqliteStore store = SqliteBackupTests.Open(Database))
        {
            Assert.Equal("doc1", store.Documents("c").Single().Source);
        }
        string copy = Assert.Single(Directory.GetFiles(_directory, "*.backup*"));
        Assert.Equal($"d.schema-{Schema.Version - 1}.backup", Path.GetFileName(copy));
        Assert.Equal(Schema.Version - 1L, Version(copy));
        // The next start makes no other, and what is kept is never replaced.
        SqliteBackupTests.Open(Database).Dispose();
        Assert.Single(Directory.GetFiles(_directory, "*.backup*"));
        string other = Path.Combine(_directory, "other.db");
        SqliteBackup.Restore(copy, other, replace: false);
        Assert.Equal(Schema.Version - 1L, Version(other));
        using SqliteStore again = SqliteBackupTests.Open(other);
        Assert.Equal("doc1", again.Documents("c").Single().Source);
        SqliteBackup.Restore(copy, Database, replace: true);
        SqliteBackupTests.Open(Database).Dispose();
        Assert.Equal(2, Directory.GetFiles(_directory, "d.schema-*.backup").Length);
    }

    [Fact]
    public void A_database_that_another_process_has_open_is_not_brought_forward_under_it()
    {
        MakeOlder();
        using (StoreLock? other = StoreLock.TryShare(Database))
        {
            string said = Assert.Throws<StoreInUseException>(() => SqliteBackupTests.Open(Database)).Message;
            Assert.Contains("Stop that", said, StringComparison.Ordinal);
        }
        Assert.Equal(Schema.Version - 1L, Version(Database));
        Assert.Empty(Directory.GetFiles(_directory, "*.backup*"));
    }

    [Fact]
    public void A_database_or_backup_of_a_newer_schema_is_refused_and_stays_as_it_is()
    {
        SqliteBackupTests.Open(Database).Dispose();
        Execute($"PRAGMA user_version = {Schema.Version + 1}");
        byte[] before = File.ReadAllBytes(Database);
        string said = Assert.Throws<InvalidRequestException>(() => SqliteBackupTests.Open(Database)).Message;
        Assert.Contains("newer diptych", said, StringComparison.Ordinal);
        Assert.Equal(before, File.ReadAllBytes(Database));
    }

    [Fact]
    public void Damage_anywhere_is_told_with_an_advice_that_works_as_it_is_written()
    {
        using (SqliteStore store = SqliteBackupTests.Open(Database))
        {
            store.Commit([.. Enumerable.Range(0, 40).Select(SqliteBackupTests.Document)]);
        }
        string backup = Path.Combine(_directory, "d.backup");
        SqliteBackup.Make(Database, backup, replace: false);
        byte[] sound = File.ReadAllBytes(Database);
        var random = new Random(3);
        int told = 0, pages = sound.Length / 4096;
        for (int page = 0; page < pages; page++)
        {
            byte[] damaged = [.. sound];
            random.NextBytes(damaged.AsSpan(page * 4096, 4096));
            File.WriteAllBytes(Database, damaged);
            try
            {
                using SqliteStore store = SqliteBackupTests.Open(Database);
                IReadOnlyList<string> faults = store.CheckIntegrity();
                Assert.Equal(faults.Count > 0, store.IsDamaged(faults));
                told += faults.Count > 0 ? 1 : 0;
            }
            catch (StoreDamagedException error)
            {
                Assert.Contains($"restore FILE --force --data {_directory}", error.Message, StringComparison.Ordinal);
                Assert.Contains(backup, error.Message, StringComparison.Ordinal);
                told++;
            }
            SqliteBackup.Restore(backup, Database, replace: true);
            using SqliteStore restored = SqliteBackupTests.Open(Database);
            Assert.Equal(40, restored.Documents("c").Count);
        }
        Assert.Equal(pages, told);
    }

    /// <summary>Makes a database as the program before this one left it, by taking back what the last step added.</summary>
    private void MakeOlder()
    {
        using (SqliteStore store = SqliteBackupTests.Open(Database))
        {
            store.Commit([SqliteBackupTests.Document(1)]);
        }
        Execute($"DROP TABLE job_items; DROP TABLE jobs; PRAGMA user_version = {Schema.Version - 1}");
    }

    private void Execute(string sql)
    {
        using var connection = new SqliteConnection($"Data Source={Database};Pooling=False");
        connection.Open();
        connection.Execute(sql);
    }

    private static long Version(string file)
    {
        using var connection = new SqliteConnection($"Data Source={file};Pooling=False;Mode=ReadOnly");
        connection.Open();
        return (long)connection.Scalar("PRAGMA user_version")!;
    }
}
