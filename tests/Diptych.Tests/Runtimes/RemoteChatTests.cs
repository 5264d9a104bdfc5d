using System.Runtime.CompilerServices;
using Diptych.Core;
using Diptych.Inference.Scheduling;
using Diptych.Runtimes.Remote;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace Diptych.Tests.Runtimes;

public sealed class RemoteChatTests
{
    private static readonly ChatMessage[] Question = [new(ChatRole.User, "?")];

    [Fact]
    public void The_limit_grows_while_latency_holds_and_shrinks_as_it_rises()
    {
        var limit = new ConcurrencyLimit();
        for (int i = 0; i < 100; i++)
        {
            limit.Succeeded(0.1, limit.Limit);
        }
        int grown = limit.Limit;
        Assert.True(grown > 20, $"{grown}");
        for (int i = 0; i < 30; i++)
        {
            limit.Succeeded(1, limit.Limit);
        }
        Assert.True(limit.Limit < grown / 2, $"{limit.Limit} of {grown}");
        int unused = new ConcurrencyLimit().Limit;
        var idle = new ConcurrencyLimit();
        for (int i = 0; i < 100; i++)
        {
            idle.Succeeded(0.1, 1);
        }
        Assert.Equal(unused, idle.Limit);
    }

    [Fact]
    public async Task A_failure_before_the_first_part_is_tried_once_more()
    {
        var time = new FakeTimeProvider { AutoAdvanceAmount = TimeSpan.FromMilliseconds(1) };
        var flaky = new Scripted(fail: 1);
        using var chat = new RemoteChat(flaky, new RemoteServer("model", time), time, TimeSpan.FromSeconds(1));
        Task<ChatResponse> answer = chat.GetResponseAsync(Question, cancellationToken: TestContext.Current.CancellationToken);
        while (!answer.IsCompleted)
        {
            time.Advance(TimeSpan.FromMilliseconds(100));
            await Task.Yield();
        }
        Assert.Equal("ab", (await answer).Text);
        Assert.Equal(2, flaky.Calls);
    }

    [Fact]
    public async Task A_server_that_keeps_failing_is_given_a_pause_and_then_tried_again()
    {
        var time = new FakeTimeProvider { AutoAdvanceAmount = TimeSpan.FromMilliseconds(1) };
        var broken = new Scripted(fail: int.MaxValue);
        using var chat = new RemoteChat(broken, new RemoteServer("model", time), time, TimeSpan.FromSeconds(1));
        Exception? last = null;
        for (int i = 0; i < 6 && last is not OverloadedException; i++)
        {
            Task<ChatResponse> answer = chat.GetResponseAsync(Question, cancellationToken: TestContext.Current.CancellationToken);
            while (!answer.IsCompleted)
            {
                time.Advance(TimeSpan.FromMilliseconds(100));
                await Task.Yield();
            }
            last = await Record.ExceptionAsync(() => answer);
        }
        Assert.IsType<OverloadedException>(last);
        int calls = broken.Calls;
        await Assert.ThrowsAsync<OverloadedException>(() => chat.GetResponseAsync(Question, cancellationToken: TestContext.Current.CancellationToken));
        Assert.Equal(calls, broken.Calls);
        broken.Fail = 0;
        time.Advance(TimeSpan.FromSeconds(6));
        Assert.Equal("ab", (await chat.GetResponseAsync(Question, cancellationToken: TestContext.Current.CancellationToken)).Text);
    }

    [Fact]
    public async Task A_turn_that_does_not_come_in_time_is_refused_and_the_place_is_not_lost()
    {
        var time = new FakeTimeProvider();
        var gate = new TaskCompletionSource();
        var slow = new Scripted(fail: 0) { Gate = gate.Task };
        using var chat = new RemoteChat(slow, new RemoteServer("model", time), time, TimeSpan.FromSeconds(1));
        Task<ChatResponse>[] running = [.. Enumerable.Range(0, chat.Server.Limit).Select(_ => chat.GetResponseAsync(Question, cancellationToken: TestContext.Current.CancellationToken))];
        Task<ChatResponse> waits = chat.GetResponseAsync(Question, cancellationToken: TestContext.Current.CancellationToken);
        time.Advance(TimeSpan.FromSeconds(2));
        await Assert.ThrowsAsync<OverloadedException>(() => waits);
        gate.SetResult();
        await Task.WhenAll(running);
        Assert.Equal("ab", (await chat.GetResponseAsync(Question, cancellationToken: TestContext.Current.CancellationToken)).Text);
    }

    private sealed class Scripted(int fail) : IChatClient
    {
        public int Fail { get; set; } = fail;

        public int Calls { get; private set; }

        public Task Gate { get; init; } = Task.CompletedTask;

        public Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default) => throw new NotSupportedException();

        public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
        {
            Calls++;
            await Gate;
            if (Fail-- > 0)
            {
                throw new HttpRequestException("connection refused");
            }
            yield return new ChatResponseUpdate(ChatRole.Assistant, "a");
            yield return new ChatResponseUpdate(ChatRole.Assistant, "b");
        }

        public object? GetService(Type serviceType, object? serviceKey = null) => null;

        public void Dispose()
        {
        }
    }
}
