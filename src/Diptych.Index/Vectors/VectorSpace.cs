using System.Buffers;
using System.Runtime.InteropServices;
using Diptych.Core;
using Diptych.Index.Exact;
using Diptych.Index.Hnsw;

namespace Diptych.Index.Vectors;

/// <summary>
/// The vectors of one space and modality of a collection. New rows stand in a table that is searched exactly; when they have become
/// many they move into the graph. A search asks both. One writer (the store's refresh) and one mover; searches wait for neither.
/// </summary>
internal sealed class VectorSpace(int dimensions, Modality modality)
{
    /// <summary>
    /// Rows from which the graph answers clearly sooner than comparing with all of them: 4,096 x 384 take 0.3 ms on a core, a traversal of
    /// a hundred thousand 0.1 to 0.2 ms, and comparing misses nothing (<c>bench index</c> prints both).
    /// </summary>
    public const int GraphFrom = 4096;

    /// <summary>Share of deleted nodes at which the graph is repaired: a tenth.</summary>
    private const int RepairShare = 10;

    /// <summary>Share of slots without a row at which the rows are moved together: a third.</summary>
    private const int HolesShare = 3;

    /// <summary>Where each passage is: in the graph, or in the table.</summary>
    private readonly Dictionary<long, int> _slots = [], _rows = [];
    private VectorTable _table = new(dimensions);
    private bool _changed;
    private State _state = new(new VectorTable(dimensions).Snapshot, null, [], null);

    public int Count => _state.Table.Live + _slots.Count;

    public HnswIndex? Graph => _state.Graph;

    /// <summary>True when the table has grown, or the graph has holes, so that <see cref="Move"/> is due.</summary>
    public bool NeedsMove => _state.Table.Live >= GraphFrom || (_state.Graph is { } graph && graph.Deleted > Math.Max(1024, graph.Count / RepairShare));

    public bool Contains(long passageId) => _slots.ContainsKey(passageId);

    public void Add(PassageKey key, ReadOnlySpan<float> vector)
    {
        _rows[key.Id] = _table.Add(key, vector);
        _changed = true;
    }

    /// <summary>Rows of the graph leave at once, those of the table with the next <see cref="Publish"/>.</summary>
    public void Remove(long passageId)
    {
        if (_rows.Remove(passageId, out int row))
        {
            _table.Delete(row);
            _changed = true;
        }
        if (_slots.Remove(passageId, out int slot))
        {
            PassageKey key = _state.Keys[slot]!;
            _state.Graph!.Delete(slot);
            Volatile.Write(ref _state.Keys[slot], null);
            _state.Columns!.Remove(slot, key);
        }
    }

    public void Publish()
    {
        if (!_changed)
        {
            return;
        }
        _changed = false;
        if (_table.NeedsCompaction)
        {
            _rows.Clear();
            _table.Compact((key, row) => _rows[key.Id] = row);
        }
        _table.Publish();
        _state = _state with { Table = _table.Snapshot };
    }

    /// <param name="filter">Null accepts all.</param>
    /// <returns>The k nearest, best first.</returns>
    public Candidate[] Search(ReadOnlyMemory<float> query, int k, Filter? filter)
    {
        State state = _state;
        Func<PassageKey, bool>? accept = filter is null ? null : key => key.Passes(filter);
        Candidate[] fromTable = state.Table.Search(query, k, accept, Environment.ProcessorCount);
        return state.Graph is null ? fromTable : Merge(fromTable, SearchGraph(state, query.Span, k, filter), k);
    }

    /// <summary>
    /// Moves the table's rows into the graph, and repairs the graph where it has holes. Long; runs beside searches and commits, and
    /// calls <paramref name="exclusive"/> for the moment in which the moved rows change sides.
    /// </summary>
    /// <param name="exclusive">Runs an action while no commit is applied.</param>
    public void Move(int cores, Action<Action> exclusive, CancellationToken cancellation)
    {
        VectorSnapshot moving = _state.Table;
        HnswIndex graph = _state.Graph ?? HnswIndex.Create(dimensions);
        if (graph.Deleted > Math.Max(1024, graph.Count / RepairShare))
        {
            graph.Repair(cores, cancellation);
            if (graph.Count > 0 && graph.Slots - graph.Count > graph.Slots / HolesShare)
            {
                int[] moved = new int[graph.Slots];
                HnswIndex compact = graph.Compact(moved);
                exclusive(() => Renumber(compact, moved));
                graph = compact;
            }
        }
        if (moving.Live < GraphFrom)
        {
            exclusive(DropIfEmpty);
            return;
        }
        int[] rows = [.. Enumerable.Range(0, moving.Rows).Where(r => !moving.IsDeleted(r))];
        int[] slots = new int[rows.Length];
        // In portions, so that a stop is heard and no copy of a whole collection is made.
        for (int from = 0; from < rows.Length; from += GraphFrom)
        {
            int count = Math.Min(GraphFrom, rows.Length - from);
            float[] vectors = new float[count * dimensions];
            for (int i = 0; i < count; i++)
            {
                moving.Vector(rows[from + i]).CopyTo(vectors.AsSpan(i * dimensions));
            }
            graph.AddRange(vectors, slots.AsMemory(from, count), cores, cancellation);
        }
        exclusive(() => ChangeSides(moving, rows, slots, graph));
    }

    /// <summary>The passage of each slot, 0 where there is none: what <see cref="Adopt"/> takes back with the graph.</summary>
    public byte[] Attachment()
    {
        long[] ids = new long[_state.Graph!.Slots];
        foreach (var (id, slot) in _slots)
        {
            ids[slot] = id;
        }
        return MemoryMarshal.AsBytes(ids.AsSpan()).ToArray();
    }

    /// <summary>Takes a saved graph; rows whose passage is gone leave it.</summary>
    /// <param name="keyOf">The passage with an id, or null.</param>
    public void Adopt(HnswIndex graph, ReadOnlySpan<byte> attachment, Func<long, PassageKey?> keyOf)
    {
        ReadOnlySpan<long> ids = MemoryMarshal.Cast<byte, long>(attachment);
        var keys = new PassageKey?[graph.Slots];
        var columns = new FilterColumns();
        _slots.EnsureCapacity(graph.Count);
        for (int slot = 0; slot < Math.Min(ids.Length, keys.Length); slot++)
        {
            if (ids[slot] == 0)
            {
                continue;
            }
            if (keyOf(ids[slot]) is { } key)
            {
                keys[slot] = key;
                _slots[key.Id] = slot;
                columns.Add(slot, key);
            }
            else
            {
                graph.Delete(slot);
            }
        }
        _state = new State(_table.Snapshot, graph, keys, columns);
    }

    private void DropIfEmpty()
    {
        if (_slots.Count == 0)
        {
            _state = _state with { Graph = null, Keys = [], Columns = null };
        }
    }

    /// <summary>Takes the graph's copy without holes; what left the graph since leaves it too.</summary>
    private void Renumber(HnswIndex compact, int[] moved)
    {
        PassageKey?[] before = _state.Keys, keys = new PassageKey?[compact.Slots];
        var columns = new FilterColumns();
        for (int slot = 0; slot < moved.Length; slot++)
        {
            if (moved[slot] < 0)
            {
                continue;
            }
            if (slot < before.Length && before[slot] is { } key)
            {
                keys[moved[slot]] = key;
                _slots[key.Id] = moved[slot];
                columns.Add(moved[slot], key);
            }
            else
            {
                compact.Delete(moved[slot]);
            }
        }
        _state = _state with { Graph = compact, Keys = keys, Columns = columns };
    }

    private void ChangeSides(VectorSnapshot moved, int[] rows, int[] slots, HnswIndex graph)
    {
        PassageKey?[] keys = _state.Keys;
        if (keys.Length < graph.Slots)
        {
            Array.Resize(ref keys, Math.Max(graph.Slots, keys.Length * 5 / 4));
        }
        FilterColumns columns = _state.Columns ?? new FilterColumns();
        for (int i = 0; i < rows.Length; i++)
        {
            PassageKey key = moved.Key(rows[i]);
            // A passage that left and came back meanwhile, with its document, is another row by now.
            if (_rows.TryGetValue(key.Id, out int now) && ReferenceEquals(_table.Snapshot.Key(now), key))
            {
                _rows.Remove(key.Id);
                keys[slots[i]] = key;
                _slots[key.Id] = slots[i];
                columns.Add(slots[i], key);
            }
            else
            {
                // Deleted while it was moved.
                graph.Delete(slots[i]);
            }
        }
        // What came since stays in a table of its own.
        var rest = new VectorTable(dimensions);
        VectorTable full = _table;
        full.Publish();
        foreach (var (id, row) in _rows.ToList())
        {
            _rows[id] = rest.Add(full.Snapshot.Key(row), full.Snapshot.Vector(row));
        }
        rest.Publish();
        _table = rest;
        _state = new State(rest.Snapshot, graph, keys, columns);
    }

    private Candidate[] SearchGraph(State state, ReadOnlySpan<float> query, int k, Filter? filter)
    {
        HnswIndex graph = state.Graph!;
        int words = (graph.Slots + 63) / 64, wanted = k;
        ulong[] bitmap = filter is null ? [] : ArrayPool<ulong>.Shared.Rent(words);
        Neighbor[] found = ArrayPool<Neighbor>.Shared.Rent(k * 2);
        try
        {
            if (filter is not null)
            {
                state.Columns!.Evaluate(filter, modality, bitmap.AsSpan(0, words));
            }
            while (true)
            {
                Span<Neighbor> into = found.AsSpan(0, wanted);
                long repairs = graph.Repairs;
                int n = graph.Search(query, into, Ef(wanted), filter is null ? [] : bitmap.AsSpan(0, words), out SearchPlan plan);
                var hits = new List<Candidate>(n);
                foreach (Neighbor neighbor in into[..n])
                {
                    // Rows on their way into the graph have no key yet: the table still answers for them.
                    if (neighbor.Slot < state.Keys.Length && Volatile.Read(ref state.Keys[neighbor.Slot]) is { } key)
                    {
                        hits.Add(new Candidate(key, neighbor.Score, Name(plan)));
                    }
                }
                if (graph.Repairs != repairs)
                {
                    // Slots may have been given out again since: what they stand for is not sure.
                    continue;
                }
                if (hits.Count >= Math.Min(k, n) || n < wanted || wanted >= graph.Slots)
                {
                    return [.. hits.Take(k)];
                }
                wanted = Math.Min(graph.Slots, wanted * 2);
                if (found.Length < wanted)
                {
                    ArrayPool<Neighbor>.Shared.Return(found);
                    found = ArrayPool<Neighbor>.Shared.Rent(wanted);
                }
            }
        }
        finally
        {
            ArrayPool<Neighbor>.Shared.Return(found);
            if (filter is not null)
            {
                ArrayPool<ulong>.Shared.Return(bitmap);
            }
        }
    }

    /// <summary>Candidates of a traversal: at these recall@k is 0.98 and above on text embeddings (<c>bench index</c>).</summary>
    private static int Ef(int k) => Math.Max(128, k * 2);

    private static string Name(SearchPlan plan) => plan switch
    {
        SearchPlan.Graph => "graph",
        SearchPlan.OverFetch => "over-fetch",
        SearchPlan.TwoHop => "two-hop",
        _ => "exact",
    };

    private static Candidate[] Merge(Candidate[] left, Candidate[] right, int k) =>
        [.. left.Concat(right).DistinctBy(c => c.Key.Id).OrderByDescending(c => c.Score).ThenBy(c => c.Key.Id).Take(k)];

    /// <summary>What a search sees, swapped as a whole.</summary>
    /// <param name="Keys">By slot; null for one that is not to be found (yet, or any more). Entries change in place.</param>
    private sealed record State(VectorSnapshot Table, HnswIndex? Graph, PassageKey?[] Keys, FilterColumns? Columns);
}
