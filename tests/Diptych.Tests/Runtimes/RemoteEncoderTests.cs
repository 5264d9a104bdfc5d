using Diptych.Core;
using Diptych.Inference;
using Diptych.Runtimes.Remote;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Embeddings from another server: gathered, hedged, paused and taken up again.</summary>
public sealed class RemoteEncoderTests
{
    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Texts_that_wait_go_together_and_interactive_ones_first()
    {
        var server = new Scripted();
        using var encoder = Encoder(server, TimeProvider.System);
        server.Hold();
        Task<float[]>[] first = [.. Enumerable.Range(0, encoder.Server.Limit).Select(i => encoder.EmbedTextAsync($"{i}", Lane.Bulk, Stop))];
        Task<float[]>[] bulk = [.. Enumerable.Range(100, 40).Select(i => encoder.EmbedTextAsync($"{i}", Lane.Bulk, Stop))];
        Task<float[]> urgent = encoder.EmbedTextAsync("7", Lane.Interactive, Stop);
        server.Release();
        await Task.WhenAll([.. first, .. bulk, urgent]);
        Assert.Equal(7, (await urgent)[0]);
        Assert.Equal(139, (await bulk[39])[0]);
        Assert.Equal(1, encoder.Dimensions);
        string[] next = server.Requests.Single(r => r.Contains("7"));
        Assert.Equal("7", next[0]);
        Assert.Equal(32, next.Length);
    }

    [Fact]
    public async Task An_interactive_request_that_takes_long_is_sent_again_and_few_are()
    {
        var time = new FakeTimeProvider();
        var server = new Scripted { Time = time };
        using var encoder = Encoder(server, time);
        for (int i = 0; i < 30; i++)
        {
            Task<float[]> quick = encoder.EmbedTextAsync("1", Lane.Interactive, Stop);
            await AdvanceUntil(quick, time, 10);
        }
        int before = server.Requests.Count;
        server.Hang = 1;
        Task<float[]> slow = encoder.EmbedTextAsync("2", Lane.Interactive, Stop);
        await AdvanceUntil(slow, time, 10);
        Assert.Equal(2, (await slow)[0]);
        Assert.Equal(before + 2, server.Requests.Count);
        Assert.Equal(1, encoder.Server.Snapshot().Hedged);
        // One of thirty-one was: the next that hangs is waited for, and refused in the end.
        server.Hang = 2;
        Task<float[]> refused = encoder.EmbedTextAsync("3", Lane.Interactive, Stop);
        await Assert.ThrowsAsync<OverloadedException>(() => AdvanceUntil(refused, time, 100));
        Assert.InRange(encoder.Server.Snapshot().Hedged, 1, 2);
    }

    [Fact]
    public async Task A_server_that_fails_is_refused_at_once_until_it_says_that_it_is_well()
    {
        var time = new FakeTimeProvider { AutoAdvanceAmount = TimeSpan.FromMilliseconds(1) };
        var server = new Scripted { Broken = true };
        bool well = false;
        using var encoder = Encoder(server, time, _ => Task.FromResult(well));
        for (int i = 0; i < 4; i++)
        {
            await Record.ExceptionAsync(() => AdvanceUntil(encoder.EmbedTextAsync("1", Lane.Bulk, Stop), time, 100));
        }
        Assert.False(encoder.Server.Snapshot().Healthy);
        int asked = server.Requests.Count;
        await Assert.ThrowsAsync<OverloadedException>(() => AdvanceUntil(encoder.EmbedTextAsync("1", Lane.Bulk, Stop), time, 10));
        Assert.Equal(asked, server.Requests.Count);
        (server.Broken, well) = (false, true);
        for (int i = 0; i < 100 && !encoder.Server.Snapshot().Healthy; i++)
        {
            time.Advance(TimeSpan.FromMilliseconds(500));
            await Task.Delay(TimeSpan.FromMilliseconds(5), TimeProvider.System, Stop);
        }
        Assert.True(encoder.Server.Snapshot().Healthy);
        Assert.Equal(asked, server.Requests.Count);
        Assert.Equal(4, (await AdvanceUntil(encoder.EmbedTextAsync("4", Lane.Bulk, Stop), time, 10))[0]);
    }

    private static RemoteEncoder Encoder(Scripted server, TimeProvider time, Func<CancellationToken, Task<bool>>? isWell = null) =>
        new(server, new RemoteServer("there", time, isWell), time, LaneObjective.Defaults);

    private static async Task<float[]> AdvanceUntil(Task<float[]> task, FakeTimeProvider time, int stepMs)
    {
        for (int i = 0; i < 2000 && !task.IsCompleted; i++)
        {
            time.Advance(TimeSpan.FromMilliseconds(stepMs));
            await Task.Delay(TimeSpan.FromMilliseconds(1), TimeProvider.System, Stop);
        }
        return await task;
    }

    /// <summary>A text's vector is its number.</summary>
    private sealed class Scripted : IEmbeddingGenerator<string, Embedding<float>>
    {
        private TaskCompletionSource? _held;

        public TimeProvider? Time { get; init; }

        public bool Broken { get; set; }

        /// <summary>Requests that are never answered.</summary>
        public int Hang { get; set; }

        public List<string[]> Requests { get; } = [];

        public void Hold() => _held = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);

        public void Release() => _held!.SetResult();

        public async Task<GeneratedEmbeddings<Embedding<float>>> GenerateAsync(IEnumerable<string> values, EmbeddingGenerationOptions? options = null, CancellationToken cancellationToken = default)
        {
            string[] texts = [.. values];
            bool hangs;
            lock (Requests)
            {
                Requests.Add(texts);
                hangs = Hang > 0;
                Hang -= hangs ? 1 : 0;
            }
            await (_held?.Task ?? Task.CompletedTask);
            if (hangs)
            {
                await Task.Delay(Timeout.InfiniteTimeSpan, TimeProvider.System, cancellationToken);
            }
            if (Time is not null)
            {
                await Task.Delay(TimeSpan.FromMilliseconds(20), Time, cancellationToken);
            }
            return Broken ? throw new HttpRequestException("connection refused") : new GeneratedEmbeddings<Embedding<float>>(texts.Select(t => new Embedding<float>(new[] { float.Parse(t, System.Globalization.CultureInfo.InvariantCulture) })));
        }

        public object? GetService(Type serviceType, object? serviceKey = null) => null;

        public void Dispose()
        {
        }
    }
}
