using Diptych.Core;
using Diptych.Inference;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace Diptych.Tests.Inference;

public sealed class SchedulerTests
{
    private static double Predict(string model, int units) => 0.001 * units;

    [Fact]
    public void The_latest_start_that_comes_first_leads()
    {
        PendingItem[] pending = [Item(1, Lane.Bulk, deadline: 60, units: 10), Item(2, Lane.Interactive, deadline: 10, units: 10, model: "other")];
        Assert.Equal([2], Step(pending, now: 0).Batch.Select(b => b.Id));
    }

    [Fact]
    public void Bulk_work_ages_until_it_leads()
    {
        PendingItem[] pending = [Item(1, Lane.Bulk, deadline: 60, units: 10), Item(2, Lane.Interactive, deadline: 69, units: 10, model: "other")];
        Assert.Equal([1], Step(pending, now: 59).Batch.Select(b => b.Id));
    }

    [Fact]
    public void Padding_stays_within_its_bound_for_any_lengths()
    {
        var random = new Random(3);
        for (int round = 0; round < 200; round++)
        {
            PendingItem[] pending = [.. Enumerable.Range(0, random.Next(1, 200)).Select(i => Item(i, Lane.Bulk, 60, random.Next(1, 257)))];
            var batch = Step(pending, 0).Batch;
            int padded = batch.Max(b => b.Units) * batch.Count, sum = batch.Sum(b => b.Units);
            Assert.True(padded <= sum * (1 + Scheduler.MaxPadding) + 1e-9, $"{padded} padded, {sum} used");
            Assert.True(batch.Count <= Scheduler.MaxItems && batch.Select(b => b.Id).Distinct().Count() == batch.Count);
        }
    }

    [Fact]
    public void A_batch_never_exceeds_the_lanes_quantum_unless_one_item_does()
    {
        PendingItem[] pending = [.. Enumerable.Range(0, 50).Select(i => Item(i, Lane.Bulk, 60, 20))];
        var batch = Step(pending, 0).Batch;
        Assert.True(batch.Count * 20 * 0.001 <= LaneObjective.Defaults[Lane.Bulk].MaxBatchTime.TotalSeconds);
        Assert.Single(Step([Item(1, Lane.Bulk, 60, 500)], 0).Batch);
    }

    [Fact]
    public void Expired_work_is_dropped_and_bulk_never_expires()
    {
        Decision decision = Step([Item(1, Lane.Interactive, 5, 10), Item(2, Lane.Bulk, 5, 10)], now: 6);
        Assert.Equal([1], decision.Expired.Select(e => e.Id));
        Assert.Equal([2], decision.Batch.Select(b => b.Id));
    }

    [Fact]
    public void The_cost_model_learns_a_line()
    {
        var cost = new CostModel(0.1);
        var random = new Random(1);
        for (int i = 0; i < 200; i++)
        {
            int units = random.Next(10, 1000);
            cost.Observe(units, 0.004 + (0.0002 * units));
        }
        Assert.Equal(0.104, cost.Predict(500), 0.002);
        Assert.True(cost.Error < 0.05);
    }

    [Fact]
    public async Task Items_get_their_own_rows_whatever_their_batch()
    {
        await using var service = new InferenceService([new Echo()], TimeProvider.System, workers: 2);
        var tasks = Enumerable.Range(1, 300).Select(async i =>
        {
            var rows = await service.RunAsync(new InferenceRequest("echo", i % 3 == 0 ? Lane.Interactive : Lane.Bulk, [.. Enumerable.Repeat(i, 1 + (i % 40))], []), CancellationToken.None);
            Assert.Equal([i, 1 + (i % 40)], rows["sum"].Select(v => (int)v));
        });
        await Task.WhenAll(tasks);
    }

    [Fact]
    public async Task Work_that_would_be_late_is_refused_with_the_time_to_wait()
    {
        var time = new FakeTimeProvider();
        var gate = new TaskCompletionSource();
        await using var service = new InferenceService([new Echo(gate.Task)], time, workers: 1);
        var running = service.RunAsync(new InferenceRequest("echo", Lane.Bulk, [1], []), CancellationToken.None);
        var waiting = Enumerable.Range(0, 100).Select(_ => service.RunAsync(new InferenceRequest("echo", Lane.Interactive, new int[200], []), CancellationToken.None)).ToList();
        var refused = await Assert.ThrowsAsync<OverloadedException>(() => service.RunAsync(
            new InferenceRequest("echo", Lane.Interactive, [1], [], TimeSpan.FromMilliseconds(1)), CancellationToken.None));
        Assert.True(refused.RetryAfter >= TimeSpan.Zero);
        gate.SetResult();
        await running;
        await Task.WhenAll(waiting);
    }

    [Fact]
    public async Task Cancelled_work_never_reaches_the_model()
    {
        var gate = new TaskCompletionSource();
        var backend = new Echo(gate.Task);
        await using var service = new InferenceService([backend], TimeProvider.System, workers: 1);
        var first = service.RunAsync(new InferenceRequest("echo", Lane.Bulk, [1], []), CancellationToken.None);
        await backend.Started.Task;
        using var cancel = new CancellationTokenSource();
        var second = service.RunAsync(new InferenceRequest("echo", Lane.Bulk, [77], []), cancel.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => second);
        gate.SetResult();
        await first;
        Assert.DoesNotContain(77, backend.Seen);
    }

    private static PendingItem Item(long id, Lane lane, double deadline, int units, string model = "m") => new(id, model, lane, 0, deadline, units);

    private static Decision Step(IReadOnlyCollection<PendingItem> pending, double now) => Scheduler.Step(pending, now, Predict, LaneObjective.Defaults);

    /// <summary>Gives each item its first token and its length.</summary>
    private sealed class Echo(Task? gate = null) : IModelBackend
    {
        public System.Collections.Concurrent.ConcurrentBag<int> Seen { get; } = [];

        public TaskCompletionSource Started { get; } = new();

        public ModelDescription Description { get; } = new("echo", "1", InputKind.Tokens, new Dictionary<string, int> { ["sum"] = 2 }, 256, 0);

        public ValueTask LoadAsync(CancellationToken cancellation) => ValueTask.CompletedTask;

        public async ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
        {
            Started.TrySetResult();
            await (gate ?? Task.CompletedTask);
            float[] rows = new float[batch.Count * 2];
            for (int i = 0; i < batch.Count; i++)
            {
                Seen.Add(batch.Tokens[batch.Offsets[i]]);
                (rows[2 * i], rows[(2 * i) + 1]) = (batch.Tokens[batch.Offsets[i]], batch.Offsets[i + 1] - batch.Offsets[i]);
            }
            return new BatchOutput(new Dictionary<string, float[]> { ["sum"] = rows });
        }

        public ValueTask UnloadAsync() => ValueTask.CompletedTask;
    }
}
