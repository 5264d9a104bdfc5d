using Diptych.Inference;
using Diptych.Inference.Memory;
using Diptych.Inference.Scheduling;
using Diptych.Inference.Simulation;
using Xunit;

namespace Diptych.Tests.Inference;

public sealed class SchedulingTests
{
    private static readonly CostModel[] Costs = [new CostModel(new CostProfile(0, 0.001, 1, 0))];

    [Fact]
    public void The_cost_model_learns_a_line_and_says_how_far_off_it_is()
    {
        var cost = new CostModel(0.1);
        var random = new Random(1);
        for (int i = 0; i < 300; i++)
        {
            int units = random.Next(10, 1000);
            cost.Observe(units, 0.004 + (0.0002 * units));
        }
        Assert.Equal(0.104, cost.Predict(500), 0.008);
        Assert.True(cost.Profile.Error < 0.05);
    }

    [Fact]
    public void A_noisy_neighbour_widens_the_margin_and_does_not_tilt_the_line()
    {
        var cost = new CostModel(0.1);
        var random = new Random(2);
        for (int i = 0; i < 1000; i++)
        {
            int units = random.Next(10, 1000);
            double noise = random.Next(50) == 0 ? 20 : 1 + (0.3 * random.NextDouble());
            cost.Observe(units, noise * (0.004 + (0.0002 * units)));
        }
        double line = cost.Profile.FixedSeconds + (500 * cost.Profile.PerUnitSeconds);
        Assert.InRange(line, 0.1, 0.14);
        Assert.InRange(cost.Predict(500), line, 0.16);
    }

    [Fact]
    public void A_machine_that_became_slower_is_learned()
    {
        var cost = new CostModel(new CostProfile(0.001, 0.0001, 1, 0));
        for (int i = 0; i < 100; i++)
        {
            cost.Observe(100 + (i % 7 * 50), 10 * (0.001 + (0.0001 * (100 + (i % 7 * 50)))));
        }
        Assert.InRange(cost.Predict(200), 0.15, 0.4);
    }

    [Fact]
    public void A_profile_comes_back_for_the_same_model_revision_and_device_only()
    {
        string path = Path.Combine(Directory.CreateTempSubdirectory("diptych-profiles-").FullName, "profiles.json");
        var model = new ModelDescription("m", "1", InputKind.Tokens, new Dictionary<string, int>(), 256, 0);
        var profile = new ModelProfile(new CostProfile(0.1, 0.2, 1.5, 0.01), 10, 20, 3);
        new ModelProfiles(path).Save(model, "cpu", profile);
        Assert.Equal(profile, new ModelProfiles(path).Find(model, "cpu"));
        Assert.Null(new ModelProfiles(path).Find(model with { Revision = "2" }, "cpu"));
        Assert.Null(new ModelProfiles(path).Find(model, "cuda:0"));
        File.WriteAllText(path, "{ damaged");
        Assert.Null(new ModelProfiles(path).Find(model, "cpu"));
    }

    [Fact]
    public void Arrival_order_waits_for_a_full_batch_and_then_no_longer()
    {
        var policy = new ArrivalPolicy(Costs, LaneObjective.Defaults, maxBatch: 4, delaySeconds: 0.005);
        var work = new WaitingWork();
        var decision = new Decision();
        for (int i = 0; i < 3; i++)
        {
            work.Add(new WorkItem(i, 0, Lane.Bulk, work.Shares.IndexOf(""), 5, 0, 60, double.PositiveInfinity, 0.005, 0.005));
        }
        policy.Step(work, 0.001, new DeviceView([true], 1), decision);
        Assert.Empty(decision.Batch);
        Assert.Equal(0.005, decision.WakeAt);
        policy.Step(work, 0.005, new DeviceView([true], 1), decision);
        Assert.Equal([0L, 1, 2], decision.Batch.Select(b => b.Id));
    }

    [Fact]
    public void The_priority_queue_serves_lanes_in_their_order()
    {
        var policy = new PriorityPolicy(Costs, LaneObjective.Defaults);
        var work = new WaitingWork();
        var decision = new Decision();
        foreach (Lane lane in new[] { Lane.Bulk, Lane.Interactive, Lane.Generate })
        {
            work.Add(new WorkItem((int)lane, 0, lane, work.Shares.IndexOf(""), 5, 0, 60, 60, 0.005, 0.005));
        }
        policy.Step(work, 0, new DeviceView([true], 1), decision);
        Assert.Equal([0L], decision.Batch.Select(b => b.Id));
    }

    [Fact]
    public void A_decoders_budget_goes_to_running_answers_first_and_leaves_them_their_time()
    {
        DecodingSequence[] sequences = [new(1500, 5), new(0, 0.1), new(0, 0.1), new(300, 2)];
        var cost = new StepCosts(new CostProfile(0.01, 0.0002, 1, 0));
        int budget = TokenBudget.Size(sequences, 0, cost, most: 2048, least: 32);
        Assert.Equal(450, budget);
        int[] tokens = new int[4];
        Assert.Equal(450, TokenBudget.Plan(sequences, budget, tokens));
        Assert.Equal([148, 1, 1, 300], tokens);
        Assert.Equal(32, TokenBudget.Size(sequences, 1, cost, most: 2048, least: 32));
    }

    [Fact]
    public void Steps_of_a_few_tokens_and_wide_ones_say_nothing_of_each_other()
    {
        var cost = new StepCosts(0.003);
        for (int i = 0; i < 4; i++)
        {
            cost.Observe(512, 0.5);
        }
        // Small steps share what they read of the weights: a token more costs half of a prompt's.
        for (int i = 0; i < 400; i++)
        {
            cost.Observe(4 + (i % 7), 0.007 + (0.0005 * (i % 7)));
        }
        Assert.Equal(0.0085, cost.Expect(7), 0.0005);
        Assert.InRange(cost.Expect(512), 0.45, 0.6);

        // A prompt that cannot be in time beside a running answer does not stretch its steps.
        DecodingSequence[] sequences = [new(1500, 1), new(0, 0.1)];
        int[] tokens = new int[2];
        Assert.InRange(TokenBudget.Step(sequences, 0, cost, tokens), 2, 16);

        // What was not measured lies between its neighbours that were.
        var few = new StepCosts(new CostProfile(0, 0.001, 1, 0));
        few.Observe(2, 0.005);
        few.Observe(9, 0.008);
        Assert.Equal([0.001, 0.005, 0.005, 0.007, 0.008, 0.008, 0.010], new[] { 1, 2, 3, 7, 8, 9, 10 }.Select(few.Expect), (a, b) => Math.Abs(a - b) < 1e-9);
    }

    [Fact]
    public void Answers_keep_their_pace_however_long_prompts_go_on_beside_them()
    {
        static double Seconds(int tokens) => tokens <= 4 ? 0.008 : 0.008 + (0.0015 * (tokens - 4));
        var random = new Random(5);
        var cost = new StepCosts(0.003);
        for (int i = 0; i < 50; i++)
        {
            cost.Observe(4, Seconds(4));
        }
        // Overdue prompts without end. Their steps must not make the pace that they are held to: each would be a little longer than the last.
        int[] tokens = new int[5];
        double longest = 0;
        int prompts = 0;
        for (int i = 0; i < 5000; i++)
        {
            DecodingSequence[] sequences = [new(1500, 0), new(0, 0.1), new(0, 0.1), new(0, 0.1), new(0, 0.1)];
            int n = TokenBudget.Step(sequences, 0, cost, tokens);
            prompts += tokens[0];
            longest = Math.Max(longest, Seconds(n));
            cost.Observe(n, Seconds(n) * (0.9 + (0.4 * random.NextDouble())));
        }
        Assert.True(longest <= 2 * Seconds(4), $"{longest}");
        Assert.True(prompts >= 5000 * 2, $"{prompts}");

        // One that is overdue does not keep steps short where the next can be in time; answers that nobody reads along have no pace.
        var wide = new StepCosts(new CostProfile(0.01, 0.0005, 1, 0));
        int[] three = new int[3];
        Assert.InRange(TokenBudget.Step([new(20, -1), new(600, 0.5), new(0, 0.1)], 0, wide, three), 150, 200);
        Assert.InRange(TokenBudget.Step([new(20, -1), new(5000, 0.5), new(0, 0.1)], 0, wide, three), 3, 30);
        Assert.Equal(TokenBudget.MostTokens, TokenBudget.Step([new(20, -1), new(5000, 0.5), new(0, double.PositiveInfinity)], 0, wide, three));

        // More answers than fit into their pace: the prompt goes on all the same.
        DecodingSequence[] many = [new(1500, 0), .. Enumerable.Repeat(new DecodingSequence(0, -1), 40)];
        int[] each = new int[many.Length];
        Assert.Equal(42, TokenBudget.Step(many, 0, cost, each));
        Assert.Equal(2, each[0]);
    }

    [Fact]
    public void Simulated_decoders_keep_answers_going_beside_prompts_and_share_them_out()
    {
        // A step of n tokens takes 5 ms and 1 ms more for each.
        var simulator = new DecoderSimulator([(1, 0.006), (512, 0.517)], 32, 1 << 20);
        DecodingResult one = simulator.Run([new DecodingArrival(2, 511, 11)], 10, 1, TimeSpan.FromSeconds(1));
        Assert.Equal((1, 1.0), (one.Offered, one.Attainment));
        Assert.InRange(one.FirstP99Ms, 500, 560);
        Assert.Equal(6, one.BetweenP99Ms, 1.0);

        // A long prompt comes while three answers are written.
        DecodingArrival[] mixed = [.. Enumerable.Range(0, 3).Select(i => new DecodingArrival(i * 0.001, 20, 400)), new DecodingArrival(1, 2000, 1)];
        DecodingResult beside = simulator.Run(mixed, 10, 1, TimeSpan.FromSeconds(1));
        Assert.InRange(beside.BetweenP99Ms, beside.BetweenP50Ms, 2.5 * 8);

        DecodingArrival[] many = [.. Enumerable.Range(0, 400).Select(i => new DecodingArrival(i * 0.05, 200, 40))];
        DecodingResult alone = simulator.Run(many, 20, 1, TimeSpan.FromSeconds(1)), eight = simulator.Run(many, 20, 8, TimeSpan.FromSeconds(1));
        Assert.True(alone.Attainment < 0.5 && eight.Attainment > 0.99, $"{alone}, {eight}");
        Assert.True(eight.TokensPerSecond > alone.TokensPerSecond);
    }

    [Fact]
    public void The_ledger_never_exceeds_its_budget_and_rolls_back_what_was_not_committed()
    {
        var ledger = new MemoryLedger(100);
        using (MemoryLedger.Reservation? first = ledger.TryReserve(MemoryKind.Weights, "a", 60))
        {
            Assert.Null(ledger.TryReserve(MemoryKind.Workspace, "a", 50));
            Assert.True(first!.Commit(70));
            Assert.False(first.TryResize(101));
            Assert.Equal((70, 30), (ledger.UsedBytes, ledger.FreeBytes));
        }
        Assert.Equal(0, ledger.UsedBytes);
        MemoryLedger.Reservation taken;
        using (MemoryLedger.Reservation? second = ledger.TryReserve(MemoryKind.Caches, "b", 40))
        {
            taken = second!.Take();
        }
        Assert.Equal(40, ledger.Bytes(MemoryKind.Caches));
        taken.Dispose();
        taken.Dispose();
        Assert.Equal(0, ledger.UsedBytes);
    }

    [Fact]
    public void Reserving_from_many_threads_holds_the_budget()
    {
        var ledger = new MemoryLedger(1000);
        int most = 0;
        Parallel.For(0, 8, t =>
        {
            var random = new Random(t);
            var held = new Queue<MemoryLedger.Reservation>();
            for (int i = 0; i < 20_000; i++)
            {
                if (ledger.TryReserve((MemoryKind)random.Next(5), "x", random.Next(1, 200)) is { } reservation)
                {
                    held.Enqueue(reservation);
                }
                Assert.True(ledger.UsedBytes <= 1000);
                InterlockedMax(ref most, (int)ledger.UsedBytes);
                if (held.Count > 3)
                {
                    held.Dequeue().Dispose();
                }
            }
            foreach (MemoryLedger.Reservation reservation in held)
            {
                reservation.Dispose();
            }
        });
        Assert.Equal(0, ledger.UsedBytes);
        Assert.True(most > 500);
    }

    [Fact]
    public void The_cheapest_to_bring_back_and_least_used_leaves_first_and_pinned_models_stay()
    {
        Resident[] residents =
        [
            new(0, 100, 10, 0, 1, Pinned: false, Busy: false),
            new(1, 100, 1, 0, 1, Pinned: false, Busy: false),
            new(2, 100, 0.1, 0, 0.0001, Pinned: true, Busy: false),
        ];
        Assert.Equal([1], Residency.Victims(residents, 0, 100, now: 1000, out _)!);
        Assert.Equal([1, 0], Residency.Victims(residents, 0, 200, now: 1000, out _)!);
        Assert.Null(Residency.Victims(residents, 0, 300, now: 1000, out double never));
        Assert.Equal(double.PositiveInfinity, never);
    }

    [Fact]
    public void A_model_that_was_just_loaded_stays_for_a_while()
    {
        Resident[] residents = [new(0, 100, 2, LoadedAt: 100, 1, Pinned: false, Busy: false)];
        Assert.Null(Residency.Victims(residents, 0, 100, now: 105, out double retryAt));
        Assert.Equal(110, retryAt);
        Assert.Equal([0], Residency.Victims(residents, 0, 100, now: 110, out _)!);
    }

    private static void InterlockedMax(ref int target, int value)
    {
        int seen = Volatile.Read(ref target);
        while (value > seen && Interlocked.CompareExchange(ref target, value, seen) is var now && now != seen)
        {
            seen = now;
        }
    }
}
