using Diptych.Core;

namespace Diptych.Inference;

/// <summary>
/// Identical work in flight is done once. It goes on while anyone waits for it, and is cancelled when the last one has gone. Each waits by
/// its own terms: what is refused by one's is tried by another's, those of the latest deadline first.
/// </summary>
internal sealed class SingleFlight<TKey, TValue>(TimeProvider time)
    where TKey : notnull
{
    private static readonly TimeSpan Longest = TimeSpan.FromDays(1);
    private readonly Lock _lock = new();
    private readonly Dictionary<TKey, Flight> _flights = [];

    /// <param name="terms">Who asks, and by when: later than that the caller no longer waits.</param>
    /// <exception cref="OverloadedException">The work was refused by the terms of everyone who waits for it, or the caller's time has passed.</exception>
    public async Task<TValue> RunAsync(
        TKey key, RequestTerms terms, Func<RequestTerms, CancellationToken, Task<TValue>> work, CancellationToken cancellation)
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
            flight.Waiters.Add(terms);
        }
        if (mine)
        {
            _ = FlyAsync(key, flight, terms, work);
        }
        try
        {
            return terms.Left(time) is { } left
                ? await flight.Result.WaitAsync(left < Longest ? left : Longest, time, cancellation).ConfigureAwait(false)
                : await flight.Result.WaitAsync(cancellation).ConfigureAwait(false);
        }
        catch (TimeoutException) when (!flight.Result.IsFaulted)
        {
            throw new OverloadedException("The request's time has passed before its result was there.", TimeSpan.FromSeconds(1));
        }
        finally
        {
            bool last;
            lock (_lock)
            {
                flight.Waiters.Remove(terms);
                last = flight.Waiters.Count == 0;
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

    private async Task FlyAsync(TKey key, Flight flight, RequestTerms? terms, Func<RequestTerms, CancellationToken, Task<TValue>> work)
    {
        var tried = new HashSet<(long? DueAt, string Tenant)>();
        while (true)
        {
            tried.Add((terms!.DueAt, terms.Tenant));
            try
            {
                TValue value = await work(terms, flight.Cancelled).ConfigureAwait(false);
                Forget(key, flight);
                flight.Succeed(value);
                return;
            }
            catch (Exception error)
            {
                lock (_lock)
                {
                    terms = error is not OverloadedException ? null
                        : flight.Waiters.Where(w => !tried.Contains((w.DueAt, w.Tenant))).MaxBy(w => w.DueAt ?? long.MaxValue);
                    if (terms is null)
                    {
                        // Under the lock, so that whoever joins finds either this work going on or none.
                        Forget(key, flight);
                    }
                }
                if (terms is null)
                {
                    flight.Fail(error);
                    return;
                }
            }
        }
    }

    private void Forget(TKey key, Flight flight)
    {
        lock (_lock)
        {
            if (_flights.TryGetValue(key, out Flight? now) && now == flight)
            {
                _flights.Remove(key);
            }
        }
    }

    private sealed class Flight
    {
        private readonly CancellationTokenSource _cancel = new();
        private readonly TaskCompletionSource<TValue> _result = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public List<RequestTerms> Waiters { get; } = [];

        public Task<TValue> Result => _result.Task;

        public CancellationToken Cancelled => _cancel.Token;

        public void Succeed(TValue value) => _result.TrySetResult(value);

        public void Fail(Exception error) =>
            _ = error is OperationCanceledException ? _result.TrySetCanceled(CancellationToken.None) : _result.TrySetException(error);

        public async Task AbandonAsync()
        {
            if (!Result.IsCompleted)
            {
                await _cancel.CancelAsync().ConfigureAwait(false);
            }
            // A result that nobody waits for any more is looked at by nobody.
            _ = Result.ContinueWith(t => t.Exception, CancellationToken.None, TaskContinuationOptions.OnlyOnFaulted, TaskScheduler.Default);
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
