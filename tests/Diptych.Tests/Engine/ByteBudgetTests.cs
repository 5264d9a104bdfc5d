using Diptych.Engine.Ingestion;
using Xunit;

namespace Diptych.Tests.Engine;

public sealed class ByteBudgetTests
{
    private static readonly CancellationToken None = CancellationToken.None;

    [Fact]
    public async Task Grants_in_order_and_a_request_larger_than_all_of_it_alone()
    {
        var budget = new ByteBudget(100);
        long first = await budget.ReserveAsync(60, None);
        Task<long> giant = budget.ReserveAsync(1000, None), small = budget.ReserveAsync(10, None);
        Assert.False(giant.IsCompleted);
        Assert.False(small.IsCompleted, "the small one waits behind the giant: it would starve otherwise");
        budget.Return(first);
        Assert.Equal(100, await giant);
        Assert.False(small.IsCompleted);
        budget.Return(100);
        Assert.Equal(10, await small);
    }

    [Fact]
    public async Task A_cancelled_wait_takes_nothing_and_lets_the_next_pass()
    {
        var budget = new ByteBudget(100);
        long first = await budget.ReserveAsync(50, None);
        using var cancel = new CancellationTokenSource();
        Task<long> cancelled = budget.ReserveAsync(80, cancel.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => cancelled);
        Assert.Equal(50, await budget.ReserveAsync(50, None));
        budget.Return(first + 50);
        Assert.Equal(100, await budget.ReserveAsync(100, None));
    }
}
