namespace Diptych.Inference.Scheduling;

/// <summary>A sequence that a decoder works on.</summary>
/// <param name="PromptLeft">Prompt tokens not yet computed; 0 once it decodes.</param>
/// <param name="Deadline">When its first token is due, or its next one; infinite where nobody reads along.</param>
public readonly record struct DecodingSequence(int PromptLeft, double Deadline);

/// <summary>
/// One step of a decoder under one token budget (Sarathi-Serve, Agrawal et al., OSDI 2024): every running answer decodes a token, and
/// what is left of the budget goes to chunks of waiting prompts, so that a long prompt never stalls running answers. Pure.
/// </summary>
public static class TokenBudget
{
    /// <summary>Tokens of one step at most.</summary>
    public const int MostTokens = 512;

    /// <summary>Tokens of prompts in a step at least, so that they go on where answers are late already.</summary>
    private const int LeastOfPrompts = 2;

    /// <summary>How much longer a step may take for a prompt's sake, in steps without one: the hundredth stays within twice.</summary>
    private const double SmoothStep = 1.6;

    /// <summary>A step that running answers never notice.</summary>
    private const double ShortSeconds = 0.01;

    /// <summary>What each sequence gets in the next step.</summary>
    /// <param name="sequences">Their deadlines are brought forward where running answers are to keep their pace.</param>
    /// <param name="tokens">[n]</param>
    /// <returns>Tokens of the step.</returns>
    public static int Step(Span<DecodingSequence> sequences, double now, StepCosts cost, Span<int> tokens)
    {
        int decoding = 0;
        foreach (ref readonly DecodingSequence sequence in sequences)
        {
            decoding += sequence.PromptLeft == 0 ? 1 : 0;
        }
        if (decoding > 0 && decoding < sequences.Length)
        {
            Pace(sequences, decoding, now, cost);
        }
        return Plan(sequences, Size(sequences, now, cost, MostTokens, decoding + LeastOfPrompts), tokens);
    }

    /// <summary>
    /// Running answers are to keep nearly their undisturbed pace beside prompts: a step takes little longer than it would without. Only
    /// where that would make a prompt miss its time, and a longer step would not, may steps be as long as the objective allows.
    /// </summary>
    private static void Pace(Span<DecodingSequence> sequences, int decoding, double now, StepCosts cost)
    {
        double alone = cost.Expect(decoding), step = Math.Max(SmoothStep * alone, ShortSeconds), perToken = (cost.Expect(MostTokens) - alone) / (MostTokens - decoding);
        double inStep = Math.Max(LeastOfPrompts, (step - alone) / perToken);
        foreach (ref readonly DecodingSequence prompt in sequences)
        {
            if (prompt.PromptLeft == 0)
            {
                continue;
            }
            double ahead = 0;
            foreach (ref readonly DecodingSequence other in sequences)
            {
                ahead += other.Deadline <= prompt.Deadline ? other.PromptLeft : 0;
            }
            bool late = now + (ahead / inStep * step) > prompt.Deadline, canBe = now + (ahead * perToken) + (2 * alone) <= prompt.Deadline;
            if (late && canBe)
            {
                return;
            }
        }
        foreach (ref DecodingSequence sequence in sequences)
        {
            // Who has no pace to keep does not ask for one.
            if (sequence.PromptLeft == 0 && sequence.Deadline < double.PositiveInfinity)
            {
                sequence = sequence with { Deadline = Math.Min(sequence.Deadline, now + step) };
            }
        }
    }

    /// <summary>Tokens that one step may have, so that the tightest running answer still gets its next token in time.</summary>
    /// <param name="cost">Time of a step by its tokens.</param>
    /// <param name="most">What the model takes in one step.</param>
    /// <param name="least">What a step takes at least, so that prompts advance even where answers are late already.</param>
    public static int Size(ReadOnlySpan<DecodingSequence> sequences, double now, StepCosts cost, int most, int least)
    {
        double slack = double.PositiveInfinity;
        foreach (ref readonly DecodingSequence sequence in sequences)
        {
            if (sequence.PromptLeft == 0)
            {
                slack = Math.Min(slack, sequence.Deadline - now);
            }
        }
        int low = least, high = most;
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            (low, high) = cost.Predict(middle) <= slack ? (middle, high) : (low, middle - 1);
        }
        return low;
    }

    /// <summary>Shares a budget out: decodes first, then prompts by their deadline.</summary>
    /// <param name="tokens">[n]: what each sequence gets in this step.</param>
    /// <returns>Tokens of the step.</returns>
    public static int Plan(ReadOnlySpan<DecodingSequence> sequences, int budget, Span<int> tokens)
    {
        tokens.Clear();
        int used = 0;
        for (int i = 0; i < sequences.Length; i++)
        {
            if (sequences[i].PromptLeft == 0)
            {
                tokens[i] = 1;
                used++;
            }
        }
        while (used < budget)
        {
            int first = -1;
            for (int i = 0; i < sequences.Length; i++)
            {
                if (sequences[i].PromptLeft > tokens[i] && tokens[i] == 0 && (first < 0 || sequences[i].Deadline < sequences[first].Deadline))
                {
                    first = i;
                }
            }
            if (first < 0)
            {
                break;
            }
            tokens[first] = Math.Min(sequences[first].PromptLeft, budget - used);
            used += tokens[first];
        }
        return used;
    }
}
