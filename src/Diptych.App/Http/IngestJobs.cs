using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using Diptych.Core;
using Diptych.Engine.Ingestion;

namespace Diptych.App.Http;

/// <summary>Ingestion that goes on after its request was answered; finished jobs are kept for an hour.</summary>
public sealed class IngestJobs(Product product, TimeProvider time, IHostApplicationLifetime lifetime)
{
    private static readonly TimeSpan Kept = TimeSpan.FromHours(1);
    private readonly ConcurrentDictionary<string, Job> _jobs = new(StringComparer.Ordinal);
    private readonly SemaphoreSlim _running = new(2);

    public Job Start(string collection, IReadOnlyList<IngestSource> sources)
    {
        foreach (Job old in _jobs.Values.Where(j => j.FinishedAt is { } at && time.GetUtcNow() - at > Kept))
        {
            _jobs.TryRemove(old.Id, out _);
        }
        var job = new Job(Guid.NewGuid().ToString("N")[..12], collection, CancellationTokenSource.CreateLinkedTokenSource(lifetime.ApplicationStopping));
        _jobs[job.Id] = job;
        job.Work = Task.Run(() => RunAsync(job, sources), CancellationToken.None);
        return job;
    }

    public Job Find(string id) => _jobs.GetValueOrDefault(id) ?? throw new NotFoundException($"There is no job '{id}'. Finished jobs are kept for an hour.");

    private async Task RunAsync(Job job, IReadOnlyList<IngestSource> sources)
    {
        string state = "done";
        string? error = null;
        try
        {
            await _running.WaitAsync(job.Stop.Token);
            try
            {
                await product.Ingestor.RunAsync(sources, new IngestOptions { Collection = job.Collection }, job.Add, job.Stop.Token);
            }
            finally
            {
                _running.Release();
            }
        }
        catch (OperationCanceledException)
        {
            state = "cancelled";
        }
        catch (Exception failure) when (failure is not OutOfMemoryException)
        {
            // The job carries its failure to whoever asks for it; the server goes on.
            (state, error) = ("failed", failure.Message);
        }
        job.Finish(state, error, time.GetUtcNow());
    }
}

/// <summary>One ingestion run and what it said so far.</summary>
public sealed class Job(string id, string collection, CancellationTokenSource stop)
{
    private readonly Lock _lock = new();
    private readonly List<(IngestEvent Event, IngestTotals Totals)> _events = [];
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private string _state = "running";
    private string? _error;

    public string Id => id;

    public string Collection => collection;

    public CancellationTokenSource Stop => stop;

    public DateTimeOffset? FinishedAt { get; private set; }

    public Task Work { get; set; } = Task.CompletedTask;

    public JobResponse Describe()
    {
        lock (_lock)
        {
            return new JobResponse(
                id, collection, _state, _events.Count > 0 ? _events[^1].Totals : new IngestTotals(),
                [.. _events.Where(e => e.Event.Outcome == IngestOutcome.Failed).Select(e => ToJson(e.Event))], _error);
        }
    }

    /// <summary>All events from the first, then each as it comes, until the job ends.</summary>
    public async IAsyncEnumerable<(JobEvent Event, IngestTotals Totals)> EventsAsync([EnumeratorCancellation] CancellationToken cancellation)
    {
        for (int next = 0; ;)
        {
            (IngestEvent, IngestTotals)[] fresh;
            Task changed;
            bool finished;
            lock (_lock)
            {
                fresh = [.. _events.Skip(next)];
                changed = _changed.Task;
                finished = FinishedAt is not null;
            }
            foreach (var (e, totals) in fresh)
            {
                yield return (ToJson(e), totals);
            }
            next += fresh.Length;
            if (finished)
            {
                yield break;
            }
            if (fresh.Length == 0)
            {
                await changed.WaitAsync(cancellation);
            }
        }
    }

    internal void Add(IngestEvent e, IngestTotals totals) => Change(() => _events.Add((e, totals)));

    internal void Finish(string state, string? error, DateTimeOffset at) => Change(() => (_state, _error, FinishedAt) = (state, error, at));

    private void Change(Action change)
    {
        lock (_lock)
        {
            change();
            _changed.TrySetResult();
            _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }

    private static JobEvent ToJson(IngestEvent e) => new(e.Source, e.Outcome, e.Reason, e.Document?.Id);
}
