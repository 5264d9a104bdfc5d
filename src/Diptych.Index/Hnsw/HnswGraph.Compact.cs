namespace Diptych.Index.Hnsw;

/// <summary>Renumbering: the rows that are left side by side again.</summary>
internal sealed unsafe partial class HnswGraph<TCodes>
{
    public override HnswIndex Compact(Span<int> moved)
    {
        if (moved.Length != Slots)
        {
            throw new ArgumentException($"{moved.Length} numbers are not those of {Slots} slots.", nameof(moved));
        }
        moved.Fill(-1);
        _adding.EnterWriteLock();
        try
        {
            // Rows that were deleted since the repair come along as they are: others lead through them until the next one.
            int[] kept = [.. Enumerable.Range(0, moved.Length).Where(slot => !IsSet(_vacant, slot))];
            Place(kept, moved);
            var compact = new HnswGraph<TCodes>(Dimensions, Options) { _scale = _scale };
            compact.Reserve(kept.Length);
            long entry = -1;
            int live = 0;
            foreach (int slot in kept)
            {
                int to = moved[slot], top = TopOf(slot, to);
                new ReadOnlySpan<byte>(_codes[slot], _codeStride).CopyTo(new Span<byte>(compact._codes[to], _codeStride));
                new ReadOnlySpan<byte>(_halves[slot], _halfStride).CopyTo(new Span<byte>(compact._halves[to], _halfStride));
                compact.PlaceUpper(to, Layer(to));
                for (int layer = 0; layer <= top; layer++)
                {
                    int* from = LinksOf(slot, layer), links = compact.LinksOf(to, layer);
                    for (int i = 1; i <= from[0]; i++)
                    {
                        if (moved[from[i]] is >= 0 and var neighbor && layer <= TopOf(from[i], neighbor))
                        {
                            links[++links[0]] = neighbor;
                        }
                    }
                }
                if (IsAlive(slot))
                {
                    compact.AliveWord(to) |= 1UL << to;
                    live++;
                }
                entry = entry < 0 || top > EntryLayer(entry) ? ((long)top << 32) | (uint)to : entry;
            }
            (compact._live, compact._entry) = (live, entry);
            return compact;
        }
        finally
        {
            _adding.ExitWriteLock();
        }
    }

    /// <summary>
    /// Gives each row a number of its own layer, since a number's layer is fixed. A few find none: they take what is left, and stay on the
    /// layers that both have.
    /// </summary>
    private void Place(int[] kept, Span<int> moved)
    {
        Queue<int>[] places = [.. Enumerable.Range(0, MaxLayer + 1).Select(_ => new Queue<int>())];
        for (int place = 0; place < kept.Length; place++)
        {
            places[Layer(place)].Enqueue(place);
        }
        var left = new List<int>();
        foreach (int slot in kept)
        {
            if (places[Layer(slot)].TryDequeue(out int place))
            {
                moved[slot] = place;
            }
            else
            {
                left.Add(slot);
            }
        }
        var rest = new Queue<int>(places.SelectMany(p => p));
        foreach (int slot in left)
        {
            moved[slot] = rest.Dequeue();
        }
    }

    private int TopOf(int slot, int movedTo) => Math.Min(Layer(slot), Layer(movedTo));
}
