using Diptych.Core;

namespace Diptych.Index.Jobs;

/// <summary>
/// Ingestion jobs and their items, kept in the store, so that they outlive the process and are shared by nodes. An item is leased before it
/// is worked on; a lease that its node does not renew passes on. The commit of an item's document ends the item in the same transaction
/// (<see cref="IngestedDocument.Item"/>), so an item is done once, whoever dies when.
/// </summary>
public interface IJobQueue
{
    /// <summary>Keeps the job with its items: it is on disk when this returns.</summary>
    /// <exception cref="NotFoundException">There is no such collection.</exception>
    Task AddAsync(Job job, IReadOnlyList<JobItem> items, CancellationToken cancellation);

    Task<Job?> FindAsync(string id, CancellationToken cancellation);

    /// <summary>Jobs from the latest on.</summary>
    /// <param name="before">Only jobs made before this one.</param>
    Task<IReadOnlyList<Job>> ListAsync(string? collection, JobState? state, string? before, int limit, CancellationToken cancellation);

    /// <summary>A job's items, in the order in which they ended, then those that have not.</summary>
    /// <param name="after">Only items that ended after this position; with it, items that have not ended are left out.</param>
    Task<IReadOnlyList<JobItem>> ItemsAsync(string id, IngestOutcome? outcome, long? after, int limit, CancellationToken cancellation);

    /// <summary>
    /// Items of one job whose bytes are spooled and that nobody works on; jobs take turns. An item waits for an earlier one with its
    /// source. What was leased again and again when its node died comes alone, and at last ends as failed.
    /// </summary>
    /// <param name="node">Who works on them.</param>
    Task<IReadOnlyList<JobItem>> LeaseAsync(string node, int most, TimeSpan lease, CancellationToken cancellation);

    /// <summary>The same of items whose bytes have to be fetched first.</summary>
    /// <param name="busyHosts">Hosts that nothing is to be fetched from for now.</param>
    Task<IReadOnlyList<JobItem>> LeaseToFetchAsync(string node, IReadOnlyCollection<string> busyHosts, int most, TimeSpan lease, CancellationToken cancellation);

    /// <summary>Renews the node's leases of these items.</summary>
    /// <returns>The jobs among theirs that are open no more.</returns>
    Task<IReadOnlyList<string>> RenewAsync(string node, IReadOnlyList<JobItemKey> items, TimeSpan lease, CancellationToken cancellation);

    /// <summary>Gives leases back, as when the node stops. Leases of items that have ended are none any more.</summary>
    /// <param name="counts">Whether they count among an item's attempts: something went wrong that it may have caused.</param>
    Task ReleaseAsync(string node, IReadOnlyList<JobItemKey> items, bool counts, CancellationToken cancellation);

    /// <summary>The nodes that hold leases.</summary>
    Task<IReadOnlyList<string>> NodesAsync(CancellationToken cancellation);

    /// <summary>Has a node's leases pass on at once, since it is known to be gone.</summary>
    Task ExpireAsync(string node, CancellationToken cancellation);

    /// <summary>A fetched item's bytes are spooled: it waits to be read.</summary>
    /// <returns>False where the item has ended meanwhile, or is another node's: its bytes are not needed.</returns>
    Task<bool> SpooledAsync(string node, JobItemKey item, string spool, long bytes, string? mediaType, CancellationToken cancellation);

    /// <summary>Ends items that have no commit: failed, unchanged.</summary>
    Task EndAsync(string node, IReadOnlyList<ItemEnd> ends, CancellationToken cancellation);

    /// <summary>Cancels a job: what it committed stays, nothing else comes.</summary>
    /// <returns>False where it had ended, or is not there.</returns>
    Task<bool> CancelAsync(string id, CancellationToken cancellation);

    /// <summary>Forgets jobs that ended before a moment.</summary>
    Task ForgetAsync(DateTimeOffset endedBefore, CancellationToken cancellation);

    /// <summary>Items that have not ended.</summary>
    Task<long> WaitingAsync(CancellationToken cancellation);

    /// <summary>Whether an item that has not ended has this source in this collection.</summary>
    Task<bool> IsWaitedForAsync(string collection, string source, CancellationToken cancellation);

    /// <summary>The spooled files of all items, whether those still need them or not.</summary>
    Task<IReadOnlySet<string>> SpooledFilesAsync(CancellationToken cancellation);

    /// <summary>The spooled files of items that have ended, for certain: what they became is on disk.</summary>
    Task<IReadOnlyList<string>> SpentFilesAsync(CancellationToken cancellation);

    /// <summary>These files are deleted.</summary>
    Task ForgetFilesAsync(IReadOnlyList<string> spooled, CancellationToken cancellation);
}

/// <summary>Where a job stands.</summary>
public enum JobState
{
    /// <summary>None of its items has been taken up.</summary>
    Queued,
    Running,

    /// <summary>Every item has ended, each with its outcome.</summary>
    Done,
    Cancelled,
}

/// <summary>What a job does. The counts are by outcome, of items that have ended.</summary>
public sealed record Job(string Id, string Collection, DateTimeOffset CreatedAt)
{
    public JobState State { get; init; }

    public DateTimeOffset? EndedAt { get; init; }

    public int Items { get; init; }

    public IReadOnlyDictionary<IngestOutcome, int> Outcomes { get; init; } = new Dictionary<IngestOutcome, int>();
}

/// <summary>Which item of which job.</summary>
public readonly record struct JobItemKey(string Job, int Number);

/// <summary>The right of a node to end an item, as long as it renews it.</summary>
public sealed record ItemLease(JobItemKey Item, string Node);

/// <summary>One source of a job.</summary>
/// <param name="Url">Where its bytes are fetched from; null where they came with the job.</param>
/// <param name="Spool">Where its bytes wait; null while they have to be fetched, and once they are deleted.</param>
public sealed record JobItem(JobItemKey Key, string Source, string Name, string? MediaType, Metadata Metadata, string? Url, string? Spool, long Bytes)
{
    /// <summary>The host of <see cref="Url"/>.</summary>
    public string? Host => Url is null ? null : new Uri(Url).IdnHost;

    /// <summary>How often it was leased.</summary>
    public int Attempts { get; init; }

    /// <summary>Null until it has ended.</summary>
    public IngestOutcome? Outcome { get; init; }

    public string? Reason { get; init; }

    public long? DocumentId { get; init; }

    /// <summary>Position in the order of ending; 0 until it has ended.</summary>
    public long EndedPosition { get; init; }
}

/// <summary>The end of an item without a commit.</summary>
public sealed record ItemEnd(JobItemKey Key, IngestOutcome Outcome, string? Reason, long? DocumentId);
