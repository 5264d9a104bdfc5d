namespace Diptych.Runtimes.Decoding;

/// <summary>
/// A decoder's layers in groups of one size, so that a page of memory (16 tokens in one group) serves any of them. Groups of layers that
/// see every token before keep all their pages; groups of layers that see one chunk (Llama 4's with positions) or one window (Mistral's)
/// give back the pages that no later token sees.
/// </summary>
internal sealed class KeyValueLayout
{
    private readonly DecoderConfig _config;
    private readonly int[] _groups, _places, _layers;

    public KeyValueLayout(DecoderConfig config)
    {
        _config = config;
        int[] order = [.. Enumerable.Range(0, config.Layers).OrderBy(Forgets)];
        LayersPerGroup = GreatestDivisor(order.Count(l => !Forgets(l)), order.Count(Forgets));
        Groups = config.Layers / LayersPerGroup;
        (_groups, _places, _layers) = (new int[config.Layers], new int[config.Layers], [.. order.Where((_, i) => i % LayersPerGroup == 0)]);
        for (int i = 0; i < order.Length; i++)
        {
            (_groups[order[i]], _places[order[i]]) = (i / LayersPerGroup, i % LayersPerGroup);
        }
    }

    public int Groups { get; }

    public int LayersPerGroup { get; }

    public long PageBytes => (long)KeyValueBlocks.TokensPerBlock * _config.KeyValueHeads * _config.HeadWidth * 2 * LayersPerGroup * sizeof(float);

    public int GroupOf(int layer) => _groups[layer];

    /// <summary>Where a layer stands in its group.</summary>
    public int PlaceOf(int layer) => _places[layer];

    /// <summary>Whether pages of the group are given back while a sequence grows.</summary>
    public bool GroupForgets(int group) => Forgets(_layers[group]);

    /// <summary>The first token that the token at a position sees in the layers of a group.</summary>
    public int FirstSeen(int group, int position) => GroupForgets(group) ? _config.FirstSeen(_layers[group], position) : 0;

    /// <summary>Pages that a sequence holds at most on its way to a length.</summary>
    /// <param name="step">Tokens of it that are computed at a time, at most.</param>
    public long MostPages(int tokens, int step)
    {
        long pages = 0;
        for (int group = 0; group < Groups; group++)
        {
            int held = GroupForgets(group) ? (int)Math.Min(tokens, (long)_config.Reach(_layers[group])!.Value + step + KeyValueBlocks.TokensPerBlock) : tokens;
            pages += (held / KeyValueBlocks.TokensPerBlock) + 1;
        }
        return pages;
    }

    private bool Forgets(int layer) => _config.Reach(layer) < _config.MaxTokens;

    private static int GreatestDivisor(int a, int b) => b == 0 ? a : GreatestDivisor(b, a % b);
}
