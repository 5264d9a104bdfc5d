using Diptych.Core;

namespace Diptych.Inference;

/// <summary>
/// Runs what comes before the models (decode, resize, parse) on threads of its own, so that neither the thread pool nor the models wait
/// behind it. Work that somebody waits for goes first; what waits is bounded in bytes.
/// </summary>
public sealed class PreparationPool : IDisposable
{
    private readonly object _gate = new();
    private readonly Queue<Action>[] _queues = [new(), new()];
    private readonly Thread[] _threads;
    private readonly long _maxBytes;
    private long _bytes;
    private bool _stopping;

    /// <param name="maxBytes">Input of interactive work that may wait; beyond it, work is refused. Bulk work is bounded by its sender.</param>
    public PreparationPool(int? threads = null, long maxBytes = 128 << 20)
    {
        _maxBytes = maxBytes;
        _threads = [.. Enumerable.Range(0, threads ?? Environment.ProcessorCount).Select(i => new Thread(Work) { IsBackground = true, Name = $"prepare {i}" })];
        foreach (Thread thread in _threads)
        {
            thread.Start();
        }
    }

    /// <param name="bytes">Size of the input, held from now until the work has ended.</param>
    /// <exception cref="OverloadedException">Too much waits already.</exception>
    public async Task<T> RunAsync<T>(Func<T> work, Lane lane, long bytes, CancellationToken cancellation)
    {
        var result = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_stopping, this);
            if (lane != Lane.Bulk && _bytes > 0 && _bytes + bytes > _maxBytes)
            {
                throw new OverloadedException($"{_bytes >> 20} MB wait to be decoded.", TimeSpan.FromSeconds(1));
            }
            _bytes += bytes;
            _queues[lane == Lane.Bulk ? 1 : 0].Enqueue(() =>
            {
                if (cancellation.IsCancellationRequested)
                {
                    result.TrySetCanceled(cancellation);
                    return;
                }
                try
                {
                    result.TrySetResult(work());
                }
                catch (Exception error)
                {
                    _ = error is OperationCanceledException cancelled ? result.TrySetCanceled(cancelled.CancellationToken) : result.TrySetException(error);
                }
            });
            Monitor.Pulse(_gate);
        }
        try
        {
            return await result.Task.WaitAsync(cancellation).ConfigureAwait(false);
        }
        finally
        {
            lock (_gate)
            {
                _bytes -= bytes;
            }
        }
    }

    /// <summary>Runs work that may never end (a foreign parser) on a thread that nothing else needs.</summary>
    public static Task<T> OnOwnThread<T>(Func<T> work, CancellationToken cancellation) => Task.Factory.StartNew(
        () =>
        {
            ThreadNiceness.GiveWay();
            return work();
        },
        cancellation,
        TaskCreationOptions.LongRunning,
        TaskScheduler.Default);

    public void Dispose()
    {
        lock (_gate)
        {
            _stopping = true;
            Monitor.PulseAll(_gate);
        }
    }

    private void Work()
    {
        ThreadNiceness.GiveWay();
        while (true)
        {
            Action? next;
            lock (_gate)
            {
                while (!_queues[0].TryDequeue(out next) && !_queues[1].TryDequeue(out next))
                {
                    if (_stopping)
                    {
                        return;
                    }
                    Monitor.Wait(_gate);
                }
            }
            next();
        }
    }
}
