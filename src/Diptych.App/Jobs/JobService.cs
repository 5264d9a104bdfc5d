using System.Text;
using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Jobs;
using Microsoft.AspNetCore.WebUtilities;
using Microsoft.Net.Http.Headers;

namespace Diptych.App.Jobs;

/// <summary>Takes in what is to be ingested: bytes are in the spool and the job is in the store when it is acknowledged.</summary>
internal sealed partial class JobService(
    Product product, JobSignal signal, JobRunner runner, DiptychOptions options, TimeProvider time, ILogger<JobService> log)
{
    private const int MaxFieldBytes = 1 << 20, MaxUrls = 10_000;

    /// <summary>When to try again where there is no room.</summary>
    private static readonly TimeSpan RetryAfter = TimeSpan.FromSeconds(30);

    /// <summary>Held from looking which names are free to taking them.</summary>
    private readonly SemaphoreSlim _naming = new(1);

    private IJobQueue Queue => product.Jobs;

    /// <summary>Keeps the files of a form, which is read as it comes in and never held in memory.</summary>
    /// <exception cref="InvalidRequestException">It is no form with files.</exception>
    /// <exception cref="OverloadedException">Too many items wait already.</exception>
    public async Task<Job> UploadAsync(string collection, HttpRequest request, CancellationToken cancellation)
    {
        await CheckRoomAsync(1, cancellation);
        var fields = new Dictionary<string, string>(StringComparer.Ordinal);
        var files = new List<(string FileName, string? MediaType, SpooledFile File)>();
        try
        {
            await ReadFormAsync(request, fields, files, cancellation);
            if (files.Count == 0)
            {
                throw new InvalidRequestException("The form has no file.");
            }
            await CheckRoomAsync(files.Count, cancellation);
            Metadata metadata = Given(fields.GetValueOrDefault("metadata"));
            product.Store.EnsureCollection(collection);
            await _naming.WaitAsync(cancellation);
            try
            {
                UploadNames names = UploadNames.For(fields.GetValueOrDefault("on_conflict"), collection, product.Store, Queue);
                Job job = New(collection, files.Count);
                var items = new List<JobItem>(files.Count);
                foreach (var (fileName, mediaType, file) in files)
                {
                    string source = await names.TakeAsync(fileName, file.Hash, cancellation);
                    items.Add(new JobItem(new JobItemKey(job.Id, items.Count), source, Path.GetFileName(source), mediaType, metadata, null, file.Name, file.Bytes));
                }
                await Queue.AddAsync(job, items, cancellation);
                Log.Accepted(log, job.Id, files.Count, files.Sum(f => f.File.Bytes));
                product.Spool.Claim(files.Select(f => f.File.Name));
                files.Clear();
                signal.Raise();
                return job;
            }
            finally
            {
                _naming.Release();
            }
        }
        finally
        {
            foreach (var (_, _, file) in files)
            {
                await product.Spool.DeleteAsync(file.Name, CancellationToken.None);
            }
        }
    }

    /// <exception cref="InvalidRequestException">One is no http or https address.</exception>
    /// <exception cref="OverloadedException">Too many items wait already.</exception>
    public async Task<Job> FetchAsync(string collection, IReadOnlyList<string> urls, CancellationToken cancellation)
    {
        if (urls.Count is 0 or > MaxUrls)
        {
            throw new InvalidRequestException($"urls lists 1 to {MaxUrls} addresses.");
        }
        var named = urls.Select(UrlSource.Name).DistinctBy(u => u.Source).ToList();
        await CheckRoomAsync(named.Count, cancellation);
        product.Store.EnsureCollection(collection);
        Job job = New(collection, named.Count);
        await Queue.AddAsync(job, [.. named.Select((u, i) => new JobItem(new JobItemKey(job.Id, i), u.Source, u.Name, null, u.Metadata, u.Source, null, 0))], cancellation);
        Log.Accepted(log, job.Id, named.Count, 0);
        signal.Raise();
        return job;
    }

    /// <exception cref="NotFoundException">There is no such job, or not any more.</exception>
    public async Task<Job> FindAsync(string id, CancellationToken cancellation) =>
        await Queue.FindAsync(id, cancellation) ?? throw new NotFoundException($"There is no job '{id}'. Jobs are kept for {options.JobRetentionDays} days after they ended.");

    public async Task<Job> CancelAsync(string id, CancellationToken cancellation)
    {
        await FindAsync(id, cancellation);
        if (await Queue.CancelAsync(id, cancellation))
        {
            Log.Cancelled(log, id);
            runner.Cancel(id);
            signal.Raise();
            await runner.TidyAsync(CancellationToken.None);
        }
        return await FindAsync(id, cancellation);
    }

    /// <summary>What jobs had taken up of a collection that is gone.</summary>
    public async Task CollectionDeletedAsync(string collection)
    {
        foreach (Job job in await Queue.ListAsync(collection, JobState.Cancelled, null, 100, CancellationToken.None))
        {
            runner.Cancel(job.Id);
        }
        await runner.TidyAsync(CancellationToken.None);
    }

    private async Task CheckRoomAsync(int items, CancellationToken cancellation)
    {
        long waiting = await Queue.WaitingAsync(cancellation);
        if (waiting + items > options.QueueItems)
        {
            throw new OverloadedException($"{waiting} files wait to be ingested, and the queue holds {options.QueueItems} (Diptych:QueueItems). Send this again when some are done.", RetryAfter);
        }
    }

    private Job New(string collection, int items) => new(Guid.NewGuid().ToString("N"), collection, time.GetUtcNow()) { Items = items };

    private async Task ReadFormAsync(HttpRequest request, Dictionary<string, string> fields, List<(string, string?, SpooledFile)> files, CancellationToken cancellation)
    {
        if (!MediaTypeHeaderValue.TryParse(request.ContentType, out MediaTypeHeaderValue? type)
            || !type.MediaType.Equals("multipart/form-data", StringComparison.OrdinalIgnoreCase)
            || HeaderUtilities.RemoveQuotes(type.Boundary) is not { Length: > 0 } boundary)
        {
            throw new InvalidRequestException("Send the files as multipart/form-data, for example with: curl -F file=@report.pdf");
        }
        var reader = new MultipartReader(boundary.Value!, request.Body);
        try
        {
            while (await reader.ReadNextSectionAsync(cancellation) is { } section)
            {
                if (!ContentDispositionHeaderValue.TryParse(section.ContentDisposition, out ContentDispositionHeaderValue? disposition))
                {
                    throw new InvalidRequestException("A part of the form has no Content-Disposition.");
                }
                // The extended form, in UTF-8, says more than the plain one.
                string? fileName = (disposition.FileNameStar.HasValue ? disposition.FileNameStar : HeaderUtilities.RemoveQuotes(disposition.FileName)).Value;
                if (fileName is not null)
                {
                    // A page's form sends a part without name or content where no file was chosen.
                    if (fileName.Length > 0)
                    {
                        files.Add((fileName, section.ContentType, await product.Spool.WriteAsync(section.Body, options.MaxUploadBytes, cancellation)));
                    }
                }
                else if (HeaderUtilities.RemoveQuotes(disposition.Name).Value is { Length: > 0 } name)
                {
                    fields[name] = await FieldAsync(section.Body, name, cancellation);
                }
            }
        }
        catch (Exception error) when (error is InvalidDataException or IOException and not BadHttpRequestException && !StorageFullException.Is(error))
        {
            throw new InvalidRequestException($"The form cannot be read: {error.Message}", error);
        }
    }

    private static async Task<string> FieldAsync(Stream body, string name, CancellationToken cancellation)
    {
        using var content = new MemoryStream();
        byte[] buffer = new byte[4096];
        for (int read; (read = await body.ReadAsync(buffer, cancellation)) > 0;)
        {
            content.Write(buffer, 0, read);
            if (content.Length > MaxFieldBytes)
            {
                throw new InvalidRequestException($"The form's field '{name}' has more than {MaxFieldBytes >> 20} MB.");
            }
        }
        return Encoding.UTF8.GetString(content.GetBuffer(), 0, (int)content.Length);
    }

    private static Metadata Given(string? json)
    {
        try
        {
            return json is { Length: > 0 } ? JsonSerializer.Deserialize<Metadata>(json)! : Metadata.Empty;
        }
        catch (JsonException error)
        {
            throw new InvalidRequestException($"The form's metadata is no JSON object of values: {error.Message}", error);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "Job {Job} was accepted: {Items} files, {Bytes} bytes uploaded")]
        public static partial void Accepted(ILogger log, string job, int items, long bytes);

        [LoggerMessage(2, LogLevel.Information, "Job {Job} was cancelled")]
        public static partial void Cancelled(ILogger log, string job);
    }
}
