using Diptych.Index.Jobs;

namespace Diptych.App.Jobs;

/// <summary>Items of one job that are worked on here, under leases that are renewed until they are let go.</summary>
internal sealed class HeldItems(IReadOnlyList<JobItem> items, CancellationToken stopping) : IDisposable
{
    private readonly Lock _lock = new();
    private readonly Dictionary<JobItemKey, JobItem> _open = items.ToDictionary(i => i.Key);
    private readonly CancellationTokenSource _stop = CancellationTokenSource.CreateLinkedTokenSource(stopping);
    private List<ItemEnd> _ends = [];
    private bool _disposed;

    public string Job { get; } = items[0].Key.Job;

    /// <summary>The server stops, or the job has been cancelled.</summary>
    public CancellationToken Stop => _stop.Token;

    /// <summary>Items that have not ended.</summary>
    public IReadOnlyList<JobItemKey> Open
    {
        get
        {
            lock (_lock)
            {
                return [.. _open.Keys];
            }
        }
    }

    /// <summary>The store knows already that it has ended.</summary>
    public void HasEnded(JobItemKey item)
    {
        lock (_lock)
        {
            _open.Remove(item);
        }
    }

    /// <summary>It has ended, and the store is to be told.</summary>
    public void Ends(ItemEnd end)
    {
        lock (_lock)
        {
            if (_open.Remove(end.Key))
            {
                _ends.Add(end);
            }
        }
    }

    /// <summary>What the store is to be told.</summary>
    public IReadOnlyList<ItemEnd> TakeEnds()
    {
        lock (_lock)
        {
            (List<ItemEnd> ends, _ends) = (_ends, []);
            return ends;
        }
    }

    public void Cancel()
    {
        lock (_lock)
        {
            if (!_disposed)
            {
                _ = _stop.CancelAsync();
            }
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _disposed = true;
            _stop.Dispose();
        }
    }
}
