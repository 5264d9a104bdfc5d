namespace Diptych.Runtimes.Decoding;

/// <summary>The pages of one sequence, by group of layers and by block of 16 tokens.</summary>
internal sealed class SequenceBlocks(KeyValueBlocks memory)
{
    /// <summary>Stands where no token to come looks.</summary>
    public const int None = -1;

    private readonly List<int>[] _pages = [.. Enumerable.Range(0, memory.Layout.Groups).Select(_ => new List<int>())];
    private readonly int[] _forgotten = new int[memory.Layout.Groups];

    /// <summary>Pages for so many tokens.</summary>
    /// <exception cref="InvalidOperationException">The memory has not as many free.</exception>
    public static SequenceBlocks For(KeyValueBlocks memory, int tokens)
    {
        var blocks = new SequenceBlocks(memory);
        return blocks.Grow(tokens) ? blocks : throw new InvalidOperationException($"There are no pages for {tokens} tokens.");
    }

    public int Groups => _pages.Length;

    /// <summary>Pages that are held.</summary>
    public int Held => _pages.Sum(of => of.Count(page => page != None));

    /// <summary>A group's pages in the order of the tokens.</summary>
    public List<int> Of(int group) => _pages[group];

    /// <returns>False where no page is free; those that were taken stay.</returns>
    public bool Grow(int tokens)
    {
        foreach (List<int> of in _pages)
        {
            while (of.Count * KeyValueBlocks.TokensPerBlock < tokens)
            {
                int page = memory.Take();
                if (page == None)
                {
                    return false;
                }
                of.Add(page);
            }
        }
        return true;
    }

    /// <summary>Gives back what neither the token at <paramref name="next"/> nor a later one sees.</summary>
    public void Forget(int next)
    {
        for (int group = 0; group < _pages.Length; group++)
        {
            List<int> of = _pages[group];
            for (int end = Math.Min(of.Count, memory.Layout.FirstSeen(group, next) / KeyValueBlocks.TokensPerBlock); _forgotten[group] < end; _forgotten[group]++)
            {
                Return(of[_forgotten[group]]);
                of[_forgotten[group]] = None;
            }
        }
    }

    public void Release()
    {
        foreach (List<int> of in _pages)
        {
            of.ForEach(Return);
            of.Clear();
        }
        Array.Clear(_forgotten);
    }

    private void Return(int page)
    {
        if (page != None)
        {
            memory.Return(page);
        }
    }
}
