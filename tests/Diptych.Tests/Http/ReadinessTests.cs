using Diptych.App.Http;
using Diptych.Index;
using Diptych.Index.Sqlite;
using Diptych.Tests.Index;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace Diptych.Tests.Http;

public sealed class ReadinessTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("diptych-test-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public async Task A_server_is_ready_while_store_disk_and_background_work_are_well_and_says_which_is_not()
    {
        using SqliteStore store = SqliteBackupTests.Open(Path.Combine(_directory, "d.db"));
        var time = new FakeTimeProvider();
        long? free = 100;
        bool fails = true;
        var begun = new SemaphoreSlim(0);
        using var stop = new CancellationTokenSource();
        var loop = new BackgroundLoop(
            "counting", c => fails ? throw new InvalidOperationException("no more numbers") : Wait(c), time, NullLogger.Instance);
        var readiness = new Readiness(store, [.. store.Loops, loop], _directory, _ => free, 100, TimeProvider.System);
        Assert.Empty(await readiness.FaultsAsync(TestContext.Current.CancellationToken));
        free = 99;
        string fault = Assert.Single(await readiness.FaultsAsync(TestContext.Current.CancellationToken));
        Assert.Contains("make room", fault, StringComparison.Ordinal);
        free = null;
        Task running = loop.RunAsync(stop.Token);
        while (loop.Failure is null)
        {
            await Task.Yield();
        }
        fault = Assert.Single(await readiness.FaultsAsync(TestContext.Current.CancellationToken));
        Assert.Contains("no more numbers", fault, StringComparison.Ordinal);
        fails = false;
        while (begun.CurrentCount == 0)
        {
            time.Advance(TimeSpan.FromSeconds(1));
            await Task.Yield();
        }
        time.Advance(TimeSpan.FromSeconds(60));
        Assert.Empty(await readiness.FaultsAsync(TestContext.Current.CancellationToken));
        await stop.CancelAsync();
        await running;

        Task Wait(CancellationToken cancellation)
        {
            begun.Release();
            return Task.Delay(Timeout.InfiniteTimeSpan, time, cancellation);
        }
    }

    [Fact]
    public void The_free_space_of_a_folders_disk_is_told()
    {
        Assert.True(Readiness.FreeBytes(_directory) > 0);
        Assert.Null(Readiness.FreeBytes(Path.Combine(_directory, "none")));
    }
}
