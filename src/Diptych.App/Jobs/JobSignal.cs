namespace Diptych.App.Jobs;

/// <summary>Wakes those in this process who wait for work, or for a job's progress. Other nodes' work is found by looking now and then.</summary>
public sealed class JobSignal
{
    private TaskCompletionSource _next = New();

    /// <summary>Ends at the next <see cref="Raise"/>. Take it before looking, so that nothing is missed in between.</summary>
    public Task Next => Volatile.Read(ref _next).Task;

    public void Raise() => Interlocked.Exchange(ref _next, New()).TrySetResult();

    private static TaskCompletionSource New() => new(TaskCreationOptions.RunContinuationsAsynchronously);
}
