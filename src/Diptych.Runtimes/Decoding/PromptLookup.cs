namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Guesses what comes next by what followed the same three tokens, or two, before (prompt lookup; Saxena 2023): an answer that quotes its
/// passages is found in them. How long a guess is worth its time is reckoned from how often guesses were right after as many tokens in
/// common, and from what a longer step costs.
/// </summary>
internal sealed class PromptLookup
{
    /// <summary>Tokens of a guess at the most.</summary>
    private const int Longest = 11;

    /// <summary>Tokens in common that are told apart: up to 2, 3, 5, 8, and more.</summary>
    private static readonly int[] InCommon = [2, 3, 5, 8];

    /// <summary>Of guessed tokens by tokens in common: how many were right, and how many were looked at. They begin with what is usual.</summary>
    private readonly double[] _right = [3, 4, 5, 5.5, 5.7], _seen = [6, 6, 6, 6, 6];
    private readonly Dictionary<(int, int, int), int> _threes = [];
    private readonly Dictionary<(int, int), int> _twos = [];
    private int _read;
    private int _kind;

    /// <param name="most">Tokens at the most.</param>
    /// <param name="time">What a step of so many tokens takes, in any unit.</param>
    public int[] Guess(List<int> ids, int most, Func<int, double> time)
    {
        // The last tokens are what is looked for: they are not yet among what was read.
        for (int end = Math.Max(2, _read); end < ids.Count; end++)
        {
            _twos[(ids[end - 2], ids[end - 1])] = end;
            if (end >= 3)
            {
                _threes[(ids[end - 3], ids[end - 2], ids[end - 1])] = end;
            }
        }
        _read = ids.Count;
        if (ids.Count < 3 || (!_threes.TryGetValue((ids[^3], ids[^2], ids[^1]), out int from) && !_twos.TryGetValue((ids[^2], ids[^1]), out from)))
        {
            return [];
        }
        int common = 2;
        while (common <= InCommon[^1] && common < from && ids[from - common - 1] == ids[^(common + 1)])
        {
            common++;
        }
        _kind = Array.FindIndex(InCommon, c => common <= c) is >= 0 and var kind ? kind : InCommon.Length;
        int count = Worthwhile(_right[_kind] / _seen[_kind], Math.Min(Math.Min(Longest, most), ids.Count - from), time);
        return count == 0 ? [] : [.. ids.GetRange(from, count).TakeWhile(id => id >= 0)];
    }

    /// <summary>What became of the last guess.</summary>
    public void Learn(int guessed, int right)
    {
        const double Forget = 0.97;
        _right[_kind] = (_right[_kind] * Forget) + right;
        _seen[_kind] = (_seen[_kind] * Forget) + Math.Min(right + 1, guessed);
    }

    /// <summary>The length at which the most tokens are expected in the least time; 0 where no guess is worth it.</summary>
    private static int Worthwhile(double chance, int most, Func<int, double> time)
    {
        double best = 1 / time(1), reached = 1, expected = 1;
        int length = 0;
        for (int n = 1; n <= most; n++)
        {
            reached *= chance;
            expected += reached;
            if (expected / time(n + 1) > best)
            {
                (best, length) = (expected / time(n + 1), n);
            }
        }
        return length;
    }
}
