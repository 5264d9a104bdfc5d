using Diptych.Core;
using Diptych.Engine.Search;
using Diptych.Index;
using Diptych.Inference;
using Microsoft.Extensions.AI;

namespace Diptych.Engine.Answering;

/// <summary>A question and how it is to be answered.</summary>
public sealed record Question
{
    public required string Collection { get; init; }

    public required string Text { get; init; }

    /// <summary>An image that the question is about, as file bytes.</summary>
    public byte[]? Image { get; init; }

    public Filter? Filter { get; init; }

    /// <summary>Below this confidence the answer is that there is none. Null takes <see cref="Answerer.DefaultMinConfidence"/>.</summary>
    public double? MinConfidence { get; init; }

    /// <summary>Extracts even where a language model is configured.</summary>
    public bool ExtractOnly { get; init; }
}

/// <summary>How an answer came about.</summary>
public enum AnswerKind
{
    /// <summary>Sentences and images of the evidence itself.</summary>
    Extractive,

    /// <summary>Written by the language model over the evidence.</summary>
    Generated,

    /// <summary>The evidence does not answer the question.</summary>
    Abstained,
}

/// <summary>A piece of an answer as it streams: some text, or at the end the whole.</summary>
public sealed record AnswerPart(string? Delta, Answer? Final);

/// <summary>A whole answer.</summary>
/// <param name="Text">With markers [1], [2] … that name <paramref name="Citations"/>.</param>
/// <param name="Confidence">Calibrated probability that the collection answers the question.</param>
/// <param name="Degraded">What was left out to answer at all, for example "extractive" when the language model failed.</param>
public sealed record Answer(AnswerKind Kind, string Text, IReadOnlyList<Citation> Citations, double Confidence, IReadOnlyList<string> Degraded);

/// <summary>
/// Answers from the collection alone. Without a language model the answer is the sentences and images that answer best; with one,
/// the model writes over the same evidence, and what the evidence does not support is left out.
/// </summary>
/// <param name="model">Null answers by extracts.</param>
/// <param name="sendImages">Whether the model sees the images among the evidence.</param>
/// <param name="strict">Whether sentences of the model's that the evidence does not support are left out.</param>
public sealed class Answerer(Searcher searcher, IDocumentStore store, Embedder embedder, IChatClient? model = null, bool sendImages = true, bool strict = true)
{
    /// <summary>The confidence at which the error rates of docs/evaluation.md are stated.</summary>
    public const double DefaultMinConfidence = 0.4;

    private const int EvidencePassages = 8;

    public const string NoAnswer = "Nothing in this collection answers that.";

    /// <summary>Streams the answer; the last part is the whole.</summary>
    public async IAsyncEnumerable<AnswerPart> AskAsync(
        Question question, [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellation)
    {
        if (string.IsNullOrWhiteSpace(question.Text))
        {
            throw new InvalidRequestException("The question is empty.");
        }
        SearchResult evidence = await searcher.SearchAsync(ToQuery(question), cancellation).ConfigureAwait(false);
        double bar = question.MinConfidence ?? DefaultMinConfidence;
        if (evidence.Confidence < bar || evidence.Hits.Count == 0)
        {
            yield return new AnswerPart(NoAnswer, null);
            yield return new AnswerPart(null, new Answer(AnswerKind.Abstained, NoAnswer, [], evidence.Confidence, []));
            yield break;
        }
        string[] degraded = [];
        if (model is not null && !question.ExtractOnly)
        {
            var generated = new GeneratedAnswer(model, store, embedder, sendImages, strict);
            var parts = generated.StreamAsync(question, evidence, cancellation).GetAsyncEnumerator(cancellation);
            await using (parts.ConfigureAwait(false))
            {
                bool any = false;
                while (true)
                {
                    AnswerPart? part = null;
                    try
                    {
                        part = await parts.MoveNextAsync().ConfigureAwait(false) ? parts.Current : null;
                    }
                    catch (Exception error) when (!any && error is not OperationCanceledException)
                    {
                        // Nothing of the model's answer was shown yet: the extracts are the next rung down, and the answer says so.
                        degraded = [$"extractive: the language model failed ({error.GetBaseException().Message.Split('\n')[0]})"];
                    }
                    if (part is null)
                    {
                        break;
                    }
                    any = true;
                    yield return part;
                }
                if (any)
                {
                    yield break;
                }
                degraded = generated.Failure is { } failure ? [$"extractive: {failure}"] : degraded;
            }
        }
        Answer extract = await new ExtractiveAnswer(embedder).WriteAsync(question.Text, evidence, degraded, cancellation).ConfigureAwait(false);
        yield return new AnswerPart(extract.Text, null);
        yield return new AnswerPart(null, extract);
    }

    private static Query ToQuery(Question question)
    {
        List<QueryPart> parts = [new QueryPart { Text = question.Text }];
        if (question.Image is not null)
        {
            parts.Add(new QueryPart { Image = question.Image });
        }
        return new Query { Collection = question.Collection, Parts = parts, Filter = question.Filter, Limit = EvidencePassages };
    }
}
