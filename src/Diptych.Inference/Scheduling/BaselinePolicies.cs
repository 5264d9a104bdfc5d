namespace Diptych.Inference.Scheduling;

/// <summary>
/// Arrival order, what most servers do: the oldest item's model runs, with the items of that model that came next, up to a size; a batch
/// that is not full waits a little for more (Triton's dynamic batcher: a preferred size and a queue delay). Kept to be measured against.
/// </summary>
/// <param name="maxBatch">1 is unbatched.</param>
/// <param name="delaySeconds">How long a batch that is not full waits.</param>
public sealed class ArrivalPolicy(
    IReadOnlyList<CostModel> costs, IReadOnlyDictionary<Lane, LaneObjective> objectives, int maxBatch = SchedulingPolicy.MaxItems, double delaySeconds = 0.005)
    : SchedulingPolicy(costs, objectives)
{
    public override void Step(WaitingWork work, double now, in DeviceView device, Decision into)
    {
        into.Clear();
        Span<bool> seen = stackalloc bool[Costs.Count];
        for (int slot = work.First; slot >= 0; slot = work.Next(slot))
        {
            int model = work[slot].Model;
            if (seen[model])
            {
                continue;
            }
            seen[model] = true;
            if (!device.Runnable[model])
            {
                into.Load = into.Load < 0 ? model : into.Load;
                continue;
            }
            if (Waiting(work, slot, model) < maxBatch && now < work[slot].EnqueuedAt + delaySeconds)
            {
                into.WakeAt = Math.Min(into.WakeAt, work[slot].EnqueuedAt + delaySeconds);
                continue;
            }
            Fill(work, slot, model, into);
            return;
        }
    }

    private int Waiting(WaitingWork work, int slot, int model)
    {
        int count = 0;
        for (; slot >= 0 && count < maxBatch; slot = work.Next(slot))
        {
            count += work[slot].Model == model ? 1 : 0;
        }
        return count;
    }

    private void Fill(WaitingWork work, int slot, int model, Decision into)
    {
        int longest = 0;
        while (slot >= 0 && into.Batch.Count < maxBatch)
        {
            int next = work.Next(slot);
            if (work[slot].Model == model)
            {
                longest = Math.Max(longest, work[slot].Units);
                into.Take(work, slot);
            }
            slot = next;
        }
        into.PaddedUnits = longest * into.Batch.Count;
        into.PredictedSeconds = Costs[model].Predict(into.PaddedUnits);
    }
}

/// <summary>A priority queue without deadlines: the lanes in their order, arrival order within, batches up to a size. Kept to be measured against.</summary>
public sealed class PriorityPolicy(
    IReadOnlyList<CostModel> costs, IReadOnlyDictionary<Lane, LaneObjective> objectives, int maxBatch = SchedulingPolicy.MaxItems)
    : SchedulingPolicy(costs, objectives)
{
    public override void Step(WaitingWork work, double now, in DeviceView device, Decision into)
    {
        into.Clear();
        int best = -1;
        for (int slot = work.First; slot >= 0; slot = work.Next(slot))
        {
            if (!device.Runnable[work[slot].Model])
            {
                into.Load = into.Load < 0 ? work[slot].Model : into.Load;
            }
            else if (best < 0 || work[slot].Lane < work[best].Lane)
            {
                best = slot;
                if (work[slot].Lane == Lane.Interactive)
                {
                    break;
                }
            }
        }
        int longest = 0;
        (int model, Lane lane) = best < 0 ? (0, Lane.Bulk) : (work[best].Model, work[best].Lane);
        for (int slot = best; slot >= 0 && into.Batch.Count < maxBatch;)
        {
            int next = work.Next(slot);
            if (work[slot].Model == model && work[slot].Lane == lane)
            {
                longest = Math.Max(longest, work[slot].Units);
                into.Take(work, slot);
            }
            slot = next;
        }
        into.PaddedUnits = longest * into.Batch.Count;
        into.PredictedSeconds = best < 0 ? 0 : Costs[model].Predict(into.PaddedUnits);
    }
}
