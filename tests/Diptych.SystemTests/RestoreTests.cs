using System.Diagnostics;
using Diptych.Core;
using Diptych.Index.Sqlite;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>A backup is put in the place of a store by a process that is killed meanwhile, and while a server has the store open.</summary>
public sealed class RestoreTests
{
    private static readonly string Child = Path.Combine(AppContext.BaseDirectory, "Diptych.StoreChild.dll");

    [Fact]
    public async Task A_restore_that_is_killed_at_any_moment_leaves_the_old_store_whole_or_the_new_one()
    {
        string folder = Directory.CreateTempSubdirectory("diptych-restore-").FullName;
        string data = Path.Combine(folder, "data"), backup = Path.Combine(folder, "backup");
        string old = Directory.CreateDirectory(Path.Combine(folder, "old")).FullName;
        await WriteAsync(Path.Combine(folder, "new.db"), 7, 6);
        SqliteBackup.Make(Path.Combine(folder, "new.db"), backup, replace: false);
        string restored = Content(Path.Combine(folder, "new.db"));
        // The old one's last commits are in its log only, since its process was killed.
        await WriteAsync(Path.Combine(old, "d.db"), 8, 3);
        Assert.True(new FileInfo(Path.Combine(old, "d.db-wal")).Length > 0);
        Copy(old, data);
        string kept = Content(Path.Combine(data, "d.db"));
        Assert.NotEqual(kept, restored);
        Copy(old, data);
        TimeSpan takes = await RestoreAsync(backup, Path.Combine(data, "d.db"), null);
        Assert.Equal(restored, Content(Path.Combine(data, "d.db")));
        var random = new Random(12);
        int olds = 0, news = 0, pending = 0;
        for (int round = 0; round < 60; round++)
        {
            Copy(old, data);
            await RestoreAsync(backup, Path.Combine(data, "d.db"), takes * 1.3 * random.NextDouble());
            pending += Directory.GetDirectories(data, "d.db.restor*").Length;
            string now = Content(Path.Combine(data, "d.db"));
            Assert.True(now == kept || now == restored, $"round {round} is neither the old store nor the new one");
            Assert.Empty(Directory.GetDirectories(data, "d.db.restor*"));
            (olds, news) = now == kept ? (olds + 1, news) : (olds, news + 1);
        }
        Assert.True(olds > 0 && news > 0 && pending > 0, $"{olds} old, {news} new, {pending} left unfinished");
        Directory.Delete(folder, recursive: true);
    }

    [Fact]
    public async Task Nothing_is_restored_under_a_server_and_it_keeps_what_it_took()
    {
        string data = Directory.CreateTempSubdirectory("diptych-restore-").FullName, backup = Path.Combine(data, "backup");
        await using (ServerProcess server = await ServerProcess.StartAsync(data))
        {
            await server.EndAsync(await server.UploadAsync("default", ("first.md", "The ferry leaves at seven.")));
            var made = await Host.DiptychAsync(data, "backup", backup);
            Assert.True(made.ExitCode == 0, made.Error);
            await server.EndAsync(await server.UploadAsync("default", ("second.md", "The museum closes at six.")));
            var refused = await Host.DiptychAsync(data, "restore", backup, "--force");
            Assert.True(refused.ExitCode == 1, $"{refused.ExitCode}: {refused.Error}");
            Assert.Contains("Stop it", refused.Error, StringComparison.Ordinal);
            Assert.DoesNotContain("   at ", refused.Error, StringComparison.Ordinal);
            Assert.Equal(2, (await server.GetAsync("/v1/collections/default/documents")).GetProperty("documents").GetArrayLength());
            await server.KillAsync();
        }
        // The lock ended with the process.
        var restored = await Host.DiptychAsync(data, "restore", backup, "--force");
        Assert.True(restored.ExitCode == 0, restored.Error);
        await using (ServerProcess server = await ServerProcess.StartAsync(data))
        {
            Assert.Equal(1, (await server.GetAsync("/v1/collections/default/documents")).GetProperty("documents").GetArrayLength());
        }
        Directory.Delete(data, recursive: true);
    }

    [Fact]
    public async Task What_is_said_of_a_damaged_database_can_be_done_as_it_is_said()
    {
        string data = Directory.CreateTempSubdirectory("diptych-damaged-").FullName;
        string backup = Path.Combine(data, "before.backup"), database = Path.Combine(data, "diptych.db");
        string[] ingest = [Host.Program, "ingest", "-", "--name", "note.md", "--data", data];
        Assert.Equal(0, (await Host.RunAsync("dotnet", ingest, "The ferry leaves at seven.")).ExitCode);
        Assert.Equal(0, (await Host.DiptychAsync(data, "backup", backup)).ExitCode);
        byte[] damaged = await File.ReadAllBytesAsync(database, TestContext.Current.CancellationToken);
        damaged.AsSpan(4096).Fill(0x5A);
        await File.WriteAllBytesAsync(database, damaged, TestContext.Current.CancellationToken);
        string words = $"diptych restore FILE --force --data {data}";
        var search = await Host.DiptychAsync(data, "search", "ferry");
        Assert.Equal(1, search.ExitCode);
        Assert.Contains(words, search.Error, StringComparison.Ordinal);
        Assert.Contains(backup, search.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", search.Error, StringComparison.Ordinal);
        var doctor = await Host.DiptychAsync(data, "doctor");
        Assert.True(doctor.ExitCode == 1 && doctor.Output.Contains(words, StringComparison.Ordinal), doctor.Output);
        string[] followed = words.Replace("FILE", backup, StringComparison.Ordinal).Split(' ')[1..];
        Assert.Equal(0, (await Host.RunAsync("dotnet", [Host.Program, .. followed])).ExitCode);
        Assert.Contains("leaves at seven", (await Host.DiptychAsync(data, "search", "ferry")).Output, StringComparison.Ordinal);
        // The other way that it names.
        await File.WriteAllBytesAsync(database, damaged, TestContext.Current.CancellationToken);
        foreach (string name in new[] { "diptych.db", "diptych.db-wal", "diptych.db-shm" })
        {
            Assert.Contains(name, search.Error, StringComparison.Ordinal);
            File.Delete(Path.Combine(data, name));
        }
        Assert.Equal(0, (await Host.RunAsync("dotnet", ingest, "The tram leaves at nine.")).ExitCode);
        Assert.Contains("leaves at nine", (await Host.DiptychAsync(data, "search", "tram")).Output, StringComparison.Ordinal);
        Assert.Equal(0, (await Host.DiptychAsync(data, "doctor")).ExitCode);
        Directory.Delete(data, recursive: true);
    }

    /// <summary>Writes documents until so many are acknowledged, then kills the writer.</summary>
    private static async Task WriteAsync(string database, int seed, int documents)
    {
        using Process process = StartChild(database, $"{seed}");
        for (int done = 0; done < documents;)
        {
            done += (await process.StandardOutput.ReadLineAsync())!.StartsWith("done", StringComparison.Ordinal) ? 1 : 0;
        }
        process.Kill();
        await process.WaitForExitAsync();
    }

    /// <param name="kill">After how long; null lets it end.</param>
    /// <returns>How long it took.</returns>
    private static async Task<TimeSpan> RestoreAsync(string backup, string database, TimeSpan? kill)
    {
        using Process process = StartChild("restore", backup, database);
        Assert.Equal("begin", await process.StandardOutput.ReadLineAsync());
        var watch = Stopwatch.StartNew();
        if (kill is { } after)
        {
            using var soon = new CancellationTokenSource(after);
            using CancellationTokenRegistration killing = soon.Token.Register(process.Kill);
            await process.WaitForExitAsync();
            return watch.Elapsed;
        }
        Assert.Equal("done", await process.StandardOutput.ReadLineAsync());
        TimeSpan took = watch.Elapsed;
        await process.WaitForExitAsync();
        return took;
    }

    private static Process StartChild(params string[] arguments) =>
        Process.Start(new ProcessStartInfo("dotnet", [Child, .. arguments]) { RedirectStandardOutput = true })!;

    private static void Copy(string from, string to)
    {
        if (Directory.Exists(to))
        {
            Directory.Delete(to, recursive: true);
        }
        Directory.CreateDirectory(to);
        foreach (string file in Directory.GetFiles(from))
        {
            File.Copy(file, Path.Combine(to, Path.GetFileName(file)));
        }
    }

    /// <summary>Opens the store, which must be sound, and says which version of each document it has.</summary>
    private static string Content(string database)
    {
        var text = new EmbeddingSpace("text", 8, "t", "1");
        using SqliteStore store = SqliteStore.Open(database, text, new EmbeddingSpace("cross", 4, "i", "1"), TimeProvider.System);
        Assert.Empty(store.CheckIntegrity());
        return string.Join('\n', store.Documents("c").OrderBy(d => d.Source, StringComparer.Ordinal)
            .Select(d => $"{d.Source} {d.ContentHash} {store.Passages(d.Id).Count}"));
    }
}
