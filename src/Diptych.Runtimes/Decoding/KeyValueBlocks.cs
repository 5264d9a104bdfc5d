using System.Runtime.InteropServices;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Keys and values of all sequences, in blocks of 16 tokens that are handed out and come back one by one, so that no sequence holds more
/// than it uses. A block may be shared by sequences with the same beginning.
/// </summary>
internal sealed unsafe class KeyValueBlocks : IDisposable
{
    public const int TokensPerBlock = 16;
    private readonly float* _memory;
    private readonly nuint _floatsPerBlock;
    private readonly Stack<int> _free;
    private readonly int[] _users;
    private readonly int _headWidth;

    public KeyValueBlocks(DecoderConfig config, int blocks)
    {
        RowWidth = config.KeyValueHeads * config.HeadWidth;
        _headWidth = config.HeadWidth;
        Layers = config.Layers;
        Count = blocks;
        _floatsPerBlock = (nuint)TokensPerBlock * (nuint)RowWidth * 2 * (nuint)Layers;
        _memory = (float*)NativeMemory.AlignedAlloc(_floatsPerBlock * (nuint)blocks * sizeof(float), 64);
        _free = new Stack<int>(Enumerable.Range(0, blocks).Reverse());
        _users = new int[blocks];
    }

    public int RowWidth { get; }

    public int Layers { get; }

    public int Count { get; }

    public int Free => _free.Count;

    public static long BytesPerBlock(DecoderConfig config) => (long)TokensPerBlock * config.KeyValueHeads * config.HeadWidth * 2 * config.Layers * sizeof(float);

    /// <returns>-1 where none is free.</returns>
    public int Take()
    {
        if (!_free.TryPop(out int block))
        {
            return -1;
        }
        _users[block] = 1;
        return block;
    }

    public void Share(int block) => _users[block]++;

    /// <returns>True when nobody uses the block any more.</returns>
    public bool Return(int block)
    {
        if (--_users[block] > 0)
        {
            return false;
        }
        _free.Push(block);
        return true;
    }

    public int Users(int block) => _users[block];

    /// <summary>[head width, 16]: keys of one head in a layer.</summary>
    public float* Keys(int block, int layer, int head) => Of(block, layer) + (head * _headWidth * TokensPerBlock);

    /// <summary>[16, row width]: values of a layer.</summary>
    public float* Values(int block, int layer) => Of(block, layer) + (TokensPerBlock * RowWidth);

    /// <summary>Puts a token's keys and values [row width] in their place.</summary>
    public void Write(int block, int layer, int position, float* keys, float* values)
    {
        float* to = Of(block, layer) + (position % TokensPerBlock);
        for (int i = 0; i < RowWidth; i++)
        {
            to[i * TokensPerBlock] = keys[i];
        }
        new ReadOnlySpan<float>(values, RowWidth).CopyTo(new Span<float>(Values(block, layer) + (position % TokensPerBlock * RowWidth), RowWidth));
    }

    public void Dispose() => NativeMemory.AlignedFree(_memory);

    private float* Of(int block, int layer) => _memory + ((nuint)block * _floatsPerBlock) + ((nuint)layer * TokensPerBlock * (nuint)RowWidth * 2);
}
