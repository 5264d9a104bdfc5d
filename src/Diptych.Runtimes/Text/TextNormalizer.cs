using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace Diptych.Runtimes.Text;

/// <summary>What a tokenizer.json does to a text before it is cut: its "normalizer", as Hugging Face's tokenizers library runs it.</summary>
internal static partial class TextNormalizer
{
    /// <exception cref="InvalidDataException">A step is of a kind that is not known.</exception>
    public static Func<string, string> Read(JsonElement json)
    {
        if (json.ValueKind != JsonValueKind.Object)
        {
            return text => text;
        }
        string type = json.GetProperty("type").GetString()!;
        bool Is(string name, bool otherwise) => json.TryGetProperty(name, out JsonElement flag) && flag.ValueKind is JsonValueKind.True or JsonValueKind.False ? flag.GetBoolean() : otherwise;
        switch (type)
        {
            case "Sequence":
                Func<string, string>[] steps = [.. json.GetProperty("normalizers").EnumerateArray().Select(Read)];
                return text => steps.Aggregate(text, (value, step) => step(value));
            case "Lowercase":
                return Lowercase;
            case "NFC" or "NFD" or "NFKC" or "NFKD":
                NormalizationForm form = type switch { "NFC" => NormalizationForm.FormC, "NFD" => NormalizationForm.FormD, "NFKC" => NormalizationForm.FormKC, _ => NormalizationForm.FormKD };
                return text => Whole(text).Normalize(form);
            case "Strip":
                bool left = Is("strip_left", true), right = Is("strip_right", true);
                return text => (left, right) switch { (true, true) => text.Trim(), (true, false) => text.TrimStart(), (false, true) => text.TrimEnd(), _ => text };
            case "StripAccents":
                return text => string.Concat(text.EnumerateRunes().Where(r => Rune.GetUnicodeCategory(r) != UnicodeCategory.NonSpacingMark));
            case "Replace":
                Regex pattern = Pattern(json.GetProperty("pattern"));
                string content = json.GetProperty("content").GetString()!;
                return text => pattern.Replace(text, _ => content);
            case "Prepend":
                string prefix = json.GetProperty("prepend").GetString()!;
                return text => text.Length == 0 ? text : prefix + text;
            case "Precompiled":
                return new PrecompiledMap(json.GetProperty("precompiled_charsmap").GetBytesFromBase64()).Apply;
            case "Nmt":
                return text => Spaces().Replace(Controls().Replace(text, ""), " ");
            default:
                throw new InvalidDataException($"the normalizer {type} is not known.");
        }
    }

    /// <summary>A pattern as a tokenizer.json gives it: a text, or a regular expression.</summary>
    public static Regex Pattern(JsonElement json) => json.TryGetProperty("String", out JsonElement plain)
        ? new Regex(Regex.Escape(plain.GetString()!), RegexOptions.CultureInvariant, TimeSpan.FromSeconds(10))
        : new Regex(Possessive().Replace(json.GetProperty("Regex").GetString()!, "$1"), RegexOptions.CultureInvariant, TimeSpan.FromSeconds(10));

    /// <summary>Halves of a character that lost the other are not taken by .NET's normalization.</summary>
    private static string Whole(string text) => string.Concat(text.EnumerateRunes());

    private static string Lowercase(string text)
    {
        var lower = new StringBuilder(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            // The one letter whose small form is two.
            lower.Append(rune.Value == 0x130 ? "i\u0307" : Rune.ToLowerInvariant(rune).ToString());
        }
        return lower.ToString();
    }

    /// <summary>.NET has no possessive quantifiers. What follows them in patterns that cut text never begins as they end.</summary>
    [GeneratedRegex(@"(?<!\\)([?+*]|(?<=[\d,])\})\+", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Possessive();

    [GeneratedRegex(@"[\u0001-\u0008\u000B\u000E-\u001F\u007F\u008F\u009F]", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Controls();

    [GeneratedRegex(@"[\t\n\f\r\u1680\u200B-\u200F\u2028\u2029\u2581\uFEFF\uFFFD]", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Spaces();
}
