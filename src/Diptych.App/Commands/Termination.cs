using System.Runtime.InteropServices;

namespace Diptych.App.Commands;

/// <summary>
/// What SIGTERM and Ctrl+C do: the first cancels the command, which ends by itself; Ctrl+C again, or a command that does not end in
/// time, ends the process.
/// </summary>
internal sealed class Termination : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    /// <summary>Never disposed of: a signal may come at the moment at which the command ends.</summary>
    private readonly CancellationTokenSource _source = new();
    private readonly PosixSignalRegistration[] _signals;
    private readonly TimeProvider _time;
    private ITimer? _deadline;
    private int _came;

    public Termination(TimeProvider time)
    {
        _time = time;
        _signals = [.. new[] { PosixSignal.SIGINT, PosixSignal.SIGTERM }.Select(s => PosixSignalRegistration.Create(s, Came))];
    }

    public CancellationToken Token => _source.Token;

    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in _signals)
        {
            signal.Dispose();
        }
        _deadline?.Dispose();
    }

    private void Came(PosixSignalContext context)
    {
        bool first = Interlocked.Exchange(ref _came, 1) == 0;
        context.Cancel = first || context.Signal == PosixSignal.SIGTERM;
        if (first)
        {
            _deadline = _time.CreateTimer(_ => Environment.Exit(ExitCode.Cancelled), null, Patience, Timeout.InfiniteTimeSpan);
            // On other threads than the signals': what is cancelled may end the program.
            _ = _source.CancelAsync();
        }
    }
}
