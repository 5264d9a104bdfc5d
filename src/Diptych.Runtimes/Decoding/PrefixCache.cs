using System.IO.Hashing;
using System.Runtime.InteropServices;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Whole blocks of prompts by a hash chained from the first block on (of 128 bits, so that two beginnings are not taken for one), with the
/// adapter in it. A block that is found is shared; the least recently used that nobody else uses leaves when memory is needed.
/// </summary>
internal sealed class PrefixCache(KeyValueBlocks blocks)
{
    private readonly Dictionary<UInt128, LinkedListNode<(UInt128 Hash, int Block)>> _nodes = [];
    private readonly LinkedList<(UInt128 Hash, int Block)> _order = new();

    /// <summary>Blocks that only this cache holds.</summary>
    public int Evictable => _order.Count(n => blocks.Users(n.Block) == 1);

    /// <summary>Shares the blocks of the longest known beginning. The last token is always left to compute, since its logits are needed.</summary>
    /// <returns>Blocks found.</returns>
    public int Find(List<int> ids, LoraAdapter? adapter, List<int> into)
    {
        int found = 0;
        foreach (UInt128 hash in Hashes(ids, adapter, ids.Count - 1))
        {
            if (!_nodes.TryGetValue(hash, out var node))
            {
                break;
            }
            _order.Remove(node);
            _order.AddFirst(node);
            blocks.Share(node.Value.Block);
            into.Add(node.Value.Block);
            found++;
        }
        return found;
    }

    /// <summary>Keeps the whole blocks of a prompt that was computed.</summary>
    public void Add(List<int> ids, LoraAdapter? adapter, List<int> from)
    {
        int i = 0;
        foreach (UInt128 hash in Hashes(ids, adapter, ids.Count))
        {
            if (i < from.Count && !_nodes.ContainsKey(hash))
            {
                blocks.Share(from[i]);
                _nodes.Add(hash, _order.AddFirst((hash, from[i])));
            }
            i++;
        }
    }

    /// <returns>False where no block can leave.</returns>
    public bool Evict()
    {
        for (var node = _order.Last; node is not null; node = node.Previous)
        {
            if (blocks.Users(node.Value.Block) == 1)
            {
                blocks.Return(node.Value.Block);
                _nodes.Remove(node.Value.Hash);
                _order.Remove(node);
                return true;
            }
        }
        return false;
    }

    private static IEnumerable<UInt128> Hashes(List<int> ids, LoraAdapter? adapter, int tokens)
    {
        UInt128 before = XxHash128.HashToUInt128(System.Text.Encoding.UTF8.GetBytes(adapter?.Name ?? ""));
        for (int at = 0; at + KeyValueBlocks.TokensPerBlock <= tokens; at += KeyValueBlocks.TokensPerBlock)
        {
            yield return before = Chain(before, ids, at);
        }
    }

    private static UInt128 Chain(UInt128 before, List<int> ids, int at)
    {
        var hash = new XxHash128();
        Span<ulong> head = [(ulong)(before >> 64), (ulong)before];
        hash.Append(MemoryMarshal.AsBytes(head));
        hash.Append(MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(ids).Slice(at, KeyValueBlocks.TokensPerBlock)));
        return hash.GetCurrentHashAsUInt128();
    }
}
