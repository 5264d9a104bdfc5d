namespace Diptych.Inference.Scheduling;

/// <summary>
/// The item with the latest start that comes first leads (deadline - predicted time: Clockwork, Gujarati et al., OSDI 2020);
/// its batch is filled with items of the same model and of nearly the same length, as long as every member still meets its deadline.
/// Among tenants, those that were served least lead; who is within a burst of the least served counts as such, and among those
/// the deadline decides alone.
/// </summary>
public sealed class DeadlinePolicy(IReadOnlyList<CostModel> costs, IReadOnlyDictionary<Lane, LaneObjective> objectives)
    : SchedulingPolicy(costs, objectives)
{
    /// <summary>Padding allowed in a batch, as a share of its units.</summary>
    public const double MaxPadding = 0.10;

    /// <summary>How far above the least served tenant one may be and still compete by deadline, as a share of the lane's target.</summary>
    public const double BurstShare = 0.1;

    /// <summary>Of so many batches, aged bulk work leads one while other work waits.</summary>
    private const int AgedShare = 8;

    private readonly double[] _leastServed = new double[3];
    private (int Distance, double LatestStart, int Queue)[] _candidates = new (int, double, int)[64];
    private int _passedOver;

    public override bool RefusesLateWork => true;

    public override void Step(WaitingWork work, double now, in DeviceView device, Decision into)
    {
        into.Clear();
        DropAndPostpone(work, now, into);
        QueueTop? leader = Lead(work, now, device, into);
        if (leader is { } top)
        {
            Fill(work, top, now, device.IdleWorkers, into);
        }
    }

    /// <summary>The lane's burst: how much more than the least served tenant another may have had.</summary>
    internal double Burst(Lane lane) => BurstShare * Math.Min(Objectives[(int)lane].Target.TotalSeconds, 10);

    /// <summary>
    /// What can no longer be in time gives way to what can (its deadline becomes its expiry), so that one late item does not make
    /// the next one late; what has expired goes.
    /// </summary>
    private void DropAndPostpone(WaitingWork work, double now, Decision into)
    {
        for (int i = work.Tops.Length - 1; i >= 0; i--)
        {
            int queue = work.Tops[i].Queue;
            while (i < work.Tops.Length && work.Tops[i].Queue == queue && work.Tops[i].LatestStart < now && Objectives[(int)work.Tops[i].Lane].Expires)
            {
                int slot = work.Peek(queue);
                ref readonly WorkItem item = ref work[slot];
                if (item.ExpiresAt <= now)
                {
                    into.Expired.Add(item);
                    work.Remove(slot);
                }
                else if (item.Deadline < item.ExpiresAt)
                {
                    work.Postpone(slot, item.ExpiresAt);
                }
                else
                {
                    break;
                }
            }
        }
    }

    private QueueTop? Lead(WaitingWork work, double now, in DeviceView device, Decision into)
    {
        Array.Fill(_leastServed, double.PositiveInfinity);
        ReadOnlySpan<QueueTop> tops = work.Tops;
        foreach (ref readonly QueueTop top in tops)
        {
            if (device.Runnable[top.Model])
            {
                _leastServed[(int)top.Lane] = Math.Min(_leastServed[(int)top.Lane], work.Shares.Served(top.Tenant, top.Lane));
            }
        }
        int best = -1, urgentOther = -1, unloaded = -1;
        for (int i = 0; i < tops.Length; i++)
        {
            ref readonly QueueTop top = ref tops[i];
            if (!device.Runnable[top.Model])
            {
                unloaded = unloaded < 0 || top.LatestStart < tops[unloaded].LatestStart ? i : unloaded;
                continue;
            }
            if (work.Shares.Served(top.Tenant, top.Lane) > _leastServed[(int)top.Lane] + Burst(top.Lane))
            {
                continue;
            }
            best = best < 0 || top.LatestStart < tops[best].LatestStart ? i : best;
            if (top.Lane != Lane.Bulk)
            {
                urgentOther = urgentOther < 0 || top.LatestStart < tops[urgentOther].LatestStart ? i : urgentOther;
            }
        }
        into.Load = unloaded >= 0 ? tops[unloaded].Model : -1;
        if (best < 0)
        {
            return null;
        }
        // Bulk work that has aged into urgency has one batch in so many: however late it is, and however much of it there is, it
        // neither starves nor makes others late.
        return tops[best].Lane == Lane.Bulk && urgentOther >= 0 && ++_passedOver % AgedShare != 0 ? tops[urgentOther] : tops[best];
    }

    private void Fill(WaitingWork work, in QueueTop leader, double now, int idleWorkers, Decision into)
    {
        int candidates = Candidates(work, leader, out int waiting);
        // Several idle workers share what waits: two half batches side by side end sooner than one.
        int most = leader.Lane == Lane.Bulk ? MaxItems : Math.Clamp((waiting + idleWorkers - 1) / idleWorkers, 1, MaxItems);
        CostModel cost = Costs[leader.Model];
        int longest = 0, sum = 0;
        double tightest = double.PositiveInfinity, quantum = double.PositiveInfinity;
        for (int c = 0; c < candidates && into.Batch.Count < most; c++)
        {
            int queue = _candidates[c].Queue;
            for (int left = work.QueueCount(queue); left > 0 && into.Batch.Count < most; left--)
            {
                int slot = work.Peek(queue);
                ref readonly WorkItem item = ref work[slot];
                int longestWith = Math.Max(longest, item.Units);
                int padded = longestWith * (into.Batch.Count + 1);
                double seconds = cost.Predict(padded);
                double deadline = Math.Min(tightest, item.Deadline);
                double limit = Math.Min(quantum, Objectives[(int)item.Lane].MaxBatchTime.TotalSeconds);
                bool breaksDeadline = now + seconds > deadline && now + into.PredictedSeconds <= tightest;
                if (into.Batch.Count > 0 && (padded > (sum + item.Units) * (1 + MaxPadding) || seconds > limit || breaksDeadline))
                {
                    break;
                }
                (longest, sum, tightest, quantum) = (longestWith, sum + item.Units, deadline, limit);
                into.Take(work, slot);
                (into.PredictedSeconds, into.PaddedUnits) = (seconds, padded);
            }
        }
        foreach (ref readonly WorkItem item in System.Runtime.InteropServices.CollectionsMarshal.AsSpan(into.Batch))
        {
            work.Shares.Charge(item.Tenant, item.Lane, into.PredictedSeconds * item.Units / sum);
        }
    }

    /// <summary>Queues that may join the leader's batch, nearest lengths first; the leader's own is the first of all.</summary>
    private int Candidates(WaitingWork work, in QueueTop leader, out int waiting)
    {
        int count = 0;
        waiting = 0;
        foreach (ref readonly QueueTop top in work.Tops)
        {
            // Work for which somebody waits is not held up by bulk work in its batch.
            if (top.Model != leader.Model || (leader.Lane != Lane.Bulk && top.Lane == Lane.Bulk))
            {
                continue;
            }
            int distance = Math.Abs(top.Bucket - leader.Bucket);
            if (top.Queue != leader.Queue && distance > 12)
            {
                continue;
            }
            if (count == _candidates.Length)
            {
                Array.Resize(ref _candidates, 2 * count);
            }
            // A tenant that has had more than its share fills what others leave free.
            bool ahead = work.Shares.Served(top.Tenant, top.Lane) > _leastServed[(int)top.Lane] + Burst(top.Lane);
            _candidates[count++] = (top.Queue == leader.Queue ? -1 : ahead ? distance + 100 : distance, top.LatestStart, top.Queue);
            waiting += work.QueueCount(top.Queue);
        }
        _candidates.AsSpan(0, count).Sort(static (a, b) => a.Distance != b.Distance ? a.Distance.CompareTo(b.Distance) : a.LatestStart.CompareTo(b.LatestStart));
        return count;
    }
}
