using Diptych.Core;

namespace Diptych.Runtimes.Decoding;

/// <summary>An adapter in memory.</summary>
/// <param name="Users">Answers that are being written with it.</param>
public sealed record AdapterState(string Name, bool IsLoaded, bool IsPinned, int Users, long Bytes);

/// <summary>
/// The adapters in memory, at most so many: read when first asked for, kept while they are used, and the one that was unused for longest
/// leaves when another needs its place. Whoever finds all places in use waits in line, so that nobody starves.
/// </summary>
internal sealed class AdapterSlots(int slots, IReadOnlyDictionary<string, string> folders, Func<string, LoraAdapter> load) : IDisposable
{
    private readonly Lock _gate = new();
    private readonly Dictionary<string, Slot> _slots = new(StringComparer.Ordinal);
    private readonly HashSet<string> _pinned = new(StringComparer.Ordinal);
    private readonly Queue<TaskCompletionSource> _line = new();
    private long _clock;

    public IReadOnlyList<AdapterState> States()
    {
        lock (_gate)
        {
            return [.. folders.Keys.Order(StringComparer.Ordinal).Select(n => _slots.TryGetValue(n, out Slot? slot)
                ? new AdapterState(n, slot.Adapter.IsCompletedSuccessfully, _pinned.Contains(n), slot.Users, slot.Adapter.IsCompletedSuccessfully ? slot.Adapter.Result.ByteSize : 0)
                : new AdapterState(n, false, _pinned.Contains(n), 0, 0))];
        }
    }

    /// <summary>The adapter, for as long as the lease is held.</summary>
    /// <exception cref="NotFoundException">There is none of this name.</exception>
    /// <exception cref="InvalidRequestException">It does not fit the model; the message says why.</exception>
    public async Task<Lease> TakeAsync(string name, CancellationToken cancellation)
    {
        while (true)
        {
            Slot? slot = null;
            TaskCompletionSource? place = null;
            lock (_gate)
            {
                if (!folders.ContainsKey(name))
                {
                    throw new NotFoundException($"There is no adapter '{name}'. Added: {string.Join(", ", folders.Keys.DefaultIfEmpty("none"))}.");
                }
                if (_slots.TryGetValue(name, out slot) || TryMake(name, out slot))
                {
                    slot!.Users++;
                    slot.UsedAt = ++_clock;
                }
                else
                {
                    _line.Enqueue(place = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
                }
            }
            if (place is not null)
            {
                await place.Task.WaitAsync(cancellation).ConfigureAwait(false);
                continue;
            }
            try
            {
                return new Lease(this, slot!, await slot!.Adapter.WaitAsync(cancellation).ConfigureAwait(false));
            }
            catch
            {
                Return(slot!);
                throw;
            }
        }
    }

    /// <summary>Keeps an adapter in memory, or no longer.</summary>
    /// <exception cref="NotFoundException">There is none of this name.</exception>
    public async Task PinAsync(string name, bool pinned, CancellationToken cancellation)
    {
        using (pinned ? await TakeAsync(name, cancellation).ConfigureAwait(false) : null)
        {
            lock (_gate)
            {
                _ = pinned ? _pinned.Add(name) : _pinned.Remove(name);
            }
        }
    }

    /// <returns>False where it is in use, pinned, or not in memory.</returns>
    public bool Unload(string name)
    {
        lock (_gate)
        {
            return _slots.TryGetValue(name, out Slot? slot) && slot.Users == 0 && !_pinned.Contains(name) && Drop(slot);
        }
    }

    public void Dispose()
    {
        lock (_gate)
        {
            foreach (Slot slot in _slots.Values.ToList())
            {
                Drop(slot);
            }
        }
    }

    private bool TryMake(string name, out Slot? slot)
    {
        slot = null;
        if (_slots.Count >= slots)
        {
            Slot? idle = _slots.Values.Where(s => s.Users == 0 && !_pinned.Contains(s.Name)).MinBy(s => s.UsedAt);
            if (idle is null)
            {
                return false;
            }
            Drop(idle);
        }
        // Read beside everything else: whoever has an adapter already does not wait for it.
        _slots.Add(name, slot = new Slot(name, Task.Run(() => load(folders[name]))));
        return true;
    }

    private bool Drop(Slot slot)
    {
        _slots.Remove(slot.Name);
        _ = slot.Adapter.ContinueWith(done => done.Result.Dispose(), CancellationToken.None, TaskContinuationOptions.OnlyOnRanToCompletion, TaskScheduler.Default);
        return true;
    }

    private void Return(Slot slot)
    {
        lock (_gate)
        {
            slot.Users--;
            if (slot.Users == 0 && slot.Adapter.IsFaulted && _slots.GetValueOrDefault(slot.Name) == slot)
            {
                _slots.Remove(slot.Name);
            }
            if (slot.Users == 0)
            {
                while (_line.TryDequeue(out TaskCompletionSource? next) && !next.TrySetResult())
                {
                    // Who waited here has gone.
                }
            }
        }
    }

    internal sealed class Slot(string name, Task<LoraAdapter> adapter)
    {
        public string Name => name;

        public Task<LoraAdapter> Adapter => adapter;

        public int Users { get; set; }

        public long UsedAt { get; set; }
    }

    /// <summary>The use of an adapter; it stays in memory until this is disposed of.</summary>
    internal sealed class Lease(AdapterSlots owner, Slot slot, LoraAdapter adapter) : IDisposable
    {
        private bool _returned;

        public LoraAdapter Adapter => adapter;

        public void Dispose()
        {
            if (!_returned)
            {
                _returned = true;
                owner.Return(slot);
            }
        }
    }
}
