using System.Collections.Concurrent;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Memory;
using Diptych.Inference.Scheduling;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace Diptych.Tests.Inference;

public sealed class InferenceServiceTests
{
    private static readonly CancellationToken None = CancellationToken.None;

    [Fact]
    public async Task Items_get_their_own_rows_whatever_their_batch()
    {
        await using var service = new InferenceService([new Echo("echo")], TimeProvider.System);
        await Task.WhenAll(Enumerable.Range(1, 300).Select(async i =>
        {
            var rows = await service.RunAsync(Text("echo", i % 3 == 0 ? Lane.Generate : Lane.Bulk, [.. Enumerable.Repeat(i, 1 + (i % 40))]), None);
            Assert.Equal([i, 1 + (i % 40)], rows["sum"].Select(v => (int)v));
        }));
    }

    [Fact]
    public async Task Work_that_would_be_late_is_refused_with_the_time_to_wait()
    {
        var gate = new TaskCompletionSource();
        var backend = new Echo("echo") { Gate = gate.Task };
        await using var service = Held(backend, workers: 1);
        await service.LoadAsync(None);
        var running = service.RunAsync(Text("echo", Lane.Bulk, [1]), None);
        await backend.Started.Task;
        var waiting = Enumerable.Range(0, 3).Select(_ => service.RunAsync(Text("echo", Lane.Interactive, new int[20]), None)).ToList();
        var refused = await Assert.ThrowsAsync<OverloadedException>(() => service.RunAsync(
            Text("echo", Lane.Interactive, [1], TimeSpan.FromMilliseconds(1)), None));
        Assert.True(refused.RetryAfter > TimeSpan.Zero);
        // A lane's own target holds where the client sets none: what waits ahead needs longer.
        while (waiting.Count < 200)
        {
            try
            {
                service.Admit("echo", Lane.Interactive, 200);
            }
            catch (OverloadedException)
            {
                break;
            }
            waiting.Add(service.RunAsync(Text("echo", Lane.Interactive, new int[200]), None));
        }
        Assert.InRange(waiting.Count, 4, 199);
        gate.SetResult();
        await running;
        await Task.WhenAll(waiting.Take(3));
        await Task.WhenAny(Task.WhenAll(waiting), Task.Delay(TimeSpan.FromSeconds(20), TimeProvider.System, TestContext.Current.CancellationToken));
        LaneSnapshot lane = service.Snapshot().Lanes[0];
        Assert.Equal(lane.Offered, lane.Completed + lane.Refused + lane.Expired + lane.Cancelled + lane.Failed);
    }

    [Fact]
    public async Task Cancelled_work_never_reaches_the_model()
    {
        var gate = new TaskCompletionSource();
        var backend = new Echo("echo") { Gate = gate.Task };
        await using var service = Held(backend, workers: 1);
        var first = service.RunAsync(Text("echo", Lane.Bulk, [1]), None);
        await backend.Started.Task;
        using var cancel = new CancellationTokenSource();
        var second = service.RunAsync(Text("echo", Lane.Bulk, [77]), cancel.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => second);
        gate.SetResult();
        await first;
        Assert.DoesNotContain(77, backend.Seen);
        Assert.Equal(0, service.WaitingUnits(Lane.Bulk));
    }

    [Fact]
    public async Task Bulk_work_waits_for_room_and_a_flood_of_one_tenant_leaves_room_for_another()
    {
        var gate = new TaskCompletionSource();
        var backend = new Echo("echo") { Gate = gate.Task };
        await using var service = Held(backend, workers: 1, maxWaitingTokens: 1000);
        var flood = Enumerable.Range(0, 100).Select(_ => service.RunAsync(Text("echo", Lane.Bulk, [.. Enumerable.Repeat(1, 100)], tenant: "flood"), None)).ToList();
        await backend.Started.Task;
        long waiting = service.WaitingUnits(Lane.Bulk);
        Assert.InRange(waiting, 1, 1000);
        var other = service.RunAsync(Text("echo", Lane.Bulk, [.. Enumerable.Repeat(1, 100)], tenant: "quiet"), None);
        Assert.Equal(waiting + 100, service.WaitingUnits(Lane.Bulk));
        gate.SetResult();
        await other;
        await Task.WhenAll(flood);
    }

    [Fact]
    public async Task Two_models_that_do_not_fit_together_take_turns()
    {
        var a = new Echo("a") { Bytes = 60 };
        var b = new Echo("b") { Bytes = 60 };
        await using var service = new InferenceService([a, b], TimeProvider.System, new InferenceOptions { Devices = [new Device("cpu", 100, 2)], Profiles = Profiles(60, a, b) });
        var stop = TimeProvider.System.GetTimestamp();
        long done = 0;
        await Task.WhenAll(Enumerable.Range(0, 2).Select(async i =>
        {
            while (TimeProvider.System.GetElapsedTime(stop) < TimeSpan.FromSeconds(5))
            {
                await service.RunAsync(Text(i == 0 ? "a" : "b", Lane.Bulk, [1]), None);
                Interlocked.Increment(ref done);
                Assert.True(service.Snapshot().Devices[0].UsedBytes <= 100);
            }
        }));
        // A stay of at least a second each, so at most a handful of loads in five; both were served.
        Assert.InRange(a.Loads, 1, 4);
        Assert.InRange(b.Loads, 1, 4);
        Assert.True(done > 100, $"{done}");
        Assert.Equal((a.Loads - a.Unloads) + (b.Loads - b.Unloads), service.Snapshot().Models.Count(m => m.State == "loaded"));
    }

    [Fact]
    public async Task A_load_never_blocks_requests_for_loaded_models()
    {
        var slow = new Echo("slow") { LoadGate = new TaskCompletionSource() };
        await using var service = Held(new Echo("ready"), workers: 1, more: slow);
        await service.LoadAsync("ready", None);
        var waits = service.RunAsync(Text("slow", Lane.Bulk, [1]), None);
        for (int i = 0; i < 20; i++)
        {
            await service.RunAsync(Text("ready", Lane.Interactive, [i]), None);
        }
        Assert.False(waits.IsCompleted);
        slow.LoadGate.SetResult();
        await waits;
    }

    [Fact]
    public async Task A_model_that_fails_to_load_fails_its_requests_with_the_reason_and_is_tried_again()
    {
        var backend = new Echo("broken") { LoadFailures = 1 };
        var time = new FakeTimeProvider();
        await using var service = new InferenceService([backend], time);
        var failure = await Assert.ThrowsAsync<InvalidDataException>(() => service.RunAsync(Text("broken", Lane.Bulk, [1]), None));
        Assert.Equal("no such weights", failure.Message);
        Assert.Equal("failed", service.Snapshot().Models[0].State);
        time.Advance(TimeSpan.FromSeconds(10));
        await service.RunAsync(Text("broken", Lane.Bulk, [1]), None);
        Assert.Equal(0, service.Snapshot().Devices[0].Bytes[MemoryKind.Caches]);
    }

    [Fact]
    public async Task A_load_whose_asker_went_away_fails_nobody_else()
    {
        var slow = new Echo("slow") { LoadGate = new TaskCompletionSource() };
        await using var service = Held(slow, workers: 1);
        using var gone = new CancellationTokenSource();
        Task load = service.LoadAsync("slow", gone.Token);
        Task<IReadOnlyDictionary<string, float[]>> waits = service.RunAsync(Text("slow", Lane.Bulk, [1]), None);
        await gone.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => load);
        slow.LoadGate.SetResult();
        Assert.Equal(1, (await waits)["sum"][0]);
    }

    [Fact]
    public async Task A_model_larger_than_every_device_is_said_to_be()
    {
        await using var service = new InferenceService([new Echo("huge") { Bytes = 1000 }], TimeProvider.System, new InferenceOptions { Devices = [new Device("cpu", 100, 1)] });
        await Assert.ThrowsAsync<InvalidRequestException>(() => service.RunAsync(Text("huge", Lane.Bulk, [1]), None));
        Assert.Equal(0, service.Snapshot().Devices[0].UsedBytes);
    }

    /// <summary>The rungs in their order: smaller batch, caches, alone on the device, without an idle model, refused.</summary>
    [Theory]
    [InlineData(1, "half")]
    [InlineData(2, "caches")]
    [InlineData(3, "alone")]
    [InlineData(4, "evicted")]
    [InlineData(5, "refused")]
    public async Task When_memory_runs_short_the_rungs_are_taken_in_order(int failures, string rung)
    {
        var idle = new Echo("idle") { Bytes = 10 };
        var backend = new Echo("echo") { Bytes = 10 };
        int dropped = 0;
        var gate = new TaskCompletionSource();
        backend.Gate = gate.Task;
        await using var service = new InferenceService([backend, idle], TimeProvider.System, new InferenceOptions { Devices = [new Device("cpu", 100, 1)], Profiles = Profiles(10, backend, idle) });
        await service.LoadAsync(None);
        service.AddCache("c", 10, () => dropped++);
        var first = service.RunAsync(Text("echo", Lane.Bulk, [1]), None);
        await backend.Started.Task;
        Task<IReadOnlyDictionary<string, float[]>>[] items = [.. Enumerable.Range(2, rung == "half" ? 2 : 1).Select(i => service.RunAsync(Text("echo", Lane.Bulk, [i]), None))];
        backend.MemoryFailures = rung == "half" ? 1 : failures - 1;
        gate.SetResult();
        await first;
        if (rung == "refused")
        {
            await Assert.ThrowsAsync<OverloadedException>(() => items[0]);
        }
        else
        {
            await Task.WhenAll(items);
        }
        Assert.Equal(rung == "half" ? 0 : 1, dropped);
        Assert.Equal(rung is "evicted" or "refused" ? 1 : 0, idle.Unloads);
        Assert.Equal(2, (await service.RunAsync(Text("echo", Lane.Bulk, [2]), None))["sum"][0]);
    }

    [Fact]
    public async Task An_operator_unloads_pins_and_removes_models()
    {
        var backend = new Echo("echo");
        await using var service = Held(backend, workers: 1);
        await service.LoadAsync("echo", None);
        service.Pin("echo", true);
        Assert.True(service.Snapshot().Models[0].Pinned);
        await service.UnloadAsync("echo");
        Assert.Equal(("unloaded", 0L), (service.Snapshot().Models[0].State, service.Snapshot().Devices[0].UsedBytes));
        await service.RunAsync(Text("echo", Lane.Bulk, [1]), None);
        Assert.Equal(2, backend.Loads);
        await service.RemoveAsync("echo");
        await Assert.ThrowsAsync<NotFoundException>(() => service.RunAsync(Text("echo", Lane.Bulk, [1]), None));
    }

    [Fact]
    public async Task Everything_that_waits_for_a_removed_model_ends_with_a_clear_error()
    {
        var gate = new TaskCompletionSource();
        var busy = new Echo("busy") { Gate = gate.Task };
        // Room for one item: what follows it waits for room to wait.
        await using var service = Held(busy, workers: 1, maxWaitingTokens: 4, new Echo("leaving"));
        Task running = service.RunAsync(Text("busy", Lane.Bulk, [1]), None);
        await busy.Started.Task;
        Task[] waiting = [.. Enumerable.Range(0, 5).Select(_ => service.RunAsync(Text("leaving", Lane.Bulk, new int[4]), None))];
        Task other = service.RunAsync(Text("busy", Lane.Bulk, [2]), None);
        await service.RemoveAsync("leaving");
        foreach (Task one in waiting)
        {
            Assert.Contains("'leaving' was removed", (await Assert.ThrowsAsync<NotFoundException>(() => one)).Message, StringComparison.Ordinal);
        }
        gate.SetResult();
        await running;
        await other;
        await Assert.ThrowsAsync<NotFoundException>(() => service.LoadAsync("leaving", None));
    }

    [Fact]
    public async Task Models_are_placed_where_there_is_room()
    {
        Echo[] models = [.. Enumerable.Range(0, 4).Select(i => new Echo($"m{i}") { Bytes = 60 })];
        await using var service = new InferenceService(models, TimeProvider.System, new InferenceOptions
        {
            Devices = [.. Enumerable.Range(0, 4).Select(i => new Device($"sim:{i}", 100, 1))],
            Profiles = Profiles(60, models),
        });
        await service.LoadAsync(None);
        Assert.Equal(4, service.Snapshot().Models.Select(m => m.Devices.Single()).Distinct().Count());
        await Task.WhenAll(Enumerable.Range(0, 100).Select(i => service.RunAsync(Text($"m{i % 4}", Lane.Bulk, [1]), None)));
    }

    [Fact]
    public async Task Identical_work_in_flight_is_done_once_and_goes_on_while_anyone_waits()
    {
        var flights = new SingleFlight<string, int>(TimeProvider.System);
        int runs = 0;
        var gate = new TaskCompletionSource();
        CancellationToken seen = default;
        async Task<int> Work(RequestTerms terms, CancellationToken cancellation)
        {
            runs++;
            seen = cancellation;
            await gate.Task.WaitAsync(cancellation);
            return 7;
        }
        using var first = new CancellationTokenSource();
        Task<int> one = flights.RunAsync("k", new RequestTerms(), Work, first.Token), two = flights.RunAsync("k", new RequestTerms(), Work, None);
        await first.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => one);
        Assert.False(seen.IsCancellationRequested);
        gate.SetResult();
        Assert.Equal((7, 1), (await two, runs));
        using var last = new CancellationTokenSource();
        gate = new TaskCompletionSource();
        Task<int> abandoned = flights.RunAsync("k", new RequestTerms(), Work, last.Token);
        await last.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => abandoned);
        Assert.True(seen.IsCancellationRequested);
    }

    [Fact]
    public void The_least_recently_used_leaves_first()
    {
        var cache = new LeastRecentlyUsed<string, int>(100);
        cache.Put("a", 1, 40);
        cache.Put("b", 2, 40);
        Assert.True(cache.TryGet("a", out _));
        cache.Put("c", 3, 40);
        Assert.False(cache.TryGet("b", out _));
        Assert.True(cache.TryGet("a", out int a) && a == 1 && cache.Bytes == 80);
        cache.Clear();
        Assert.Equal(0, cache.Bytes);
    }

    private static InferenceRequest Text(string model, Lane lane, int[] tokens, TimeSpan? limit = null, string tenant = "") => new(model, lane, tokens, [], limit, tenant);

    private static InferenceService Held(Echo backend, int workers, int maxWaitingTokens = 1 << 17, params Echo[] more) => new(
        [backend, .. more], TimeProvider.System, new InferenceOptions { Devices = [new Device("cpu", 1 << 20, workers)], MaxWaitingTokens = maxWaitingTokens, Profiles = Profiles(0, [backend, .. more]) });

    /// <summary>Known models: no probe, and their memory is what it is said to be.</summary>
    private static ModelProfiles Profiles(long bytes, params Echo[] models)
    {
        var profiles = new ModelProfiles(null);
        foreach (Echo model in models)
        {
            foreach (string device in new[] { "cpu", "sim:0" })
            {
                profiles.Save(model.Description, device, new ModelProfile(new CostProfile(0.0001, 0.00002, 1, 0), bytes, 0, 0.001));
            }
        }
        return profiles;
    }

    /// <summary>Gives each item its first token and its length; fails as it is told to.</summary>
    private sealed class Echo(string name) : IModelBackend
    {
        private int _memoryFailures;

        public ConcurrentBag<int> Seen { get; } = [];

        public TaskCompletionSource Started { get; } = new();

        public Task Gate { get; set; } = Task.CompletedTask;

        public TaskCompletionSource? LoadGate { get; init; }

        public int LoadFailures { get; set; }

        public int MemoryFailures { set => _memoryFailures = value; }

        public long Bytes { get; init; }

        public int Loads { get; private set; }

        public int Unloads { get; private set; }

        public ModelDescription Description => new(name, "1", InputKind.Tokens, new Dictionary<string, int> { ["sum"] = 2 }, 256, Bytes);

        public async ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation)
        {
            if (LoadFailures-- > 0)
            {
                throw new InvalidDataException("no such weights");
            }
            await (LoadGate?.Task.WaitAsync(cancellation) ?? Task.CompletedTask);
            Loads++;
            return new Loaded(this);
        }

        private sealed class Loaded(Echo echo) : ILoadedModel
        {
            public async ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
            {
                if (echo.Loads > 0 && batch.Tokens.Length > 0 && batch.Tokens[0] != 0)
                {
                    echo.Started.TrySetResult();
                }
                await echo.Gate;
                if (batch.Tokens[0] > 1 && Interlocked.Decrement(ref echo._memoryFailures) >= 0)
                {
                    throw new DeviceMemoryException("none left");
                }
                float[] rows = new float[batch.Count * 2];
                for (int i = 0; i < batch.Count; i++)
                {
                    echo.Seen.Add(batch.Tokens[batch.Offsets[i]]);
                    (rows[2 * i], rows[(2 * i) + 1]) = (batch.Tokens[batch.Offsets[i]], batch.Offsets[i + 1] - batch.Offsets[i]);
                }
                return new BatchOutput(new Dictionary<string, float[][]> { ["sum"] = BatchOutput.Cut(rows, batch.Count) });
            }

            public ValueTask DisposeAsync()
            {
                echo.Unloads++;
                return ValueTask.CompletedTask;
            }
        }
    }
}
