using System.IO.Hashing;
using System.Runtime.InteropServices;
using System.Text;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Whole blocks of prompts by a hash chained from the first block on (of 128 bits, so that two beginnings are not taken for one), with the
/// adapter and whose prompt it is in it. A page that is found is shared; when memory is needed the ends of what was not used for longest
/// leave first.
/// </summary>
internal sealed class PrefixCache(KeyValueBlocks memory)
{
    private const int Tokens = KeyValueBlocks.TokensPerBlock;
    private readonly Dictionary<UInt128, LinkedListNode<Block>> _blocks = [];
    private readonly LinkedList<Block> _order = new();

    /// <summary>Pages that only this cache holds.</summary>
    public int Evictable => _order.Sum(b => b.Pages.Count(p => p != SequenceBlocks.None && memory.Users(p) == 1));

    /// <summary>What a chain begins with.</summary>
    /// <param name="owner">Who alone may find these blocks; empty for anyone.</param>
    public static UInt128 Seed(LoraAdapter? adapter, string owner) => XxHash128.HashToUInt128(Encoding.UTF8.GetBytes($"{adapter?.Name}\0{adapter?.Content}\0{owner}"));

    /// <summary>
    /// Shares the pages of the longest known beginning that can be gone on from: where layers see a window, the pages of the last one are
    /// needed. The last token is always left to compute, since its logits are wanted.
    /// </summary>
    /// <param name="hashes">Of the sequence's blocks so far; grows.</param>
    /// <returns>Blocks found.</returns>
    public int Find(List<UInt128> hashes, UInt128 seed, List<int> ids, SequenceBlocks into)
    {
        Extend(hashes, seed, ids, (ids.Count - 1) / Tokens);
        var known = new List<LinkedListNode<Block>>();
        int found = 0, groups = into.Groups;
        int[] run = new int[groups];
        foreach (UInt128 hash in hashes)
        {
            if (known.Count >= (ids.Count - 1) / Tokens || !_blocks.TryGetValue(hash, out LinkedListNode<Block>? node))
            {
                break;
            }
            known.Add(node);
            bool enough = true;
            for (int group = 0; group < groups; group++)
            {
                run[group] = node.Value.Pages[group] == SequenceBlocks.None ? 0 : run[group] + 1;
                enough &= run[group] >= known.Count - (memory.Layout.FirstSeen(group, known.Count * Tokens) / Tokens);
            }
            found = enough ? known.Count : found;
        }
        for (int group = 0; group < groups; group++)
        {
            int first = memory.Layout.FirstSeen(group, found * Tokens) / Tokens;
            for (int i = 0; i < found; i++)
            {
                int page = i < first ? SequenceBlocks.None : known[i].Value.Pages[group];
                if (page != SequenceBlocks.None)
                {
                    memory.Share(page);
                }
                into.Of(group).Add(page);
            }
        }
        for (int i = found - 1; i >= 0; i--)
        {
            Touch(known[i]);
        }
        return found;
    }

    /// <summary>Keeps the whole blocks of a prompt that are computed, before any of their pages is given back.</summary>
    /// <param name="computed">Tokens of the prompt that are.</param>
    public void Add(List<UInt128> hashes, UInt128 seed, List<int> ids, SequenceBlocks pages, int computed)
    {
        Extend(hashes, seed, ids, computed / Tokens);
        for (int i = (computed / Tokens) - 1; i >= 0; i--)
        {
            if (_blocks.TryGetValue(hashes[i], out LinkedListNode<Block>? node))
            {
                Touch(node);
            }
            else
            {
                int[] none = new int[pages.Groups];
                Array.Fill(none, SequenceBlocks.None);
                _blocks.Add(hashes[i], node = _order.AddFirst(new Block(hashes[i], none)));
            }
            for (int group = 0; group < pages.Groups; group++)
            {
                int page = pages.Of(group)[i];
                if (node.Value.Pages[group] == SequenceBlocks.None && page != SequenceBlocks.None)
                {
                    memory.Share(page);
                    node.Value.Pages[group] = page;
                }
            }
        }
    }

    /// <returns>False where no page can leave.</returns>
    public bool Evict()
    {
        for (LinkedListNode<Block>? node = _order.Last; node is not null; node = node.Previous)
        {
            int[] pages = node.Value.Pages;
            bool freed = false;
            for (int group = 0; group < pages.Length; group++)
            {
                if (pages[group] != SequenceBlocks.None && memory.Users(pages[group]) == 1)
                {
                    memory.Return(pages[group]);
                    pages[group] = SequenceBlocks.None;
                    freed = true;
                }
            }
            if (freed)
            {
                if (Array.TrueForAll(pages, p => p == SequenceBlocks.None))
                {
                    _blocks.Remove(node.Value.Hash);
                    _order.Remove(node);
                }
                return true;
            }
        }
        return false;
    }

    private void Touch(LinkedListNode<Block> node)
    {
        _order.Remove(node);
        _order.AddFirst(node);
    }

    private static void Extend(List<UInt128> hashes, UInt128 seed, List<int> ids, int blocks)
    {
        while (hashes.Count < blocks)
        {
            UInt128 before = hashes.Count == 0 ? seed : hashes[^1];
            var hash = new XxHash128();
            Span<ulong> head = [(ulong)(before >> 64), (ulong)before];
            hash.Append(MemoryMarshal.AsBytes(head));
            hash.Append(MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(ids).Slice(hashes.Count * Tokens, Tokens)));
            hashes.Add(hash.GetCurrentHashAsUInt128());
        }
    }

    /// <param name="Pages">By group; none where it was given back.</param>
    private sealed record Block(UInt128 Hash, int[] Pages);
}
