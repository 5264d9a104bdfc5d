using Diptych.Core;

namespace Diptych.Runtimes.Structured;

/// <summary>
/// A pattern as an automaton over bytes (Thompson 1968), made deterministic as far as it is walked (Rabin and Scott 1959). Each state knows
/// how many bytes lie between it and the nearest end. Not for several threads at once.
/// </summary>
internal sealed class Automaton
{
    /// <summary>More than this is a pattern that no answer is meant to follow.</summary>
    private const int MostNodes = 500_000;

    /// <summary>Nodes that a state may stand for: each byte of each token is tried on all of them.</summary>
    private const int MostInState = 20_000;

    /// <summary>
    /// Nodes of all states that are kept, each with what it weighs by itself: some patterns have more states than there is memory, and what
    /// is forgotten is worked out again.
    /// </summary>
    private const int MostKept = 4_000_000, NodesThatAStateWeighs = 600;

    private readonly List<(int From, byte First, byte Last, int To)> _edges = [];
    private readonly List<(int From, int To)> _jumps = [];
    private readonly Dictionary<int[], State> _states = new(new SameNodes());
    private readonly int[] _edgesOf, _jumpsOf, _distance;
    private readonly int _end;
    private int _nodes, _kept;

    /// <exception cref="InvalidRequestException">The pattern is too large.</exception>
    public Automaton(Pattern pattern)
    {
        int start = Node();
        _end = Build(pattern, start);
        _edgesOf = InOrder(_edges, e => e.From);
        _jumpsOf = InOrder(_jumps, j => j.From);
        _distance = Distances();
        Dead = new State([], false, int.MaxValue);
        Start = StateOf([start]);
    }

    /// <summary>Nodes.</summary>
    public int Size => _nodes;

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
            for (int edge = _edgesOf[node]; edge < _edgesOf[node + 1]; edge++)
            {
                var (_, first, last, target) = _edges[edge];
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
                for (int jump = _jumpsOf[node]; jump < _jumpsOf[node + 1]; jump++)
                {
                    open.Push(_jumps[jump].To);
                }
            }
        }
        // Nodes that only jump lead nowhere by themselves.
        int[] all = [.. seen.Where(n => _edgesOf[n + 1] > _edgesOf[n] || n == _end).Order()];
        if (_states.TryGetValue(all, out State? state))
        {
            return state;
        }
        if (all.Length > MostInState)
        {
            throw TooLarge();
        }
        int distance = all.Select(n => _distance[n]).DefaultIfEmpty(int.MaxValue).Min();
        if (distance == int.MaxValue)
        {
            return Dead;
        }
        if ((_kept += all.Length + NodesThatAStateWeighs) > MostKept)
        {
            foreach (State old in _states.Values)
            {
                old.Forget();
            }
            _states.Clear();
            _kept = all.Length + NodesThatAStateWeighs;
        }
        _states.Add(all, state = new State(all, all.Contains(_end), distance));
        return state;
    }

    /// <summary>Sorts what leaves nodes by them.</summary>
    /// <returns>Where each node's begin, [nodes + 1].</returns>
    private int[] InOrder<T>(List<T> all, Func<T, int> from)
    {
        int[] begins = new int[_nodes + 1];
        foreach (T one in all)
        {
            begins[from(one) + 1]++;
        }
        for (int node = 0; node < _nodes; node++)
        {
            begins[node + 1] += begins[node];
        }
        int[] next = begins[.._nodes];
        var sorted = new T[all.Count];
        foreach (T one in all)
        {
            sorted[next[from(one)]++] = one;
        }
        all.Clear();
        all.AddRange(sorted);
        return begins;
    }

    private static InvalidRequestException TooLarge() =>
        new("The schema or expression is too large: fewer or smaller repetitions, or less nesting, is needed.");

    private int Node() => _nodes < MostNodes ? _nodes++ : throw TooLarge();

    private int Edge(int from, byte first, byte last)
    {
        int to = Node();
        _edges.Add((from, first, last, to));
        return to;
    }

    private void Jump(int from, int to) => _jumps.Add((from, to));

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
                    Jump(from, begin);
                    Jump(Build(one, begin), after);
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
                Jump(at, end);
            }
            int begin = Node();
            Jump(written > 0 ? Build(repeat.Separator, at) : at, begin);
            at = Build(repeat.Inner, begin);
            written++;
            if (written == count && repeat.Most is null)
            {
                Jump(Build(repeat.Separator, at), begin);
            }
        }
        Jump(at, end);
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
            Jump(none, first);
            Jump(Build(members.Separator, some), first);
            Jump(Build(member, first), nextSome);
            int nextNone = Node();
            if (!required)
            {
                Jump(none, nextNone);
                Jump(some, nextSome);
            }
            (none, some) = (nextNone, nextSome);
        }
        int end = Node();
        Jump(none, end);
        Jump(some, end);
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
            _edges.Add((from, (byte)first, (byte)last, end));
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
        _edges.Add((at, low[length - 1], high[length - 1], end));
    }

    /// <summary>Bytes from each node to the end, by breadth from the end; those that do not reach it are at the greatest number.</summary>
    private int[] Distances()
    {
        List<(int From, int To, int Cost)> before = [.. _jumps.Select(j => (j.From, j.To, 0)), .. _edges.Select(e => (e.From, e.To, 1))];
        int[] beforeOf = InOrder(before, b => b.To);
        int[] distance = new int[_nodes];
        Array.Fill(distance, int.MaxValue);
        distance[_end] = 0;
        var (near, far) = (new Stack<int>([_end]), new Stack<int>());
        for (int bytes = 0; near.Count > 0; (near, far, bytes) = (far, near, bytes + 1))
        {
            while (near.TryPop(out int node))
            {
                if (distance[node] < bytes)
                {
                    continue;
                }
                for (int i = beforeOf[node]; i < beforeOf[node + 1]; i++)
                {
                    var (from, _, cost) = before[i];
                    if (bytes + cost < distance[from])
                    {
                        distance[from] = bytes + cost;
                        (cost == 0 ? near : far).Push(from);
                    }
                }
            }
        }
        return distance;
    }

    private sealed class SameNodes : IEqualityComparer<int[]>
    {
        public bool Equals(int[]? one, int[]? other) => one.AsSpan().SequenceEqual(other);

        public int GetHashCode(int[] nodes)
        {
            var hash = new HashCode();
            hash.AddBytes(System.Runtime.InteropServices.MemoryMarshal.AsBytes(nodes.AsSpan()));
            return hash.ToHashCode();
        }
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

        /// <summary>Lets go of the states that follow.</summary>
        public void Forget()
        {
            Array.Clear(Next);
            Allowed = null;
        }
    }
}
