using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace Diptych.Runtimes.Text;

/// <summary>
/// BERT's uncased WordPiece (Devlin et al. 2019): clean, set CJK apart, strip accents, lower-case, split at blanks and
/// punctuation, then the longest vocabulary entry first. Written here because the library's own (Microsoft.ML.Tokenizers 2.0)
/// drops symbols, tabs and line ends that the reference keeps.
/// </summary>
public sealed partial class WordPieceTokenizer : IEncoderTokenizer
{
    private const int LongestWord = 100;
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _beginnings, _continuations;
    private readonly int _unknown, _start, _separator;

    private readonly bool _uncased;

    /// <exception cref="InvalidOperationException">The process runs without Unicode data (invariant globalization).</exception>
    public WordPieceTokenizer(string vocabularyPath, int maxTokens)
        : this(File.ReadLines(vocabularyPath), maxTokens, uncased: true)
    {
    }

    private WordPieceTokenizer(IEnumerable<string> vocabulary, int maxTokens, bool uncased)
    {
        _uncased = uncased;
        if ("é".Normalize(NormalizationForm.FormD).Length != 2)
        {
            throw new InvalidOperationException(
                "Unicode normalization does not work in this process: install ICU (Debian: libicu) and unset DOTNET_SYSTEM_GLOBALIZATION_INVARIANT.");
        }
        Dictionary<string, int> beginnings = new(StringComparer.Ordinal), continuations = new(StringComparer.Ordinal);
        int id = 0;
        foreach (string line in vocabulary)
        {
            bool continues = line.StartsWith("##", StringComparison.Ordinal);
            (continues ? continuations : beginnings).TryAdd(continues ? line[2..] : line, id++);
        }
        _beginnings = beginnings.GetAlternateLookup<ReadOnlySpan<char>>();
        _continuations = continuations.GetAlternateLookup<ReadOnlySpan<char>>();
        (_unknown, _start, _separator) = (beginnings["[UNK]"], beginnings["[CLS]"], beginnings["[SEP]"]);
        MaxTokens = maxTokens;
    }

    /// <summary>Reads tokenizer.json, or vocab.txt, of a model's folder.</summary>
    /// <exception cref="InvalidDataException">Neither is there, or it is of another kind.</exception>
    public static WordPieceTokenizer Open(string directory, int maxTokens)
    {
        string whole = Path.Combine(directory, "tokenizer.json"), words = Path.Combine(directory, "vocab.txt"), settings = Path.Combine(directory, "tokenizer_config.json");
        if (File.Exists(whole))
        {
            try
            {
                return FromJson(whole, maxTokens);
            }
            catch (Exception error) when (error is JsonException or InvalidOperationException or KeyNotFoundException or FormatException)
            {
                throw new InvalidDataException($"{whole} is no WordPiece tokenizer, BERT's, with its markers: {error.Message}", error);
            }
        }
        if (!File.Exists(words))
        {
            throw new InvalidDataException($"{directory} has no tokenizer.json and no vocab.txt.");
        }
        bool uncased = true;
        if (File.Exists(settings))
        {
            using JsonDocument json = Encoders.DualEncoder.Config(directory, "tokenizer_config.json");
            uncased = !(json.RootElement.TryGetProperty("do_lower_case", out JsonElement lower) && lower.ValueKind == JsonValueKind.False);
        }
        try
        {
            return new WordPieceTokenizer(File.ReadLines(words), maxTokens, uncased);
        }
        catch (KeyNotFoundException error)
        {
            throw new InvalidDataException($"{words} lacks one of BERT's markers [UNK], [CLS], [SEP].", error);
        }
    }

    private static WordPieceTokenizer FromJson(string path, int maxTokens)
    {
        using var json = JsonDocument.Parse(File.ReadAllBytes(path));
        JsonElement model = json.RootElement.GetProperty("model");
        if (model.TryGetProperty("type", out JsonElement type) && type.GetString() is not "WordPiece" and var kind)
        {
            throw new InvalidDataException($"{path} is a tokenizer of the kind {kind}; WordPiece, BERT's, is read.");
        }
        bool cased = json.RootElement.TryGetProperty("normalizer", out JsonElement normalizer) && normalizer.ValueKind == JsonValueKind.Object && normalizer.TryGetProperty("lowercase", out JsonElement lower) && lower.ValueKind == JsonValueKind.False;
        return new WordPieceTokenizer(model.GetProperty("vocab").EnumerateObject().OrderBy(v => v.Value.GetInt32()).Select(v => v.Name), maxTokens, !cased);
    }

    public int MaxTokens { get; }

    public int[] Encode(string text)
    {
        List<int> ids = [_start];
        Append(text, ids);
        if (ids.Count >= MaxTokens)
        {
            ids.RemoveRange(MaxTokens - 1, ids.Count - MaxTokens + 1);
        }
        ids.Add(_separator);
        return [.. ids];
    }

    /// <summary>A pair of texts, each with its separator; where both are too long the longer is cut first. Ids of the second text are their complement.</summary>
    public int[] EncodePair(string first, string second)
    {
        List<int> a = [], b = [];
        Append(first, a);
        Append(second, b);
        int room = MaxTokens - 3;
        if (a.Count + b.Count > room)
        {
            int shorter = Math.Min(Math.Min(a.Count, b.Count), room / 2), longer = room - shorter;
            bool firstIsShorter = a.Count <= b.Count;
            a.RemoveRange(Math.Min(a.Count, firstIsShorter ? shorter : longer), a.Count - Math.Min(a.Count, firstIsShorter ? shorter : longer));
            b.RemoveRange(Math.Min(b.Count, firstIsShorter ? longer : shorter), b.Count - Math.Min(b.Count, firstIsShorter ? longer : shorter));
        }
        return [_start, .. a, _separator, .. b.Select(id => ~id), ~_separator];
    }

    public int Count(string text)
    {
        List<int> ids = [];
        Append(text, ids);
        return ids.Count;
    }

    private void Append(string text, List<int> ids)
    {
        int start = 0;
        // As the reference does, special tokens are recognised where they stand in the text.
        foreach (ValueMatch special in Special().EnumerateMatches(text))
        {
            AppendPlain(text[start..special.Index], ids);
            ids.Add(_beginnings[text.AsSpan(special.Index, special.Length)]);
            start = special.Index + special.Length;
        }
        AppendPlain(start == 0 ? text : text[start..], ids);
    }

    private void AppendPlain(string text, List<int> ids)
    {
        string normalized = Normalize(text);
        int start = -1;
        for (int i = 0; i < normalized.Length;)
        {
            Rune.DecodeFromUtf16(normalized.AsSpan(i), out Rune rune, out int length);
            bool blank = Rune.IsWhiteSpace(rune), alone = IsPunctuation(rune);
            if ((blank || alone) && start >= 0)
            {
                AppendWord(normalized.AsSpan(start, i - start), ids);
                start = -1;
            }
            if (alone)
            {
                AppendWord(normalized.AsSpan(i, length), ids);
            }
            else if (!blank && start < 0)
            {
                start = i;
            }
            i += length;
        }
        if (start >= 0)
        {
            AppendWord(normalized.AsSpan(start), ids);
        }
    }

    private void AppendWord(ReadOnlySpan<char> word, List<int> ids)
    {
        int before = ids.Count;
        int runes = 0;
        foreach (Rune _ in word.EnumerateRunes())
        {
            runes++;
        }
        for (int from = 0; from < word.Length && runes <= LongestWord;)
        {
            int to = word.Length, id = -1;
            for (; to > from; to--)
            {
                if ((from == 0 ? _beginnings : _continuations).TryGetValue(word[from..to], out id))
                {
                    break;
                }
            }
            if (to == from)
            {
                ids.RemoveRange(before, ids.Count - before);
                ids.Add(_unknown);
                return;
            }
            ids.Add(id);
            from = to;
        }
        if (ids.Count == before)
        {
            ids.Add(_unknown);
        }
    }

    private string Normalize(string text)
    {
        var cleaned = new StringBuilder(text.Length + 8);
        foreach (Rune rune in text.EnumerateRunes())
        {
            if (Rune.IsWhiteSpace(rune))
            {
                cleaned.Append(' ');
            }
            else if (IsCjk(rune.Value))
            {
                cleaned.Append(' ').Append(rune).Append(' ');
            }
            else if (rune.Value is not (0 or 0xFFFD) && Rune.GetUnicodeCategory(rune) is not (UnicodeCategory.Control or UnicodeCategory.Format))
            {
                cleaned.Append(rune);
            }
        }
        if (!_uncased)
        {
            return cleaned.ToString();
        }
        string decomposed = cleaned.ToString().Normalize(NormalizationForm.FormD);
        var folded = new StringBuilder(decomposed.Length);
        foreach (Rune rune in decomposed.EnumerateRunes())
        {
            if (Rune.GetUnicodeCategory(rune) != UnicodeCategory.NonSpacingMark)
            {
                folded.Append(Rune.ToLowerInvariant(rune));
            }
        }
        return folded.ToString();
    }

    private static bool IsPunctuation(Rune rune) =>
        rune.Value is (>= 33 and <= 47) or (>= 58 and <= 64) or (>= 91 and <= 96) or (>= 123 and <= 126) || Rune.IsPunctuation(rune);

    private static bool IsCjk(int c) => c
        is (>= 0x4E00 and <= 0x9FFF) or (>= 0x3400 and <= 0x4DBF) or (>= 0x20000 and <= 0x2A6DF) or (>= 0x2A700 and <= 0x2B73F)
        or (>= 0x2B740 and <= 0x2B81F) or (>= 0x2B820 and <= 0x2CEAF) or (>= 0xF900 and <= 0xFAFF) or (>= 0x2F800 and <= 0x2FA1F);

    [GeneratedRegex(@"\[(CLS|SEP|MASK|PAD|UNK)\]", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Special();
}
