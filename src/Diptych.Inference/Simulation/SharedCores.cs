namespace Diptych.Inference.Simulation;

/// <summary>
/// Cores that jobs share as an operating system shares them: every job that runs has the same part of what there is, light ones (they
/// take requests in) three times that of heavy ones (models and decoders, which give way), and none more than a core.
/// </summary>
internal sealed class SharedCores(int cores)
{
    /// <summary>What niceness 5 leaves of a share.</summary>
    private const double Yielding = 1.0 / 3;

    private readonly Share _light = new(), _heavy = new();
    private double _now;

    /// <param name="seconds">What the job takes with a core of its own.</param>
    public void Start((int Kind, int Index) job, double seconds, bool light, double now)
    {
        Advance(now);
        Share share = light ? _light : _heavy;
        share.Jobs.Enqueue(job, share.Done + seconds);
    }

    /// <summary>When the next job ends if none is started before; infinite when none runs.</summary>
    public double NextEnd => Math.Min(End(_light), End(_heavy));

    /// <summary>The job that ends next; the clock moves there.</summary>
    public (int Kind, int Index) TakeNext()
    {
        double at = NextEnd;
        Share share = End(_light) <= at ? _light : _heavy;
        Advance(at);
        return share.Jobs.Dequeue();
    }

    private double End(Share share) => share.Jobs.TryPeek(out _, out double end) ? _now + (Math.Max(0, end - share.Done) / Speed(share)) : double.PositiveInfinity;

    private double Speed(Share share)
    {
        int light = _light.Jobs.Count, heavy = _heavy.Jobs.Count;
        double lightSpeed = light == 0 ? 0 : Math.Min(1, cores / (light + (Yielding * heavy)));
        return share == _light ? lightSpeed : Math.Min(1, (cores - (light * lightSpeed)) / heavy);
    }

    private void Advance(double to)
    {
        double seconds = to - _now;
        (double light, double heavy) = (_light.Jobs.Count == 0 ? 0 : Speed(_light), _heavy.Jobs.Count == 0 ? 0 : Speed(_heavy));
        _light.Done += seconds * light;
        _heavy.Done += seconds * heavy;
        _now = to;
    }

    /// <summary>Jobs of one weight: all have had the same since they began, so that they end in the order of what they need beyond it.</summary>
    private sealed class Share
    {
        /// <summary>Seconds of a core that each job would have had which was there from the beginning.</summary>
        public double Done { get; set; }

        public PriorityQueue<(int Kind, int Index), double> Jobs { get; } = new();
    }
}
