using System.Runtime.InteropServices;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Keys and values of all sequences, in pages of 16 tokens by one group of layers that are handed out and come back one by one, so that
/// no sequence holds more than it uses. A page may be shared by sequences with the same beginning.
/// </summary>
internal sealed unsafe class KeyValueBlocks : IDisposable
{
    public const int TokensPerBlock = 16;
    private readonly float* _memory;
    private readonly nuint _floatsPerPage;
    private readonly Stack<int> _free;
    private readonly int[] _users;
    private readonly int _headWidth;

    public KeyValueBlocks(DecoderConfig config, int pages)
    {
        Layout = new KeyValueLayout(config);
        RowWidth = config.KeyValueHeads * config.HeadWidth;
        _headWidth = config.HeadWidth;
        Count = pages;
        _floatsPerPage = (nuint)(Layout.PageBytes / sizeof(float));
        _memory = (float*)NativeMemory.AlignedAlloc(_floatsPerPage * (nuint)pages * sizeof(float), 64);
        _free = new Stack<int>(Enumerable.Range(0, pages).Reverse());
        _users = new int[pages];
    }

    /// <summary>Memory for sequences of so many tokens together, of which nothing is given back.</summary>
    public static KeyValueBlocks Holding(DecoderConfig config, int tokens, int sequences = 1) =>
        new(config, new KeyValueLayout(config).Groups * ((tokens / TokensPerBlock) + sequences));

    public KeyValueLayout Layout { get; }

    /// <summary>Numbers of a token's keys, or values, in one layer.</summary>
    public int RowWidth { get; }

    public int Count { get; }

    public int Free => _free.Count;

    /// <returns><see cref="SequenceBlocks.None"/> where none is free.</returns>
    public int Take()
    {
        if (!_free.TryPop(out int page))
        {
            return SequenceBlocks.None;
        }
        _users[page] = 1;
        return page;
    }

    public void Share(int page) => _users[page]++;

    /// <summary>One user less; without any, the page is free.</summary>
    public void Return(int page)
    {
        if (--_users[page] == 0)
        {
            _free.Push(page);
        }
    }

    public int Users(int page) => _users[page];

    /// <summary>[head width, 16]: keys of one head in a layer.</summary>
    public float* Keys(int page, int layer, int head) => Of(page, layer) + (head * _headWidth * TokensPerBlock);

    /// <summary>[16, row width]: values of a layer.</summary>
    public float* Values(int page, int layer) => Of(page, layer) + (TokensPerBlock * RowWidth);

    /// <summary>Puts a token's keys and values [row width] in their place.</summary>
    public void Write(int page, int layer, int position, float* keys, float* values)
    {
        float* to = Of(page, layer) + (position % TokensPerBlock);
        for (int i = 0; i < RowWidth; i++)
        {
            to[i * TokensPerBlock] = keys[i];
        }
        new ReadOnlySpan<float>(values, RowWidth).CopyTo(new Span<float>(Values(page, layer) + (position % TokensPerBlock * RowWidth), RowWidth));
    }

    /// <summary>All of a page.</summary>
    public Span<byte> Bytes(int page) => new(_memory + ((nuint)page * _floatsPerPage), (int)Layout.PageBytes);

    public void Dispose() => NativeMemory.AlignedFree(_memory);

    private float* Of(int page, int layer) => _memory + ((nuint)page * _floatsPerPage) + ((nuint)Layout.PlaceOf(layer) * TokensPerBlock * (nuint)RowWidth * 2);
}
