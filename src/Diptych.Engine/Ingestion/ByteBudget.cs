namespace Diptych.Engine.Ingestion;

/// <summary>Bytes that may be in flight at once, granted in the order asked. A request larger than all of it is granted alone.</summary>
public sealed class ByteBudget(long capacity)
{
    private readonly Lock _lock = new();
    private readonly Queue<(long Bytes, TaskCompletionSource Granted)> _waiting = new();
    private readonly long _capacity = capacity;
    private long _free = capacity;

    /// <returns>What to give back.</returns>
    public async Task<long> ReserveAsync(long bytes, CancellationToken cancellation)
    {
        bytes = Math.Min(bytes, _capacity);
        var granted = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_lock)
        {
            _waiting.Enqueue((bytes, granted));
            Grant();
        }
        try
        {
            await granted.Task.WaitAsync(cancellation).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            // Granted meanwhile, or dropped from the queue when its turn comes.
            if (!granted.TrySetCanceled(cancellation))
            {
                Return(bytes);
            }
            throw;
        }
        return bytes;
    }

    public void Return(long bytes)
    {
        lock (_lock)
        {
            _free += bytes;
            Grant();
        }
    }

    private void Grant()
    {
        while (_waiting.TryPeek(out var next) && (next.Bytes <= _free || next.Granted.Task.IsCanceled))
        {
            _waiting.Dequeue();
            if (next.Granted.TrySetResult())
            {
                _free -= next.Bytes;
            }
        }
    }
}
