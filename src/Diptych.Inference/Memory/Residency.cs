namespace Diptych.Inference.Memory;

/// <summary>A loaded model as a candidate for leaving.</summary>
/// <param name="ReloadSeconds">What bringing it back would take.</param>
/// <param name="LoadedAt">When it came.</param>
/// <param name="Busy">Whether a batch of it runs.</param>
public readonly record struct Resident(int Model, long Bytes, double ReloadSeconds, double LoadedAt, double UsesPerSecond, bool Pinned, bool Busy);

/// <summary>
/// Which model leaves when another needs its room: the one with the least reload cost x chance of use / bytes. Pinned models stay.
/// A model also stays for some multiples of its own load time, so that two that do not fit together take turns and do not thrash.
/// </summary>
public static class Residency
{
    /// <summary>How far ahead the chance of use looks.</summary>
    public const double HorizonSeconds = 60;

    /// <summary>A model stays at least this many times what loading it took.</summary>
    public const double StayOverLoad = 5;

    /// <summary>A model that loads in no time stays at least so long.</summary>
    public const double LeastStaySeconds = 1;

    /// <summary>The value of keeping a model, per byte.</summary>
    public static double Value(in Resident resident) =>
        resident.ReloadSeconds * (1 - Math.Exp(-resident.UsesPerSecond * HorizonSeconds)) / Math.Max(1, resident.Bytes);

    /// <summary>When the model may leave.</summary>
    public static double StaysUntil(in Resident resident) =>
        resident.LoadedAt + Math.Max(LeastStaySeconds, StayOverLoad * resident.ReloadSeconds);

    /// <summary>The models to unload so that <paramref name="bytesNeeded"/> become free, the least valuable first.</summary>
    /// <param name="retryAt">Where it cannot be done now: when to ask again; infinite where pinned models leave no room at all.</param>
    /// <returns>Null where it cannot be done now; then nothing is to be unloaded.</returns>
    public static List<int>? Victims(IReadOnlyList<Resident> residents, long freeBytes, long bytesNeeded, double now, out double retryAt)
    {
        retryAt = double.PositiveInfinity;
        var victims = new List<int>();
        long free = freeBytes;
        foreach (Resident resident in residents.Where(r => !r.Pinned).OrderBy(r => StaysUntil(r) > now).ThenBy(r => Value(r)))
        {
            if (free >= bytesNeeded)
            {
                break;
            }
            double until = StaysUntil(resident);
            if (until > now || resident.Busy)
            {
                retryAt = Math.Min(retryAt, resident.Busy ? now + 0.01 : until);
                continue;
            }
            victims.Add(resident.Model);
            free += resident.Bytes;
        }
        return free >= bytesNeeded ? victims : null;
    }
}
