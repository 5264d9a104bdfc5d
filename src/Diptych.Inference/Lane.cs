namespace Diptych.Inference;

/// <summary>A class of work with its own objective.</summary>
public enum Lane
{
    /// <summary>Someone waits for a query embedding: p99 latency counts.</summary>
    Interactive,

    /// <summary>Someone reads along: time to first token and between tokens count.</summary>
    Generate,

    /// <summary>Ingest and re-embedding: throughput counts, and nothing starves.</summary>
    Bulk,
}

/// <summary>
/// A lane's objective. Work is started in the order of its latest start: deadline - predicted time. An item of the bulk lane
/// gets its deadline from the same rule with a long time limit, so it ages into urgency and never starves.
/// </summary>
/// <param name="TimeLimit">Default time from submission to result.</param>
/// <param name="Expires">Whether work past its deadline is dropped.</param>
/// <param name="MaxBatchTime">Longest predicted batch, so that a worker is never held longer than this by one batch.</param>
public sealed record LaneObjective(TimeSpan TimeLimit, bool Expires, TimeSpan MaxBatchTime)
{
    public static IReadOnlyDictionary<Lane, LaneObjective> Defaults { get; } = new Dictionary<Lane, LaneObjective>
    {
        [Lane.Interactive] = new(TimeSpan.FromSeconds(10), true, TimeSpan.FromMilliseconds(50)),
        [Lane.Generate] = new(TimeSpan.FromSeconds(60), true, TimeSpan.FromMilliseconds(50)),
        [Lane.Bulk] = new(TimeSpan.FromSeconds(60), false, TimeSpan.FromMilliseconds(80)),
    };
}

/// <summary>An item as the scheduler sees it: times are <see cref="TimeProvider"/> timestamps in seconds.</summary>
/// <param name="Units">Tokens, or 1 for an image.</param>
public sealed record PendingItem(long Id, string Model, Lane Lane, double EnqueuedAt, double Deadline, int Units);

/// <summary>What <see cref="Scheduler.Step"/> decided.</summary>
/// <param name="Batch">Items to run now, all of one model; empty when there is nothing to do.</param>
/// <param name="Expired">Items whose deadline passed: to be failed, never run.</param>
public sealed record Decision(IReadOnlyList<PendingItem> Batch, IReadOnlyList<PendingItem> Expired);
