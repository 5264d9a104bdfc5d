using Diptych.Inference.Memory;
using Diptych.Inference.Scheduling;

namespace Diptych.Inference;

/// <summary>The service at one moment, for operators.</summary>
public sealed record InferenceSnapshot(IReadOnlyList<LaneSnapshot> Lanes, IReadOnlyList<ModelSnapshot> Models, IReadOnlyList<DeviceSnapshot> Devices)
{
    /// <summary>Servers that run models for this one.</summary>
    public IReadOnlyList<RemoteSnapshot> Remotes { get; init; } = [];
}

/// <summary>A server that runs models for this one.</summary>
/// <param name="Healthy">False while it is given no requests, because it kept failing.</param>
/// <param name="Limit">Requests at a time that it is given now, as its latency allows.</param>
/// <param name="Hedged">Requests that were sent a second time because the first took long.</param>
public sealed record RemoteSnapshot(string Name, bool Healthy, int Limit, int InFlight, long Requests, long Failures, long Hedged);

/// <summary>A lane: what waits, and what became of the work since the start; latencies are of the last minutes.</summary>
/// <param name="Attained">Completed within the target, or within the client's limit.</param>
/// <param name="Padding">Share of the units run that were padding.</param>
public sealed record LaneSnapshot(
    Lane Lane, double TargetMs, long WaitingUnits, long Offered, long Completed, long Refused, long Expired, long Cancelled, long Failed, long Attained,
    double P50Ms, double P99Ms, double MeanWaitMs, double MeanBatch, double Padding);

/// <summary>A model: where it is loaded, and how well its time is predicted.</summary>
/// <param name="State">loaded, loading, unloaded or failed.</param>
/// <param name="Error">Why it could not be loaded the last time.</param>
/// <param name="Cost">What a batch is predicted to take, by its padded units.</param>
public sealed record ModelSnapshot(
    string Name, string Revision, string State, bool Pinned, IReadOnlyList<string> Devices, double UsesPerSecond, double PredictionError, double LoadSeconds, long Bytes, string? Error, CostProfile Cost);

/// <summary>A device's ledger.</summary>
public sealed record DeviceSnapshot(string Name, long BudgetBytes, long UsedBytes, IReadOnlyDictionary<MemoryKind, long> Bytes, int Workers, int IdleWorkers);
