using System.Numerics.Tensors;

namespace Diptych.Index.Exact;

/// <summary>
/// Unit vectors of one space in memory, in blocks. Readers hold an immutable <see cref="VectorSnapshot"/>; the one writer appends
/// beyond what any snapshot shows and publishes a new one.
/// </summary>
internal sealed class VectorTable(int dimensions)
{
    internal const int BlockRows = 1024;

    /// <summary>The first block begins with so many and doubles, so that a small collection takes little.</summary>
    private const int FirstRows = 4;

    private readonly List<VectorBlock> _blocks = [];
    private readonly List<ulong[]> _deleted = [];
    private int _count, _dead;

    public int Dimensions => dimensions;

    public VectorSnapshot Snapshot { get; private set; } = new(dimensions, [], [], 0, 0);

    /// <returns>The row's number, until the next <see cref="Compact"/>.</returns>
    public int Add(PassageKey key, ReadOnlySpan<float> vector)
    {
        int row = _count % BlockRows;
        if (row == 0)
        {
            int room = _blocks.Count == 0 ? FirstRows : BlockRows;
            _blocks.Add(new VectorBlock(new float[room * dimensions], new PassageKey[room]));
            _deleted.Add(new ulong[BlockRows / 64]);
        }
        else if (row == _blocks[^1].Keys.Length)
        {
            // Published snapshots keep the block they have.
            var larger = new VectorBlock(new float[2 * row * dimensions], new PassageKey[2 * row]);
            _blocks[^1].Values.CopyTo(larger.Values, 0);
            _blocks[^1].Keys.CopyTo(larger.Keys, 0);
            _blocks[^1] = larger;
        }
        vector.CopyTo(_blocks[^1].Values.AsSpan(row * dimensions, dimensions));
        _blocks[^1].Keys[row] = key;
        return _count++;
    }

    public void Delete(int row)
    {
        // Copy on write: published snapshots keep the bitmap they have.
        ulong[] bits = [.. _deleted[row / BlockRows]];
        bits[row % BlockRows / 64] |= 1UL << (row % 64);
        _deleted[row / BlockRows] = bits;
        _dead++;
    }

    /// <summary>True when so many rows are dead that copying the live ones pays.</summary>
    public bool NeedsCompaction => (_dead > BlockRows && _dead > _count * 3 / 10) || (_dead == _count && _count > 0);

    /// <summary>Copies the live rows into new blocks, in order, and tells each row's new number.</summary>
    public void Compact(Action<PassageKey, int> moved)
    {
        var old = new VectorSnapshot(dimensions, [.. _blocks], [.. _deleted], _count, _dead);
        _blocks.Clear();
        _deleted.Clear();
        (_count, _dead) = (0, 0);
        for (int row = 0; row < old.Rows; row++)
        {
            if (!old.IsDeleted(row))
            {
                moved(old.Key(row), Add(old.Key(row), old.Vector(row)));
            }
        }
    }

    public void Publish() => Snapshot = new VectorSnapshot(dimensions, [.. _blocks], [.. _deleted], _count, _dead);
}

internal sealed record VectorBlock(float[] Values, PassageKey[] Keys);

/// <summary>An immutable view of a <see cref="VectorTable"/>; exact top-k by dot product, with the filter inside the scan.</summary>
internal sealed class VectorSnapshot(int dimensions, VectorBlock[] blocks, ulong[][] deleted, int rows, int dead)
{
    /// <summary>From this many rows on a scan is split over the cores.</summary>
    private const int ParallelRows = 32_768;

    public int Rows => rows;

    public int Live => rows - dead;

    public PassageKey Key(int row) => blocks[row / VectorTable.BlockRows].Keys[row % VectorTable.BlockRows];

    public ReadOnlySpan<float> Vector(int row) =>
        blocks[row / VectorTable.BlockRows].Values.AsSpan(row % VectorTable.BlockRows * dimensions, dimensions);

    public bool IsDeleted(int row) => (deleted[row / VectorTable.BlockRows][row % VectorTable.BlockRows / 64] >> (row % 64) & 1) != 0;

    /// <param name="query">[dimensions].</param>
    /// <param name="accept">Whether a passage may be returned; null accepts all.</param>
    /// <returns>The k best, best first; equal scores in order of passage id.</returns>
    public Candidate[] Search(ReadOnlyMemory<float> query, int k, Func<PassageKey, bool>? accept, int cores)
    {
        if (query.Length != dimensions)
        {
            throw new ArgumentException($"The query has {query.Length} dimensions, the table {dimensions}.", nameof(query));
        }
        if (rows < ParallelRows || cores == 1)
        {
            var top = new TopK(k);
            for (int b = 0; b < blocks.Length; b++)
            {
                Scan(b, query.Span, top, accept);
            }
            return top.Sorted();
        }
        var merged = new TopK(k);
        Parallel.For(
            0,
            blocks.Length,
            new ParallelOptions { MaxDegreeOfParallelism = cores },
            () => new TopK(k),
            (b, _, top) =>
            {
                Scan(b, query.Span, top, accept);
                return top;
            },
            top =>
            {
                lock (merged)
                {
                    merged.Add(top);
                }
            });
        return merged.Sorted();
    }

    private void Scan(int block, ReadOnlySpan<float> query, TopK top, Func<PassageKey, bool>? accept)
    {
        VectorBlock data = blocks[block];
        ulong[] dead = deleted[block];
        int count = Math.Min(VectorTable.BlockRows, rows - (block * VectorTable.BlockRows));
        for (int row = 0; row < count; row++)
        {
            if ((dead[row / 64] >> (row % 64) & 1) != 0 || (accept is not null && !accept(data.Keys[row])))
            {
                continue;
            }
            float score = TensorPrimitives.Dot(query, data.Values.AsSpan(row * dimensions, dimensions));
            if (score >= top.Worst)
            {
                top.Add(new Candidate(data.Keys[row], score, "exact"));
            }
        }
    }
}

/// <summary>Keeps the k best candidates seen; ties go to the smaller passage id, so that results do not depend on the split.</summary>
internal sealed class TopK(int k)
{
    private readonly PriorityQueue<Candidate, (double Score, long Id)> _heap = new(k + 1);

    /// <summary>A score below this cannot enter.</summary>
    public double Worst { get; private set; } = double.NegativeInfinity;

    public void Add(Candidate candidate)
    {
        _heap.Enqueue(candidate, (candidate.Score, -candidate.Key.Id));
        if (_heap.Count > k)
        {
            _heap.Dequeue();
        }
        if (_heap.Count == k && _heap.TryPeek(out Candidate worst, out _))
        {
            Worst = worst.Score;
        }
    }

    public void Add(TopK other)
    {
        foreach ((Candidate candidate, _) in other._heap.UnorderedItems)
        {
            Add(candidate);
        }
    }

    public Candidate[] Sorted() =>
        [.. _heap.UnorderedItems.Select(i => i.Element).OrderByDescending(c => c.Score).ThenBy(c => c.Key.Id)];
}
