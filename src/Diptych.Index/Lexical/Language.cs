using System.Text;
using Diptych.Core;
using Lucene.Net.Tartarus.Snowball;
using Lucene.Net.Tartarus.Snowball.Ext;

namespace Diptych.Index.Lexical;

/// <summary>
/// The language that a collection's words are stemmed in (Snowball: Porter 2001). English is stemmed by SQLite and PostgreSQL
/// themselves; for the others PostgreSQL has its own Snowball, and for SQLite words are stemmed before they are stored.
/// </summary>
public static class Language
{
    public const string Default = "english";

    private static readonly Dictionary<string, Func<SnowballProgram>?> Stemmers = new(StringComparer.Ordinal)
    {
        [Default] = null,
        ["danish"] = () => new DanishStemmer(),
        ["dutch"] = () => new DutchStemmer(),
        ["french"] = () => new FrenchStemmer(),
        ["german"] = () => new German2Stemmer(),
        ["italian"] = () => new ItalianStemmer(),
        ["norwegian"] = () => new NorwegianStemmer(),
        ["portuguese"] = () => new PortugueseStemmer(),
        ["spanish"] = () => new SpanishStemmer(),
        ["swedish"] = () => new SwedishStemmer(),
    };

    [ThreadStatic]
    private static Dictionary<string, SnowballProgram>? _mine;

    public static IReadOnlyCollection<string> Known => Stemmers.Keys;

    /// <exception cref="InvalidRequestException">It is none that words can be stemmed in.</exception>
    public static string Check(string language) => Stemmers.ContainsKey(language)
        ? language
        : throw new InvalidRequestException($"'{language}' is no language that words are stemmed in. Known: {string.Join(", ", Known)}.");

    /// <summary>Words as SQLite's index is given them: as they are in English, stems in another language.</summary>
    internal static string Analyze(string text, string language)
    {
        if (Stemmers.GetValueOrDefault(language) is null)
        {
            return text;
        }
        var stems = new StringBuilder(text.Length);
        foreach (var (start, end) in FullTextQuery.Words(text))
        {
            stems.Append(Stem(text[start..end], language)).Append(' ');
        }
        return stems.ToString().TrimEnd();
    }

    internal static FullTextQuery.Part Analyze(FullTextQuery.Part part, string language) =>
        part.IsPrefix ? part : part with { Words = Analyze(part.Words, language) };

    private static string Stem(string word, string language)
    {
        _mine ??= new Dictionary<string, SnowballProgram>(StringComparer.Ordinal);
        if (!_mine.TryGetValue(language, out SnowballProgram? stemmer))
        {
            _mine.Add(language, stemmer = Stemmers[language]!());
        }
        stemmer.SetCurrent(word.ToLowerInvariant());
        stemmer.Stem();
        return stemmer.Current;
    }
}
