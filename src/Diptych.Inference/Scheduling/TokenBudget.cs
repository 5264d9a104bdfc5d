namespace Diptych.Inference.Scheduling;

/// <summary>A sequence that a decoder works on.</summary>
/// <param name="PromptLeft">Prompt tokens not yet computed; 0 once it decodes.</param>
/// <param name="Deadline">When its first token is due, or its next one.</param>
public readonly record struct DecodingSequence(int PromptLeft, double Deadline);

/// <summary>
/// One step of a decoder under one token budget (Sarathi-Serve, Agrawal et al., OSDI 2024): every running answer decodes a token, and
/// what is left of the budget goes to chunks of waiting prompts, so that a long prompt never stalls running answers. Pure.
/// </summary>
public static class TokenBudget
{
    /// <summary>Tokens that one step may have, so that the tightest running answer still gets its next token in time.</summary>
    /// <param name="cost">Time of a step by its tokens.</param>
    /// <param name="most">What the model takes in one step.</param>
    /// <param name="least">What a step takes at least, so that prompts advance even where answers are late already.</param>
    public static int Size(ReadOnlySpan<DecodingSequence> sequences, double now, CostModel cost, int most, int least)
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
