namespace Diptych.Index.Hnsw;

/// <summary>Taking deleted nodes out, and giving their slots out again.</summary>
internal sealed unsafe partial class HnswGraph<TCodes>
{
    /// <summary>Deleted nodes looked behind, from one node.</summary>
    private const int MostDeadBehind = 128;

    /// <summary>Slots in no graph: free, or about to be once no search may still see them. A bit for each.</summary>
    private ulong[] _vacant = [];

    public override void Repair(int cores, CancellationToken cancellation = default)
    {
        _adding.EnterWriteLock();
        try
        {
            int slots = _slots;
            ulong[] dead = new ulong[(slots + 63) / 64];
            if (_vacant.Length < dead.Length)
            {
                Array.Resize(ref _vacant, dead.Length);
            }
            var taken = new List<int>();
            for (int slot = 0; slot < slots; slot++)
            {
                if (!IsAlive(slot) && !IsSet(_vacant, slot))
                {
                    dead[slot >> 6] |= 1UL << slot;
                    taken.Add(slot);
                }
            }
            if (taken.Count == 0)
            {
                return;
            }
            Parallel.For(0, slots, new ParallelOptions { MaxDegreeOfParallelism = cores, CancellationToken = cancellation }, Rent, (slot, _, scratch) =>
            {
                if (!IsSet(dead, slot) && !IsSet(_vacant, slot))
                {
                    for (int layer = Layer(slot); layer >= 0; layer--)
                    {
                        Relink(slot, layer, dead, scratch);
                    }
                }
                return scratch;
            }, Return);
            long entry = _entry;
            if (entry >= 0 && IsSet(dead, (int)entry))
            {
                Volatile.Write(ref _entry, HighestBeside(dead));
            }
            lock (_slotLock)
            {
                foreach (int slot in taken)
                {
                    _vacant[slot >> 6] |= 1UL << slot;
                }
                // A search of this epoch may still hold the slots; the next epoch's can not come upon them.
                _limbo.Enqueue((_epoch, [.. taken]));
                Interlocked.Increment(ref _epoch);
                _vacantCount += taken.Count;
            }
        }
        finally
        {
            _adding.ExitWriteLock();
        }
    }

    /// <summary>Links a node that led to dead ones to what lies behind them.</summary>
    private void Relink(int slot, int layer, ulong[] dead, SearchScratch scratch)
    {
        int* links = LinksOf(slot, layer);
        int most = layer == 0 ? _lowest : Options.Links, count;
        Span<int> chosen = stackalloc int[most];
        Span<int> before = stackalloc int[most];
        lock (_locks[slot % Locks])
        {
            int old = links[0];
            new Span<int>(links + 1, old).CopyTo(before);
            before = before[..old];
            bool whole = true;
            foreach (int neighbor in before)
            {
                whole &= !IsSet(dead, neighbor);
            }
            if (whole)
            {
                return;
            }
            count = ChooseBehind(slot, before, layer, dead, chosen, scratch);
            Write(links, chosen[..count]);
        }
        foreach (int neighbor in chosen[..count])
        {
            if (!before.Contains(neighbor))
            {
                LinkBack(neighbor, slot, layer, scratch);
            }
        }
    }

    private int ChooseBehind(int slot, ReadOnlySpan<int> before, int layer, ulong[] dead, Span<int> chosen, SearchScratch scratch)
    {
        scratch.ForgetVisited(_slots);
        scratch.Visit(slot);
        TCodes.NodeAsQuery(_codes[slot], scratch.Query, _codeStride);
        // Live ones into the pool, dead ones into the batch, each of which is then looked behind.
        int behind = 0;
        scratch.Begin(Options.EfConstruction);
        Sort(before, ref behind);
        for (int i = 0; i < Math.Min(behind, MostDeadBehind); i++)
        {
            int* links = LinksOf(scratch.Batch[i], layer);
            Sort(new ReadOnlySpan<int>(links + 1, links[0]), ref behind);
        }
        return Choose(scratch.Pool, chosen, scratch);

        void Sort(ReadOnlySpan<int> neighbors, ref int found)
        {
            foreach (int neighbor in neighbors)
            {
                if (!scratch.Visit(neighbor))
                {
                    continue;
                }
                if (!IsSet(dead, neighbor))
                {
                    scratch.Offer(neighbor, TCodes.Similarity(_codes[neighbor], scratch.Query, _codeStride));
                }
                else if (found < MostDeadBehind)
                {
                    scratch.Batch[found++] = neighbor;
                }
            }
        }
    }

    private long HighestBeside(ulong[] dead)
    {
        long best = -1;
        for (int slot = 0; slot < _slots; slot++)
        {
            if (!IsSet(dead, slot) && !IsSet(_vacant, slot) && (best < 0 || Layer(slot) > EntryLayer(best)))
            {
                best = ((long)Layer(slot) << 32) | (uint)slot;
            }
        }
        return best;
    }

    /// <summary>Moves slots that no search may still see to the free ones. Called under the slot lock.</summary>
    private void FreeUnseen()
    {
        long oldest = long.MaxValue;
        if (_limbo.Count > 0)
        {
            lock (_scratches)
            {
                foreach (WeakReference<SearchScratch> reference in _scratches)
                {
                    oldest = reference.TryGetTarget(out SearchScratch? scratch) ? Math.Min(oldest, Volatile.Read(ref scratch.Epoch)) : oldest;
                }
            }
        }
        while (_limbo.TryPeek(out var next) && next.Epoch < oldest)
        {
            foreach (int slot in _limbo.Dequeue().Slots)
            {
                Vacate(slot);
            }
        }
    }

    /// <summary>Takes a slot's links away, and makes it free. One whose row was never added (a cancelled range) has none above the lowest layer.</summary>
    private void Vacate(int slot)
    {
        int top = *(int*)_upperRow[slot] == 0 ? 0 : Layer(slot);
        for (int layer = 0; layer <= top; layer++)
        {
            *LinksOf(slot, layer) = 0;
        }
        _free.Push(slot);
    }
}
