namespace Diptych.Inference.Scheduling;

/// <summary>An item as the scheduler sees it. Times are seconds on one clock.</summary>
/// <param name="Model">Index of its model.</param>
/// <param name="Tenant">Index of its tenant.</param>
/// <param name="Units">Tokens, tiles, or 1 for an image.</param>
/// <param name="Deadline">When its result is due.</param>
/// <param name="ExpiresAt">When it is dropped unrun; infinite for never.</param>
/// <param name="SoloSeconds">Its predicted time if it ran alone.</param>
/// <param name="ShareSeconds">The time that it adds to a batch.</param>
public readonly record struct WorkItem(
    long Id, int Model, Lane Lane, int Tenant, int Units, double EnqueuedAt, double Deadline, double ExpiresAt, double SoloSeconds, double ShareSeconds)
{
    /// <summary>The latest time at which it can start and still be in time.</summary>
    public double LatestStart => Deadline - SoloSeconds;
}

/// <summary>The most urgent item of one queue, and which queue that is: items of one model, lane, tenant and length bucket.</summary>
internal struct QueueTop
{
    public double LatestStart;
    public int Queue;
    public int Model;
    public int Tenant;
    public int Bucket;
    public Lane Lane;
}

/// <summary>
/// The state that a policy decides over: what waits, by length bucket in order of latest start, and in order of arrival. Single-threaded;
/// nothing is allocated once it has grown to the size that is needed.
/// </summary>
public sealed class WaitingWork
{
    private const double BucketRatio = 1.10;
    private WorkItem[] _items = new WorkItem[64];
    private int[] _queueOf = new int[64];
    private int[] _heapIndex = new int[64];
    private int[] _next = new int[64];
    private int[] _previous = new int[64];
    private int _free = -1, _used, _first = -1, _last = -1;
    private readonly Dictionary<(int Model, Lane Lane, int Tenant, int Bucket), int> _queueIds = [];
    private readonly List<Queue> _queues = [];
    private readonly Stack<int> _emptyQueues = new();
    private QueueTop[] _tops = new QueueTop[16];
    private int _active;
    private readonly long[] _unitsWaiting = new long[3];

    public TenantShares Shares { get; } = new();

    public int Count { get; private set; }

    /// <summary>Units (tokens, images) that wait in a lane.</summary>
    public long UnitsWaiting(Lane lane) => _unitsWaiting[(int)lane];

    public ref readonly WorkItem this[int slot] => ref _items[slot];

    internal Span<QueueTop> Tops => _tops.AsSpan(0, _active);

    /// <summary>Slot of the item that came first; -1 when nothing waits. <see cref="Next"/> follows it.</summary>
    public int First => _first;

    public int Next(int slot) => _next[slot];

    /// <returns>The item's slot, valid until it is removed.</returns>
    public int Add(in WorkItem item)
    {
        int slot = _free;
        if (slot >= 0)
        {
            _free = _next[slot];
        }
        else
        {
            slot = _used++;
            if (slot == _items.Length)
            {
                Array.Resize(ref _items, 2 * slot);
                Array.Resize(ref _queueOf, 2 * slot);
                Array.Resize(ref _heapIndex, 2 * slot);
                Array.Resize(ref _next, 2 * slot);
                Array.Resize(ref _previous, 2 * slot);
            }
        }
        _items[slot] = item;
        (_previous[slot], _next[slot]) = (_last, -1);
        (_last >= 0 ? ref _next[_last] : ref _first) = slot;
        _last = slot;
        Count++;
        _unitsWaiting[(int)item.Lane] += item.Units;
        Shares.Enter(item.Tenant, item.Lane, item.ShareSeconds);
        Insert(slot);
        return slot;
    }

    public void Remove(int slot)
    {
        TakeFromQueue(slot);
        ref WorkItem item = ref _items[slot];
        (_previous[slot] >= 0 ? ref _next[_previous[slot]] : ref _first) = _next[slot];
        (_next[slot] >= 0 ? ref _previous[_next[slot]] : ref _last) = _previous[slot];
        Count--;
        _unitsWaiting[(int)item.Lane] -= item.Units;
        Shares.Leave(item.Tenant, item.Lane, item.ShareSeconds);
        _next[slot] = _free;
        _free = slot;
    }

    /// <summary>The slot of a queue's most urgent item.</summary>
    internal int Peek(int queue) => _queues[queue].Slots[0];

    internal int QueueCount(int queue) => _queues[queue].Count;

    /// <summary>Gives an item another deadline.</summary>
    internal void Postpone(int slot, double deadline)
    {
        TakeFromQueue(slot);
        _items[slot] = _items[slot] with { Deadline = deadline };
        Insert(slot);
    }

    /// <summary>Lengths in one bucket differ by at most a tenth, so padding within a bucket does too.</summary>
    internal static int BucketOf(int units) => units <= 10 ? units : 10 + (int)(Math.Log(units / 10.0) / Math.Log(BucketRatio));

    private void Insert(int slot)
    {
        ref WorkItem item = ref _items[slot];
        var key = (item.Model, item.Lane, item.Tenant, BucketOf(item.Units));
        if (!_queueIds.TryGetValue(key, out int id))
        {
            if (!_emptyQueues.TryPop(out id))
            {
                id = _queues.Count;
                _queues.Add(new Queue());
            }
            _queueIds.Add(key, id);
            if (_active == _tops.Length)
            {
                Array.Resize(ref _tops, 2 * _active);
            }
            _queues[id].ActiveIndex = _active;
            _tops[_active++] = new QueueTop { Queue = id, Model = key.Model, Lane = key.Lane, Tenant = key.Tenant, Bucket = key.Item4 };
        }
        Queue queue = _queues[id];
        if (queue.Count == queue.Slots.Length)
        {
            Array.Resize(ref queue.Slots, 2 * queue.Count);
        }
        _queueOf[slot] = id;
        queue.Slots[queue.Count] = slot;
        _heapIndex[slot] = queue.Count;
        Rise(queue, queue.Count++);
        ShowTop(queue);
    }

    private void TakeFromQueue(int slot)
    {
        int id = _queueOf[slot];
        Queue queue = _queues[id];
        int hole = _heapIndex[slot], tail = queue.Slots[--queue.Count];
        if (tail != slot)
        {
            queue.Slots[hole] = tail;
            _heapIndex[tail] = hole;
            Sink(queue, hole);
            Rise(queue, _heapIndex[tail]);
        }
        if (queue.Count > 0)
        {
            ShowTop(queue);
            return;
        }
        QueueTop top = _tops[queue.ActiveIndex];
        _queueIds.Remove((top.Model, top.Lane, top.Tenant, top.Bucket));
        _emptyQueues.Push(id);
        QueueTop moved = _tops[--_active];
        _tops[queue.ActiveIndex] = moved;
        _queues[moved.Queue].ActiveIndex = queue.ActiveIndex;
    }

    private void ShowTop(Queue queue)
    {
        ref WorkItem item = ref _items[queue.Slots[0]];
        ref QueueTop top = ref _tops[queue.ActiveIndex];
        top.LatestStart = item.LatestStart;
    }

    private bool Before(int a, int b) =>
        _items[a].LatestStart < _items[b].LatestStart || (_items[a].LatestStart == _items[b].LatestStart && _items[a].Id < _items[b].Id);

    private void Rise(Queue queue, int at)
    {
        while (at > 0 && Before(queue.Slots[at], queue.Slots[(at - 1) / 2]))
        {
            Swap(queue, at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    private void Sink(Queue queue, int at)
    {
        while (true)
        {
            int child = (2 * at) + 1;
            if (child >= queue.Count)
            {
                return;
            }
            if (child + 1 < queue.Count && Before(queue.Slots[child + 1], queue.Slots[child]))
            {
                child++;
            }
            if (!Before(queue.Slots[child], queue.Slots[at]))
            {
                return;
            }
            Swap(queue, at, child);
            at = child;
        }
    }

    private void Swap(Queue queue, int a, int b)
    {
        (queue.Slots[a], queue.Slots[b]) = (queue.Slots[b], queue.Slots[a]);
        (_heapIndex[queue.Slots[a]], _heapIndex[queue.Slots[b]]) = (a, b);
    }

    /// <summary>A binary heap of slots by latest start.</summary>
    private sealed class Queue
    {
        public int[] Slots = new int[4];
        public int Count;
        public int ActiveIndex;
    }
}
