namespace Diptych.Inference.Scheduling;

/// <summary>Whether new work could be in time. Pure, and the same live and in the simulator.</summary>
public static class Admission
{
    /// <summary>What is promised where the client sets no limit: the lane's target, or what the item needs in any case.</summary>
    public static double LimitSeconds(LaneObjective objective, double soloSeconds) => Math.Max(objective.Target.TotalSeconds, 2 * soloSeconds);

    /// <summary>Predicted seconds until the item could start, were it admitted.</summary>
    /// <param name="workers">Workers that share the queue.</param>
    /// <param name="busySeconds">Until the first of them is free.</param>
    public static double AheadSeconds(WaitingWork work, SchedulingPolicy policy, Lane lane, int tenant, int workers, double busySeconds)
    {
        double burst = policy is DeadlinePolicy deadlines ? deadlines.Burst(lane) : 0;
        double ahead = work.Shares.Ahead(tenant, lane, burst);
        if (lane == Lane.Generate)
        {
            ahead += work.Shares.Ahead(tenant, Lane.Interactive, burst);
        }
        return (ahead / workers) + busySeconds;
    }
}
