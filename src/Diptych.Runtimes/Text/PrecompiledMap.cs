using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace Diptych.Runtimes.Text;

/// <summary>
/// SentencePiece's table of what characters become (a kind of NFKC, mostly): a double-array trie over the bytes of what is replaced, whose
/// values point into the replacements. A cluster of up to five bytes is looked up as a whole, everything else by character, and the first
/// prefix that the trie holds counts: as Hugging Face's tokenizers library has it.
/// </summary>
internal sealed class PrecompiledMap
{
    private const int LongestCluster = 6;
    private readonly uint[] _units;
    private readonly byte[] _replacements;

    /// <exception cref="InvalidDataException">The table is cut off.</exception>
    public PrecompiledMap(ReadOnlySpan<byte> table)
    {
        int length = table.Length < 4 ? -1 : BinaryPrimitives.ReadInt32LittleEndian(table);
        if (length < 4 || length % 4 != 0 || length > table.Length - 4)
        {
            throw new InvalidDataException("the table of the normalizer Precompiled is cut off.");
        }
        _units = new uint[length / 4];
        for (int i = 0; i < _units.Length; i++)
        {
            _units[i] = BinaryPrimitives.ReadUInt32LittleEndian(table[(4 + (4 * i))..]);
        }
        _replacements = table[(4 + length)..].ToArray();
    }

    public string Apply(string text)
    {
        var result = new StringBuilder(text.Length);
        TextElementEnumerator clusters = StringInfo.GetTextElementEnumerator(text);
        while (clusters.MoveNext())
        {
            string cluster = clusters.GetTextElement();
            if (Encoding.UTF8.GetByteCount(cluster) < LongestCluster && Replaced(cluster) is { } whole)
            {
                result.Append(whole);
                continue;
            }
            foreach (Rune rune in cluster.EnumerateRunes())
            {
                result.Append(Replaced(rune.ToString()) ?? rune.ToString());
            }
        }
        return result.ToString();
    }

    /// <returns>Null where nothing that the text begins with is in the table.</returns>
    private string? Replaced(string text)
    {
        uint at = Offset(_units[0]);
        foreach (byte b in Encoding.UTF8.GetBytes(text))
        {
            at ^= b;
            if (b == 0 || at >= _units.Length || (_units[at] & ((1u << 31) | 0xFF)) != b)
            {
                return null;
            }
            bool ends = ((_units[at] >> 8) & 1) == 1;
            at ^= Offset(_units[at]);
            if (ends && at < _units.Length)
            {
                int from = (int)(_units[at] & ((1u << 31) - 1)), to = from < _replacements.Length ? Array.IndexOf(_replacements, (byte)0, from) : -1;
                return to < 0 ? null : Encoding.UTF8.GetString(_replacements, from, to - from);
            }
        }
        return null;
    }

    private static uint Offset(uint unit) => (unit >> 10) << (int)((unit & (1u << 9)) >> 6);
}
