using Diptych.Core;
using Diptych.Inference;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace Diptych.Tests.Inference;

/// <summary>Clients that ask the same at once share the work, and nothing of each other's deadlines.</summary>
public sealed class SingleFlightTests
{
    private static readonly CancellationToken None = CancellationToken.None;
    private readonly FakeTimeProvider _time = new();

    [Fact]
    public async Task What_is_refused_for_a_short_deadline_goes_on_for_who_has_time()
    {
        var flights = new SingleFlight<string, int>(_time);
        var gate = new TaskCompletionSource();
        var ran = new List<long?>();
        // As the service does it: work that comes too late for its terms is dropped.
        async Task<int> Work(RequestTerms terms, CancellationToken cancellation)
        {
            ran.Add(terms.DueAt);
            await gate.Task.WaitAsync(cancellation);
            return terms.DueAt < _time.GetTimestamp() ? throw new OverloadedException("Late.", TimeSpan.FromSeconds(1)) : 7;
        }
        RequestTerms brief = In(TimeSpan.FromMilliseconds(5)), longer = In(TimeSpan.FromSeconds(2)), longest = In(TimeSpan.FromSeconds(60));
        Task<int> hasty = flights.RunAsync("k", brief, Work, None), patient = flights.RunAsync("k", longer, Work, None), calm = flights.RunAsync("k", longest, Work, None);
        _time.Advance(TimeSpan.FromMilliseconds(10));
        await Assert.ThrowsAsync<OverloadedException>(() => hasty);
        Assert.False(patient.IsCompleted || calm.IsCompleted);
        gate.SetResult();
        Assert.Equal((7, 7), (await patient, await calm));
        // By the latest of those who still waited.
        Assert.Equal([brief.DueAt, longest.DueAt], ran);
    }

    [Fact]
    public async Task A_short_deadline_ends_its_own_wait_for_work_that_another_began()
    {
        var flights = new SingleFlight<string, int>(_time);
        var gate = new TaskCompletionSource<int>();
        Task<int> Work(RequestTerms terms, CancellationToken cancellation) => gate.Task.WaitAsync(cancellation);
        Task<int> calm = flights.RunAsync("k", new RequestTerms(), Work, None), hasty = flights.RunAsync("k", In(TimeSpan.FromMilliseconds(3)), Work, None);
        _time.Advance(TimeSpan.FromMilliseconds(4));
        await Assert.ThrowsAsync<OverloadedException>(() => hasty);
        gate.SetResult(5);
        Assert.Equal(5, await calm);
    }

    [Fact]
    public async Task Refused_by_everyones_terms_is_refused_for_everyone_once_each()
    {
        var flights = new SingleFlight<string, int>(_time);
        var gate = new TaskCompletionSource();
        int ran = 0;
        async Task<int> Work(RequestTerms terms, CancellationToken cancellation)
        {
            ran++;
            await gate.Task.WaitAsync(cancellation);
            throw new OverloadedException("Full.", TimeSpan.FromSeconds(1));
        }
        Task<int>[] all = [.. Enumerable.Range(0, 8).Select(i => flights.RunAsync("k", new RequestTerms { Tenant = i % 2 == 0 ? "a" : "b" }, Work, None))];
        gate.SetResult();
        foreach (Task<int> one in all)
        {
            await Assert.ThrowsAsync<OverloadedException>(() => one);
        }
        Assert.Equal(2, ran);
        // And nothing of it is left: the next asks anew.
        Assert.Equal(3, await flights.RunAsync("k", new RequestTerms(), (_, _) => Task.FromResult(3), None));
    }

    [Fact]
    public async Task A_fault_of_the_work_is_everyones_and_is_not_tried_again()
    {
        var flights = new SingleFlight<string, int>(_time);
        var gate = new TaskCompletionSource();
        int ran = 0;
        async Task<int> Work(RequestTerms terms, CancellationToken cancellation)
        {
            ran++;
            await gate.Task.WaitAsync(cancellation);
            throw new InvalidDataException("Broken.");
        }
        Task<int> one = flights.RunAsync("k", new RequestTerms { Tenant = "a" }, Work, None), two = flights.RunAsync("k", new RequestTerms { Tenant = "b" }, Work, None);
        gate.SetResult();
        await Assert.ThrowsAsync<InvalidDataException>(() => one);
        await Assert.ThrowsAsync<InvalidDataException>(() => two);
        Assert.Equal(1, ran);
    }

    private RequestTerms In(TimeSpan limit) => new() { DueAt = _time.GetTimestamp() + (long)(limit.TotalSeconds * _time.TimestampFrequency) };
}
