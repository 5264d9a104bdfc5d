using System.ComponentModel;
using System.Text.Json.Serialization;
using Diptych.Core;
using Diptych.Index;

namespace Diptych.App.Http;

/// <summary>What people say of hits and answers, and what searches learn from it.</summary>
internal static class FeedbackEndpoints
{
    private const int MostPassages = 100;

    public static void Map(IEndpointRouteBuilder app)
    {
        RouteGroupBuilder group = app.MapGroup("/v1").WithTags("Feedback").ProducesProblem(400).ProducesProblem(404);
        group.MapPost("/feedback", (FeedbackRequest body, Product product, TimeProvider time) =>
        {
            product.Store.AddFeedback(body.Collection, Read(body, product.Store, time.GetUtcNow()));
            return TypedResults.NoContent();
        }).WithSummary("Says of hits, or of the passages that an answer cites, whether they helped");
        group.MapGet("/collections/{collection}/tunings", (string collection, Product product) => product.Store.CollectionExists(collection)
            ? product.Store.Tunings(collection).Select(TuningResponse.Of)
            : throw new NotFoundException($"There is no collection '{collection}'.")).WithSummary("Lists what was learnt, the latest first");
        group.MapPost("/collections/{collection}/tune", async (string collection, Product product, CancellationToken cancellation) =>
            product.Store.CollectionExists(collection)
                ? await product.Tuner.TuneAsync(collection, null, cancellation)
                : throw new NotFoundException($"There is no collection '{collection}'.")).WithSummary("Learns from the collection's feedback; taken up only where held-back feedback says it is better");
        group.MapPut("/collections/{collection}/tunings/active", (string collection, ActivateRequest body, Product product) =>
        {
            product.Store.ActivateTuning(collection, body.Version);
            return TypedResults.NoContent();
        }).WithSummary("Lets searches use a version, or none (0)");
    }

    internal static IReadOnlyList<Feedback> Read(FeedbackRequest body, IDocumentStore store, DateTimeOffset at)
    {
        if (string.IsNullOrWhiteSpace(body.Query) || body.Query.Length > 10_000)
        {
            throw new InvalidRequestException("query is what was asked: 1 to 10,000 characters.");
        }
        long[] ids = [.. (body.PassageIds ?? []).Distinct()];
        if (ids.Length is 0 or > MostPassages)
        {
            throw new InvalidRequestException($"passage_ids has 1 to {MostPassages} passages.");
        }
        var passages = store.PassagesById(ids);
        return [.. ids.Select(id => passages.TryGetValue(id, out Passage? passage) && store.Document(passage.DocumentId) is { } document && document.Collection == body.Collection
            ? new Feedback(at, body.Query.Trim(), document.Source, passage.Ordinal, body.Signal != FeedbackSignal.Down)
            : throw new NotFoundException($"There is no passage {id} in the collection '{body.Collection}'."))];
    }
}

/// <summary>What somebody did with a hit.</summary>
public enum FeedbackSignal
{
    /// <summary>It helped.</summary>
    Up,

    /// <summary>It did not.</summary>
    Down,

    /// <summary>It was opened, which says that it seemed to help.</summary>
    Click,
}

/// <summary>The body of POST /v1/feedback.</summary>
public sealed record FeedbackRequest
{
    public string Collection { get; init; } = "default";

    [Description("What was asked.")]
    public required string Query { get; init; }

    [Description("The hits, or the passages that an answer cites.")]
    public required IReadOnlyList<long> PassageIds { get; init; }

    [Description("up (the default), down or click.")]
    public FeedbackSignal? Signal { get; init; }
}

/// <summary>The body of PUT /v1/collections/{collection}/tunings/active.</summary>
public sealed record ActivateRequest([property: JsonRequired] int Version);

/// <summary>A version of what was learnt.</summary>
public sealed record TuningResponse(int Version, DateTimeOffset CreatedAt, double Before, double After, bool Active)
{
    internal static TuningResponse Of(Index.Tuning tuning) => new(tuning.Version, tuning.CreatedAt, tuning.Before, tuning.After, tuning.IsActive);
}
