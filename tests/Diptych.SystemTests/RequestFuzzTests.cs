using Xunit;

namespace Diptych.SystemTests;

/// <summary>Mutated requests: each is answered or refused with words, soon, and the server goes on.</summary>
[Collection(nameof(StartedServer))]
public sealed class RequestFuzzTests(StartedServer server)
{
    /// <summary>A twentieth of what the bench sends.</summary>
    private const int Requests = 1_000;

    [Fact]
    public async Task Every_mutated_request_is_answered_or_refused_with_words()
    {
        RequestFuzz.Result result = await RequestFuzz.RunAsync(server.Client, Requests, seed: 5, _ => { }, TestContext.Current.CancellationToken);
        Assert.Empty(result.Faults);
        Assert.True(result.Taken > Requests / 20 && result.Refused > Requests / 4, $"{result.Taken} taken, {result.Refused} refused");
        Assert.Equal("OK", (await server.Client.GetAsync("/healthz", TestContext.Current.CancellationToken)).StatusCode.ToString());
    }
}
