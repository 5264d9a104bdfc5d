using System.Text;

namespace Diptych.Runtimes.Text;

/// <summary>
/// SentencePiece's unigram model (Kudo 2018): of all ways to cut a piece into tokens of the vocabulary the likeliest, found from left to
/// right. What no token holds is one unknown token.
/// </summary>
internal sealed class UnigramModel
{
    /// <summary>How much less likely than the least likely token an unknown character is, as a logarithm.</summary>
    private const double UnknownPenalty = 10;

    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _ids;
    private readonly double[] _scores;
    private readonly int[]? _bytes;
    private readonly int _unknown, _longest;
    private readonly double _unknownScore;

    /// <param name="tokens">In the order of their ids, each with the logarithm of its probability.</param>
    /// <param name="byBytes">Whether what no token holds is written by tokens of its bytes.</param>
    /// <exception cref="InvalidDataException">There are no tokens, or the unknown one is none of them.</exception>
    public UnigramModel(IReadOnlyList<(string Text, double Score)> tokens, int unknown, bool byBytes)
    {
        if (unknown < 0 || unknown >= tokens.Count)
        {
            throw new InvalidDataException($"the unknown token {unknown} is none of {tokens.Count}.");
        }
        var ids = new Dictionary<string, int>(StringComparer.Ordinal);
        for (int id = 0; id < tokens.Count; id++)
        {
            ids[tokens[id].Text] = id;
        }
        _ids = ids.GetAlternateLookup<ReadOnlySpan<char>>();
        (_scores, _unknown, _longest) = ([.. tokens.Select(t => t.Score)], unknown, tokens.Max(t => t.Text.Length));
        _unknownScore = _scores.Min() - UnknownPenalty;
        int[] bytes = [.. Enumerable.Range(0, 256).Select(b => ids.GetValueOrDefault($"<0x{b:X2}>", -1))];
        _bytes = byBytes && Array.TrueForAll(bytes, b => b >= 0) ? bytes : null;
    }

    public void Encode(string piece, List<int> into)
    {
        if (piece.Length == 0)
        {
            return;
        }
        int n = piece.Length;
        double[] best = new double[n + 1];
        int[] from = new int[n + 1], id = new int[n + 1];
        Array.Fill(from, -1);
        from[0] = 0;
        for (int start = 0; start < n;)
        {
            Rune.DecodeFromUtf16(piece.AsSpan(start), out _, out int character);
            bool alone = false;
            for (int length = 1, most = Math.Min(_longest, n - start); length <= most; length++)
            {
                if (_ids.TryGetValue(piece.AsSpan(start, length), out int token))
                {
                    Reach(start, start + length, best[start] + _scores[token], token);
                    alone |= length == character;
                }
            }
            if (!alone)
            {
                Reach(start, start + character, best[start] + _unknownScore, _unknown);
            }
            start += character;
        }
        int first = into.Count;
        for (int end = n; end > 0; end = from[end])
        {
            if (id[end] != _unknown)
            {
                into.Add(id[end]);
            }
            else if (_bytes is not null)
            {
                into.AddRange(Encoding.UTF8.GetBytes(piece[from[end]..end]).Reverse().Select(b => _bytes[b]));
            }
            else if (into.Count == first || into[^1] != _unknown)
            {
                into.Add(_unknown);
            }
        }
        into.Reverse(first, into.Count - first);

        void Reach(int start, int end, double score, int token)
        {
            if (from[end] < 0 || score > best[end])
            {
                (best[end], from[end], id[end]) = (score, start, token);
            }
        }
    }
}
