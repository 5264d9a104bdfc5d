namespace Diptych.Inference;

/// <summary>A class of work with its own objective.</summary>
public enum Lane
{
    /// <summary>Someone waits for a query embedding or a reranking: p99 latency counts.</summary>
    Interactive,

    /// <summary>Someone reads along: time to first token and between tokens count.</summary>
    Generate,

    /// <summary>Ingest and re-embedding: throughput counts, and nothing starves.</summary>
    Bulk,
}

/// <summary>
/// A lane's objective. Work is started in the order of its latest start: deadline - predicted time, where the deadline is
/// submission + <paramref name="Target"/>. Bulk work has a far target, so it ages into urgency and never starves.
/// </summary>
/// <param name="Target">From submission to result: what p99 is held against, and what admission promises.</param>
/// <param name="Expiry">From submission to when the work is dropped unrun; infinite for work that is never dropped.</param>
/// <param name="MaxBatchTime">Longest predicted batch, so that a worker is never held longer than this by one batch.</param>
public sealed record LaneObjective(TimeSpan Target, TimeSpan Expiry, TimeSpan MaxBatchTime)
{
    public static IReadOnlyDictionary<Lane, LaneObjective> Defaults { get; } = new Dictionary<Lane, LaneObjective>
    {
        [Lane.Interactive] = new(TimeSpan.FromMilliseconds(100), TimeSpan.FromSeconds(2), TimeSpan.FromMilliseconds(40)),
        [Lane.Generate] = new(TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(10), TimeSpan.FromMilliseconds(50)),
        [Lane.Bulk] = new(TimeSpan.FromSeconds(60), Timeout.InfiniteTimeSpan, TimeSpan.FromMilliseconds(50)),
    };

    /// <summary>Whether what waits is ever dropped.</summary>
    public bool Expires => Expiry != Timeout.InfiniteTimeSpan;
}
