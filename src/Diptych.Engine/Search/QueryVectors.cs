using System.Numerics.Tensors;
using Diptych.Core;
using Diptych.Engine.Tuning;
using Diptych.Index;
using Diptych.Inference;

namespace Diptych.Engine.Search;

/// <summary>A part of a query as vectors of unit length.</summary>
/// <param name="Source">The part.</param>
/// <param name="Text">[384] in the text space; null for an image.</param>
/// <param name="Cross">[256] in the space shared with images.</param>
/// <param name="IsImage">Whether <paramref name="Cross"/> came from pixels.</param>
public sealed record PartVectors(QueryPart Source, float[]? Text, float[] Cross, bool IsImage);

/// <summary>A whole query as vectors: the weighted sums of its parts, and the parts themselves for calibration.</summary>
public sealed record QueryVectors(IReadOnlyList<PartVectors> Parts, float[]? Text, float[] Cross, string Words)
{
    /// <summary>The vector that text is looked for with: turned by what was learnt.</summary>
    public float[]? LookText { get; init; } = Text;

    /// <summary>The vector that images are looked for with.</summary>
    public float[] LookCross { get; init; } = Cross;

    public bool HasImage => Parts.Any(p => p.IsImage && p.Source.Weight > 0);

    /// <exception cref="InvalidRequestException">A part is empty, an image cannot be decoded, or no weight is positive.</exception>
    /// <exception cref="NotFoundException">A part names a passage that is not in the collection.</exception>
    public static async Task<QueryVectors> EmbedAsync(Query query, IDocumentStore store, Embedder embedder, CancellationToken cancellation)
    {
        if (!query.Parts.Any(p => p.Weight > 0))
        {
            throw new InvalidRequestException("A query needs at least one part with a positive weight.");
        }
        PartVectors[] parts = await Task.WhenAll(query.Parts.Select(p => EmbedAsync(p, query.Collection, store, embedder, cancellation))).ConfigureAwait(false);
        return new QueryVectors(
            parts,
            Sum(parts.Where(p => p.Text is not null).Select(p => (p.Text!, p.Source.Weight))),
            Sum(parts.Select(p => (p.Cross, p.Source.Weight))) ?? throw new InvalidRequestException("The parts of the query cancel each other out."),
            string.Join(' ', parts.Where(p => p.Source is { Weight: > 0, Text: not null }).Select(p => p.Source.Text)));
    }

    /// <summary>A query of words as an adapter turns it; one with pictures or passages stays as it is.</summary>
    public QueryVectors Turned(QueryAdapter? adapter) => adapter is null || Parts.Any(p => p.Source.Text is null)
        ? this
        : this with { LookText = Text is null ? null : adapter.Text?.Apply(Text) ?? Text, LookCross = adapter.Cross?.Apply(Cross) ?? Cross };

    private static async Task<PartVectors> EmbedAsync(
        QueryPart part, string collection, IDocumentStore store, Embedder embedder, CancellationToken cancellation)
    {
        if ((part.Text is null ? 0 : 1) + (part.Image is null ? 0 : 1) + (part.PassageId is null ? 0 : 1) != 1)
        {
            throw new InvalidRequestException("Each part of a query has exactly one of text, image and passage.");
        }
        if (!double.IsFinite(part.Weight) || part.Weight == 0)
        {
            throw new InvalidRequestException("A part's weight is a number other than zero.");
        }
        if (part.Text is not null)
        {
            if (string.IsNullOrWhiteSpace(part.Text))
            {
                throw new InvalidRequestException("The query is empty.");
            }
            TextEmbedding embedding = await embedder.EmbedTextAsync(part.Text, Lane.Interactive, cancellation).ConfigureAwait(false);
            return new PartVectors(part, embedding.Text, embedding.Cross, false);
        }
        if (part.Image is not null)
        {
            try
            {
                return new PartVectors(part, null, await embedder.EmbedImageFileAsync(part.Image, Lane.Interactive, cancellation).ConfigureAwait(false), true);
            }
            catch (UnreadableException error)
            {
                throw new InvalidRequestException($"The query's image cannot be used. {error.Message}");
            }
        }
        long id = part.PassageId!.Value;
        if (!store.PassagesById([id]).TryGetValue(id, out Passage? passage) || store.Document(passage.DocumentId)?.Collection != collection)
        {
            throw new NotFoundException($"There is no passage {id} in the collection '{collection}'.");
        }
        var (text, cross) = store.Vectors([id])[id];
        bool image = passage.Modality == Modality.Image;
        return new PartVectors(part, image ? null : text, cross, image);
    }

    /// <summary>The weighted sum at unit length; null when there is nothing to sum or it vanishes.</summary>
    private static float[]? Sum(IEnumerable<(float[] Vector, double Weight)> parts)
    {
        float[]? sum = null;
        foreach (var (vector, weight) in parts)
        {
            sum ??= new float[vector.Length];
            TensorPrimitives.MultiplyAdd(vector, (float)weight, sum, sum);
        }
        float norm = sum is null ? 0 : TensorPrimitives.Norm(sum);
        if (norm < 1e-6f)
        {
            return null;
        }
        TensorPrimitives.Divide(sum, norm, sum);
        return sum;
    }
}
