using System.Security.Cryptography;
using Diptych.App.Jobs;
using Diptych.Core;
using Diptych.Engine.Answering;
using Diptych.Inference;
using Diptych.Reading;

namespace Diptych.App.Http;

/// <summary>The HTTP API under /v1: collections, documents, jobs, passages, search and answers.</summary>
internal static class Endpoints
{
    private const int MaxListed = 1000;

    public static void Map(IEndpointRouteBuilder app, DiptychOptions options)
    {
        RouteGroupBuilder v1 = app.MapGroup("/v1").ProducesProblem(400).ProducesProblem(404);
        MapCollections(v1.MapGroup("/collections").WithTags("Collections"), options);
        MapDocuments(v1.MapGroup("").WithTags("Documents"));
        JobEndpoints.Map(v1.MapGroup("/jobs").WithTags("Jobs"));
        MapQueries(v1.MapGroup("").WithTags("Queries"));
    }

    private static void MapCollections(RouteGroupBuilder group, DiptychOptions options)
    {
        group.MapGet("", (Product product) => product.Store.Collections()).WithSummary("Lists the collections");
        group.MapPost("", (CollectionRequest body, Product product) =>
        {
            product.Store.EnsureCollection(body.Name, body.Language);
            return TypedResults.Created($"/v1/collections/{Uri.EscapeDataString(body.Name)}");
        }).WithSummary("Makes a collection; one that exists stays as it is");
        group.MapDelete("/{collection}", async (string collection, Product product, JobService jobs) =>
        {
            if (!product.Store.DeleteCollection(collection))
            {
                throw new NotFoundException($"There is no collection '{collection}'.");
            }
            await jobs.CollectionDeletedAsync(collection);
            return TypedResults.NoContent();
        }).WithSummary("Deletes a collection with all its documents, and cancels its jobs");
        group.MapGet("/{collection}/documents", (string collection, Product product, string? prefix, int limit = 100, int offset = 0) =>
        {
            if (limit is < 1 or > MaxListed || offset < 0)
            {
                throw new InvalidRequestException($"limit is 1 to {MaxListed}, and offset at least 0.");
            }
            return new DocumentList([.. product.Store.Documents(collection, prefix, limit, offset).Select(DocumentResponse.Of)]);
        }).WithSummary("Lists a collection's documents; 'prefix' keeps those whose source begins with it");
        JobEndpoints.MapStarts(group, options);
    }

    private static void MapDocuments(RouteGroupBuilder group)
    {
        group.MapGet("/documents/{id:long}", (long id, Product product) => DocumentResponse.Of(Find(product, id))).WithSummary("One document");
        group.MapDelete("/documents/{id:long}", (long id, Product product) => product.Store.Delete(id)
            ? TypedResults.NoContent()
            : throw new NotFoundException($"There is no document {id}.")).WithSummary("Deletes a document; it is never found again");
        group.MapGet("/documents/{id:long}/text", (long id, Product product) =>
            TypedResults.Text(product.Store.DocumentText(Find(product, id).Id), "text/plain; charset=utf-8")).WithSummary("The extracted text, in which anchors count characters");
        group.MapGet("/documents/{id:long}/passages", (long id, Product product) =>
            product.Store.Passages(Find(product, id).Id).Select(PassageResponse.Of)).WithSummary("The passages of a document, in reading order");
        group.MapGet("/documents/{id:long}/original", OriginalAsync).WithSummary("The bytes as they were ingested").Produces(200, contentType: "application/octet-stream");
        group.MapGet("/passages/{id:long}", (long id, Product product) => PassageResponse.Of(FindPassage(product, id))).WithSummary("One passage");
        group.MapGet("/passages/{id:long}/thumbnail", (long id, HttpContext http, Product product) =>
        {
            byte[] thumbnail = product.Store.Thumbnail(FindPassage(product, id).Id) ?? throw new NotFoundException($"Passage {id} is no image.");
            http.Response.Headers.CacheControl = "private, max-age=86400";
            return TypedResults.Bytes(thumbnail, "image/jpeg");
        }).WithSummary("A small JPEG of an image passage").Produces(200, contentType: "image/jpeg");
        group.MapGet("/passages/{id:long}/image", async (long id, HttpContext http, Product product, CancellationToken cancellation) =>
        {
            byte[] image = await ImageAsync(product, id, cancellation);
            Harden(http);
            return TypedResults.Bytes(image, MediaTypes.Detect("image", image));
        }).WithSummary("The image of an image passage").Produces(200, contentType: "image/jpeg");
    }

    private static async Task<IResult> OriginalAsync(long id, HttpContext http, Product product, CancellationToken cancellation)
    {
        Document document = Find(product, id);
        byte[] bytes = await BytesAsync(product, document, cancellation);
        Harden(http);
        string type = document.MediaType.StartsWith("text/", StringComparison.Ordinal) ? $"{document.MediaType}; charset=utf-8" : document.MediaType;
        return TypedResults.Bytes(bytes, type, enableRangeProcessing: true);
    }

    /// <summary>Ingested content is foreign: it must not run in this origin, nor be taken for another type.</summary>
    private static void Harden(HttpContext http)
    {
        http.Response.Headers.ContentSecurityPolicy = "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'";
        http.Response.Headers.XContentTypeOptions = "nosniff";
    }

    private static async Task<byte[]> BytesAsync(Product product, Document document, CancellationToken cancellation)
    {
        if (product.Store.DocumentOriginal(document.Id) is { } kept)
        {
            return kept;
        }
        // The size tells a pipe or a device from a file before it is opened; the hash, that nobody gets what was never ingested.
        var file = new FileInfo(document.Source);
        if (!file.Exists)
        {
            throw new NotFoundException($"The file is no longer at {document.Source}. Ingest its folder again, with --prune to drop what is gone.");
        }
        byte[]? bytes = file.Length == document.SizeBytes ? await File.ReadAllBytesAsync(document.Source, cancellation) : null;
        return bytes is not null && Convert.ToHexStringLower(SHA256.HashData(bytes)) == document.ContentHash
            ? bytes
            : throw new SourceChangedException($"The file at {document.Source} has changed since it was ingested. Ingest it again.");
    }

    private static async Task<byte[]> ImageAsync(Product product, long id, CancellationToken cancellation)
    {
        Passage passage = FindPassage(product, id);
        return passage.Modality == Modality.Image
            ? product.Store.Image(id) ?? await BytesAsync(product, Find(product, passage.DocumentId), cancellation)
            : throw new NotFoundException($"Passage {id} is no image.");
    }

    private static void MapQueries(RouteGroupBuilder group)
    {
        group.MapPost("/search", async (SearchRequest body, Product product, CancellationToken cancellation) =>
        {
            Query query = await ToQueryAsync(body, product, cancellation);
            SearchResult result = await product.Searcher.SearchAsync(query, cancellation);
            return new SearchResponse([.. result.Hits.Select(HitResponse.Of)], result.Total, result.Confidence, RequestTerms.Current.Degraded);
        }).WithSummary("Finds text and images by text, images or both").ProducesProblem(429);

        group.MapPost("/answers", async (AnswerRequest body, HttpContext http, Product product, CancellationToken cancellation) =>
        {
            var question = new Question
            {
                Collection = body.Collection,
                Text = body.Question,
                Image = body.Image is null ? null : Base64(body.Image),
                Filter = body.Filter,
                MinConfidence = body.MinConfidence,
                ExtractOnly = body.ExtractOnly is true,
            };
            ServerSentEvents? events = null;
            await foreach (AnswerPart part in product.Answerer.AskAsync(question, cancellation))
            {
                if (body.Stream is not true)
                {
                    if (part.Final is not null)
                    {
                        return Results.Ok(AnswerResponse.Of(part.Final));
                    }
                    continue;
                }
                // The stream begins with the first part, so that a question that cannot be asked is a problem document like any other.
                events ??= new ServerSentEvents(http.Response);
                await (part.Final is null
                    ? events.SendAsync("delta", new { text = part.Delta }, cancellation)
                    : events.SendAsync("answer", AnswerResponse.Of(part.Final), cancellation));
            }
            return Results.Empty;
        }).WithSummary("Answers a question from a collection, with citations").Produces<AnswerResponse>().ProducesProblem(429);
    }

    private static async Task<Query> ToQueryAsync(SearchRequest body, Product product, CancellationToken cancellation)
    {
        if ((body.Query is null) == (body.Parts is null or []))
        {
            throw new InvalidRequestException("Send either 'query' or 'parts'.");
        }
        var parts = new List<QueryPart>();
        foreach (PartRequest part in body.Parts ?? [new PartRequest { Text = body.Query }])
        {
            byte[]? image = part.Image is not null ? Base64(part.Image)
                : part.ImageUrl is not null ? await ImageAsync(product, PassageOf(part.ImageUrl), cancellation)
                : null;
            parts.Add(new QueryPart { Text = part.Text, Image = image, PassageId = part.Passage, Weight = part.Weight ?? 1 });
        }
        return new Query
        {
            Collection = body.Collection,
            Parts = parts,
            Channels = body.Channels ?? [],
            Fusion = body.Fusion ?? Fusion.ReciprocalRank,
            ChannelWeights = (body.ChannelWeights ?? new Dictionary<string, double>()).ToDictionary(
                w => Enum.TryParse(w.Key, ignoreCase: true, out Channel channel) ? channel : throw new InvalidRequestException($"'{w.Key}' is no channel: cross, text or lexical."),
                w => w.Value),
            Filter = body.Filter,
            Modality = body.Modality,
            Limit = body.Limit ?? 10,
            Offset = body.Offset ?? 0,
            GroupByDocument = body.GroupByDocument is true,
            MmrLambda = body.MmrLambda,
            MinConfidence = body.MinConfidence ?? 0,
        };
    }

    internal static byte[] Base64(string text)
    {
        int comma = text.StartsWith("data:", StringComparison.OrdinalIgnoreCase) ? text.IndexOf(',') : -1;
        byte[] buffer = new byte[text.Length];
        return Convert.TryFromBase64Chars(text.AsSpan(comma + 1), buffer, out int length) && length > 0
            ? buffer[..length]
            : throw new InvalidRequestException("The image is not valid base64.");
    }

    internal static long PassageOf(string url)
    {
        string path = Uri.TryCreate(url, UriKind.Absolute, out Uri? uri) && uri.Scheme is "http" or "https" ? uri!.AbsolutePath : url;
        string[] parts = path.Split('/', StringSplitOptions.RemoveEmptyEntries);
        return parts is ["v1", "passages", var id, "image"] && long.TryParse(id, System.Globalization.CultureInfo.InvariantCulture, out long passage)
            ? passage
            : throw new InvalidRequestException("image_url names the image of an ingested passage: /v1/passages/{id}/image. Send other images as 'image'.");
    }

    private static Document Find(Product product, long id) => product.Store.Document(id) ?? throw new NotFoundException($"There is no document {id}.");

    private static Passage FindPassage(Product product, long id) =>
        product.Store.PassagesById([id]).GetValueOrDefault(id) ?? throw new NotFoundException($"There is no passage {id}.");
}
