namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Guesses what comes next by what followed the same three tokens, or two, before (prompt lookup; Saxena 2023): an answer that quotes its
/// passages is found in them. The more of a guess was right, the longer the next one.
/// </summary>
internal sealed class PromptLookup
{
    private const int Longest = 12;
    private readonly Dictionary<(int, int, int), int> _threes = [];
    private readonly Dictionary<(int, int), int> _twos = [];
    private int _read;
    private int _length = 4;

    /// <param name="most">Tokens at the most.</param>
    public int[] Guess(List<int> ids, int most)
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
        int count = Math.Min(Math.Min(_length, most), ids.Count - from);
        return count <= 0 ? [] : [.. ids.GetRange(from, count).TakeWhile(id => id >= 0)];
    }

    public void Learn(int guessed, int right) => _length = right == guessed ? Math.Min(2 * _length, Longest) : Math.Clamp(right + 1, 2, Longest);
}
