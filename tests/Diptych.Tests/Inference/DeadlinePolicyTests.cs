using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Xunit;

namespace Diptych.Tests.Inference;

public sealed class DeadlinePolicyTests
{
    private static readonly bool[] Loaded = [true, true, true];
    private readonly WaitingWork _work = new();
    private readonly Decision _decision = new();
    private readonly CostModel[] _costs = [.. Enumerable.Range(0, 3).Select(_ => new CostModel(new CostProfile(0, 0.001, 1, 0)))];
    private readonly DeadlinePolicy _policy;
    private long _next;

    public DeadlinePolicyTests() => _policy = new DeadlinePolicy(_costs, LaneObjective.Defaults);

    [Fact]
    public void The_latest_start_that_comes_first_leads()
    {
        Add(Lane.Bulk, deadline: 60, units: 10);
        long urgent = Add(Lane.Interactive, deadline: 10, units: 10, model: 1);
        Assert.Equal([urgent], Step(0));
    }

    [Fact]
    public void Bulk_work_that_has_aged_has_its_share_and_no_more_while_others_wait()
    {
        var work = new WaitingWork();
        for (int i = 0; i < 800; i++)
        {
            Add(i < 400 ? Lane.Bulk : Lane.Interactive, i < 400 ? 60 : 61.02, 50, model: i < 400 ? 0 : 1, expires: 70, work: work);
        }
        var leaders = new List<Lane>();
        for (int i = 0; i < 80; i++)
        {
            _policy.Step(work, 61, new DeviceView(Loaded, 1), _decision);
            leaders.Add(_decision.Batch[0].Lane);
        }
        Assert.Equal(10, leaders.Count(l => l == Lane.Bulk));
    }

    [Fact]
    public void Padding_stays_within_its_bound_for_any_lengths()
    {
        var random = new Random(3);
        for (int round = 0; round < 300; round++)
        {
            var work = new WaitingWork();
            for (int i = random.Next(1, 200); i > 0; i--)
            {
                Add(Lane.Bulk, 60, random.Next(1, 257), work: work);
            }
            while (work.Count > 0)
            {
                _policy.Step(work, 0, new DeviceView(Loaded, 1), _decision);
                int padded = _decision.Batch.Max(b => b.Units) * _decision.Batch.Count, sum = _decision.Batch.Sum(b => b.Units);
                Assert.True(padded <= (sum * (1 + DeadlinePolicy.MaxPadding)) + 1e-9, $"{padded} padded, {sum} used");
                Assert.Equal(padded, _decision.PaddedUnits);
                Assert.True(_decision.Batch.Count <= SchedulingPolicy.MaxItems);
            }
        }
    }

    [Fact]
    public void A_batch_never_exceeds_the_lanes_longest_unless_one_item_does()
    {
        for (int i = 0; i < 50; i++)
        {
            Add(Lane.Bulk, 60, 20);
        }
        Step(0);
        Assert.True(_decision.Batch.Count * 20 * 0.001 <= LaneObjective.Defaults[Lane.Bulk].MaxBatchTime.TotalSeconds + 1e-9);
        var work = new WaitingWork();
        Add(Lane.Bulk, 60, 500, work: work);
        _policy.Step(work, 0, new DeviceView(Loaded, 1), _decision);
        Assert.Single(_decision.Batch);
    }

    [Fact]
    public void What_cannot_be_in_time_gives_way_to_what_can_and_goes_when_it_has_expired()
    {
        long late = Add(Lane.Interactive, deadline: 1, units: 10, expires: 3);
        long inTime = Add(Lane.Interactive, deadline: 2.5, units: 10, model: 1);
        Assert.Equal([inTime], Step(1.5));
        Assert.Equal([late], Step(1.5));
        long gone = Add(Lane.Interactive, deadline: 1, units: 10, expires: 3);
        long aged = Add(Lane.Bulk, deadline: 2, units: 10);
        Assert.Equal([aged], Step(4));
        Assert.Equal([gone], _decision.Expired.Select(e => e.Id));
    }

    [Fact]
    public void Work_that_somebody_waits_for_has_no_bulk_work_in_its_batch()
    {
        long query = Add(Lane.Interactive, 0.1, 10);
        Add(Lane.Bulk, 60, 10);
        Assert.Equal([query], Step(0));
    }

    [Fact]
    public void Idle_workers_share_what_waits()
    {
        for (int i = 0; i < 4; i++)
        {
            Add(Lane.Interactive, 0.1, 10);
        }
        _policy.Step(_work, 0, new DeviceView(Loaded, 2), _decision);
        Assert.Equal(2, _decision.Batch.Count);
    }

    [Fact]
    public void A_tenant_that_floods_does_not_hold_up_another()
    {
        for (int i = 0; i < 200; i++)
        {
            Add(Lane.Interactive, 10, 10, tenant: "flood");
        }
        Step(0);
        long other = Add(Lane.Interactive, 10.5, 100, tenant: "quiet");
        // The flood's items are due sooner, but it has been served more than its share.
        Step(0);
        Step(0);
        Assert.True(_decision.Batch.Exists(b => b.Id == other) || Step(0).Contains(other));
    }

    [Fact]
    public void Work_of_a_model_that_is_not_loaded_asks_for_it_and_holds_up_no_other()
    {
        Add(Lane.Interactive, 0.1, 10, model: 2);
        long other = Add(Lane.Bulk, 60, 10);
        _policy.Step(_work, 0, new DeviceView([true, true, false], 1), _decision);
        Assert.Equal(2, _decision.Load);
        Assert.Equal([other], _decision.Batch.Select(b => b.Id));
    }

    [Fact]
    public void A_decision_over_ten_thousand_allocates_nothing()
    {
        var random = new Random(5);
        long Cycle(int rounds)
        {
            for (int i = 0; i < rounds; i++)
            {
                Step(i * 1e-4, list: false);
                foreach (WorkItem item in _decision.Batch)
                {
                    _work.Add(item with { Id = _next++ });
                }
            }
            return GC.GetAllocatedBytesForCurrentThread();
        }
        for (int i = 0; i < 10_000; i++)
        {
            Add((Lane)random.Next(3), 10 + random.NextDouble(), random.Next(1, 257), random.Next(2), tenant: $"t{random.Next(10)}");
        }
        Cycle(3000);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Equal(0, Cycle(300) - before);
    }

    /// <summary>A million random arrivals, cancellations, steps and passing time: what must hold after each.</summary>
    [Fact]
    public void A_million_random_events_break_no_promise()
    {
        var random = new Random(11);
        var waiting = new Dictionary<long, (int Slot, WorkItem Item)>();
        double now = 0;
        long ended = 0;
        var added = new List<(long Id, int Slot)>();
        for (int i = 0; i < 1_000_000; i++)
        {
            now += random.NextDouble() * 0.001;
            int kind = random.Next(100);
            if (kind < 45)
            {
                Lane lane = random.Next(6) is var drawn && drawn < 3 ? Lane.Interactive : drawn < 5 ? Lane.Generate : Lane.Bulk;
                int units = random.Next(1, 40), model = random.Next(3);
                double target = lane == Lane.Interactive ? 0.1 : lane == Lane.Generate ? 1 : 5;
                var item = new WorkItem(
                    _next++, model, lane, _work.Shares.IndexOf($"t{random.Next(4)}"), units, now, now + target,
                    lane == Lane.Bulk ? double.PositiveInfinity : now + (2 * target), 0.001 * units, 0.001 * units);
                waiting.Add(item.Id, (_work.Add(item), item));
                added.Add((item.Id, waiting[item.Id].Slot));
            }
            else if (kind < 48 && added.Count > 0)
            {
                var (id, slot) = added[random.Next(added.Count)];
                if (waiting.Remove(id))
                {
                    _work.Remove(slot);
                    ended++;
                }
            }
            else if (kind < 90)
            {
                _policy.Step(_work, now, new DeviceView(Loaded, 1 + random.Next(2)), _decision);
                foreach (WorkItem item in _decision.Expired)
                {
                    Assert.True(item.ExpiresAt <= now && waiting.Remove(item.Id));
                    ended++;
                }
                double tightest = double.PositiveInfinity;
                foreach (WorkItem item in _decision.Batch)
                {
                    Assert.True(waiting.Remove(item.Id), "an item ran twice, or after it had left");
                    Assert.Equal(_decision.Batch[0].Model, item.Model);
                    Assert.True(item.ExpiresAt > now);
                    tightest = Math.Min(tightest, item.Deadline);
                    ended++;
                }
                if (_decision.Batch.Count > 0)
                {
                    AssertNoInversion(waiting, now);
                }
                now += _decision.PredictedSeconds / 3;
            }
            if (added.Count > 4096)
            {
                added.RemoveAll(a => !waiting.ContainsKey(a.Id));
            }
        }
        Assert.Equal(_work.Count, waiting.Count);
        Assert.Equal(_next, ended + waiting.Count);
        // Nothing starves: what is still there was never passed over for longer than its deadline and the backlog explain.
        while (_work.Count > 0)
        {
            _policy.Step(_work, now += 0.01, new DeviceView(Loaded, 1), _decision);
            ended += _decision.Batch.Count + _decision.Expired.Count;
            Assert.True(_decision.Batch.Count + _decision.Expired.Count > 0, "work waits and nothing runs");
        }
        Assert.Equal(_next, ended);
    }

    /// <summary>
    /// Of one tenant, lane and model, nothing that waits could have been in time and would have had to start earlier than the batch's
    /// leader: deadlines are inverted within one batch at most.
    /// </summary>
    private void AssertNoInversion(Dictionary<long, (int Slot, WorkItem Item)> waiting, double now)
    {
        WorkItem leader = _decision.Batch[0];
        foreach (var (slot, _) in waiting.Values.Take(50))
        {
            WorkItem other = _work[slot];
            if (other.Tenant == leader.Tenant && other.Lane == leader.Lane && other.Model == leader.Model && other.LatestStart >= now)
            {
                Assert.True(other.LatestStart >= leader.LatestStart - 1e-9, $"{other} waits behind {leader} at {now}");
            }
        }
    }

    private long Add(Lane lane, double deadline, int units, int model = 0, string tenant = "", double? expires = null, WaitingWork? work = null)
    {
        work ??= _work;
        double until = lane == Lane.Bulk ? double.PositiveInfinity : expires ?? deadline;
        work.Add(new WorkItem(_next, model, lane, work.Shares.IndexOf(tenant), units, 0, deadline, until, 0.001 * units, 0.001 * units));
        return _next++;
    }

    private IEnumerable<long> Step(double now, bool list = true)
    {
        _policy.Step(_work, now, new DeviceView(Loaded, 1), _decision);
        return list ? [.. _decision.Batch.Select(b => b.Id)] : [];
    }
}
