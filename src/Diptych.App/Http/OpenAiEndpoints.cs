using System.Runtime.InteropServices;
using System.Text.Json;
using Diptych.Core;
using Diptych.Inference;

namespace Diptych.App.Http;

/// <summary>What speaks OpenAI's dialect: embeddings of text and images, and the list of models.</summary>
internal static class OpenAiEndpoints
{
    /// <summary>The text space: for comparing texts.</summary>
    public const string TextModel = "starter-text";

    /// <summary>The space shared by texts and images.</summary>
    public const string CrossModel = "starter-cross";

    private const int MaxInputs = 2048;

    /// <summary>Inputs of one request that wait at a time.</summary>
    private const int Window = 64;

    public static void Map(IEndpointRouteBuilder app)
    {
        RouteGroupBuilder group = app.MapGroup("/v1").WithTags("OpenAI").ProducesProblem(400).ProducesProblem(429);
        group.MapPost("/embeddings", EmbedAsync).WithSummary("Embeds texts and images (OpenAI's dialect; an input may be {\"image\": base64 or data: URI})")
            .Produces<EmbeddingsResponse>();
        group.MapGet("/models", (Product product) => new ModelList("list",
        [
            Model(TextModel, product.Embedder.TextSpace, product),
            Model(CrossModel, product.Embedder.CrossSpace, product),
            .. product.Encoders.Select(e => Added(e.Key, e.Value.Dimensions, [.. e.Value.Models.Select(product.Inference.Describe)])),
            .. product.Rerankers.Keys.Select(name => Added(name, 0, [product.Inference.Describe(name)])),
            .. product.Writers.Select(id => new ModelResponse(id, "model", "diptych", "", 0, 0)),
            .. product.Broken.Select(b => new ModelResponse(b.Key, "model", "diptych", "", 0, 0, b.Value)),
        ])).WithSummary("The models that are served");
    }

    private static ModelResponse Model(string id, EmbeddingSpace space, Product product)
    {
        ModelDescription model = product.Inference.Describe(space.Model);
        return new ModelResponse(id, "model", "diptych", model.Revision, model.WeightBytes, space.Dimensions);
    }

    private static ModelResponse Added(string id, int dimensions, ModelDescription[] models) =>
        new(id, "model", models.Length == 0 ? "remote" : "diptych", models.FirstOrDefault()?.Revision ?? "", models.Sum(m => m.WeightBytes), dimensions);

    private static async Task<EmbeddingsResponse> EmbedAsync(EmbeddingsRequest body, Product product, CancellationToken cancellation)
    {
        bool text = body.Model == TextModel;
        product.Encoders.TryGetValue(body.Model, out IEncoder? added);
        if (!text && added is null && body.Model != CrossModel)
        {
            throw new NotFoundException($"There is no model '{body.Model}'. Use {string.Join(", ", product.Encoders.Where(e => !e.Value.Sees).Select(e => e.Key).Prepend(TextModel))} (texts) or {string.Join(", ", product.Encoders.Where(e => e.Value.Sees).Select(e => e.Key).Prepend(CrossModel))} (texts and images).");
        }
        JsonElement[] inputs = body.Input.ValueKind == JsonValueKind.Array ? [.. body.Input.EnumerateArray()] : [body.Input];
        if (inputs.Length is 0 or > MaxInputs)
        {
            throw new InvalidRequestException($"input has 1 to {MaxInputs} items.");
        }
        int width = added?.Dimensions ?? (text ? product.Embedder.TextSpace : product.Embedder.CrossSpace).Dimensions;
        RefuseDimensions(body, width);
        if (body.EncodingFormat is not (null or "float" or "base64"))
        {
            throw new InvalidRequestException("encoding_format is float or base64.");
        }
        // One item is somebody waiting; many are a job, which must not hold those up.
        Lane lane = inputs.Length == 1 ? Lane.Interactive : Lane.Bulk;
        int tokens = 0;
        float[][] vectors = new float[inputs.Length][];
        // A window of the inputs is on its way at a time, so that one huge request takes no more of the queue than others do.
        var window = new ParallelOptions { MaxDegreeOfParallelism = Window, CancellationToken = cancellation };
        await Parallel.ForAsync(0, inputs.Length, window, async (i, stop) =>
        {
            if (Image(inputs[i]) is { } image)
            {
                if (text || added?.Sees == false)
                {
                    throw new InvalidRequestException($"{body.Model} embeds texts only; use {CrossModel} for images.");
                }
                vectors[i] = await EmbedImageAsync(product, added, image, lane, stop);
                return;
            }
            string words = Words(inputs[i]);
            if (added is not null)
            {
                Interlocked.Add(ref tokens, added.CountTokens(words));
                vectors[i] = await added.EmbedTextAsync(words, lane, stop);
                return;
            }
            Interlocked.Add(ref tokens, product.Embedder.Tokenizer.Encode(words).Length);
            TextEmbedding embedding = await product.Embedder.EmbedTextAsync(words, lane, stop);
            vectors[i] = text ? embedding.Text : embedding.Cross;
        });
        // The width of another server's vectors is known with the first of them.
        width = width > 0 ? width : vectors[0].Length;
        RefuseDimensions(body, width);
        return new EmbeddingsResponse(
            "list",
            [.. vectors.Select((v, i) => new EmbeddingItem("embedding", i, Encode(Shorten(v, body.Dimensions ?? width), body.EncodingFormat)))],
            body.Model,
            new EmbeddingsUsage(tokens, tokens));
    }

    private static async Task<float[]> EmbedImageAsync(Product product, IEncoder? added, byte[] image, Lane lane, CancellationToken cancellation)
    {
        try
        {
            return await (added?.EmbedImageAsync(image, lane, cancellation) ?? product.Embedder.EmbedImageFileAsync(image, lane, cancellation));
        }
        catch (UnreadableException error)
        {
            throw new InvalidRequestException($"An input image cannot be used. {error.Message}");
        }
    }

    private static void RefuseDimensions(EmbeddingsRequest body, int width)
    {
        if (body.Dimensions is { } asked && (asked < 1 || (width > 0 && asked > width)))
        {
            throw new InvalidRequestException($"dimensions is 1 to {width} for {body.Model}.");
        }
    }

    private static byte[]? Image(JsonElement input)
    {
        if (input.ValueKind != JsonValueKind.Object)
        {
            return null;
        }
        if (input.TryGetProperty("image", out JsonElement image) && image.ValueKind == JsonValueKind.String)
        {
            return Endpoints.Base64(image.GetString()!);
        }
        return input.TryGetProperty("image_url", out JsonElement part) && part.ValueKind == JsonValueKind.Object && part.TryGetProperty("url", out JsonElement url)
            && url.GetString() is { } data && data.StartsWith("data:", StringComparison.OrdinalIgnoreCase)
                ? Endpoints.Base64(data)
                : null;
    }

    private static string Words(JsonElement input)
    {
        string? words = input.ValueKind == JsonValueKind.String ? input.GetString()
            : input.ValueKind == JsonValueKind.Object && input.TryGetProperty("text", out JsonElement text) && text.ValueKind == JsonValueKind.String ? text.GetString()
            : throw new InvalidRequestException("Each input is a string, {\"text\": …}, {\"image\": …} or {\"image_url\": {\"url\": \"data:…\"}}. Token arrays are not taken.");
        return string.IsNullOrEmpty(words) ? throw new InvalidRequestException("An input is empty.") : words;
    }

    /// <summary>The first dimensions, at unit length again.</summary>
    private static float[] Shorten(float[] vector, int dimensions)
    {
        if (dimensions == vector.Length)
        {
            return vector;
        }
        float[] kept = vector[..dimensions];
        float norm = MathF.Sqrt(kept.Sum(v => v * v));
        return norm == 0 ? kept : [.. kept.Select(v => v / norm)];
    }

    private static object Encode(float[] vector, string? format) =>
        format == "base64" ? Convert.ToBase64String(MemoryMarshal.AsBytes(vector.AsSpan())) : vector;
}

/// <summary>The body of POST /v1/embeddings.</summary>
[System.Text.Json.Serialization.JsonUnmappedMemberHandling(System.Text.Json.Serialization.JsonUnmappedMemberHandling.Skip)]
public sealed record EmbeddingsRequest
{
    public required string Model { get; init; }

    /// <summary>A string, an array of strings, or objects with text or an image.</summary>
    public required JsonElement Input { get; init; }

    public int? Dimensions { get; init; }

    public string? EncodingFormat { get; init; }

    /// <summary>Taken and not used.</summary>
    public string? User { get; init; }
}

/// <summary>The answer to POST /v1/embeddings.</summary>
public sealed record EmbeddingsResponse(string Object, IReadOnlyList<EmbeddingItem> Data, string Model, EmbeddingsUsage Usage);

/// <summary>One embedding: an array of numbers, or base64 of little-endian floats.</summary>
public sealed record EmbeddingItem(string Object, int Index, object Embedding);

/// <summary>Tokens that were read.</summary>
public sealed record EmbeddingsUsage(int PromptTokens, int TotalTokens);
