namespace Diptych.Runtimes.Structured;

/// <summary>A vocabulary's tokens by their bytes, so that what may come next is found for all of them in one walk.</summary>
internal sealed class TokenTrie
{
    // Nodes in the order of a walk: a node's first child follows it, and After says where its subtree ends.
    private readonly byte[] _bytes;
    private readonly int[] _after;
    private readonly int[] _tokens;
    private readonly int _words;
    private readonly IReadOnlyList<byte[]> _all;

    /// <param name="tokens">Each token's bytes; those of markers are empty.</param>
    public TokenTrie(IReadOnlyList<byte[]> tokens)
    {
        (_words, _all) = ((tokens.Count + 63) / 64, tokens);
        (byte[] Bytes, int Id)[] sorted = [.. tokens.Select((b, i) => (b, i)).Where(t => t.b.Length > 0)];
        Array.Sort(sorted, (a, b) => a.Bytes.AsSpan().SequenceCompareTo(b.Bytes) is var order && order != 0 ? order : a.Id.CompareTo(b.Id));
        var bytes = new List<byte>();
        var after = new List<int>();
        var ids = new List<int>();
        Add(0, sorted.Length, 0);
        (_bytes, _after, _tokens) = ([.. bytes], [.. after], [.. ids]);

        void Add(int from, int to, int depth)
        {
            while (from < to)
            {
                byte value = sorted[from].Bytes[depth];
                int end = from;
                while (end < to && sorted[end].Bytes[depth] == value)
                {
                    end++;
                }
                int node = bytes.Count;
                bytes.Add(value);
                after.Add(0);
                // Two tokens of the same bytes are one: the first.
                ids.Add(sorted[from].Bytes.Length == depth + 1 ? sorted[from].Id : -1);
                while (from < end && sorted[from].Bytes.Length == depth + 1)
                {
                    from++;
                }
                Add(from, end, depth + 1);
                after[node] = bytes.Count;
                from = end;
            }
        }
    }

    /// <summary>A token's bytes; empty for markers and for what is not in the vocabulary.</summary>
    public ReadOnlySpan<byte> Bytes(int token) => token < _all.Count ? _all[token] : [];

    /// <summary>Tokens all of whose bytes lead on from a state: worked out once and kept with it.</summary>
    public ulong[] Allowed(Automaton automaton, Automaton.State state)
    {
        if (state.Allowed is null)
        {
            (state.Allowed, state.Farthest) = Allowed(automaton, state, int.MaxValue - 1);
        }
        return state.Allowed;
    }

    /// <summary>Of those tokens the ones after which an end is within so many bytes, and how far the farthest is.</summary>
    public (ulong[] Allowed, int Farthest) Allowed(Automaton automaton, Automaton.State state, int within)
    {
        ulong[] allowed = new ulong[_words];
        int farthest = 0;
        Walk(0, _bytes.Length, state);
        return (allowed, farthest);

        void Walk(int from, int to, Automaton.State at)
        {
            for (int node = from; node < to; node = _after[node])
            {
                Automaton.State next = automaton.Next(at, _bytes[node]);
                if (next == automaton.Dead)
                {
                    continue;
                }
                if (_tokens[node] is >= 0 and var token && next.Distance <= within)
                {
                    allowed[token >> 6] |= 1UL << (token & 63);
                    farthest = Math.Max(farthest, next.Distance);
                }
                if (_after[node] > node + 1)
                {
                    Walk(node + 1, _after[node], next);
                }
            }
        }
    }
}
