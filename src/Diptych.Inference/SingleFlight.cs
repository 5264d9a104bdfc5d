namespace Diptych.Inference;

/// <summary>
/// Identical work in flight is done once. It goes on while anyone waits for it, and is cancelled when the last one has gone.
/// </summary>
internal sealed class SingleFlight<TKey, TValue>
    where TKey : notnull
{
    private readonly Lock _lock = new();
    private readonly Dictionary<TKey, Flight> _flights = [];

    public async Task<TValue> RunAsync(TKey key, Func<CancellationToken, Task<TValue>> work, CancellationToken cancellation)
    {
        cancellation.ThrowIfCancellationRequested();
        Flight? flight;
        bool mine = false;
        lock (_lock)
        {
            if (!_flights.TryGetValue(key, out flight))
            {
                flight = new Flight();
                _flights.Add(key, flight);
                mine = true;
            }
            flight.Waiters++;
        }
        if (mine)
        {
            flight.Start(work, () =>
            {
                lock (_lock)
                {
                    Forget(key, flight);
                }
            });
        }
        try
        {
            return await flight.Result.WaitAsync(cancellation).ConfigureAwait(false);
        }
        finally
        {
            bool last;
            lock (_lock)
            {
                last = --flight.Waiters == 0;
                if (last)
                {
                    // Nobody may join work that is being cancelled.
                    Forget(key, flight);
                }
            }
            if (last)
            {
                await flight.AbandonAsync().ConfigureAwait(false);
            }
        }
    }

    private void Forget(TKey key, Flight flight)
    {
        if (_flights.TryGetValue(key, out Flight? now) && now == flight)
        {
            _flights.Remove(key);
        }
    }

    private sealed class Flight
    {
        private readonly CancellationTokenSource _cancel = new();
        private readonly TaskCompletionSource<TValue> _result = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public int Waiters;

        public Task<TValue> Result => _result.Task;

        public void Start(Func<CancellationToken, Task<TValue>> work, Action ended) => _ = RunAsync(work, ended);

        public async Task AbandonAsync()
        {
            if (!Result.IsCompleted)
            {
                await _cancel.CancelAsync().ConfigureAwait(false);
            }
            // A result that nobody waits for any more is looked at by nobody.
            _ = Result.ContinueWith(t => t.Exception, CancellationToken.None, TaskContinuationOptions.OnlyOnFaulted, TaskScheduler.Default);
        }

        private async Task RunAsync(Func<CancellationToken, Task<TValue>> work, Action ended)
        {
            try
            {
                TValue value = await work(_cancel.Token).ConfigureAwait(false);
                ended();
                _result.TrySetResult(value);
            }
            catch (Exception error)
            {
                ended();
                _ = error is OperationCanceledException ? _result.TrySetCanceled(CancellationToken.None) : _result.TrySetException(error);
            }
        }
    }
}

/// <summary>Values by key, the least recently used leaving first, within so many bytes.</summary>
public sealed class LeastRecentlyUsed<TKey, TValue>(long maxBytes)
    where TKey : notnull
{
    private readonly Lock _lock = new();
    private readonly Dictionary<TKey, LinkedListNode<(TKey Key, TValue Value, long Bytes)>> _nodes = [];
    private readonly LinkedList<(TKey Key, TValue Value, long Bytes)> _order = new();

    public long Bytes { get; private set; }

    public bool TryGet(TKey key, out TValue value)
    {
        lock (_lock)
        {
            if (_nodes.TryGetValue(key, out var node))
            {
                _order.Remove(node);
                _order.AddFirst(node);
                value = node.Value.Value;
                return true;
            }
        }
        value = default!;
        return false;
    }

    public void Put(TKey key, TValue value, long bytes)
    {
        lock (_lock)
        {
            if (_nodes.ContainsKey(key) || bytes > maxBytes)
            {
                return;
            }
            _nodes.Add(key, _order.AddFirst((key, value, bytes)));
            Bytes += bytes;
            Trim(maxBytes);
        }
    }

    public void Clear()
    {
        lock (_lock)
        {
            Trim(0);
        }
    }

    private void Trim(long bytes)
    {
        while (Bytes > bytes && _order.Last is { } last)
        {
            Bytes -= last.Value.Bytes;
            _nodes.Remove(last.Value.Key);
            _order.RemoveLast();
        }
    }
}
