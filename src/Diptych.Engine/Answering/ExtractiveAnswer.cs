using System.Numerics.Tensors;
using System.Text;
using Diptych.Core;
using Diptych.Engine.Ingestion;
using Diptych.Index.Lexical;
using Diptych.Inference;

namespace Diptych.Engine.Answering;

/// <summary>Picks the sentences of the evidence that answer, and the images that belong to them.</summary>
internal sealed class ExtractiveAnswer(Embedder embedder)
{
    private const int MaxSentences = 3;
    private const int MaxImages = 2;

    /// <summary>Sentences looked at, of the best passages first; the second number where there is no time for so many.</summary>
    private static readonly int[] Considered = [48, 12];

    /// <summary>A further sentence must come this near to the best one's score.</summary>
    private const double KeepShare = 0.8;

    /// <summary>Two sentences more alike than this say the same.</summary>
    private const double SameCosine = 0.9;

    /// <summary>An image is shown when its confidence comes this near to the best hit's.</summary>
    private const double ImageShare = 0.6;

    public async Task<Answer> WriteAsync(string question, SearchResult evidence, IReadOnlyList<string> degraded, CancellationToken cancellation)
    {
        List<Scored> chosen = await SentencesAsync(question, evidence, cancellation).ConfigureAwait(false);
        double best = evidence.Hits.Max(h => h.Confidence);
        var images = evidence.Hits.Where(h => h.Passage.Modality == Modality.Image && h.Confidence >= ImageShare * best).Take(MaxImages).ToList();

        var text = new StringBuilder();
        var citations = new List<Citation>();
        foreach (Scored sentence in chosen)
        {
            citations.Add(new Citation(
                citations.Count + 1, sentence.Hit.Document, sentence.Hit.Passage, sentence.Text, Narrow(sentence), sentence.Hit.Confidence));
            text.Append(text.Length > 0 ? "\n\n" : "").Append(sentence.Text).Append(" [").Append(citations.Count).Append(']');
        }
        foreach (Hit image in images)
        {
            citations.Add(new Citation(citations.Count + 1, image.Document, image.Passage, "", image.Passage.Anchor, image.Confidence));
            string title = image.Passage.Text.Length > 0 ? image.Passage.Text.Split('\n')[0] : image.Document.Title;
            text.Append(text.Length > 0 ? "\n\n" : "").Append("Image: ").Append(title).Append(" [").Append(citations.Count).Append(']');
        }
        return new Answer(AnswerKind.Extractive, text.ToString(), citations, evidence.Confidence, [.. degraded, .. RequestTerms.Current.Degraded]);
    }

    /// <summary>The sentences of the evidence that answer best, the best first.</summary>
    public async Task<List<Scored>> SentencesAsync(string question, SearchResult evidence, CancellationToken cancellation)
    {
        HashSet<string> stems = [.. FullTextQuery.Terms(question).Select(FullTextQuery.Stem)];
        var candidates = new List<(Hit Hit, string Text, int Offset)>();
        double best = evidence.Hits.Max(h => h.Confidence);
        foreach (Hit hit in evidence.Hits.Where(h => h.Passage.Modality == Modality.Text && h.Confidence >= best / 2))
        {
            foreach (TextRange range in Sentences.Split(hit.Passage.Text).SelectMany(s => Lines(hit.Passage.Text, s)))
            {
                string sentence = hit.Passage.Text[range.Start..range.End].Trim();
                if (sentence.Length >= 12 && candidates.Count < Considered[0])
                {
                    candidates.Add((hit, sentence, range.Start));
                }
            }
        }
        var (asked, embedded) = await EmbedAsync(question, candidates, cancellation).ConfigureAwait(false);
        var scored = candidates.Take(Math.Max(embedded.Length, Considered[^1])).Select((c, i) => new Scored(
            c.Hit, c.Text, c.Offset, embedded.Length > 0 ? embedded[i] : null,
            ((embedded.Length > 0 ? Math.Max(0, TensorPrimitives.Dot(asked, embedded[i])) : 0) + SharedWords(c.Text, stems)) * (0.5 + (0.5 * c.Hit.Confidence)))).OrderByDescending(s => s.Value);
        var chosen = new List<Scored>();
        foreach (Scored next in scored)
        {
            if (chosen.Count == MaxSentences || (chosen.Count > 0 && next.Value < KeepShare * chosen[0].Value))
            {
                break;
            }
            if (chosen.TrueForAll(c => next.Vector is null ? c.Text != next.Text : TensorPrimitives.Dot(c.Vector!, next.Vector) < SameCosine))
            {
                chosen.Add(next);
            }
        }
        return chosen;
    }

    /// <summary>The items of a list or the rows of a table are sentences of their own.</summary>
    private static IEnumerable<TextRange> Lines(string text, TextRange range)
    {
        int start = range.Start;
        for (int i = range.Start; i < range.End; i++)
        {
            if (text[i] == '\n')
            {
                yield return new TextRange(start, i);
                start = i + 1;
            }
        }
        yield return new TextRange(start, range.End);
    }

    /// <summary>Vectors of the question and the sentences: of all, of the first few where time is short, or of none, and the answer says so.</summary>
    private async Task<(float[] Question, float[][] Sentences)> EmbedAsync(string question, List<(Hit Hit, string Text, int Offset)> candidates, CancellationToken cancellation)
    {
        foreach (int most in Considered)
        {
            try
            {
                // Together they are one step of an answer that somebody waits for, and take its lane.
                TextEmbedding[] embedded = await Task.WhenAll(candidates.Take(most).Select(c => c.Text).Prepend(question)
                    .Select(t => embedder.EmbedTextAsync(t, Lane.Generate, cancellation))).ConfigureAwait(false);
                return (embedded[0].Text, [.. embedded.Skip(1).Select(e => e.Text)]);
            }
            catch (OverloadedException)
            {
                RequestTerms.Current.Degrade(most == Considered[0] ? "fewer sentences were weighed" : "sentences were weighed by words alone");
            }
        }
        return ([], []);
    }

    private static double SharedWords(string text, HashSet<string> stems)
    {
        int shared = FullTextQuery.Words(text).Select(w => FullTextQuery.Stem(text[w.Start..w.End])).Where(stems.Contains).Distinct().Count();
        return 0.5 * shared / Math.Max(1, stems.Count);
    }

    /// <summary>The passage's place narrowed to the sentence, where the passage is a plain stretch of the document's text.</summary>
    private static Anchor Narrow(Scored sentence)
    {
        Passage passage = sentence.Hit.Passage;
        bool plain = passage.Anchor is { Start: { } start, End: { } end } && end - start == passage.Text.Length;
        return plain
            ? passage.Anchor with { Start = passage.Anchor.Start + sentence.Offset, End = passage.Anchor.Start + sentence.Offset + sentence.Text.Length }
            : passage.Anchor;
    }

    internal sealed record Scored(Hit Hit, string Text, int Offset, float[]? Vector, double Value);
}
