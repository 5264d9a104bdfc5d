using Diptych.Index;

namespace Diptych.App.Http;

/// <summary>
/// Whether requests can be served well: the store answers, the disk has room, and all work beside requests goes on. That the process
/// lives is another question, which <c>/healthz</c> answers.
/// </summary>
/// <param name="loops">What goes on beside requests.</param>
/// <param name="freeBytes">Free space of the disk that a folder is on; null where that cannot be told.</param>
/// <param name="minFreeBytes">Below it writes are about to fail.</param>
internal sealed class Readiness(
    IDocumentStore store, IReadOnlyList<BackgroundLoop> loops, string folder, Func<string, long?> freeBytes, long minFreeBytes,
    TimeProvider time)
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(2);

    private readonly Lock _lock = new();
    private Task? _asked;

    /// <summary>200, or 503 with what is wrong, a line each.</summary>
    public async Task<IResult> AnswerAsync(CancellationToken cancellation)
    {
        IReadOnlyList<string> faults = await FaultsAsync(cancellation);
        return faults.Count == 0
            ? TypedResults.Text($"ready, sequence {store.Sequence}")
            : TypedResults.Text($"not ready\n{string.Join('\n', faults)}\n", statusCode: StatusCodes.Status503ServiceUnavailable);
    }

    /// <returns>What is wrong, in words; empty when the server is ready.</returns>
    public async Task<IReadOnlyList<string>> FaultsAsync(CancellationToken cancellation)
    {
        var faults = new List<string>();
        try
        {
            await Ask().WaitAsync(Deadline, time, cancellation);
        }
        catch (TimeoutException)
        {
            faults.Add($"store: no answer within {Deadline.TotalSeconds:0} s");
        }
        catch (Exception error) when (!cancellation.IsCancellationRequested)
        {
            faults.Add($"store: {error.Message}");
        }
        if (freeBytes(folder) is { } free && free < minFreeBytes)
        {
            faults.Add($"disk: {folder} has {free >> 20} MB left, and {minFreeBytes >> 20} MB are wanted (Diptych:MinFreeMb); make room");
        }
        foreach (BackgroundLoop loop in loops)
        {
            if (loop.Failure is { } failure)
            {
                faults.Add($"background: {loop.Name} died and begins anew: {failure.Message}");
            }
        }
        return faults;
    }

    public static long? FreeBytes(string folder) => Directory.Exists(folder) ? new DriveInfo(folder).AvailableFreeSpace : null;

    /// <summary>One question at a time: a store that does not answer is not asked by ever more threads.</summary>
    private Task Ask()
    {
        lock (_lock)
        {
            return _asked is { IsCompleted: false } ? _asked : _asked = Task.Run(store.Ask);
        }
    }
}
