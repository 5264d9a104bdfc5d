namespace Diptych.Inference.Scheduling;

/// <summary>
/// Decides what runs next. A pure function of what waits and the time: no clock, no thread, no I/O. The same code runs live, under a
/// virtual clock in tests, and in the simulator.
/// </summary>
/// <param name="costs">A batch's predicted time, by model index.</param>
/// <param name="objectives">By lane.</param>
public abstract class SchedulingPolicy(IReadOnlyList<CostModel> costs, IReadOnlyDictionary<Lane, LaneObjective> objectives)
{
    /// <summary>Most items in one batch.</summary>
    public const int MaxItems = 64;

    protected IReadOnlyList<CostModel> Costs { get; } = costs;

    protected LaneObjective[] Objectives { get; } = [objectives[Lane.Interactive], objectives[Lane.Generate], objectives[Lane.Bulk]];

    /// <summary>Whether work that cannot meet its deadline is refused when it comes.</summary>
    public virtual bool RefusesLateWork => false;

    /// <summary>Takes the next batch out of what waits.</summary>
    /// <param name="now">Seconds, on the clock of the items' times.</param>
    /// <param name="device">Which models can run where the batch is to run, and how many workers idle there.</param>
    /// <param name="into">Cleared and filled.</param>
    public abstract void Step(WaitingWork work, double now, in DeviceView device, Decision into);
}

/// <summary>A device as a policy sees it.</summary>
/// <param name="Runnable">By model index: whether the model is loaded there.</param>
/// <param name="IdleWorkers">Workers without a batch, the one that asks included.</param>
public readonly record struct DeviceView(bool[] Runnable, int IdleWorkers);

/// <summary>What a policy decided. Reused from step to step.</summary>
public sealed class Decision
{
    /// <summary>Items to run now, all of one model; empty when there is nothing to do.</summary>
    public List<WorkItem> Batch { get; } = new(SchedulingPolicy.MaxItems);

    /// <summary>Items whose time is over: to be failed, never run.</summary>
    public List<WorkItem> Expired { get; } = [];

    /// <summary>The model whose work is the most urgent, where it is not loaded; -1 where it is.</summary>
    public int Load { get; set; }

    /// <summary>When to ask again although nothing new came; infinite for never.</summary>
    public double WakeAt { get; set; }

    /// <summary>Predicted seconds of <see cref="Batch"/>.</summary>
    public double PredictedSeconds { get; set; }

    /// <summary>Units of the batch with its padding.</summary>
    public int PaddedUnits { get; set; }

    internal void Clear()
    {
        Batch.Clear();
        Expired.Clear();
        (Load, WakeAt, PredictedSeconds, PaddedUnits) = (-1, double.PositiveInfinity, 0, 0);
    }

    internal void Take(WaitingWork work, int slot)
    {
        Batch.Add(work[slot]);
        work.Remove(slot);
    }
}
