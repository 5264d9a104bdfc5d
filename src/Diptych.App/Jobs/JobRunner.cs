using System.Collections.Concurrent;
using Diptych.Core;
using Diptych.Engine.Ingestion;
using Diptych.Index;
using Diptych.Index.Jobs;

namespace Diptych.App.Jobs;

/// <summary>
/// Works on the jobs in the store: items whose bytes are spooled go through ingestion in batches, URLs are fetched into the spool first.
/// Every item is leased. A lease is renewed as long as this process lives, so that another node takes over where it does not.
/// </summary>
internal sealed partial class JobRunner(
    Product product, UrlSource urls, JobSignal signal, DiptychOptions options,
    IHostApplicationLifetime lifetime, TimeProvider time, ILogger<JobRunner> log) : BackgroundService
{
    /// <summary>Items that go through ingestion together: enough to keep its stages busy, few enough for jobs to take turns.</summary>
    private const int BatchItems = 64;

    /// <summary>Batches at a time: while one runs out, the next fills the stages.</summary>
    private const int Batches = 2;

    /// <summary>Fetches at a time, and from one host: a host that is slow leaves room for others.</summary>
    private const int Fetches = 16, FetchesPerHost = 2;

    private static readonly TimeSpan
        Lease = TimeSpan.FromSeconds(20), Renewal = TimeSpan.FromSeconds(5), Tick = TimeSpan.FromSeconds(0.5), Poll = TimeSpan.FromSeconds(2), Pause = TimeSpan.FromSeconds(5), Housekeeping = TimeSpan.FromMinutes(10);

    private readonly string _node = Node.Own();
    private readonly ConcurrentDictionary<HeldItems, bool> _held = new();

    /// <summary>Jobs whose end is in the log; forgotten now and then.</summary>
    private readonly ConcurrentDictionary<string, bool> _logged = new(StringComparer.Ordinal);

    /// <summary>Shared by all batches.</summary>
    private readonly ByteBudget _bytes = new((long)options.JobMemoryMb << 20);

    private IReadOnlyList<BackgroundLoop>? _loops;

    private IJobQueue Queue => product.Jobs;

    /// <summary>Stops what is being done for a job that has been cancelled.</summary>
    public void Cancel(string job)
    {
        foreach (HeldItems held in _held.Keys.Where(h => h.Job == job))
        {
            held.Cancel();
        }
    }

    /// <summary>What it does beside requests.</summary>
    public IReadOnlyList<BackgroundLoop> Loops => _loops ??=
    [
        new("renewing the leases of jobs", RenewAsync, time, log),
        new("the housekeeping of jobs", KeepHouseAsync, time, log),
        new("fetching for jobs", FetchAsync, time, log),
        .. Enumerable.Range(1, Batches).Select(b => new BackgroundLoop($"ingesting for jobs ({b})", IngestAsync, time, log)),
    ];

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        // Jobs pause while the last requests are finished.
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(stoppingToken, lifetime.ApplicationStopping);
        await Task.WhenAll(Loops.Select(l => l.RunAsync(stop.Token)));
    }

    private async Task IngestAsync(CancellationToken stopping)
    {
        while (!stopping.IsCancellationRequested)
        {
            Task changed = signal.Next;
            IReadOnlyList<JobItem> items = await Queue.LeaseAsync(_node, BatchItems, Lease, stopping);
            if (items.Count == 0)
            {
                await Task.WhenAny(changed, Task.Delay(Poll, time, stopping));
                continue;
            }
            using HeldItems held = Hold(items, stopping);
            // A failure that is nobody's in particular counts against all of them, so that one that causes it is worked on alone in time.
            bool counts = true;
            try
            {
                Job? job = await Queue.FindAsync(held.Job, stopping);
                var run = new IngestOptions { Collection = job!.Collection, MakesCollection = false, OwnPaths = false, MaxFileBytes = options.MaxUploadBytes, Bytes = _bytes };
                await product.Ingestor.RunAsync(items.Select(Source), run, (e, _) => Ended(e, held), held.Stop);
            }
            catch (Exception error) when (held.Stop.IsCancellationRequested || error is StorageFullException or StoreUnavailableException)
            {
                counts = false;
                if (!held.Stop.IsCancellationRequested)
                {
                    throw;
                }
            }
            finally
            {
                await LetGoAsync(held, counts);
            }
        }
    }

    private IngestSource Source(JobItem item) =>
        new(item.Source, item.Name, c => product.Spool.ReadAsync(item.Spool!, c), KeepOriginal: true, item.MediaType, item.Metadata) { SizeBytes = item.Bytes, Lease = new ItemLease(item.Key, _node) };

    private void Ended(IngestEvent e, HeldItems held)
    {
        if (e.Lease is not { Item: var item })
        {
            return;
        }
        if (e.Outcome is IngestOutcome.Failed or IngestOutcome.Unchanged)
        {
            held.Ends(new ItemEnd(item, e.Outcome, e.Reason, e.Document?.Id));
        }
        else
        {
            held.HasEnded(item);
            signal.Raise();
        }
    }

    private HeldItems Hold(IReadOnlyList<JobItem> items, CancellationToken stopping)
    {
        var held = new HeldItems(items, stopping);
        _held[held] = true;
        return held;
    }

    /// <summary>Deletes the files of items that have ended.</summary>
    public async Task TidyAsync(CancellationToken cancellation)
    {
        if (await Queue.SpentFilesAsync(cancellation) is { Count: > 0 } spent)
        {
            foreach (string file in spent)
            {
                await product.Spool.DeleteAsync(file, cancellation);
            }
            await Queue.ForgetFilesAsync(spent, cancellation);
        }
    }

    /// <summary>Gives back what has not ended, and then the room of what has.</summary>
    private async Task LetGoAsync(HeldItems held, bool counts)
    {
        try
        {
            await TellEndsAsync(held, CancellationToken.None);
            await Queue.ReleaseAsync(_node, held.Open, counts, CancellationToken.None);
            await TidyAsync(CancellationToken.None);
            await LogEndAsync(held.Job);
        }
        finally
        {
            _held.TryRemove(held, out _);
            signal.Raise();
        }
    }

    private async Task LogEndAsync(string id)
    {
        // Two batches may be a job's last.
        if (await Queue.FindAsync(id, CancellationToken.None) is { State: JobState.Done } job && _logged.TryAdd(id, true))
        {
            IReadOnlyList<JobItem> failed = await Queue.ItemsAsync(id, IngestOutcome.Failed, null, 1, CancellationToken.None);
            Log.Ended(log, id, job.Items, failed.Count > 0 ? "some failed, and /v1/jobs/{id}/files says why" : "none failed");
        }
    }

    private async Task TellEndsAsync(HeldItems held, CancellationToken cancellation)
    {
        if (held.TakeEnds() is { Count: > 0 } ends)
        {
            await Queue.EndAsync(_node, ends, cancellation);
            signal.Raise();
        }
    }

    private async Task RenewAsync(CancellationToken stopping)
    {
        for (long renewed = time.GetTimestamp(); ; await Task.Delay(Tick, time, stopping))
        {
            foreach (HeldItems held in _held.Keys)
            {
                await TellEndsAsync(held, stopping);
            }
            if (time.GetElapsedTime(renewed) < Renewal)
            {
                continue;
            }
            renewed = time.GetTimestamp();
            if (_held.Keys.SelectMany(h => h.Open).ToList() is { Count: > 0 } items)
            {
                foreach (string lost in await Queue.RenewAsync(_node, items, Lease, stopping))
                {
                    Cancel(lost);
                }
            }
        }
    }

    private async Task KeepHouseAsync(CancellationToken stopping)
    {
        foreach (string gone in (await Queue.NodesAsync(stopping)).Where(Node.IsGone))
        {
            await Queue.ExpireAsync(gone, stopping);
            Log.TakenOver(log, gone);
            signal.Raise();
        }
        for (; ; await Task.Delay(Housekeeping, time, stopping))
        {
            _logged.Clear();
            // Before the jobs go, which know the files.
            await TidyAsync(stopping);
            await Queue.ForgetAsync(time.GetUtcNow() - TimeSpan.FromDays(options.JobRetentionDays), stopping);
            await product.Spool.SweepAsync(Queue.SpooledFilesAsync, stopping);
        }
    }

    private async Task FetchAsync(CancellationToken stopping)
    {
        var running = new Dictionary<Task, string>();
        try
        {
            while (!stopping.IsCancellationRequested)
            {
                Task changed = signal.Next;
                foreach (Task ended in running.Keys.Where(t => t.IsCompleted).ToList())
                {
                    running.Remove(ended);
                    await ended;
                }
                string[] busy = [.. running.Values.GroupBy(h => h).Where(g => g.Count() >= FetchesPerHost).Select(g => g.Key)];
                IReadOnlyList<JobItem> items = running.Count < Fetches ? await Queue.LeaseToFetchAsync(_node, busy, 1, Lease, stopping) : [];
                if (items is [var item])
                {
                    running.Add(FetchAsync(items, item, stopping), item.Host!);
                    continue;
                }
                await Task.WhenAny([changed, Task.Delay(Poll, time, stopping), .. running.Keys]);
            }
        }
        finally
        {
            await Task.WhenAll(running.Keys).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private async Task FetchAsync(IReadOnlyList<JobItem> one, JobItem item, CancellationToken stopping)
    {
        using HeldItems held = Hold(one, stopping);
        bool counts = true;
        try
        {
            SpooledFile file = await urls.SpoolAsync(item.Url!, product.Spool, held.Stop);
            // From here on it is for ingestion, or has been cancelled meanwhile.
            held.HasEnded(item.Key);
            if (await Queue.SpooledAsync(_node, item.Key, file.Name, file.Bytes, null, CancellationToken.None))
            {
                product.Spool.Claim([file.Name]);
            }
            else
            {
                await product.Spool.DeleteAsync(file.Name, CancellationToken.None);
            }
        }
        catch (Exception error) when (held.Stop.IsCancellationRequested || error is StorageFullException or StoreUnavailableException)
        {
            counts = false;
            if (!held.Stop.IsCancellationRequested)
            {
                // The item is taken up again when there may be room.
                await Task.Delay(Pause, time, stopping).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
        }
        catch (Exception error)
        {
            held.Ends(new ItemEnd(item.Key, IngestOutcome.Failed, error.Message, null));
        }
        finally
        {
            await LetGoAsync(held, counts);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "Job {Job} has ended: {Items} files, {Failures}")]
        public static partial void Ended(ILogger log, string job, int items, string failures);

        [LoggerMessage(2, LogLevel.Information, "The files that {Node} held are taken over, since its process is gone")]
        public static partial void TakenOver(ILogger log, string node);
    }
}
