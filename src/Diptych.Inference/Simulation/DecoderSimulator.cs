using Diptych.Inference.Scheduling;

namespace Diptych.Inference.Simulation;

/// <summary>A prompt to answer.</summary>
/// <param name="Seconds">From the workload's beginning.</param>
/// <param name="AnswerTokens">Tokens that are written, 1 or more.</param>
public sealed record DecodingArrival(double Seconds, int PromptTokens, int AnswerTokens);

/// <summary>What decoders made of a workload.</summary>
/// <param name="Attainment">Share of what was offered whose first token came in time, and the hundredth of the gaps after it too.</param>
/// <param name="FirstP50Ms">Time to the first token.</param>
/// <param name="BetweenP99Ms">Of all gaps between tokens.</param>
/// <param name="TokensPerSecond">Written, from the first arrival to the last token.</param>
public sealed record DecodingResult(int Offered, double Attainment, double FirstP50Ms, double FirstP99Ms, double BetweenP50Ms, double BetweenP99Ms, double TokensPerSecond, double Rate);

/// <summary>
/// Runs prompts and answers through the token budget of the decoder engine under a virtual clock. Each device is a decoder of its own, and
/// a prompt goes to the one with the fewest tokens to compute.
/// </summary>
/// <param name="stepSeconds">Measured seconds of a step by its tokens, in order; between two a line is drawn.</param>
/// <param name="mostRunning">Answers beside each other on a device.</param>
/// <param name="mostTokens">Tokens whose keys and values a device holds.</param>
public sealed class DecoderSimulator(IReadOnlyList<(int Tokens, double Seconds)> stepSeconds, int mostRunning, long mostTokens)
{
    private static readonly TimeSpan BetweenTokens = TimeSpan.FromMilliseconds(100);

    public DecodingResult Run(IReadOnlyList<DecodingArrival> arrivals, double seconds, int devices, TimeSpan firstToken)
    {
        var decoders = Enumerable.Range(0, devices).Select(_ => new Decoder(this)).ToArray();
        var answers = new List<Answer>(arrivals.Count);
        int next = 0;
        while (true)
        {
            // The earliest of what comes next: a request, or the end of a step.
            Decoder? first = decoders.Where(d => d.StepEnds < double.PositiveInfinity).MinBy(d => d.StepEnds);
            if (next < arrivals.Count && (first is null || arrivals[next].Seconds <= first.StepEnds))
            {
                var answer = new Answer(arrivals[next++]);
                answers.Add(answer);
                decoders.MinBy(d => d.TokensAhead)!.Take(answer);
            }
            else if (first is not null)
            {
                first.EndStep();
            }
            else
            {
                break;
            }
        }
        double[] firsts = [.. answers.Select(a => a.First).Order()], gaps = [.. answers.SelectMany(a => a.Gaps).Order()];
        double end = answers.Count == 0 ? 0 : answers.Max(a => a.LastAt) - arrivals[0].Seconds;
        return new DecodingResult(
            answers.Count, answers.Count == 0 ? 1 : answers.Average(a => a.First <= firstToken.TotalSeconds && Quantile([.. a.Gaps.Order()], 0.99) <= BetweenTokens.TotalMilliseconds ? 1.0 : 0),
            Quantile(firsts, 0.5), Quantile(firsts, 0.99), Quantile(gaps, 0.5), Quantile(gaps, 0.99), end <= 0 ? 0 : answers.Sum(a => a.Arrival.AnswerTokens) / end, answers.Count / seconds);
    }

    /// <returns>Milliseconds; 0 of nothing.</returns>
    private static double Quantile(double[] sorted, double share) => sorted.Length == 0 ? 0 : 1000 * sorted[Math.Min(sorted.Length - 1, (int)(share * sorted.Length))];

    private double Time(int tokens)
    {
        int above = 0;
        while (above + 1 < stepSeconds.Count && stepSeconds[above].Tokens < tokens)
        {
            above++;
        }
        var (highTokens, high) = stepSeconds[above];
        var (lowTokens, low) = above == 0 ? (0, 0) : stepSeconds[above - 1];
        return tokens >= highTokens ? high * tokens / highTokens : low + ((high - low) * (tokens - lowTokens) / (highTokens - lowTokens));
    }

    private sealed class Answer(DecodingArrival arrival)
    {
        public DecodingArrival Arrival => arrival;

        public int PromptLeft { get; set; } = arrival.PromptTokens;

        public int Written { get; set; }

        public double First { get; set; }

        public double LastAt { get; set; }

        public List<double> Gaps { get; } = [];
    }

    private sealed class Decoder(DecoderSimulator simulator)
    {
        private readonly StepCosts _cost = new(0.003);
        private readonly Queue<Answer> _waiting = new();
        private readonly List<Answer> _running = [];
        private int[] _tokens = [];
        private double _began;
        private long _held;

        public double StepEnds { get; private set; } = double.PositiveInfinity;

        public long TokensAhead => _running.Concat(_waiting).Sum(a => (long)a.PromptLeft + a.Arrival.AnswerTokens - a.Written);

        public void Take(Answer answer)
        {
            _waiting.Enqueue(answer);
            if (double.IsPositiveInfinity(StepEnds))
            {
                BeginStep(answer.Arrival.Seconds);
            }
        }

        public void EndStep()
        {
            double now = StepEnds;
            _cost.Observe(_tokens.Sum(), Math.Max(now - _began, 1e-6));
            for (int i = _running.Count - 1; i >= 0; i--)
            {
                Answer answer = _running[i];
                bool decoded = answer.PromptLeft == 0 && _tokens[i] > 0;
                bool read = answer.PromptLeft > 0 && _tokens[i] == answer.PromptLeft;
                answer.PromptLeft = answer.PromptLeft > 0 ? answer.PromptLeft - _tokens[i] : 0;
                if (!decoded && !read)
                {
                    continue;
                }
                if (answer.Written == 0)
                {
                    answer.First = now - answer.Arrival.Seconds;
                }
                else
                {
                    answer.Gaps.Add(now - answer.LastAt);
                }
                answer.LastAt = now;
                if (++answer.Written >= answer.Arrival.AnswerTokens)
                {
                    _held -= Size(answer);
                    _running.RemoveAt(i);
                }
            }
            BeginStep(now);
        }

        private static long Size(Answer answer) => answer.Arrival.PromptTokens + answer.Arrival.AnswerTokens;

        private void BeginStep(double now)
        {
            while (_running.Count < simulator.MostRunning && _waiting.TryPeek(out Answer? first) && (_running.Count == 0 || _held + Size(first) <= simulator.MostHeld))
            {
                _held += Size(first);
                _running.Add(_waiting.Dequeue());
            }
            if (_running.Count == 0)
            {
                StepEnds = double.PositiveInfinity;
                return;
            }
            var states = new DecodingSequence[_running.Count];
            for (int i = 0; i < states.Length; i++)
            {
                Answer answer = _running[i];
                states[i] = new DecodingSequence(answer.PromptLeft, answer.Written == 0 ? answer.Arrival.Seconds + 1 : answer.LastAt + BetweenTokens.TotalSeconds);
            }
            _tokens = new int[states.Length];
            int tokens = TokenBudget.Step(states, now, _cost, _tokens);
            (_began, StepEnds) = (now, now + simulator.Time(tokens));
        }
    }

    private int MostRunning => mostRunning;

    private long MostHeld => mostTokens;
}
