using Diptych.Core;
using Lucene.Net.Tartarus.Snowball;
using Lucene.Net.Tartarus.Snowball.Ext;

namespace Diptych.Index.Lexical;

/// <summary>
/// The language that a collection's words are stemmed in (Snowball: Porter 2001). PostgreSQL stems by its own Snowball;
/// the embedded store's word index by Porter's in English and Snowball's in the others.
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

    public static IReadOnlyCollection<string> Known => Stemmers.Keys;

    /// <exception cref="InvalidRequestException">It is none that words can be stemmed in.</exception>
    public static string Check(string language) => Stemmers.ContainsKey(language)
        ? language
        : throw new InvalidRequestException($"'{language}' is no language that words are stemmed in. Known: {string.Join(", ", Known)}.");

    /// <returns>Null for English, which has one of its own.</returns>
    internal static SnowballProgram? Stemmer(string language) => Stemmers.GetValueOrDefault(language)?.Invoke();
}
