using System.Text;

namespace Diptych.Index.Lexical;

/// <summary>Turns what a person typed into an FTS5 expression: any word matches, quoted phrases stay phrases.</summary>
public static class FullTextQuery
{
    private const int MaxTerms = 64;

    private static readonly HashSet<string> StopWords = new(
        ("a about an and any are as at be been but by can could did do does for from had has have how i if in into is it its me my no not of on or "
        + "our show so such tell than that the their them then there these they this those to was we were what when where which who whose why "
        + "will with would you your").Split(' '),
        StringComparer.OrdinalIgnoreCase);

    /// <summary>The words that carry meaning, lower-cased, in order, each once; all words where none does.</summary>
    public static IReadOnlyList<string> Terms(string text)
    {
        List<string> words = [.. Words(text).Select(w => text[w.Start..w.End].ToLowerInvariant()).Distinct(StringComparer.Ordinal)];
        List<string> meaningful = words.FindAll(w => !StopWords.Contains(w));
        return (meaningful.Count > 0 ? meaningful : words).Take(MaxTerms).ToList();
    }

    /// <returns>Null when the text has no word.</returns>
    public static string? Parse(string text) => Parts(text) is { Count: > 0 } parts ? string.Join(" OR ", parts.Select(p => $"\"{p}\"")) : null;

    /// <summary>The words and quoted phrases, any of which may match; of letters and digits only.</summary>
    public static IReadOnlyList<string> Parts(string text)
    {
        var parts = new List<string>();
        string[] pieces = text.Split('"');
        // An odd piece stands between quotation marks, unless the last mark was never closed.
        for (int i = 0; i < pieces.Length; i++)
        {
            bool phrase = i % 2 == 1 && i < pieces.Length - 1;
            if (phrase)
            {
                string words = string.Join(' ', Words(pieces[i]).Select(w => pieces[i][w.Start..w.End]));
                if (words.Length > 0)
                {
                    parts.Add(words);
                }
            }
            else if (Words(pieces[i]).Any())
            {
                parts.AddRange(Terms(pieces[i]));
            }
        }
        return [.. parts.Distinct(StringComparer.Ordinal).Take(MaxTerms)];
    }

    /// <summary>Runs of letters, digits and marks, as FTS5's unicode61 tokenizer splits.</summary>
    public static IEnumerable<(int Start, int End)> Words(string text)
    {
        int start = -1;
        for (int i = 0; i <= text.Length; i++)
        {
            bool inside = i < text.Length && (char.IsLetterOrDigit(text[i]) || char.IsSurrogate(text[i])
                || char.GetUnicodeCategory(text[i]) is System.Globalization.UnicodeCategory.NonSpacingMark or System.Globalization.UnicodeCategory.PrivateUse);
            if (inside && start < 0)
            {
                start = i;
            }
            else if (!inside && start >= 0)
            {
                yield return (start, i);
                start = -1;
            }
        }
    }

    /// <summary>A crude stem that is good enough to highlight: plural and verb endings off, accents off.</summary>
    public static string Stem(string word)
    {
        string folded = new([.. word.ToLowerInvariant().Normalize(NormalizationForm.FormD)
            .Where(c => char.GetUnicodeCategory(c) != System.Globalization.UnicodeCategory.NonSpacingMark)]);
        foreach (string ending in (ReadOnlySpan<string>)["ing", "ies", "ed", "es", "s", "y", "e"])
        {
            if (folded.Length > ending.Length + 2 && folded.EndsWith(ending, StringComparison.Ordinal))
            {
                return folded[..^ending.Length];
            }
        }
        return folded;
    }
}
