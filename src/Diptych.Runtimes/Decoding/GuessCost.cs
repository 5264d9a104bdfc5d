using Diptych.Inference.Scheduling;

namespace Diptych.Runtimes.Decoding;

/// <summary>What guessed tokens add to a step's time, learned beside what the steps take without them.</summary>
/// <param name="steps">What steps take by their tokens.</param>
internal sealed class GuessCost(StepCosts steps)
{
    /// <summary>A guessed token's share of a step before any was tried.</summary>
    private const double FirstShare = 0.3;

    private const double Learn = 0.1;

    /// <summary>How fast a share is forgotten that is not tried any more, so that one bad moment does not end all guessing.</summary>
    private const double Doubt = 0.002;

    private double _share = FirstShare;

    /// <summary>Time of a step in which one of the answers computes so many tokens, in steps without a guess.</summary>
    public double Relative(int tokens) => 1 + (_share * (tokens - 1));

    public void Observe(int answers, int guessed, double seconds)
    {
        if (guessed == 0)
        {
            _share += Doubt * (FirstShare - _share);
        }
        else
        {
            double without = steps.Expect(answers), share = Math.Clamp((seconds - without) / without / guessed, 0, 1);
            _share += Learn * (share - _share);
        }
    }
}
