namespace Diptych.Inference;

/// <summary>
/// Decides what runs next. A pure function of what waits and the time: no clock, no thread, no I/O.
/// The item with the latest start that comes first leads (deadline - predicted time: Clockwork, Gujarati et al., OSDI 2020);
/// its batch is filled with items of the same model and of nearly the same length, as long as every member still meets its deadline.
/// </summary>
public static class Scheduler
{
    /// <summary>Padding allowed in a batch, as a share of its units.</summary>
    public const double MaxPadding = 0.10;

    /// <summary>Most items in one batch.</summary>
    public const int MaxItems = 64;

    /// <param name="pending">Everything that waits.</param>
    /// <param name="now">Seconds, on the clock of the items' times.</param>
    /// <param name="predict">Predicted seconds of a batch, from model and padded units.</param>
    public static Decision Step(
        IReadOnlyCollection<PendingItem> pending,
        double now,
        Func<string, int, double> predict,
        IReadOnlyDictionary<Lane, LaneObjective> objectives)
    {
        var expired = pending.Where(p => objectives[p.Lane].Expires && p.Deadline < now).ToList();
        PendingItem? leader = null;
        double leaderStart = double.PositiveInfinity;
        foreach (PendingItem item in pending)
        {
            double latestStart = item.Deadline - predict(item.Model, item.Units);
            if (latestStart < leaderStart && !(objectives[item.Lane].Expires && item.Deadline < now))
            {
                (leader, leaderStart) = (item, latestStart);
            }
        }
        return new Decision(leader is null ? [] : Fill(leader, pending, now, predict, objectives), expired);
    }

    private static List<PendingItem> Fill(
        PendingItem leader,
        IReadOnlyCollection<PendingItem> pending,
        double now,
        Func<string, int, double> predict,
        IReadOnlyDictionary<Lane, LaneObjective> objectives)
    {
        // Nearest lengths first, so that the window around the leader stays tight; the leader itself is at distance 0.
        var candidates = pending
            .Where(p => p.Model == leader.Model && p.Id != leader.Id && !(objectives[p.Lane].Expires && p.Deadline < now))
            .OrderBy(p => Math.Abs(p.Units - leader.Units))
            .ThenBy(p => p.Deadline);

        List<PendingItem> batch = [leader];
        int longest = leader.Units, sum = leader.Units;
        double tightest = leader.Deadline;
        double quantum = objectives[leader.Lane].MaxBatchTime.TotalSeconds;
        foreach (PendingItem item in candidates)
        {
            if (batch.Count == MaxItems)
            {
                break;
            }
            int longestWith = Math.Max(longest, item.Units);
            int padded = longestWith * (batch.Count + 1);
            if (padded > (sum + item.Units) * (1 + MaxPadding))
            {
                continue;
            }
            double seconds = predict(leader.Model, padded);
            double deadline = Math.Min(tightest, item.Deadline);
            double limit = Math.Min(quantum, objectives[item.Lane].MaxBatchTime.TotalSeconds);
            if (seconds > limit || (now + seconds > deadline && now + predict(leader.Model, longest * batch.Count) <= tightest))
            {
                continue;
            }
            batch.Add(item);
            (longest, sum, tightest, quantum) = (longestWith, sum + item.Units, deadline, limit);
        }
        return batch;
    }
}
