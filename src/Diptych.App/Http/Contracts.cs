using System.ComponentModel;
using Diptych.Core;
using Diptych.Index.Jobs;

namespace Diptych.App.Http;

/// <summary>A weighted part of a query: exactly one of text, image, image_url and passage.</summary>
public sealed record PartRequest
{
    public string? Text { get; init; }

    [Description("An image file, base64 or as a data: URI.")]
    public string? Image { get; init; }

    [Description("The image of an ingested passage, as /v1/passages/{id}/image.")]
    public string? ImageUrl { get; init; }

    [Description("The id of an ingested passage.")]
    public long? Passage { get; init; }

    [Description("Negative pushes away. Default 1.")]
    public double? Weight { get; init; }
}

/// <summary>The body of POST /v1/search.</summary>
public sealed record SearchRequest
{
    public string Collection { get; init; } = "default";

    [Description("Short for one part of text.")]
    public string? Query { get; init; }

    public IReadOnlyList<PartRequest>? Parts { get; init; }

    [Description("Of cross, text, lexical; empty takes all that apply.")]
    public IReadOnlyList<Channel>? Channels { get; init; }

    [Description("reciprocal_rank (the default) or weighted.")]
    public Fusion? Fusion { get; init; }

    [Description("Weight by channel for fusion; default 1 each.")]
    public IReadOnlyDictionary<string, double>? ChannelWeights { get; init; }

    [Description("{\"field\":\"year\",\"gte\":2000}, {\"and\":[…]}, {\"or\":[…]}, {\"not\":…}; operators eq, in, gt, gte, lt, lte, prefix, exists.")]
    public Filter? Filter { get; init; }

    public Modality? Modality { get; init; }

    [Description("Hits, 1 to 1000. Default 10.")]
    public int? Limit { get; init; }

    public int? Offset { get; init; }

    [Description("At most one hit a document.")]
    public bool? GroupByDocument { get; init; }

    [Description("Maximal marginal relevance: 1 relevance alone, 0 novelty alone.")]
    public double? MmrLambda { get; init; }

    [Description("Hits below this calibrated confidence are left out.")]
    public double? MinConfidence { get; init; }
}

/// <summary>A hit with links to what it shows.</summary>
public sealed record HitResponse(
    int Rank,
    double Score,
    double Confidence,
    Modality Modality,
    long PassageId,
    string Text,
    string HeadingPath,
    Anchor Anchor,
    DocumentResponse Document,
    Snippet? Snippet,
    IReadOnlyList<ChannelEvidence> Evidence,
    string? ThumbnailUrl,
    string? ImageUrl,
    string ViewUrl)
{
    public static HitResponse Of(Hit hit) => new(
        hit.Rank, hit.Score, hit.Confidence, hit.Passage.Modality, hit.Passage.Id, hit.Passage.Text, hit.Passage.HeadingPath, hit.Passage.Anchor,
        DocumentResponse.Of(hit.Document), hit.Snippet, hit.Evidence, Links.Thumbnail(hit.Passage), Links.Image(hit.Passage), Links.View(hit.Passage, hit.Passage.Anchor));
}

/// <summary>The body of the answer to POST /v1/search.</summary>
public sealed record SearchResponse(IReadOnlyList<HitResponse> Hits, int Total, double Confidence, IReadOnlyList<string> Degraded);

/// <summary>A document as the API shows it.</summary>
public sealed record DocumentResponse(
    long Id, string Collection, string Source, string Title, string MediaType, string ContentHash, long SizeBytes, DateTimeOffset IngestedAt,
    int PageCount, int PassageCount, Metadata Metadata, string OriginalUrl)
{
    public static DocumentResponse Of(Document d) => new(
        d.Id, d.Collection, d.Source, d.Title, d.MediaType, d.ContentHash, d.SizeBytes, d.IngestedAt, d.PageCount, d.PassageCount, d.Metadata,
        $"/v1/documents/{d.Id}/original");
}

/// <summary>A page of documents.</summary>
public sealed record DocumentList(IReadOnlyList<DocumentResponse> Documents);

/// <summary>A passage as the API shows it.</summary>
public sealed record PassageResponse(
    long Id, long DocumentId, int Ordinal, Modality Modality, string Text, string HeadingPath, Anchor Anchor, int WidthPx, int HeightPx, string? ThumbnailUrl)
{
    public static PassageResponse Of(Passage p) => new(
        p.Id, p.DocumentId, p.Ordinal, p.Modality, p.Text, p.HeadingPath, p.Anchor, p.WidthPx, p.HeightPx, Links.Thumbnail(p));
}

/// <summary>The body of POST /v1/answers.</summary>
public sealed record AnswerRequest
{
    public string Collection { get; init; } = "default";

    public required string Question { get; init; }

    [Description("An image that the question is about, base64 or as a data: URI.")]
    public string? Image { get; init; }

    public Filter? Filter { get; init; }

    [Description("Server-sent events: 'delta' with text, then 'answer' with the whole.")]
    public bool? Stream { get; init; }

    [Description("Below this confidence there is no answer. Default 0.4.")]
    public double? MinConfidence { get; init; }

    [Description("Extracts even where a language model is configured.")]
    public bool? ExtractOnly { get; init; }
}

/// <summary>A citation with a link that opens the document at the place.</summary>
public sealed record CitationResponse(
    int Number, string Quote, Modality Modality, long PassageId, Anchor Anchor, double Confidence, DocumentResponse Document, string? ThumbnailUrl, string ViewUrl)
{
    public static CitationResponse Of(Citation c) => new(
        c.Number, c.Quote, c.Passage.Modality, c.Passage.Id, c.Anchor, c.Confidence, DocumentResponse.Of(c.Document), Links.Thumbnail(c.Passage), Links.View(c.Passage, c.Anchor));
}

/// <summary>The body of the answer to POST /v1/answers.</summary>
public sealed record AnswerResponse(string Kind, string Text, IReadOnlyList<CitationResponse> Citations, double Confidence, IReadOnlyList<string> Degraded)
{
    public static AnswerResponse Of(Engine.Answering.Answer a) => new(
        a.Kind.ToString().ToLowerInvariant(), a.Text, [.. a.Citations.Select(CitationResponse.Of)], a.Confidence, a.Degraded);
}

/// <summary>The body of POST /v1/collections.</summary>
public sealed record CollectionRequest
{
    public required string Name { get; init; }

    [Description("What its words are stemmed in: english, french, german, spanish, italian, portuguese, dutch, danish, norwegian or swedish. Default english.")]
    public string? Language { get; init; }
}

/// <summary>The body of POST /v1/collections/{collection}/urls.</summary>
public sealed record UrlsRequest
{
    public required IReadOnlyList<string> Urls { get; init; }
}

/// <summary>An ingestion job.</summary>
/// <param name="State">queued, running, done (every file has ended, each with its outcome) or cancelled.</param>
/// <param name="Files">The first 1,000: those that have ended, in that order, then the others. Left out in lists.</param>
public sealed record JobResponse(string Id, string Collection, JobState State, DateTimeOffset CreatedAt, DateTimeOffset? EndedAt, JobTotals Totals, IReadOnlyList<JobFile>? Files)
{
    public static JobResponse Of(Job job, IEnumerable<JobItem>? items) => new(
        job.Id, job.Collection, job.State, job.CreatedAt, job.EndedAt,
        job.Outcomes.Aggregate(new JobTotals { Found = job.Items }, (t, o) => t.With(o.Key, o.Value)),
        items is null ? null : [.. items.Select(JobFile.Of)]);
}

/// <summary>Jobs, and what 'before' takes to list those before them; null at the end.</summary>
public sealed record JobList(IReadOnlyList<JobResponse> Jobs, string? Next);

/// <summary>Files of a job, and what 'after' takes to list those after them; null at the end.</summary>
public sealed record JobFileList(IReadOnlyList<JobFile> Files, long? Next);

/// <summary>What became of one file of a job.</summary>
/// <param name="Outcome">Left out until it has ended.</param>
public sealed record JobFile(string Source, IngestOutcome? Outcome, string? Reason, long? DocumentId)
{
    public static JobFile Of(JobItem item) => new(item.Source, item.Outcome, item.Reason, item.DocumentId);
}

/// <summary>A job's files by outcome, of those that have ended.</summary>
/// <param name="Found">All of them.</param>
public sealed record JobTotals(
    int Found = 0, int Done = 0, int Added = 0, int Replaced = 0, int Unchanged = 0, int Duplicates = 0, int Moved = 0, int Failed = 0, int Cancelled = 0)
{
    public JobTotals With(IngestOutcome outcome, int files) => (this with { Done = Done + files }) switch
    {
        var t when outcome == IngestOutcome.Added => t with { Added = Added + files },
        var t when outcome == IngestOutcome.Replaced => t with { Replaced = Replaced + files },
        var t when outcome == IngestOutcome.Unchanged => t with { Unchanged = Unchanged + files },
        var t when outcome == IngestOutcome.Duplicate => t with { Duplicates = Duplicates + files },
        var t when outcome == IngestOutcome.Moved => t with { Moved = Moved + files },
        var t when outcome == IngestOutcome.Failed => t with { Failed = Failed + files },
        var t => t with { Cancelled = Cancelled + files },
    };
}

/// <summary>The models that are served.</summary>
public sealed record ModelList(string Object, IReadOnlyList<ModelResponse> Data);

/// <summary>One model, in OpenAI's dialect with what this server adds.</summary>
/// <param name="Broken">Why it cannot be run; left out where it can.</param>
public sealed record ModelResponse(string Id, string Object, string OwnedBy, string Revision, long WeightBytes, int Dimensions, string? Broken = null);

internal static class Links
{
    public static string? Thumbnail(Passage p) => p.Modality == Modality.Image ? $"/v1/passages/{p.Id}/thumbnail" : null;

    public static string? Image(Passage p) => p.Modality == Modality.Image ? $"/v1/passages/{p.Id}/image" : null;

    /// <summary>The web page, opened at the place.</summary>
    public static string View(Passage p, Anchor anchor) =>
        $"/#doc={p.DocumentId}&passage={p.Id}" + (anchor is { Start: { } start, End: { } end } ? $"&start={start}&end={end}" : "");
}
