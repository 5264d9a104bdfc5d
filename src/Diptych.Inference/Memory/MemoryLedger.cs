namespace Diptych.Inference.Memory;

/// <summary>What memory is held for.</summary>
public enum MemoryKind
{
    Weights,
    Adapters,
    KeyValues,
    Caches,
    Workspace,
}

/// <summary>
/// A device's memory as a ledger: nothing is used that was not reserved, and the sum never exceeds the budget. Reserving is the
/// first phase, <see cref="Reservation.Commit"/> the second; a reservation disposed of before it was committed rolls back.
/// </summary>
public sealed class MemoryLedger(long budgetBytes)
{
    private readonly Lock _lock = new();
    private readonly long[] _bytes = new long[Enum.GetValues<MemoryKind>().Length];
    private long _used;

    public long BudgetBytes => budgetBytes;

    /// <summary>Reserved and committed.</summary>
    public long UsedBytes
    {
        get
        {
            lock (_lock)
            {
                return _used;
            }
        }
    }

    public long FreeBytes => budgetBytes - UsedBytes;

    public long Bytes(MemoryKind kind)
    {
        lock (_lock)
        {
            return _bytes[(int)kind];
        }
    }

    /// <returns>Null where the budget has no room for it.</returns>
    public Reservation? TryReserve(MemoryKind kind, string owner, long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        lock (_lock)
        {
            if (bytes > budgetBytes - _used)
            {
                return null;
            }
            _used += bytes;
            _bytes[(int)kind] += bytes;
        }
        return new Reservation(this, kind, owner, bytes);
    }

    private bool TryChange(MemoryKind kind, long difference)
    {
        lock (_lock)
        {
            if (difference > budgetBytes - _used)
            {
                return false;
            }
            _used += difference;
            _bytes[(int)kind] += difference;
            return true;
        }
    }

    /// <summary>Memory that is held until it is disposed of.</summary>
    public sealed class Reservation : IDisposable
    {
        private readonly MemoryLedger _ledger;
        private int _disposed;
        private bool _committed;

        internal Reservation(MemoryLedger ledger, MemoryKind kind, string owner, long bytes) =>
            (_ledger, Kind, Owner, Bytes) = (ledger, kind, owner, bytes);

        public MemoryKind Kind { get; }

        public string Owner { get; }

        public long Bytes { get; private set; }

        public bool IsCommitted => _committed;

        /// <summary>The second phase: the memory is in use now, of the size that it turned out to have.</summary>
        /// <param name="bytes">Null keeps what was reserved.</param>
        /// <returns>False, and nothing is changed, where it turned out larger than the budget has room for.</returns>
        public bool Commit(long? bytes = null)
        {
            ObjectDisposedException.ThrowIf(_disposed != 0, this);
            if (bytes is { } actual && !TryResize(actual))
            {
                return false;
            }
            return _committed = true;
        }

        /// <summary>Hands the memory over: this reservation no longer gives it back, the returned one does.</summary>
        public Reservation Take()
        {
            ObjectDisposedException.ThrowIf(Interlocked.Exchange(ref _disposed, 1) != 0, this);
            return new Reservation(_ledger, Kind, Owner, Bytes) { _committed = _committed };
        }

        /// <returns>False, and nothing is changed, where the budget has no room.</returns>
        public bool TryResize(long bytes)
        {
            ObjectDisposedException.ThrowIf(_disposed != 0, this);
            ArgumentOutOfRangeException.ThrowIfNegative(bytes);
            if (!_ledger.TryChange(Kind, bytes - Bytes))
            {
                return false;
            }
            Bytes = bytes;
            return true;
        }

        /// <summary>Gives the memory back: a release after the commit, a rollback before it.</summary>
        public void Dispose()
        {
            if (Interlocked.Exchange(ref _disposed, 1) == 0)
            {
                _ledger.TryChange(Kind, -Bytes);
            }
        }
    }
}
