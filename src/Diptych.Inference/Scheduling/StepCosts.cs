namespace Diptych.Inference.Scheduling;

/// <summary>
/// What a decoder's steps take by their tokens. The first few share what is read of the weights, and cost less than those after them; most
/// steps are of a few. So a line through all says little of wide ones: those have a line of their own, which counts beyond the first few
/// where it says more.
/// </summary>
public sealed class StepCosts
{
    /// <summary>Tokens up to which they are few, and from which on a step is wide.</summary>
    private const int Few = 8, Wide = 64;

    private readonly CostModel _all, _wide;

    /// <param name="perTokenSeconds">The guess before the first measurement.</param>
    public StepCosts(double perTokenSeconds) => (_all, _wide) = (new CostModel(perTokenSeconds), new CostModel(perTokenSeconds));

    public StepCosts(CostProfile profile) => (_all, _wide) = (new CostModel(profile), new CostModel(profile));

    public CostProfile Profile => _all.Profile;

    /// <returns>Seconds that such a step is expected to take.</returns>
    public double Expect(int tokens) => tokens <= Few ? _all.Expect(tokens) : Math.Max(_all.Expect(tokens), _wide.Expect(tokens));

    /// <returns>Seconds that nine of ten such steps do not exceed.</returns>
    public double Predict(int tokens) => tokens <= Few ? _all.Predict(tokens) : Math.Max(_all.Predict(tokens), _wide.Predict(tokens));

    public void Observe(int tokens, double seconds)
    {
        _all.Observe(tokens, seconds);
        if (tokens >= Wide)
        {
            _wide.Observe(tokens, seconds);
        }
    }
}
