using System.Text;

namespace Diptych.Index.Lexical;

/// <summary>Turns what a person typed into what may match: any word, and quoted phrases as phrases.</summary>
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

    /// <summary>
    /// What may match: words, quoted phrases, beginnings of words (<c>harb*</c>), and identifiers kept whole (<c>v2.0.1-rc3</c> is the
    /// phrase v2 0 1 rc3: its pieces in their order, side by side).
    /// </summary>
    public static IReadOnlyList<Part> Parts(string text)
    {
        var parts = new List<Part>();
        string[] pieces = text.Split('"');
        // An odd piece stands between quotation marks, unless the last mark was never closed.
        for (int i = 0; i < pieces.Length; i++)
        {
            if (i % 2 == 1 && i < pieces.Length - 1)
            {
                Add(parts, Joined(pieces[i]), false);
                continue;
            }
            var plain = new StringBuilder();
            foreach (string chunk in pieces[i].Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries))
            {
                if (chunk.EndsWith('*') && Words(chunk).ToList() is [var (start, end)] && end - start >= 2)
                {
                    Add(parts, chunk[start..end].ToLowerInvariant(), true);
                }
                else if (chunk.Any(char.IsDigit) && Words(chunk).Count() > 1)
                {
                    Add(parts, Joined(chunk), false);
                }
                else
                {
                    plain.Append(chunk).Append(' ');
                }
            }
            if (Words(plain.ToString()).Any())
            {
                parts.AddRange(Terms(plain.ToString()).Select(t => new Part(t, false)));
            }
        }
        return [.. parts.Distinct().Take(MaxTerms)];

        static string Joined(string chunk) => string.Join(' ', Words(chunk).Select(w => chunk[w.Start..w.End].ToLowerInvariant()));

        static void Add(List<Part> parts, string words, bool prefix)
        {
            if (words.Length > 0)
            {
                parts.Add(new Part(words, prefix));
            }
        }
    }

    /// <summary>Runs of letters, digits and marks.</summary>
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

    /// <summary>Changes of one letter, or of two neighbours for each other, that make one word the other; more than <paramref name="most"/> count as one more.</summary>
    public static int Distance(ReadOnlySpan<char> a, ReadOnlySpan<char> b, int most)
    {
        if (Math.Abs(a.Length - b.Length) > most || b.Length > 63)
        {
            return most + 1;
        }
        // Optimal string alignment: three rows of the table.
        Span<int> before = stackalloc int[64], above = stackalloc int[64], row = stackalloc int[64];
        for (int j = 0; j <= b.Length; j++)
        {
            above[j] = j;
        }
        for (int i = 1; i <= a.Length; i++)
        {
            row[0] = i;
            int least = i;
            for (int j = 1; j <= b.Length; j++)
            {
                row[j] = Math.Min(Math.Min(row[j - 1], above[j]) + 1, above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1));
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                {
                    row[j] = Math.Min(row[j], before[j - 2] + 1);
                }
                least = Math.Min(least, row[j]);
            }
            if (least > most)
            {
                return most + 1;
            }
            above.CopyTo(before);
            row.CopyTo(above);
        }
        return above[b.Length];
    }

    /// <param name="Words">One word, or several side by side, of letters and digits only.</param>
    /// <param name="IsPrefix">Whether the word may go on.</param>
    public readonly record struct Part(string Words, bool IsPrefix);
}
