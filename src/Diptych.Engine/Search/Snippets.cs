using Diptych.Core;
using Diptych.Engine.Ingestion;
using Diptych.Index.Lexical;

namespace Diptych.Engine.Search;

/// <summary>Picks the stretch of a passage that shows best why it was found.</summary>
internal static class Snippets
{
    private const int Length = 280;

    public static Snippet? Of(string text, string words)
    {
        if (text.Length == 0)
        {
            return null;
        }
        HashSet<string> stems = [.. FullTextQuery.Terms(words).Select(FullTextQuery.Stem)];
        (int start, int end) = text.Length <= Length ? (0, text.Length) : Best(text, stems);
        string shown = text[start..end].TrimEnd();
        var highlights = FullTextQuery.Words(shown)
            .Where(w => stems.Contains(FullTextQuery.Stem(shown[w.Start..w.End])))
            .Select(w => new TextRange(w.Start, w.End));
        return new Snippet(shown, [.. highlights]);
    }

    /// <summary>The run of whole sentences with the most different words of the query.</summary>
    private static (int Start, int End) Best(string text, HashSet<string> stems)
    {
        TextRange[] sentences = [.. Sentences.Split(text)];
        (int Start, int End, int Score) best = (0, Math.Min(text.Length, Length), -1);
        for (int i = 0; i < sentences.Length; i++)
        {
            int j = i;
            while (j + 1 < sentences.Length && sentences[j + 1].End - sentences[i].Start <= Length)
            {
                j++;
            }
            int end = Math.Min(sentences[j].End, sentences[i].Start + (2 * Length));
            string run = text[sentences[i].Start..end];
            int score = FullTextQuery.Words(run).Select(w => FullTextQuery.Stem(run[w.Start..w.End])).Where(stems.Contains).Distinct().Count();
            if (score > best.Score)
            {
                best = (sentences[i].Start, end, score);
            }
        }
        return (best.Start, best.End);
    }
}
