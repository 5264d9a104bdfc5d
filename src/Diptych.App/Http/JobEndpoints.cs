using Diptych.App.Jobs;
using Diptych.Core;
using Diptych.Index.Jobs;
using Microsoft.AspNetCore.Mvc;

namespace Diptych.App.Http;

/// <summary>Jobs under /v1/jobs, and what starts them.</summary>
internal static class JobEndpoints
{
    private const int MaxListed = 1000;

    /// <summary>How often a job is looked at whose progress is made by another node.</summary>
    private static readonly TimeSpan Poll = TimeSpan.FromMilliseconds(500);

    public static void MapStarts(RouteGroupBuilder collections, DiptychOptions options)
    {
        collections.MapPost("/{collection}/documents", async (string collection, HttpRequest request, JobService jobs, Product product, CancellationToken cancellation) =>
            await AcceptedAsync(await jobs.UploadAsync(collection, request, cancellation), product, cancellation))
            .WithSummary("Uploads files (multipart/form-data) and starts a job that ingests them").DisableAntiforgery()
            .WithMetadata(new RequestSizeLimitAttribute(options.MaxUploadBytes))
            .Produces<JobResponse>(202).ProducesProblem(409).ProducesProblem(413).ProducesProblem(429).ProducesProblem(507);
        collections.MapPost("/{collection}/urls", async (string collection, UrlsRequest body, JobService jobs, Product product, CancellationToken cancellation) =>
            await AcceptedAsync(await jobs.FetchAsync(collection, body.Urls, cancellation), product, cancellation))
            .WithSummary("Fetches documents by URL and starts a job that ingests them").Produces<JobResponse>(202).ProducesProblem(429).ProducesProblem(507);
    }

    public static void Map(RouteGroupBuilder group)
    {
        group.MapGet("", async (Product product, string? collection, string? state, string? before, CancellationToken cancellation, int limit = 50) =>
        {
            Check(limit);
            IReadOnlyList<Job> jobs = await product.Jobs.ListAsync(collection, Named<JobState>(state, "state"), before, limit, cancellation);
            return new JobList([.. jobs.Select(j => JobResponse.Of(j, null))], jobs.Count == limit ? jobs[^1].Id : null);
        }).WithSummary("Lists jobs, the latest first; 'before' takes the 'next' of the list before");
        group.MapGet("/{id}", async (string id, JobService jobs, Product product, CancellationToken cancellation) =>
            await DescribeAsync(await jobs.FindAsync(id, cancellation), product, cancellation)).WithSummary("How far a job is, with its first 1,000 files");
        group.MapGet("/{id}/files", async (string id, JobService jobs, Product product, string? outcome, long? after, CancellationToken cancellation, int limit = 100) =>
        {
            Check(limit);
            await jobs.FindAsync(id, cancellation);
            IReadOnlyList<JobItem> items = await product.Jobs.ItemsAsync(id, Named<IngestOutcome>(outcome, "outcome"), after ?? 0, limit, cancellation);
            return new JobFileList([.. items.Select(JobFile.Of)], items.Count == limit ? items[^1].EndedPosition : null);
        }).WithSummary("A job's files in the order in which they ended; 'after' takes the 'next' of the list before");
        group.MapDelete("/{id}", async (string id, JobService jobs, Product product, CancellationToken cancellation) =>
            await DescribeAsync(await jobs.CancelAsync(id, cancellation), product, cancellation)).WithSummary("Cancels a job; what it committed stays");
        group.MapGet("/{id}/events", EventsAsync).WithSummary("A job's progress as server-sent events: 'file' for each file, then 'end'").Produces(200, contentType: "text/event-stream");
    }

    private static async Task EventsAsync(
        string id, HttpContext http, JobService jobs, JobSignal signal, Product product, TimeProvider time,
        IHostApplicationLifetime lifetime, CancellationToken cancellation)
    {
        Job job = await jobs.FindAsync(id, cancellation);
        var events = new ServerSentEvents(http.Response);
        var totals = new JobTotals { Found = job.Items };
        for (long position = 0; ;)
        {
            Task changed = signal.Next;
            // The state first: what had ended when it was read is among the items.
            job = await product.Jobs.FindAsync(id, cancellation) ?? job with { State = JobState.Cancelled };
            IReadOnlyList<JobItem> ended = await product.Jobs.ItemsAsync(id, null, position, MaxListed, cancellation);
            foreach (JobItem item in ended)
            {
                totals = totals.With(item.Outcome!.Value, 1);
                await events.SendAsync("file", new { file = JobFile.Of(item), totals }, cancellation);
                position = item.EndedPosition;
            }
            if (ended.Count == 0 && job.State is JobState.Done or JobState.Cancelled)
            {
                await events.SendAsync("end", await DescribeAsync(job, product, cancellation), cancellation);
                return;
            }
            if (ended.Count == 0)
            {
                await Task.WhenAny(changed, Task.Delay(Poll, time, cancellation));
                cancellation.ThrowIfCancellationRequested();
                if (lifetime.ApplicationStopping.IsCancellationRequested)
                {
                    // The job goes on when the server does; who watches asks again then.
                    return;
                }
            }
        }
    }

    private static async Task<IResult> AcceptedAsync(Job job, Product product, CancellationToken cancellation) =>
        TypedResults.Accepted($"/v1/jobs/{job.Id}", await DescribeAsync(job, product, cancellation));

    private static async Task<JobResponse> DescribeAsync(Job job, Product product, CancellationToken cancellation) =>
        JobResponse.Of(job, await product.Jobs.ItemsAsync(job.Id, null, null, MaxListed, cancellation));

    private static T? Named<T>(string? name, string parameter)
        where T : struct, Enum => name is null ? null
        : Enum.TryParse(name, ignoreCase: true, out T value) && Enum.IsDefined(value) ? value
        : throw new InvalidRequestException($"{parameter} is one of {string.Join(", ", Enum.GetNames<T>()).ToLowerInvariant()}.");

    private static void Check(int limit)
    {
        if (limit is < 1 or > MaxListed)
        {
            throw new InvalidRequestException($"limit is 1 to {MaxListed}.");
        }
    }
}
