using Diptych.Index;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace Diptych.Tests.Index;

public sealed class BackgroundLoopTests
{
    [Fact]
    public async Task Work_that_dies_twice_is_logged_twice_with_its_cause_and_begun_anew_after_longer_pauses()
    {
        var time = new FakeTimeProvider();
        var log = new Lines();
        using var stop = new CancellationTokenSource();
        var begun = new SemaphoreSlim(0);
        int runs = 0;
        var loop = new BackgroundLoop("counting", async c =>
        {
            int run = ++runs;
            begun.Release();
            await (run <= 2 ? throw new InvalidOperationException($"fault {run}") : Task.Delay(Timeout.InfiniteTimeSpan, time, c));
        }, time, log);
        Task running = loop.RunAsync(stop.Token);
        await begun.WaitAsync(TestContext.Current.CancellationToken);
        await log.WaitAsync(1);
        Assert.Equal("fault 1", loop.Failure?.Message);
        time.Advance(TimeSpan.FromSeconds(1));
        await begun.WaitAsync(TestContext.Current.CancellationToken);
        await log.WaitAsync(2);
        time.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal(2, runs);
        time.Advance(TimeSpan.FromSeconds(1));
        await begun.WaitAsync(TestContext.Current.CancellationToken);
        Assert.Equal("fault 2", loop.Failure?.Message);
        // It runs well for as long as the last pause was: what it died of is over.
        time.Advance(TimeSpan.FromSeconds(2));
        Assert.Null(loop.Failure);
        Assert.Equal(["counting died; it begins anew in 1 s: fault 1", "counting died; it begins anew in 2 s: fault 2"], log.All);
        await stop.CancelAsync();
        await running;
        Assert.Equal(2, log.All.Count);
    }

    [Fact]
    public async Task Work_that_ends_by_itself_has_died_too_and_work_that_is_stopped_has_not()
    {
        var time = new FakeTimeProvider();
        var log = new Lines();
        using var stop = new CancellationTokenSource();
        var loop = new BackgroundLoop("counting", _ => Task.CompletedTask, time, log);
        Task running = loop.RunAsync(stop.Token);
        await log.WaitAsync(1);
        Assert.NotNull(loop.Failure);
        await stop.CancelAsync();
        await running;
        var stopped = new BackgroundLoop("counting", c => Task.Delay(Timeout.InfiniteTimeSpan, time, c), time, log);
        using var soon = new CancellationTokenSource();
        running = stopped.RunAsync(soon.Token);
        await soon.CancelAsync();
        await running;
        Assert.Null(stopped.Failure);
        Assert.Single(log.All);
    }

    [Fact]
    public async Task A_failure_that_repeats_is_told_once_with_its_cause()
    {
        var time = new FakeTimeProvider();
        var log = new Lines();
        using var stop = new CancellationTokenSource();
        var loop = new BackgroundLoop("counting", _ => throw new InvalidOperationException("no more numbers"), time, log);
        Task running = loop.RunAsync(stop.Token);
        foreach (var (number, pause) in new[] { 1, 2, 4, 8, 16, 30, 30 }.Index())
        {
            await log.WaitAsync(number + 1);
            Assert.NotNull(loop.Failure);
            time.Advance(TimeSpan.FromSeconds(pause));
        }
        Assert.Single(log.All, l => l.Contains("no more numbers", StringComparison.Ordinal));
        await stop.CancelAsync();
        await running;
    }

    /// <summary>Keeps what is logged.</summary>
    private sealed class Lines : ILogger
    {
        private readonly List<string> _lines = [];
        private readonly SemaphoreSlim _written = new(0);

        public IReadOnlyList<string> All
        {
            get
            {
                lock (_lines)
                {
                    return [.. _lines];
                }
            }
        }

        public async Task WaitAsync(int lines)
        {
            while (All.Count < lines)
            {
                await _written.WaitAsync(TestContext.Current.CancellationToken);
            }
        }

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(
            LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            lock (_lines)
            {
                _lines.Add($"{formatter(state, exception)}: {exception?.Message}");
            }
            _written.Release();
        }
    }
}
