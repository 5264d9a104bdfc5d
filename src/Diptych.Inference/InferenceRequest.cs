namespace Diptych.Inference;

/// <summary>An item to run: token ids for a text model, or RGB bytes for an image model.</summary>
/// <param name="TimeLimit">From submission to result, set by the client: later is useless to it. Null takes the lane's target, and its expiry.</param>
/// <param name="Tenant">Who asks; tenants share a lane fairly.</param>
/// <param name="Width">The picture's width in pixels, for a model that takes any size.</param>
public sealed record InferenceRequest(string Model, Lane Lane, int[] Tokens, byte[] Pixels, TimeSpan? TimeLimit = null, string Tenant = "", int Width = 0)
{
    /// <summary>Tokens, or tiles of an image model.</summary>
    public int UnitsOf(ModelDescription model) =>
        model.Input == InputKind.Tokens ? Math.Max(1, Tokens.Length) : Math.Max(1, Pixels.Length / Math.Max(1, model.UnitBytes));

    internal long Bytes => (Tokens.LongLength * sizeof(int)) + Pixels.LongLength;
}

/// <summary>
/// What the request that is being carried out asked for, known to everything that runs on its behalf: who asks, by when, and what was
/// left out to be in time.
/// </summary>
public sealed class RequestTerms
{
    private static readonly AsyncLocal<RequestTerms?> Ambient = new();
    private readonly List<string> _degraded = [];

    /// <summary>The terms of the request that this code runs for; without any, those of nobody in particular.</summary>
    public static RequestTerms Current => Ambient.Value ?? None;

    private static RequestTerms None { get; } = new();

    public string Tenant { get; init; } = "";

    /// <summary>The lane that the work belongs to whatever the code at hand would take; null leaves it to that code.</summary>
    public Lane? Lane { get; init; }

    /// <summary>Timestamp of the clock by which the client needs its answer; null leaves it to the lane.</summary>
    public long? DueAt { get; init; }

    /// <summary>Rungs of the ladder that were taken, in order.</summary>
    public IReadOnlyList<string> Degraded
    {
        get
        {
            lock (_degraded)
            {
                return [.. _degraded];
            }
        }
    }

    /// <summary>A request as these terms have it: who asks, by when, and in which lane.</summary>
    public InferenceRequest Apply(InferenceRequest request, TimeProvider time) => request with { Lane = Lane ?? request.Lane, TimeLimit = Left(time), Tenant = Tenant };

    /// <summary>Makes these the current terms of the calling flow.</summary>
    public void Begin() => Ambient.Value = this;

    public void Degrade(string what)
    {
        if (this != None)
        {
            lock (_degraded)
            {
                _degraded.Add(what);
            }
        }
    }

    /// <returns>What is left of the client's time limit; null where it set none.</returns>
    public TimeSpan? Left(TimeProvider time) =>
        DueAt is { } due ? TimeSpan.FromSeconds(Math.Max(0, (due - time.GetTimestamp()) / (double)time.TimestampFrequency)) : null;
}
