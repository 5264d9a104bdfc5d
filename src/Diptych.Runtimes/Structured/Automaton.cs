using Diptych.Core;

namespace Diptych.Runtimes.Structured;

/// <summary>
/// A pattern as an automaton over bytes (Thompson 1968), made deterministic as far as it is walked (Rabin and Scott 1959). Each state knows
/// how many bytes lie between it and the nearest end. Not for several threads at once.
/// </summary>
internal sealed class Automaton
{
    /// <summary>More than this is a pattern that no answer is meant to follow.</summary>
    private const int MostNodes = 2_000_000;

    private readonly List<List<(byte First, byte Last, int To)>> _edges = [];
    private readonly List<List<int>> _jumps = [];
    private readonly Dictionary<string, State> _states = new(StringComparer.Ordinal);
    private readonly int[] _distance;
    private readonly int _end;

    /// <exception cref="InvalidRequestException">The pattern is too large.</exception>
    public Automaton(Pattern pattern)
    {
        int start = Node();
        _end = Build(pattern, start);
        _distance = Distances();
        Dead = new State([], false, int.MaxValue);
        Start = StateOf([start]);
    }

    public State Start { get; }

    /// <summary>Where nothing can follow.</summary>
    public State Dead { get; }

    public State Next(State state, byte value)
    {
        State?[] next = state.Next;
        return next[value] ??= Step(state, value);
    }

    private State Step(State state, byte value)
    {
        var to = new List<int>();
        foreach (int node in state.Nodes)
        {
            foreach (var (first, last, target) in _edges[node])
            {
                if (value >= first && value <= last)
                {
                    to.Add(target);
                }
            }
        }
        return to.Count == 0 ? Dead : StateOf(to);
    }

    private State StateOf(List<int> nodes)
    {
        var seen = new HashSet<int>();
        var open = new Stack<int>(nodes);
        while (open.TryPop(out int node))
        {
            if (seen.Add(node))
            {
                _jumps[node].ForEach(open.Push);
            }
        }
        // Nodes that only jump lead nowhere by themselves.
        int[] all = [.. seen.Where(n => _edges[n].Count > 0 || n == _end).Order()];
        string key = string.Join(',', all);
        if (!_states.TryGetValue(key, out State? state))
        {
            int distance = all.Select(n => _distance[n]).DefaultIfEmpty(int.MaxValue).Min();
            _states.Add(key, state = distance == int.MaxValue ? Dead : new State(all, all.Contains(_end), distance));
        }
        return state;
    }

    private int Node()
    {
        if (_edges.Count >= MostNodes)
        {
            throw new InvalidRequestException("The schema or expression is too large: fewer or smaller repetitions, or less nesting, is needed.");
        }
        _edges.Add([]);
        _jumps.Add([]);
        return _edges.Count - 1;
    }

    private int Edge(int from, byte first, byte last)
    {
        int to = Node();
        _edges[from].Add((first, last, to));
        return to;
    }

    /// <returns>Where the pattern ends that begins at the node.</returns>
    private int Build(Pattern pattern, int from)
    {
        switch (pattern)
        {
            case Pattern.Literal literal:
                return literal.Bytes.Aggregate(from, (at, b) => Edge(at, b, b));
            case Pattern.Character character:
                int end = Node();
                foreach (var (first, last) in character.Set.Ranges)
                {
                    Utf8(first, last, from, end);
                }
                return end;
            case Pattern.Sequence sequence:
                return sequence.Parts.Aggregate(from, (at, part) => Build(part, at));
            case Pattern.Choice choice:
                int after = Node();
                foreach (Pattern one in choice.Choices)
                {
                    int begin = Node();
                    _jumps[from].Add(begin);
                    _jumps[Build(one, begin)].Add(after);
                }
                return after;
            case Pattern.Repeat repeat:
                return BuildRepeat(repeat, from);
            case Pattern.Members members:
                return BuildMembers(members, from);
            default:
                throw new ArgumentException($"{pattern} is no pattern that is known.");
        }
    }

    private int BuildRepeat(Pattern.Repeat repeat, int from)
    {
        int at = from, written = 0;
        int end = Node();
        // The last of those that are written out repeats itself where there is no most.
        int count = repeat.Most ?? Math.Max(1, repeat.Least);
        while (written < count)
        {
            if (written >= repeat.Least)
            {
                _jumps[at].Add(end);
            }
            int begin = Node();
            _jumps[written > 0 ? Build(repeat.Separator, at) : at].Add(begin);
            at = Build(repeat.Inner, begin);
            written++;
            if (written == count && repeat.Most is null)
            {
                _jumps[Build(repeat.Separator, at)].Add(begin);
            }
        }
        _jumps[at].Add(end);
        return end;
    }

    private int BuildMembers(Pattern.Members members, int from)
    {
        // Two ways run side by side: nothing written yet, and something written, after which a separator comes first.
        int none = from, some = Node();
        foreach (var (member, required) in members.All)
        {
            int nextSome = Node();
            int first = Node();
            _jumps[none].Add(first);
            _jumps[Build(members.Separator, some)].Add(first);
            _jumps[Build(member, first)].Add(nextSome);
            int nextNone = Node();
            if (!required)
            {
                _jumps[none].Add(nextNone);
                _jumps[some].Add(nextSome);
            }
            (none, some) = (nextNone, nextSome);
        }
        int end = Node();
        _jumps[none].Add(end);
        _jumps[some].Add(end);
        return end;
    }

    /// <summary>The bytes of a range of code points: split until each part is a product of byte ranges.</summary>
    private void Utf8(int first, int last, int from, int end)
    {
        foreach (int border in (ReadOnlySpan<int>)[0x7F, 0x7FF, 0xFFFF])
        {
            if (first <= border && last > border)
            {
                Utf8(first, border, from, end);
                Utf8(border + 1, last, from, end);
                return;
            }
        }
        if (last <= 0x7F)
        {
            _edges[from].Add(((byte)first, (byte)last, end));
            return;
        }
        int length = new System.Text.Rune(first).Utf8SequenceLength;
        for (int bits = 6; bits < 6 * length; bits += 6)
        {
            int mask = (1 << bits) - 1;
            if ((first & ~mask) != (last & ~mask))
            {
                if ((first & mask) != 0)
                {
                    Utf8(first, first | mask, from, end);
                    Utf8((first | mask) + 1, last, from, end);
                    return;
                }
                if ((last & mask) != mask)
                {
                    Utf8(first, (last & ~mask) - 1, from, end);
                    Utf8(last & ~mask, last, from, end);
                    return;
                }
            }
        }
        Span<byte> low = stackalloc byte[4], high = stackalloc byte[4];
        new System.Text.Rune(first).EncodeToUtf8(low);
        new System.Text.Rune(last).EncodeToUtf8(high);
        int at = from;
        for (int i = 0; i < length - 1; i++)
        {
            at = Edge(at, low[i], high[i]);
        }
        _edges[at].Add((low[length - 1], high[length - 1], end));
    }

    /// <summary>Bytes from each node to the end, by breadth from the end; those that do not reach it are at the greatest number.</summary>
    private int[] Distances()
    {
        int count = _edges.Count;
        var before = new List<(int From, int Cost)>[count];
        for (int n = 0; n < count; n++)
        {
            foreach (int to in _jumps[n])
            {
                (before[to] ??= []).Add((n, 0));
            }
            foreach (var (_, _, to) in _edges[n])
            {
                (before[to] ??= []).Add((n, 1));
            }
        }
        int[] distance = new int[count];
        Array.Fill(distance, int.MaxValue);
        distance[_end] = 0;
        var open = new LinkedList<int>([_end]);
        while (open.First is { } node)
        {
            open.RemoveFirst();
            foreach (var (from, cost) in before[node.Value] ?? [])
            {
                if (distance[node.Value] + cost < distance[from])
                {
                    distance[from] = distance[node.Value] + cost;
                    if (cost == 0)
                    {
                        open.AddFirst(from);
                    }
                    else
                    {
                        open.AddLast(from);
                    }
                }
            }
        }
        return distance;
    }

    /// <param name="nodes">In order.</param>
    /// <param name="accepts">Whether the text may end here.</param>
    /// <param name="distance">Bytes to the nearest end.</param>
    internal sealed class State(int[] nodes, bool accepts, int distance)
    {
        public int[] Nodes => nodes;

        public bool Accepts => accepts;

        public int Distance => distance;

        public State?[] Next { get; } = new State?[256];

        /// <summary>Tokens that may come next, by bit; null until it is asked for.</summary>
        public ulong[]? Allowed { get; set; }

        /// <summary>Bytes to the nearest end from the farthest state that one of those tokens leads to.</summary>
        public int Farthest { get; set; }
    }
}
