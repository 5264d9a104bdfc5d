using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Diptych.Index.Hnsw;

/// <summary>What one search needs while it runs, kept for the next: no search allocates.</summary>
internal sealed unsafe class SearchScratch
{
    /// <summary>Set in an entry's id once its links were followed.</summary>
    private const uint Expanded = 1u << 31;

    private ulong[] _visited = [];
    private int[] _touched = new int[4096];
    private int _touchedCount;

    // Sorted, nearest first. An entry is (distance, id) in one word, so that an integer compare orders it.
    private ulong[] _pool = [];
    private int _size, _capacity, _next;

    /// <summary>The epoch of the index when the search began; none is running at <see cref="long.MaxValue"/>.</summary>
    public long Epoch = long.MaxValue;

    private readonly byte[] _memory;

    public SearchScratch(int codeStride, int halfStride)
    {
        int code = (codeStride + 127) / 64 * 64, exact = halfStride * 2;
        _memory = GC.AllocateArray<byte>((2 * code) + exact + (sizeof(int) * BatchLength) + 64, pinned: true);
        byte* start = (byte*)Unsafe.AsPointer(ref MemoryMarshal.GetArrayDataReference(_memory));
        start += (64 - ((nint)start & 63)) & 63;
        Query = start;
        Node = start + code;
        Exact = (float*)(start + (2 * code));
        Batch = (int*)(start + (2 * code) + exact);
    }

    /// <summary>A query's code, and its bias behind it.</summary>
    public byte* Query { get; }

    /// <summary>A second code, for comparing nodes with each other.</summary>
    public byte* Node { get; }

    /// <summary>The query as floats, zero beyond its dimensions.</summary>
    public float* Exact { get; }

    /// <summary>Nodes to be compared next.</summary>
    public int* Batch { get; }

    public const int BatchLength = 1 << 13;

    public Neighbor[] Rescored { get; private set; } = [];

    /// <summary>A node's neighbours to choose from: (distance, id) as in the pool.</summary>
    public ulong[] Choice { get; private set; } = new ulong[256];

    public int Size => _size;

    /// <summary>Empties the pool, which then keeps the nearest <paramref name="capacity"/>.</summary>
    public void Begin(int capacity)
    {
        if (_pool.Length < capacity + 1)
        {
            _pool = new ulong[BitOperations.RoundUpToPowerOf2((uint)capacity + 1)];
            Rescored = new Neighbor[_pool.Length];
        }
        (_size, _capacity, _next) = (0, capacity, 0);
    }

    public void ForgetVisited(int slots)
    {
        if (_visited.Length < (slots + 63) / 64)
        {
            _visited = new ulong[BitOperations.RoundUpToPowerOf2((uint)((slots + 63) / 64))];
        }
        else if (_touchedCount >= _touched.Length)
        {
            Array.Clear(_visited);
        }
        else
        {
            foreach (int word in _touched.AsSpan(0, _touchedCount))
            {
                _visited[word] = 0;
            }
        }
        _touchedCount = 0;
    }

    /// <returns>True the first time.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool Visit(int slot)
    {
        int word = slot >> 6;
        if (word >= _visited.Length)
        {
            Grow(word);
        }
        ref ulong bits = ref _visited[word];
        ulong bit = 1UL << slot;
        if ((bits & bit) != 0)
        {
            return false;
        }
        if (bits == 0)
        {
            if (_touchedCount < _touched.Length)
            {
                _touched[_touchedCount] = word;
            }
            _touchedCount = Math.Min(_touchedCount + 1, _touched.Length);
        }
        bits |= bit;
        return true;
    }

    /// <summary>Rows were added since this search began.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private void Grow(int word) => Array.Resize(ref _visited, (int)BitOperations.RoundUpToPowerOf2((uint)word + 1));

    /// <summary>Similarity below which a node would not enter the pool.</summary>
    public int Worst => _size < _capacity ? int.MinValue : Similarity(_pool[_size - 1]);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Offer(int slot, int similarity)
    {
        ulong entry = Entry(slot, similarity);
        if (_size == _capacity)
        {
            if (entry >= _pool[_size - 1])
            {
                return;
            }
            _size--;
        }
        int low = 0, high = _size;
        ref ulong first = ref MemoryMarshal.GetArrayDataReference(_pool);
        while (low < high)
        {
            int middle = (low + high) >> 1;
            if (Unsafe.Add(ref first, middle) < entry)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }
        Array.Copy(_pool, low, _pool, low + 1, _size - low);
        _pool[low] = entry;
        _size++;
        _next = Math.Min(_next, low);
    }

    /// <summary>The nearest whose links were not followed yet, now marked as followed; -1 when none is left.</summary>
    public int Next()
    {
        for (; _next < _size; _next++)
        {
            if (((uint)_pool[_next] & Expanded) == 0)
            {
                _pool[_next] |= Expanded;
                return Slot(_pool[_next++]);
            }
        }
        return -1;
    }

    /// <summary>The pool, nearest first.</summary>
    public Span<ulong> Pool => _pool.AsSpan(0, _size);

    public Span<ulong> ChoiceOf(int count)
    {
        if (Choice.Length < count)
        {
            Choice = new ulong[BitOperations.RoundUpToPowerOf2((uint)count)];
        }
        return Choice.AsSpan(0, count);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Entry(int slot, int similarity) => ((ulong)(uint)(-similarity ^ int.MinValue) << 32) | (uint)slot;

    public static int Slot(ulong entry) => (int)((uint)entry & ~Expanded);

    public static int Similarity(ulong entry) => -((int)(uint)(entry >> 32) ^ int.MinValue);
}
