using System.Globalization;
using System.Numerics.Tensors;
using System.Text;
using System.Text.RegularExpressions;
using Diptych.Core;
using Diptych.Engine.Search;
using Diptych.Index;
using Diptych.Index.Lexical;
using Diptych.Inference;

namespace Diptych.Engine.Answering;

/// <summary>
/// Holds what a language model writes against the evidence it was given, sentence by sentence: a sentence stays where the evidence that it
/// names says so by words and meaning, or where other evidence does, which then is named; every number in it must stand there. A picture
/// supports what it shows. What nothing supports is left out, and what repeats itself ends the answer.
/// </summary>
/// <param name="evidence">What the model was given, in the order of its numbers from 1.</param>
/// <param name="strict">False keeps sentences that nothing supports, without their markers.</param>
internal sealed partial class Grounding(IReadOnlyList<Hit> evidence, IDocumentStore store, Embedder embedder, bool strict)
{
    /// <summary>Probability from which evidence supports a sentence, and from which it may stay named beside other evidence.</summary>
    private const double Supports = 0.5, Helps = 0.2;

    /// <summary>Share of the words that must be there at least. Names count twice.</summary>
    private const double LeastWords = 0.6;

    /// <summary>Share of capital letters from which a language writes more than names with them.</summary>
    private const double ManyCapitals = 0.35;

    /// <summary>Sentences in a row that nothing supports, or that were there before, after which the model has lost its thread.</summary>
    private const int LostAfter = 3;

    private static readonly string[] SmallNumbers = "zero one two three four five six seven eight nine ten eleven twelve".Split(' ');

    /// <summary>Characters of a repetition at least, and of what is repeated at most.</summary>
    private const int Repetition = 48, Repeated = 40;

    private readonly HashSet<string>[] _stems = [.. evidence.Select(h => Words($"{h.Document.Title} {h.Passage.HeadingPath} {h.Passage.Text}"))];
    private readonly HashSet<string>[] _places = [.. evidence.Select(h => Words($"page slide line {h.Document.Title} {h.Passage.HeadingPath}"))];
    private readonly IReadOnlyDictionary<long, (float[]? Text, float[] Cross)> _vectors = store.Vectors(evidence.Select(h => h.Passage.Id));
    private readonly HashSet<string> _said = new(StringComparer.Ordinal);
    private readonly StringBuilder _open = new();
    private string _lead = "";
    private int _lost;

    /// <summary>Numbers of evidence that the text cites.</summary>
    public SortedSet<int> Used { get; } = [];

    /// <summary>Sentences that nothing supports.</summary>
    public int LeftOut { get; private set; }

    /// <summary>Whether more of the model's text would be of no use.</summary>
    public bool Ended { get; private set; }

    /// <summary>Takes a piece of the model's text.</summary>
    /// <param name="last">Whether it is the last, so that what is open is whole.</param>
    /// <returns>What may be shown: the sentences that are whole and stay.</returns>
    public async Task<string> AddAsync(string piece, bool last, CancellationToken cancellation)
    {
        _open.Append(piece);
        if (!last && CutRepetition())
        {
            (last, Ended) = (true, true);
        }
        var shown = new StringBuilder();
        foreach (string sentence in Whole(last))
        {
            shown.Append(await CheckAsync(sentence, cancellation).ConfigureAwait(false));
            if (Ended && !last)
            {
                break;
            }
        }
        return shown.ToString();
    }

    /// <summary>Takes the sentences that are whole out of what is open, with the space behind them.</summary>
    private List<string> Whole(bool last)
    {
        string text = _open.ToString();
        var starts = Ingestion.Sentences.Split(text).SelectMany(s => Lines(text, s)).ToList();
        var whole = new List<string>();
        for (int i = 0; i < starts.Count; i++)
        {
            if (i + 1 < starts.Count)
            {
                whole.Add(text[starts[i]..starts[i + 1]]);
            }
            else if (last)
            {
                whole.Add(text[starts[i]..]);
            }
            else
            {
                _open.Clear().Append(text.AsSpan(starts[i]));
            }
        }
        if (last)
        {
            _open.Clear();
        }
        return whole;
    }

    /// <summary>Where lines of a range begin.</summary>
    private static IEnumerable<int> Lines(string text, TextRange range)
    {
        yield return range.Start;
        for (int i = range.Start; i + 1 < range.End; i++)
        {
            if (text[i] == '\n' && text[i + 1] != '\n')
            {
                yield return i + 1;
            }
        }
    }

    /// <summary>Cuts off a text that says the same few characters again and again.</summary>
    private bool CutRepetition()
    {
        int length = _open.Length;
        for (int period = 1; period <= Repeated && length >= Math.Max(Repetition, 4 * period); period++)
        {
            int from = length - 1;
            while (from >= period && _open[from] == _open[from - period])
            {
                from--;
            }
            // Rules and the lines of tables are no words said again.
            if (length - 1 - from >= Math.Max(Repetition, 4 * period) - period && Enumerable.Range(length - period, period).Any(i => char.IsLetterOrDigit(_open[i])))
            {
                for (_open.Length = from + 1; _open.Length > 0 && _open[^1] is ' ' or ',' or ';' or ':' or '-'; _open.Length--)
                {
                }
                return true;
            }
        }
        return false;
    }

    /// <returns>The sentence with the markers that hold; nothing where it does not stay.</returns>
    private async Task<string> CheckAsync(string sentence, CancellationToken cancellation)
    {
        // Markers before a sentence belong to the one before it, which has been judged without them.
        sentence = Before().Replace(sentence, "");
        string body = Marker().Replace(sentence, ""), bare = Bullet().Replace(body, "").Trim();
        HashSet<string> stems = [.. FullTextQuery.Terms(bare).Select(FullTextQuery.Stem)];
        if (bare.StartsWith('(') && stems.Where(s => !s.Any(char.IsAsciiDigit)).All(s => _places.Any(p => p.Contains(s))))
        {
            // The heading that the evidence came under, said back.
            return "";
        }
        string known = string.Join(' ', stems.Where(s => !s.Any(char.IsAsciiDigit)));
        if (stems.Count > 2 && !_said.Add(known))
        {
            Lose();
            return "";
        }
        int[] named = [.. Marker().Matches(sentence).SelectMany(Numbers).Distinct()];
        float[][] vectors = stems.Count == 0 ? [] : await EmbedAsync(bare, cancellation).ConfigureAwait(false);
        HashSet<string> names = Names(bare);
        double[] support = [.. Enumerable.Range(0, evidence.Count).Select(i => Support(stems, names, vectors, [i]))];
        int best = Array.IndexOf(support, support.Max());
        bool byName = named.Length > 0 && Support(stems, names, vectors, [.. named.Select(n => n - 1)]) >= Supports;
        if (stems.Count == 0 || (!byName && support[best] < Supports))
        {
            // A lead to what comes ("1.", "Yes.", "It has three parts:") claims nothing, and stands or falls with it.
            if (stems.Count <= 1 || bare.EndsWith(':'))
            {
                _lead += body;
                return "";
            }
            string lead = _lead;
            _lead = "";
            if (!strict)
            {
                return lead + body;
            }
            LeftOut++;
            Lose();
            return "";
        }
        _lost = 0;
        string kept = byName
            ? Marker().Replace(sentence, m => Numbers(m).Where(n => support[n - 1] >= Helps || n - 1 == best || named.Length == 1).ToList() is { Count: > 0 } holds ? (m.Value[0] == ' ' ? " " : "") + string.Concat(holds.Select(Cite)) : "")
            : $"{body.TrimEnd()} {Cite(best + 1)}{body[body.TrimEnd().Length..]}";
        kept = _lead + kept;
        _lead = "";
        return kept;
    }

    private void Lose() => Ended |= ++_lost == LostAfter;

    private string Cite(int number)
    {
        Used.Add(number);
        return string.Create(CultureInfo.InvariantCulture, $"[{number}]");
    }

    /// <summary>Probability that evidence together says what a sentence of these words and vectors says; 0 where a number is missing.</summary>
    private double Support(HashSet<string> stems, HashSet<string> names, float[][] vectors, int[] of)
    {
        bool There(string stem) => of.Any(i => _stems[i].Contains(stem));
        if (stems.Count == 0 || !stems.Where(s => s.Any(char.IsAsciiDigit)).All(There))
        {
            return 0;
        }
        double coverage = (stems.Count(There) + names.Count(There)) / (double)(stems.Count + names.Count), text = 0, picture = 0;
        if (coverage >= LeastWords)
        {
            double cosine = vectors.Length == 0 ? 0 : of.Max(i => _vectors.GetValueOrDefault(evidence[i].Passage.Id).Text is { } own ? TensorPrimitives.Dot<float>(own, vectors[0]) : 0);
            text = vectors.Length > 0 ? Calibration.TextToText(cosine, coverage) : coverage;
        }
        foreach (int i in vectors.Length == 0 ? [] : of.Where(i => evidence[i].Passage.Modality == Modality.Image && _vectors.ContainsKey(evidence[i].Passage.Id)))
        {
            picture = Math.Max(picture, Calibration.TextToImage(TensorPrimitives.Dot<float>(_vectors[evidence[i].Passage.Id].Cross, vectors[1]), evidence.Count));
        }
        return Math.Max(text, picture);
    }

    /// <returns>In the text space and the one shared with pictures; nothing where there is no time for it, and the answer says so.</returns>
    private async Task<float[][]> EmbedAsync(string sentence, CancellationToken cancellation)
    {
        try
        {
            TextEmbedding embedding = await embedder.EmbedTextAsync(sentence, Lane.Generate, cancellation).ConfigureAwait(false);
            return [embedding.Text, embedding.Cross];
        }
        catch (OverloadedException)
        {
            RequestTerms.Current.Degrade("sentences were checked by words alone");
            return [];
        }
    }

    /// <summary>The numbers of a marker that name evidence.</summary>
    private IEnumerable<int> Numbers(Match marker) => Number().Matches(marker.Value)
        .Select(m => int.TryParse(m.Value, CultureInfo.InvariantCulture, out int number) ? number : 0).Where(n => n >= 1 && n <= evidence.Count);

    /// <summary>Words within a sentence that begin with a capital letter, where not most do.</summary>
    private static HashSet<string> Names(string sentence)
    {
        var words = FullTextQuery.Words(sentence).Skip(1).ToList();
        HashSet<string> names = [.. words.Where(w => char.IsUpper(sentence[w.Start])).Select(w => FullTextQuery.Stem(sentence[w.Start..w.End]))];
        return names.Count > ManyCapitals * words.Count && words.Count > 8 ? [] : names;
    }

    /// <summary>The words of a text; numbers in words and in digits both ways.</summary>
    private static HashSet<string> Words(string text)
    {
        HashSet<string> words = [.. FullTextQuery.Words(text).Select(w => FullTextQuery.Stem(text[w.Start..w.End]))];
        for (int i = 0; i < SmallNumbers.Length; i++)
        {
            string word = FullTextQuery.Stem(SmallNumbers[i]), digits = i.ToString(CultureInfo.InvariantCulture);
            if (words.Contains(word) || words.Contains(digits))
            {
                words.UnionWith([word, digits]);
            }
        }
        return words;
    }

    [GeneratedRegex(@" ?\[\s*[0-9]+(\s*,\s*[0-9]+)*\s*\]", RegexOptions.NonBacktracking)]
    private static partial Regex Marker();

    [GeneratedRegex(@"^\s*(\[\s*[0-9]+(\s*,\s*[0-9]+)*\s*\]\s*)+", RegexOptions.NonBacktracking)]
    private static partial Regex Before();

    [GeneratedRegex("[0-9]+", RegexOptions.NonBacktracking)]
    private static partial Regex Number();

    [GeneratedRegex(@"^\s*([-*•]|[0-9]+[.)])\s+", RegexOptions.NonBacktracking)]
    private static partial Regex Bullet();
}
