using Microsoft.Extensions.Logging;

namespace Diptych.Index;

/// <summary>
/// Work that goes on beside requests until it is told to stop. When it dies of an exception that is logged with its cause, and it is
/// begun anew after a pause that doubles each time it dies soon again. <see cref="Failure"/> says so meanwhile, for whoever asks.
/// </summary>
public sealed partial class BackgroundLoop
{
    private static readonly TimeSpan FirstPause = TimeSpan.FromSeconds(1), LongestPause = TimeSpan.FromSeconds(30);

    private readonly Func<CancellationToken, Task> _run;
    private readonly TimeProvider _time;
    private readonly ILogger _log;
    private readonly Lock _lock = new();
    private Exception? _failure;
    private TimeSpan _pause = FirstPause;
    private long? _began;

    /// <param name="name">What it does, in words for logs.</param>
    /// <param name="run">Runs until it is cancelled; a return before that is a failure too.</param>
    public BackgroundLoop(string name, Func<CancellationToken, Task> run, TimeProvider time, ILogger log) =>
        (Name, _run, _time, _log) = (name, run, time, log);

    public string Name { get; }

    /// <summary>What it last died of; null once it has run for as long as the pause after that was.</summary>
    public Exception? Failure
    {
        get
        {
            lock (_lock)
            {
                return _failure is not null && RanFor() >= _pause ? null : _failure;
            }
        }
    }

    /// <summary>Runs until it is stopped. It ends without an exception.</summary>
    public async Task RunAsync(CancellationToken stopping)
    {
        // Nothing of it runs in its caller's time.
        await Task.CompletedTask.ConfigureAwait(ConfigureAwaitOptions.ForceYielding);
        while (!stopping.IsCancellationRequested)
        {
            lock (_lock)
            {
                _began = _time.GetTimestamp();
            }
            try
            {
                await _run(stopping).ConfigureAwait(false);
                throw new InvalidOperationException("It ended without being told to.");
            }
            catch (Exception) when (stopping.IsCancellationRequested)
            {
                return;
            }
            catch (Exception error)
            {
                (TimeSpan pause, bool again) = Died(error);
                Task wait = Task.Delay(pause, _time, stopping);
                if (again)
                {
                    LogDiedAgain(_log, Name, pause.TotalSeconds);
                }
                else
                {
                    LogDied(_log, error, Name, pause.TotalSeconds);
                }
                await wait.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
        }
    }

    /// <returns>How long to wait, and whether it is the failure of a moment ago.</returns>
    private (TimeSpan Pause, bool Again) Died(Exception error)
    {
        lock (_lock)
        {
            bool soon = _failure is not null && RanFor() < LongestPause;
            bool again = soon && _failure!.GetType() == error.GetType() && _failure.Message == error.Message;
            _pause = soon ? TimeSpan.FromTicks(Math.Min(2 * _pause.Ticks, LongestPause.Ticks)) : FirstPause;
            (_failure, _began) = (error, null);
            return (_pause, again);
        }
    }

    private TimeSpan RanFor() => _began is { } began ? _time.GetElapsedTime(began) : TimeSpan.Zero;

    [LoggerMessage(1, LogLevel.Error, "{Name} died; it begins anew in {Seconds} s")]
    private static partial void LogDied(ILogger log, Exception error, string name, double seconds);

    [LoggerMessage(2, LogLevel.Debug, "{Name} died of the same; it begins anew in {Seconds} s")]
    private static partial void LogDiedAgain(ILogger log, string name, double seconds);
}
