using System.Numerics.Tensors;
using System.Runtime.CompilerServices;

namespace Diptych.Index.Hnsw;

/// <summary>
/// The graph over one kind of code. A node is a slot: a row in each slab. Links are written in place, a word at a time, and a reader
/// that meets a list half changed still reads slots that exist. Layers above the lowest are few, and lie in a slab of their own.
/// </summary>
internal sealed unsafe partial class HnswGraph<TCodes> : HnswIndex
    where TCodes : struct, ICodes
{
    private const int Locks = 1024;
    private const int MaxLayer = 12;

    private readonly Slab _codes, _links, _upper, _upperRow, _halves, _alive;
    private readonly int _codeStride, _halfStride, _lowest;
    private readonly double _layerScale;
    private readonly Lock[] _locks = [.. Enumerable.Range(0, Locks).Select(_ => new Lock())];
    private readonly Lock _entryLock = new();

    /// <summary>Many add together; repairing and growing are alone.</summary>
    private readonly ReaderWriterLockSlim _adding = new();
    private readonly Lock _slotLock = new();
    private readonly Stack<int> _free = [];
    private readonly Queue<(long Epoch, int[] Slots)> _limbo = [];
    private float _scale;
    private int _slots, _upperRows, _live, _vacantCount;

    /// <summary>Slot and top layer of where searches begin, in one word; -1 when the graph is empty.</summary>
    private long _entry = -1;

    public HnswGraph(int dimensions, HnswOptions options)
        : base(dimensions, options)
    {
        _codeStride = TCodes.Stride(dimensions);
        _halfStride = HalfRow.Stride(dimensions);
        _lowest = (2 * options.Links) - 1;
        _layerScale = 1 / Math.Log(options.Links);
        _scale = options.Clip is { } clip ? 127 / clip : 0;
        _codes = new Slab(_codeStride);
        _links = new Slab((_lowest + 1) * sizeof(int));
        _upper = new Slab((options.Links + 1) * sizeof(int));
        _upperRow = new Slab(sizeof(int));
        _halves = new Slab(_halfStride);
        _alive = new Slab(sizeof(ulong));
    }

    public override int Count => Volatile.Read(ref _live);

    public override int Slots => Volatile.Read(ref _slots);

    public override int Deleted => Math.Max(0, Slots - Volatile.Read(ref _vacantCount) - Count);

    internal override long Repairs => Volatile.Read(ref _epoch);

    public override double BytesPerVector =>
        Count == 0 ? 0 : (double)(_codes.Bytes + _links.Bytes + _upper.Bytes + _upperRow.Bytes + _alive.Bytes) / Count;

    public override int Add(ReadOnlySpan<float> vector)
    {
        Check(vector);
        _adding.EnterReadLock();
        try
        {
            int slot = Reserve(1)[0];
            FixScale(vector);
            SearchScratch scratch = Rent();
            Insert(slot, vector, scratch);
            Return(scratch);
            return slot;
        }
        finally
        {
            _adding.ExitReadLock();
        }
    }

    public override void AddRange(ReadOnlyMemory<float> vectors, Memory<int> slots, int cores, CancellationToken cancellation = default)
    {
        int count = vectors.Length / Dimensions;
        if (count * Dimensions != vectors.Length || slots.Length != count)
        {
            throw new ArgumentException($"{vectors.Length} floats are no rows of {Dimensions} for {slots.Length} slots.", nameof(vectors));
        }
        for (int row = 0; row < count; row++)
        {
            Check(vectors.Span.Slice(row * Dimensions, Dimensions));
        }
        if (count == 0)
        {
            return;
        }
        _adding.EnterReadLock();
        try
        {
            Reserve(count).CopyTo(slots);
            FixScale(vectors.Span[..(Math.Min(count, 20_000) * Dimensions)]);
            Parallel.For(0, count, new ParallelOptions { MaxDegreeOfParallelism = cores, CancellationToken = cancellation }, Rent, (row, _, scratch) =>
            {
                Insert(slots.Span[row], vectors.Span.Slice(row * Dimensions, Dimensions), scratch);
                return scratch;
            }, Return);
        }
        finally
        {
            _adding.ExitReadLock();
        }
    }

    public override bool Delete(int slot)
    {
        if ((uint)slot >= (uint)Slots || (Interlocked.And(ref AliveWord(slot), ~(1UL << slot)) & (1UL << slot)) == 0)
        {
            return false;
        }
        Interlocked.Decrement(ref _live);
        return true;
    }

    private void Check(ReadOnlySpan<float> vector)
    {
        if (vector.Length != Dimensions)
        {
            throw new ArgumentException($"A vector has {vector.Length} dimensions; the index has {Dimensions}.", nameof(vector));
        }
        if (!(TensorPrimitives.SumOfSquares(vector) is > 0.8f and < 1.25f))
        {
            throw new ArgumentException("A vector must be of unit length; this one is zero, not a number, or not normalized.", nameof(vector));
        }
    }

    /// <summary>The first vectors say how long a code's step is; it stays so.</summary>
    private void FixScale(ReadOnlySpan<float> vectors)
    {
        lock (_slotLock)
        {
            if (_scale == 0)
            {
                if (vectors.Length / Dimensions < 100)
                {
                    // Too few to tell. Components of a random unit vector have the standard deviation 1 / sqrt(d).
                    _scale = 127 / Math.Min(1, 5 / MathF.Sqrt(Dimensions));
                    return;
                }
                float[] magnitudes = new float[vectors.Length];
                TensorPrimitives.Abs(vectors, magnitudes);
                Array.Sort(magnitudes);
                _scale = 127 / Math.Max(1e-6f, magnitudes[(int)(magnitudes.LongLength * 0.9999)]);
            }
        }
    }

    /// <summary>Called while adding is entered, so that no repair takes the slots for deleted ones.</summary>
    private int[] Reserve(int count)
    {
        lock (_slotLock)
        {
            int[] slots = new int[count];
            int end = _slots;
            FreeUnseen();
            for (int i = 0; i < count; i++)
            {
                if (_free.TryPop(out int slot))
                {
                    _vacant[slot >> 6] &= ~(1UL << slot);
                    _vacantCount--;
                }
                else
                {
                    slot = end++;
                }
                slots[i] = slot;
            }
            _codes.Grow(end);
            _links.Grow(end);
            _upperRow.Grow(end);
            _halves.Grow(end);
            _alive.Grow((end + 63) / 64);
            // Searches look at rows below this number: it moves when there is room for them.
            Volatile.Write(ref _slots, end);
            return slots;
        }
    }

    private void Insert(int slot, ReadOnlySpan<float> vector, SearchScratch scratch)
    {
        TCodes.Encode(vector, _scale, _codes[slot]);
        HalfRow.Encode(vector, _halves[slot]);
        TCodes.NodeAsQuery(_codes[slot], scratch.Query, _codeStride);
        int layer = Layer(slot);
        PlaceUpper(slot, layer);

        long entry = Volatile.Read(ref _entry);
        if (entry < 0 || layer > EntryLayer(entry))
        {
            // A new top: one at a time.
            lock (_entryLock)
            {
                entry = _entry;
                if (entry >= 0)
                {
                    Connect(slot, Math.Min(layer, EntryLayer(entry)), entry, scratch);
                }
                if (entry < 0 || layer > EntryLayer(entry))
                {
                    Volatile.Write(ref _entry, ((long)layer << 32) | (uint)slot);
                }
            }
        }
        else
        {
            Connect(slot, layer, entry, scratch);
        }
        Interlocked.Or(ref AliveWord(slot), 1UL << slot);
        Interlocked.Increment(ref _live);
    }

    private void Connect(int slot, int layer, long entry, SearchScratch scratch)
    {
        int most = Options.Links, nearest = Descend(scratch, entry, layer);
        Span<int> chosen = stackalloc int[(layer + 1) * most];
        Span<int> counts = stackalloc int[layer + 1];
        for (int at = layer; at >= 0; at--)
        {
            Traverse(scratch, nearest, at, Options.EfConstruction, slot);
            if (scratch.Size > 0)
            {
                nearest = SearchScratch.Slot(scratch.Pool[0]);
            }
            counts[at] = Choose(scratch.Pool, chosen.Slice(at * most, most), scratch);
        }
        // The lowest layer first: whoever meets the node above can go on below.
        for (int at = 0; at <= layer; at++)
        {
            ReadOnlySpan<int> neighbors = chosen.Slice(at * most, counts[at]);
            lock (_locks[slot % Locks])
            {
                foreach (int neighbor in neighbors)
                {
                    Append(LinksOf(slot, at), neighbor, at);
                }
            }
            foreach (int neighbor in neighbors)
            {
                LinkBack(neighbor, slot, at, scratch);
            }
        }
    }

    /// <summary>
    /// From candidates in order of distance, those that are nearer to the node than to any chosen before (Malkov and Yashunin,
    /// algorithm 4): links in many directions, not many links in one.
    /// </summary>
    private int Choose(ReadOnlySpan<ulong> candidates, Span<int> chosen, SearchScratch scratch)
    {
        int count = 0;
        foreach (ulong entry in candidates)
        {
            int candidate = SearchScratch.Slot(entry), similarity = SearchScratch.Similarity(entry);
            TCodes.NodeAsQuery(_codes[candidate], scratch.Node, _codeStride);
            bool near = true;
            for (int i = 0; i < count && near; i++)
            {
                near = TCodes.Similarity(_codes[chosen[i]], scratch.Node, _codeStride) <= similarity;
            }
            if (near)
            {
                chosen[count++] = candidate;
                if (count == chosen.Length)
                {
                    break;
                }
            }
        }
        return count;
    }

    private void LinkBack(int from, int to, int layer, SearchScratch scratch)
    {
        int most = layer == 0 ? _lowest : Options.Links;
        int* links = LinksOf(from, layer);
        lock (_locks[from % Locks])
        {
            if (Append(links, to, layer))
            {
                return;
            }
            Span<ulong> choice = scratch.ChoiceOf(most + 1);
            TCodes.NodeAsQuery(_codes[from], scratch.Node, _codeStride);
            for (int i = 0; i < most; i++)
            {
                choice[i] = SearchScratch.Entry(links[i + 1], TCodes.Similarity(_codes[links[i + 1]], scratch.Node, _codeStride));
            }
            choice[most] = SearchScratch.Entry(to, TCodes.Similarity(_codes[to], scratch.Node, _codeStride));
            choice.Sort();
            Span<int> chosen = stackalloc int[most];
            Write(links, chosen[..Choose(choice, chosen, scratch)]);
        }
    }

    /// <returns>False when the list is full.</returns>
    private bool Append(int* links, int slot, int layer)
    {
        int count = links[0];
        for (int i = 1; i <= count; i++)
        {
            if (links[i] == slot)
            {
                return true;
            }
        }
        if (count == (layer == 0 ? _lowest : Options.Links))
        {
            return false;
        }
        links[count + 1] = slot;
        Volatile.Write(ref *links, count + 1);
        return true;
    }

    private static void Write(int* links, ReadOnlySpan<int> slots)
    {
        int before = links[0];
        Volatile.Write(ref *links, Math.Min(before, slots.Length));
        for (int i = 0; i < slots.Length; i++)
        {
            Volatile.Write(ref links[i + 1], slots[i]);
        }
        Volatile.Write(ref *links, slots.Length);
    }

    /// <summary>Geometric, from the slot's number alone: the same rows make the same layers.</summary>
    private int Layer(int slot)
    {
        ulong x = (ulong)slot + (Options.Seed * 0x9E3779B97F4A7C15);
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
        double unit = ((x ^ (x >> 31)) >> 11) * (1.0 / (1UL << 53));
        return Math.Min(MaxLayer, (int)(-Math.Log(1 - unit) * _layerScale));
    }

    private void PlaceUpper(int slot, int layer)
    {
        if (layer == 0)
        {
            return;
        }
        lock (_slotLock)
        {
            // A slot's layer never changes, so a slot given out again finds its rows where they were.
            if (*(int*)_upperRow[slot] == 0)
            {
                _upperRows += layer;
                _upper.Grow(_upperRows + 1);
                *(int*)_upperRow[slot] = _upperRows - layer + 1;
            }
        }
    }

    private static int EntryLayer(long entry) => (int)(entry >> 32);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private int* LinksOf(int slot, int layer) =>
        (int*)(layer == 0 ? _links[slot] : _upper[*(int*)_upperRow[slot] + layer - 1]);

    private ref ulong AliveWord(int slot) => ref *(ulong*)_alive[slot >> 6];

    private bool IsAlive(int slot) => (*(ulong*)_alive[slot >> 6] >> slot & 1) != 0;
}
