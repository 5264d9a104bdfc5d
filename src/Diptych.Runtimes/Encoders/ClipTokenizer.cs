using System.Net;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Diptych.Inference;
using Diptych.Runtimes.Decoding;

namespace Diptych.Runtimes.Encoders;

/// <summary>
/// CLIP's byte pair encoding: lower case, cut into words, the last piece of each marked; between a begin and an end token, cut to the
/// model's length.
/// </summary>
public sealed partial class ClipTokenizer : ITokenizer
{
    private const string EndOfWord = "</w>";
    private static readonly string[] ByteSigns = Signs();
    private readonly Dictionary<string, int> _ids;
    private readonly Dictionary<(string, string), int> _ranks;
    private readonly int _begin, _end;

    /// <param name="merges">Pairs, the first to be joined first.</param>
    public ClipTokenizer(IReadOnlyDictionary<string, int> ids, IEnumerable<(string, string)> merges, int maxTokens)
    {
        _ids = new Dictionary<string, int>(ids, StringComparer.Ordinal);
        _ranks = merges.Select((m, i) => (m, i)).GroupBy(p => p.m).ToDictionary(g => g.Key, g => g.First().i);
        (_begin, _end, MaxTokens) = (Id("<|startoftext|>"), Id("<|endoftext|>"), maxTokens);
    }

    public int MaxTokens { get; }

    /// <summary>From the list of merges alone, as OpenAI published it: the vocabulary follows from it.</summary>
    public static ClipTokenizer OfMerges(IReadOnlyList<(string, string)> merges, int maxTokens)
    {
        string[] all = [.. ByteSigns, .. ByteSigns.Select(b => b + EndOfWord), .. merges.Select(m => m.Item1 + m.Item2), "<|startoftext|>", "<|endoftext|>"];
        return new ClipTokenizer(all.Select((t, i) => (t, i)).GroupBy(p => p.t, StringComparer.Ordinal).ToDictionary(g => g.Key, g => g.First().i, StringComparer.Ordinal), merges, maxTokens);
    }

    /// <summary>Reads a tokenizer.json, or a vocab.json with its merges.txt.</summary>
    /// <returns>Null where the folder has no tokenizer of this kind.</returns>
    /// <exception cref="InvalidDataException">The files are damaged.</exception>
    public static ClipTokenizer? Open(string directory, int maxTokens)
    {
        string whole = Path.Combine(directory, "tokenizer.json"), vocabulary = Path.Combine(directory, "vocab.json"), merges = Path.Combine(directory, "merges.txt");
        try
        {
            if (File.Exists(whole))
            {
                using var json = JsonDocument.Parse(File.ReadAllBytes(whole));
                JsonElement model = json.RootElement.GetProperty("model");
                return !model.TryGetProperty("end_of_word_suffix", out JsonElement suffix) || suffix.GetString() != EndOfWord ? null : new ClipTokenizer(
                    model.GetProperty("vocab").EnumerateObject().ToDictionary(e => e.Name, e => e.Value.GetInt32(), StringComparer.Ordinal),
                    model.GetProperty("merges").EnumerateArray().Select(m => m.ValueKind == JsonValueKind.String ? Pair(m.GetString()!) : (m[0].GetString()!, m[1].GetString()!)), maxTokens);
            }
            if (File.Exists(vocabulary) && File.Exists(merges))
            {
                using var json = JsonDocument.Parse(File.ReadAllBytes(vocabulary));
                return new ClipTokenizer(
                    json.RootElement.EnumerateObject().ToDictionary(e => e.Name, e => e.Value.GetInt32(), StringComparer.Ordinal),
                    File.ReadLines(merges).Where(l => l.Length > 0 && !l.StartsWith("#version", StringComparison.Ordinal)).Select(Pair), maxTokens);
            }
            return null;
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or KeyNotFoundException or ArgumentException or IndexOutOfRangeException)
        {
            throw new InvalidDataException($"The tokenizer of {directory} cannot be read: {error.Message}", error);
        }
    }

    public int[] Encode(string text) => [_begin, .. Pieces(text).Take(MaxTokens - 2), _end];

    public int Count(string text) => Pieces(text).Count();

    private IEnumerable<int> Pieces(string text)
    {
        string clean = Spaces().Replace(WebUtility.HtmlDecode(WebUtility.HtmlDecode(Mended(text))), " ").Trim();
        clean = FinalSigma().Replace(clean.Replace("\u0130", "i\u0307", StringComparison.Ordinal), "\u03C2").ToLowerInvariant();
        // Characters beyond the first plane are halves of no class to .NET: each is stood for by one of its class.
        var (shape, starts) = BytePairTokenizer.Shape(clean);
        foreach (Match word in Words().Matches(shape))
        {
            var parts = Encoding.UTF8.GetBytes(clean[starts[word.Index]..starts[word.Index + word.Length]]).Select(b => ByteSigns[Place(b)]).ToList();
            parts[^1] += EndOfWord;
            while (parts.Count > 1)
            {
                var best = Enumerable.Range(0, parts.Count - 1).Select(i => (Rank: _ranks.GetValueOrDefault((parts[i], parts[i + 1]), int.MaxValue), Pair: (parts[i], parts[i + 1]))).MinBy(p => p.Rank);
                if (best.Rank == int.MaxValue)
                {
                    break;
                }
                for (int i = 0; i + 1 < parts.Count; i++)
                {
                    if ((parts[i], parts[i + 1]) == best.Pair)
                    {
                        parts[i] += parts[i + 1];
                        parts.RemoveAt(i + 1);
                    }
                }
            }
            foreach (string part in parts)
            {
                if (_ids.TryGetValue(part, out int id))
                {
                    yield return id;
                }
            }
        }
    }

    /// <summary>What the reference mends before it cuts (ftfy): ligatures, curled quotes, wide forms, marks that nobody sees; composed where it can be.</summary>
    private static string Mended(string text)
    {
        var mended = new StringBuilder(text.Length);
        foreach (char c in text)
        {
            mended.Append(c switch
            {
                >= '\uFB00' and <= '\uFB06' or >= '\uFF01' and <= '\uFF5E' or >= '\u01C4' and <= '\u01CC' or >= '\u01F1' and <= '\u01F3' or '\u0132' or '\u0133' or '\u0149' => c.ToString().Normalize(NormalizationForm.FormKC),
                '\u2018' or '\u2019' or '\u201A' or '\u201B' => "'",
                '\u201C' or '\u201D' or '\u201E' or '\u201F' => "\"",
                '\uFEFF' or (>= '\u206A' and <= '\u206F') or (< ' ' and not ('\t' or '\n' or '\r' or '\f')) or '\u007F' => "",
                _ => c.ToString(),
            });
        }
        return mended.ToString().Normalize();
    }

    private int Id(string token) => _ids.TryGetValue(token, out int id) ? id : throw new InvalidDataException($"The tokenizer lacks {token}.");

    private static (string, string) Pair(string line) => line.Split(' ') is [var a, var b] ? (a, b) : throw new InvalidDataException($"'{line}' is no pair to merge.");

    /// <summary>Bytes as GPT-2 writes them, in the order in which CLIP numbers them: printable ones first.</summary>
    private static string[] Signs()
    {
        int[] printable = [.. Enumerable.Range('!', '~' - '!' + 1), .. Enumerable.Range(0xA1, 0xAC - 0xA1 + 1), .. Enumerable.Range(0xAE, 0xFF - 0xAE + 1)];
        return [.. printable.Select(b => ((char)b).ToString()), .. Enumerable.Range(0, 256 - printable.Length).Select(i => ((char)(256 + i)).ToString())];
    }

    private static int Place(byte b) => b switch
    {
        >= (byte)'!' and <= (byte)'~' => b - '!',
        >= 0xA1 and <= 0xAC => b - 0xA1 + 94,
        >= 0xAE => b - 0xAE + 106,
        <= 0x20 => 188 + b,
        0xAD => 255,
        _ => 188 + 33 + (b - 0x7F),
    };

    [GeneratedRegex(@"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", RegexOptions.CultureInvariant | RegexOptions.IgnoreCase, 10_000)]
    private static partial Regex Words();

    [GeneratedRegex(@"(?<=\p{L})\u03A3(?!\p{L})", RegexOptions.CultureInvariant, 10_000)]
    private static partial Regex FinalSigma();

    [GeneratedRegex(@"\s+", RegexOptions.CultureInvariant, 10_000)]
    private static partial Regex Spaces();
}
