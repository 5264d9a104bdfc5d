using System.Globalization;
using System.Text;
using System.Text.Json;
using Diptych.Runtimes.Text;

namespace Diptych.Runtimes.Decoding;

/// <summary>Tokens of characters, as SentencePiece has them; and what a tokenizer.json says beside its model.</summary>
public sealed partial class BytePairTokenizer
{
    /// <summary>GPT-2's cut.</summary>
    private const string Gpt2 = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// <summary>No token of SentencePiece's goes on over a space: what can be joined lies between two.</summary>
    private const string BySpaces = " *[^ ]+| +";

    /// <summary>Stands for a space in SentencePiece's vocabularies.</summary>
    private const char SpaceMark = '\u2581';

    private const int Control = 3, UserDefined = 4, Unknown = 2;

    /// <summary>Of a GGUF file: neighbours whose union has the highest score are joined first.</summary>
    private static BytePairTokenizer OfScores(string[] tokens, float[] scores, int[] kinds, bool prefix, int? begin)
    {
        if (scores.Length != tokens.Length || kinds.Length != tokens.Length)
        {
            throw new InvalidDataException($"The tokenizer has {tokens.Length} tokens, {scores.Length} scores and {kinds.Length} kinds.");
        }
        int[] order = [.. Enumerable.Range(0, tokens.Length).OrderByDescending(i => scores[i])], ranks = new int[tokens.Length];
        var ids = new Dictionary<string, int>(StringComparer.Ordinal);
        for (int rank = 0; rank < order.Length; rank++)
        {
            ranks[order[rank]] = rank;
            ids.TryAdd(tokens[rank], rank);
        }
        var merges = new Dictionary<(int, int), (int, int)>();
        for (int id = 0; id < tokens.Length; id++)
        {
            for (int at = 1; at < tokens[id].Length; at++)
            {
                if (ids.TryGetValue(tokens[id][..at], out int left) && ids.TryGetValue(tokens[id][at..], out int right))
                {
                    merges.TryAdd((left, right), (ranks[id], id));
                }
            }
        }
        return OfPieces(tokens, merges, id => kinds[id] is Control or UserDefined or Unknown, SpacePrefix.Never, begin, prefix ? text => $" {text}" : null);
    }

    private static BytePairTokenizer OfPieces(string[] tokens, Dictionary<(int, int), (int, int)> merges, Func<int, bool> isSpecial, SpacePrefix prefix, int? begin, Func<string, string>? normalize)
    {
        var specials = new Dictionary<string, int>(StringComparer.Ordinal);
        byte[][] bytes = new byte[tokens.Length][];
        int[] byteIds = new int[256];
        Array.Fill(byteIds, -1);
        for (int id = 0; id < tokens.Length; id++)
        {
            if (isSpecial(id))
            {
                specials.TryAdd(tokens[id], id);
            }
            if (tokens[id] is ['<', '0', 'x', _, _, '>'] text && byte.TryParse(text.AsSpan(3, 2), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out byte b))
            {
                byteIds[b] = id;
                bytes[id] = [b];
                continue;
            }
            bytes[id] = Encoding.UTF8.GetBytes(isSpecial(id) ? tokens[id] : tokens[id].Replace(SpaceMark, ' '));
        }
        return Array.Exists(byteIds, b => b < 0)
            ? throw new InvalidDataException("tokens of bytes (<0x00> to <0xFF>) are missing, which stand for characters without a token.")
            : new BytePairTokenizer(bytes, merges, BySpaces, specials, prefix, byteIds) { Begin = begin, Normalize = normalize };
    }

    /// <summary>A piece's characters, or their bytes where there is no token for one.</summary>
    private List<int> Characters(byte[] piece)
    {
        var parts = new List<int>(piece.Length);
        for (int at = 0; at < piece.Length;)
        {
            Rune.DecodeFromUtf8(piece.AsSpan(at), out _, out int length);
            if (_ids.TryGetValue(Latin(piece[at..(at + length)]), out int id))
            {
                parts.Add(id);
            }
            else
            {
                parts.AddRange(piece[at..(at + length)].Select(b => _byteIds[b]));
            }
            at += length;
        }
        return parts;
    }

    /// <summary>How a byte-level model's text is cut: by its own pattern, or by GPT-2's.</summary>
    private static string CutOf(JsonElement cuts)
    {
        JsonElement[] all = cuts.GetProperty("type").GetString() == "Sequence" ? [.. cuts.GetProperty("pretokenizers").EnumerateArray()] : [cuts];
        JsonElement[] splits = Array.FindAll(all, c => c.GetProperty("type").GetString() == "Split");
        return splits.Length > 1 ? throw new InvalidDataException("texts that are cut by several patterns in turn are not read.")
            : splits.Length == 1 ? TextNormalizer.Pattern(splits[0].GetProperty("pattern")).ToString()
            : all.Any(c => c.GetProperty("type").GetString() == "Digits") ? SmolLm : Gpt2;
    }

    /// <summary>The token that the post-processor puts before a text.</summary>
    private static int? BeginOf(JsonElement root)
    {
        JsonElement after = root.TryGetProperty("post_processor", out JsonElement processor) ? processor : default;
        if (after.ValueKind == JsonValueKind.Object && after.TryGetProperty("processors", out JsonElement several))
        {
            after = several.EnumerateArray().FirstOrDefault(p => p.GetProperty("type").GetString() == "TemplateProcessing");
        }
        return after.ValueKind == JsonValueKind.Object && after.TryGetProperty("single", out JsonElement single) && single.GetArrayLength() > 0 && single[0].TryGetProperty("SpecialToken", out JsonElement first)
            ? after.GetProperty("special_tokens").GetProperty(first.GetProperty("id").GetString()!).GetProperty("ids")[0].GetInt32()
            : null;
    }
}
