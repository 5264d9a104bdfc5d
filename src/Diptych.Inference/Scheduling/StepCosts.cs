namespace Diptych.Inference.Scheduling;

/// <summary>
/// What a decoder's steps take by their tokens. The first few share what is read of the weights and cost less than those after them, by no
/// line; most steps are of a few. So each count of few tokens is learned by itself, and is remembered while no such step comes; wide
/// steps lie on a line, which also says what a few take until they are measured.
/// </summary>
public sealed class StepCosts
{
    private const double Learn = 0.1;

    /// <summary>A step counts as this many times the usual at most.</summary>
    private const double Outlier = 3;

    /// <summary>Mean deviations from the mean within which nine of ten lie (of a normal distribution).</summary>
    private const double Deviations = 1.6;

    private readonly CostModel _wide;

    /// <summary>[tokens]: seconds, 0 where not measured.</summary>
    private readonly double[] _mean = new double[Wide], _deviation = new double[Wide];

    /// <param name="perTokenSeconds">The guess before the first measurement.</param>
    public StepCosts(double perTokenSeconds) => _wide = new CostModel(perTokenSeconds);

    /// <summary>Goes on from what was learned before.</summary>
    /// <param name="few">What <see cref="Few"/> gave.</param>
    public StepCosts(CostProfile wide, IReadOnlyList<double>? few = null)
    {
        _wide = new CostModel(wide);
        for (int tokens = 0; tokens < Math.Min(few?.Count ?? 0, Wide); tokens++)
        {
            _mean[tokens] = few![tokens];
        }
    }

    /// <summary>From this many tokens on a step is wide.</summary>
    public const int Wide = 64;

    /// <summary>Whether wide steps were measured, here or before.</summary>
    public bool IsMeasured => _wide.IsMeasured;

    /// <summary>What was learned of steps with many tokens.</summary>
    public CostProfile Profile => _wide.Profile;

    /// <summary>Seconds of steps with as many tokens as a place's number, 0 where none was measured.</summary>
    public double[] Few() => [.. _mean];

    /// <summary>Mean absolute relative error of what was expected.</summary>
    public double Error { get; private set; }

    /// <returns>Seconds that such a step is expected to take.</returns>
    public double Expect(int tokens)
    {
        double line = _wide.Expect(tokens);
        if (tokens >= Wide)
        {
            return line;
        }
        if (_mean[tokens] > 0)
        {
            return _mean[tokens];
        }
        double most = _mean.AsSpan(tokens) is var more && more.IndexOfAnyExcept(0.0) is >= 0 and int above ? more[above] : line;
        double least = _mean.AsSpan(0, tokens).LastIndexOfAnyExcept(0.0) is >= 0 and int below ? Math.Min(_mean[below], most) : 0;
        return Math.Clamp(line, least, most);
    }

    /// <returns>Seconds that nine of ten such steps do not exceed.</returns>
    public double Predict(int tokens) => tokens < Wide ? Expect(tokens) + (Deviations * _deviation[tokens]) : _wide.Predict(tokens);

    public void Observe(int tokens, double seconds)
    {
        Error += 0.05 * (Math.Abs((seconds / Math.Max(Expect(tokens), 1e-7)) - 1) - Error);
        if (tokens >= Wide)
        {
            _wide.Observe(tokens, seconds);
            return;
        }
        ref double mean = ref _mean[tokens], deviation = ref _deviation[tokens];
        double off = mean == 0 ? 0 : Math.Min(seconds, Outlier * mean) - mean;
        mean = mean == 0 ? seconds : mean + (Learn * off);
        deviation += Learn * (Math.Abs(off) - deviation);
    }
}
