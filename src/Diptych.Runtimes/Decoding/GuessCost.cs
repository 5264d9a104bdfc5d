namespace Diptych.Runtimes.Decoding;

/// <summary>
/// What guessed tokens add to a step's time, learned from steps with and without them. It is apart from the cost model of whole steps,
/// whose line is drawn by prompts of hundreds of tokens and says little of the first ten.
/// </summary>
/// <param name="mostAnswers">Answers beside each other at most.</param>
internal sealed class GuessCost(int mostAnswers)
{
    /// <summary>A guessed token's share of a step before any was tried.</summary>
    private const double FirstShare = 0.3;

    private const double Learn = 0.1;

    /// <summary>How fast a share is forgotten that is not tried any more, so that one bad moment does not end all guessing.</summary>
    private const double Doubt = 0.002;

    private readonly double[] _without = new double[mostAnswers + 1];
    private double _share = FirstShare;

    /// <summary>Time of a step in which one of the answers computes so many tokens, in steps without a guess.</summary>
    public double Relative(int tokens) => 1 + (_share * (tokens - 1));

    public void Observe(int answers, int guessed, double seconds)
    {
        double without = _without[answers];
        if (guessed == 0)
        {
            _without[answers] = without == 0 ? seconds : without + (Learn * (Math.Min(seconds, 3 * without) - without));
            _share += Doubt * (FirstShare - _share);
        }
        else if (without > 0)
        {
            double share = Math.Clamp((seconds - without) / without / guessed, 0, 1);
            _share += Learn * (share - _share);
        }
    }
}
