using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Sqlite;
using Microsoft.Data.Sqlite;
using Xunit;

namespace Diptych.Tests.Index;

public sealed class SqliteBackupTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("diptych-test-").FullName;

    private string Database => Path.Combine(_directory, "d.db");

    private string Backup => Path.Combine(_directory, "copy.backup");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public void A_backup_made_while_others_write_is_a_whole_store()
    {
        string restored = Path.Combine(_directory, "restored", "d.db"), digest;
        using (SqliteStore store = Open(Database))
        {
            store.Commit([.. Enumerable.Range(0, 30).Select(Document)]);
            Task writer = Task.Run(() =>
            {
                for (int i = 30; i < 120; i++)
                {
                    store.Commit([Document(i)]);
                }
            }, TestContext.Current.CancellationToken);
            digest = SqliteBackup.Make(Database, Backup, replace: false);
            writer.GetAwaiter().GetResult();
        }
        Assert.Equal([Path.GetFileName(Backup)], Directory.GetFiles(_directory, "*.backup*").Select(f => Path.GetFileName(f)));
        Assert.Equal(digest, SqliteBackup.Restore(Backup, restored, replace: false));
        using SqliteStore copy = Open(restored);
        Assert.InRange(copy.Documents("c").Count, 30, 120);
        Assert.Empty(copy.CheckIntegrity());
        Assert.Equal("text 3", copy.Passages(copy.Document("c", "doc3")!.Id)[0].Text);
    }

    [Fact]
    public void A_backup_takes_no_other_files_place_unasked()
    {
        Fill(Database, 3);
        File.WriteAllText(Backup, "precious");
        // A backup that was killed left this; another's may still be written.
        File.WriteAllText($"{Backup}.{int.MaxValue}.part", "half");
        File.WriteAllText($"{Backup}.1.part", "being written");
        string said = Assert.Throws<InvalidRequestException>(() => SqliteBackup.Make(Database, Backup, replace: false)).Message;
        Assert.Contains("--force", said, StringComparison.Ordinal);
        Assert.Equal("precious", File.ReadAllText(Backup));
        SqliteBackup.Make(Database, Backup, replace: true);
        Assert.Equal([$"{Backup}.1.part"], Directory.GetFiles(_directory, "*.part"));
        Assert.Throws<InvalidRequestException>(() => SqliteBackup.Make(Database, Database, replace: true));
        Assert.Throws<InvalidRequestException>(() => SqliteBackup.Make(Database, _directory, replace: true));
        Assert.Throws<InvalidRequestException>(() => SqliteBackup.Make(Database + "x", Backup, replace: true));
        Assert.Equal(3, Count());
    }

    [Fact]
    public void Nothing_is_restored_while_a_store_is_open_and_nothing_is_opened_while_one_is_restored()
    {
        Fill(Database, 3);
        SqliteBackup.Make(Database, Backup, replace: false);
        using (SqliteStore open = Open(Database))
        {
            open.Commit([Document(99)]);
            string said = Assert.Throws<StoreInUseException>(() => SqliteBackup.Restore(Backup, Database, replace: true)).Message;
            Assert.Contains("Stop it", said, StringComparison.Ordinal);
            // Others still may share it.
            using SqliteStore beside = Open(Database);
        }
        Assert.Equal(4, Count());
        using (StoreLock? restoring = StoreLock.TryAlone(Database))
        {
            Assert.NotNull(restoring);
            Assert.Throws<StoreInUseException>(() => Open(Database));
            Assert.Throws<StoreInUseException>(() => SqliteBackup.Make(Database, Backup, replace: true));
        }
        // A program that knows nothing of the lock.
        using (var other = new SqliteConnection($"Data Source={Database};Pooling=False"))
        {
            other.Open();
            other.Execute("SELECT count(*) FROM documents");
            string told = Assert.Throws<StoreInUseException>(() => SqliteBackup.Restore(Backup, Database, replace: true)).Message;
            Assert.Contains("another program", told, StringComparison.Ordinal);
        }
        Assert.Equal(4, Count());
        SqliteBackup.Restore(Backup, Database, replace: true);
        Assert.Equal(3, Count());
    }

    [Fact]
    public void A_backup_with_any_byte_changed_or_cut_off_is_refused_and_the_old_store_stays()
    {
        Fill(Database, 4);
        SqliteBackup.Make(Database, Backup, replace: false);
        using (SqliteStore more = Open(Database))
        {
            more.Commit([Document(99)]);
        }
        string said = Assert.Throws<InvalidRequestException>(() => SqliteBackup.Restore(Backup, Database, replace: false)).Message;
        Assert.Contains("--force", said, StringComparison.Ordinal);
        said = Assert.Throws<InvalidRequestException>(() => SqliteBackup.Restore(Backup + "x", Database, replace: true)).Message;
        Assert.Contains("no file", said, StringComparison.Ordinal);
        byte[] sound = File.ReadAllBytes(Backup);
        var random = new Random(5);
        int[] ends = [0, 18, 100, sound.Length - 1, sound.Length - 33, sound.Length - 48];
        int[] places = [.. ends, .. Enumerable.Range(0, 60).Select(_ => random.Next(sound.Length))];
        foreach (int place in places)
        {
            byte[] damaged = [.. sound];
            damaged[place] ^= (byte)(1 << random.Next(8));
            AssertRefused(damaged);
        }
        foreach (int length in new[] { 0, 1, 47, 48, 49, 4096, sound.Length - 4096, sound.Length - 1 })
        {
            AssertRefused(sound[..length]);
        }
        AssertRefused([.. sound, 0]);
        AssertRefused(File.ReadAllBytes(Database));
        Assert.Equal(5, Count());

        void AssertRefused(byte[] content)
        {
            File.WriteAllBytes(Backup, content);
            Assert.Throws<InvalidRequestException>(() => SqliteBackup.Restore(Backup, Database, replace: true));
            Assert.False(Directory.Exists(Database + ".restoring") || Directory.Exists(Database + ".restored"));
        }
    }

    [Fact]
    public void A_copy_that_did_not_count_yet_is_dropped_and_one_that_did_takes_its_place_at_the_next_open()
    {
        Fill(Database, 2);
        SqliteBackup.Make(Database, Backup, replace: false);
        using (SqliteStore more = Open(Database))
        {
            more.Commit([Document(99)]);
        }
        string restoring = Directory.CreateDirectory(Database + ".restoring").FullName, restored = Database + ".restored";
        File.WriteAllBytes(Path.Combine(restoring, "database"), File.ReadAllBytes(Backup)[..5000]);
        Assert.Equal(3, Count());
        Assert.False(Directory.Exists(restoring));
        byte[] whole = File.ReadAllBytes(Backup);
        Directory.CreateDirectory(restored);
        File.WriteAllBytes(Path.Combine(restored, "database"), whole[..^48]);
        // What the old database's process left when it was killed.
        File.WriteAllBytes(Database + "-wal", new byte[4096]);
        Assert.Equal(2, Count());
        Assert.False(Directory.Exists(restored));
        // Killed after the database was in its place, before the folder went.
        Directory.CreateDirectory(restored);
        Assert.Equal(2, Count());
        Assert.False(Directory.Exists(restored));
    }

    internal static SqliteStore Open(string database) =>
        SqliteStore.Open(database, new EmbeddingSpace("text", 8, "t", "1"), new EmbeddingSpace("cross", 4, "c", "1"), TimeProvider.System);

    internal static IngestedDocument Document(int number)
    {
        float[] text = new float[8], cross = new float[4];
        text[number % 8] = cross[number % 4] = 1;
        return new IngestedDocument(
            new Document { Collection = "c", Source = $"doc{number}", ContentHash = $"{number}", MediaType = "text/plain", Title = "t" },
            $"text {number}",
            null,
            [new IngestedPassage(new Passage { Modality = Modality.Text, Text = $"text {number}" }, text, cross)]);
    }

    private static void Fill(string database, int documents)
    {
        using SqliteStore store = Open(database);
        store.Commit([.. Enumerable.Range(0, documents).Select(Document)]);
    }

    private int Count()
    {
        using SqliteStore store = Open(Database);
        Assert.Empty(store.CheckIntegrity());
        return store.Documents("c").Count;
    }
}
