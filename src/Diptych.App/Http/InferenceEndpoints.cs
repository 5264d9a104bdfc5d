using System.ComponentModel;
using System.Numerics.Tensors;
using System.Text.Json;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Encoders;

namespace Diptych.App.Http;

/// <summary>Reranking, and what operators see and do of the inference service.</summary>
internal static class InferenceEndpoints
{
    private const int MaxDocuments = 1000;

    public static void Map(IEndpointRouteBuilder app)
    {
        RouteGroupBuilder group = app.MapGroup("/v1").WithTags("Inference").ProducesProblem(400).ProducesProblem(404).ProducesProblem(429);
        group.MapPost("/rerank", RerankAsync).WithSummary("Orders documents by how well they answer a query (the dialect of Cohere and Jina)").Produces<RerankResponse>();
        group.MapGet("/inference", (Product product) => product.Snapshot()).WithSummary("Lanes, models, memory and other servers as they are now");
        group.MapPost("/models/{model}/load", async (string model, Product product, CancellationToken cancellation) =>
        {
            await product.Inference.LoadAsync(Tower(model, product), cancellation);
            return Of(model, product);
        }).WithSummary("Loads a model now");
        group.MapPost("/models/{model}/unload", async (string model, Product product) =>
        {
            await product.Inference.UnloadAsync(Tower(model, product));
            return Of(model, product);
        }).WithSummary("Takes a model out of memory once its batches have ended; it comes back when it is asked for");
        group.MapPost("/models/{model}/pin", (string model, Product product) => Pin(model, product, true)).WithSummary("Keeps a model loaded whatever else needs room");
        group.MapGet("/adapters", (Product product) => Writer(product).AdapterStates).WithSummary("Adapters of the language model: which are in memory, pinned, in use");
        group.MapPost("/adapters/{adapter}/load", (string adapter, Product product, CancellationToken cancellation) => AdapterAsync(adapter, product, async m => await m.LoadAdapterAsync(adapter, cancellation)))
            .WithSummary("Reads an adapter now");
        group.MapPost("/adapters/{adapter}/unload", (string adapter, Product product) => AdapterAsync(adapter, product, m =>
        {
            m.UnloadAdapter(adapter);
            return Task.CompletedTask;
        })).WithSummary("Takes an adapter out of memory, unless it is in use or pinned; it comes back when it is asked for");
        group.MapPost("/adapters/{adapter}/pin", (string adapter, Product product, CancellationToken cancellation) => AdapterAsync(adapter, product, m => m.PinAdapterAsync(adapter, true, cancellation)))
            .WithSummary("Keeps an adapter in memory whatever else is asked for");
        group.MapPost("/adapters/{adapter}/unpin", (string adapter, Product product, CancellationToken cancellation) => AdapterAsync(adapter, product, m => m.PinAdapterAsync(adapter, false, cancellation)))
            .WithSummary("Lets an adapter leave again");
        group.MapPost("/models/{model}/unpin", (string model, Product product) => Pin(model, product, false)).WithSummary("Lets a model leave again");
    }

    private static LocalModel Writer(Product product) => product.LanguageModel ?? throw new NotFoundException("There is no language model in this process. Add one with: diptych models add DIR");

    private static async Task<AdapterState> AdapterAsync(string adapter, Product product, Func<LocalModel, Task> work)
    {
        LocalModel model = Writer(product);
        if (!model.Adapters.Contains(adapter, StringComparer.Ordinal))
        {
            throw new NotFoundException($"{model.Name} has no adapter '{adapter}'. Added: {string.Join(", ", model.Adapters.DefaultIfEmpty("none"))}.");
        }
        await work(model);
        return model.AdapterStates.Single(a => a.Name == adapter);
    }

    private static ModelSnapshot Pin(string model, Product product, bool pinned)
    {
        product.Inference.Pin(Tower(model, product), pinned);
        return Of(model, product);
    }

    private static ModelSnapshot Of(string model, Product product) => product.Inference.Snapshot().Models.Single(m => m.Name == Tower(model, product));

    /// <summary>The shared space is an output of both towers; its id stands for the image tower.</summary>
    private static string Tower(string model, Product product) => model == OpenAiEndpoints.CrossModel ? product.Embedder.CrossSpace.Model : model;

    private static async Task<RerankResponse> RerankAsync(RerankRequest body, Product product, CancellationToken cancellation)
    {
        // A cross-encoder that was added reads query and document together, and is taken where none is named; the text tower compares their vectors.
        Reranker? reranker = body.Model is null ? product.Rerankers.Values.FirstOrDefault() : product.Rerankers.GetValueOrDefault(body.Model);
        if (reranker is null && body.Model is not null && body.Model != OpenAiEndpoints.TextModel)
        {
            throw new NotFoundException($"There is no reranker '{body.Model}'. Use {string.Join(", ", product.Rerankers.Keys.Append(OpenAiEndpoints.TextModel))}, or leave 'model' out.");
        }
        if (string.IsNullOrWhiteSpace(body.Query) || body.Documents.Count is 0 or > MaxDocuments || body.TopN is < 1)
        {
            throw new InvalidRequestException($"query is not empty, documents has 1 to {MaxDocuments} items, and top_n is at least 1.");
        }
        string[] texts = [.. body.Documents.Select(Text)];
        // A whole list is one step of a search that somebody waits for.
        float[] query = reranker is null ? (await product.Embedder.EmbedTextAsync(body.Query, Lane.Generate, cancellation)).Text : [];
        double[] scores = new double[texts.Length];
        await Parallel.ForAsync(0, texts.Length, new ParallelOptions { MaxDegreeOfParallelism = 64, CancellationToken = cancellation }, async (i, stop) =>
        {
            if (reranker is not null)
            {
                scores[i] = await reranker.ScoreAsync(body.Query, texts[i], Lane.Generate, stop);
                return;
            }
            TextEmbedding document = await product.Embedder.EmbedTextAsync(texts[i], Lane.Generate, stop);
            scores[i] = TensorPrimitives.Dot<float>(query, document.Text);
        });
        RerankItem[] ranked =
        [
            .. scores.Select((s, i) => (Score: s, Index: i)).OrderByDescending(s => s.Score).ThenBy(s => s.Index).Take(body.TopN ?? texts.Length)
                .Select(s => new RerankItem(s.Index, Math.Round(s.Score, 6), body.ReturnDocuments is true ? new RerankDocument(texts[s.Index]) : null)),
        ];
        int tokens = reranker is null ? texts.Append(body.Query).Sum(t => product.Embedder.Tokenizer.Encode(t).Length) : texts.Sum(t => reranker.CountTokens(body.Query, t));
        return new RerankResponse(Guid.NewGuid().ToString(), reranker?.Model ?? OpenAiEndpoints.TextModel, ranked, new EmbeddingsUsage(tokens, tokens));
    }

    private static string Text(JsonElement document)
    {
        string? text = document.ValueKind == JsonValueKind.String ? document.GetString()
            : document.ValueKind == JsonValueKind.Object && document.TryGetProperty("text", out JsonElement inner) && inner.ValueKind == JsonValueKind.String ? inner.GetString()
            : null;
        return string.IsNullOrWhiteSpace(text) ? throw new InvalidRequestException("Each document is a string, or {\"text\": …}, and not empty.") : text;
    }
}

/// <summary>The body of POST /v1/rerank.</summary>
[System.Text.Json.Serialization.JsonUnmappedMemberHandling(System.Text.Json.Serialization.JsonUnmappedMemberHandling.Skip)]
public sealed record RerankRequest
{
    public string? Model { get; init; }

    public required string Query { get; init; }

    [Description("Strings, or objects with text.")]
    public required IReadOnlyList<JsonElement> Documents { get; init; }

    [Description("How many to return; all where it is left out.")]
    public int? TopN { get; init; }

    public bool? ReturnDocuments { get; init; }
}

/// <summary>The answer to POST /v1/rerank.</summary>
public sealed record RerankResponse(string Id, string Model, IReadOnlyList<RerankItem> Results, EmbeddingsUsage Usage);

/// <summary>A document's place: its index in the request, and its score, higher for better.</summary>
public sealed record RerankItem(int Index, double RelevanceScore, RerankDocument? Document);

/// <summary>A document given back.</summary>
public sealed record RerankDocument(string Text);
