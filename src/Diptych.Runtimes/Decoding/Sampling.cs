using System.Numerics.Tensors;
using Diptych.Runtimes.Structured;

namespace Diptych.Runtimes.Decoding;

/// <summary>How the next token is chosen. Temperature 0 takes the likeliest.</summary>
public sealed record Sampling
{
    public float Temperature { get; init; }

    /// <summary>Of the likeliest so many; 0 for all.</summary>
    public int TopK { get; init; }

    /// <summary>Of the likeliest whose probabilities sum to this.</summary>
    public float TopP { get; init; } = 1;

    /// <summary>Of those at least this share of the likeliest's probability.</summary>
    public float MinP { get; init; }

    /// <summary>Above 1 makes tokens that occurred less likely, divided or multiplied (Keskar et al. 2019).</summary>
    public float RepetitionPenalty { get; init; } = 1;

    /// <summary>Subtracted for each time that a token was generated.</summary>
    public float FrequencyPenalty { get; init; }

    /// <summary>Subtracted once for a token that was generated.</summary>
    public float PresencePenalty { get; init; }

    public int? Seed { get; init; }

    /// <summary>Added to a token's logit.</summary>
    public IReadOnlyDictionary<int, float>? Bias { get; init; }

    public int MaxTokens { get; init; } = 512;

    /// <summary>Texts that end the answer, and are left out of it.</summary>
    public IReadOnlyList<string> Stop { get; init; } = [];

    /// <summary>The form that the answer must have; null for any.</summary>
    public TextConstraint? Constraint { get; init; }

    /// <summary>How many likeliest tokens are told with each token, 0 for the token alone; null tells no probabilities.</summary>
    public int? LogProbabilities { get; init; }

    /// <summary>Whether what follows the same words earlier in the text is tried as what comes next: faster where answers quote, never different.</summary>
    public bool LooksBack { get; init; } = true;
}

/// <summary>How likely a token was, by the model's own distribution, and which were likelier.</summary>
/// <param name="LogProbability">Natural logarithm.</param>
public sealed record TokenChance(int Token, float LogProbability, IReadOnlyList<(int Token, float LogProbability)> Likeliest);

/// <summary>Chooses tokens for one sequence: the same seed, the same choices, whatever else is in the batch.</summary>
/// <param name="ends">Tokens that end an answer.</param>
internal sealed class Sampler(Sampling sampling, int seed, BytePairTokenizer tokenizer, IReadOnlySet<int> ends)
{
    /// <summary>Tokens that are tried before all are masked.</summary>
    private const int Tries = 8;

    private readonly TextConstraint.Position? _position = sampling.Constraint?.Begin();
    private readonly Random _random = new(sampling.Seed ?? seed);
    private readonly Dictionary<int, int> _generated = [];
    private float[]? _probabilities;
    private float[]? _own;
    private int[]? _order;

    /// <summary>True where the form that was asked for is complete: nothing may follow.</summary>
    public bool Complete => _position?.Complete == true;

    /// <summary>Of the token that was chosen last, where it was asked for.</summary>
    public TokenChance? Chance { get; private set; }

    /// <param name="logits">[vocabulary]; changed.</param>
    /// <param name="prompt">Tokens before the answer.</param>
    /// <param name="left">Tokens that the answer may still have, this one among them.</param>
    /// <exception cref="InvalidOperationException">No token may come next, or the model's numbers are none.</exception>
    public int Next(Span<float> logits, IReadOnlyList<int> prompt, int left)
    {
        float[]? own = null;
        if (sampling.LogProbabilities is not null)
        {
            logits.CopyTo(own = _own ??= new float[logits.Length]);
        }
        Penalize(logits, prompt);
        int token = sampling.Temperature <= 0 ? Likeliest(logits, left) : Draw(logits, left);
        _generated[token] = _generated.GetValueOrDefault(token) + 1;
        if (_position is not null && !ends.Contains(token))
        {
            _position.Advance(tokenizer.Bytes(token));
        }
        Chance = own is null ? null : ChanceOf(token, own);
        return token;
    }

    /// <summary>
    /// The likeliest token of the form. Nearly always one of the first that come to mind fits it: the mask of all tokens, which takes longer
    /// to work out than to try these, is needed for the others.
    /// </summary>
    private int Likeliest(Span<float> logits, int left)
    {
        Span<(int Token, float Logit)> refused = stackalloc (int, float)[Tries];
        int tried = 0;
        for (int i = 0; i < Tries; i++)
        {
            int token = MostOf(logits);
            if (_position?.Allows(token, ends, left) != false)
            {
                return token;
            }
            refused[i] = (token, logits[token]);
            logits[token] = float.NegativeInfinity;
            tried++;
            if (TensorPrimitives.Max<float>(logits) == float.NegativeInfinity)
            {
                break;
            }
        }
        foreach (var (token, logit) in refused[..tried])
        {
            logits[token] = logit;
        }
        _position!.Mask(logits, ends, left);
        return MostOf(logits);
    }

    private static int MostOf(ReadOnlySpan<float> logits)
    {
        int most = TensorPrimitives.IndexOfMax(logits);
        return float.IsNaN(logits[most]) ? throw new InvalidOperationException("The model gave numbers that are none: its weights are damaged, or too large for their precision.")
            : logits[most] == float.NegativeInfinity ? throw new InvalidOperationException("No token may come next: the form that was asked for cannot be gone on with in this vocabulary.")
            : most;
    }

    private TokenChance ChanceOf(int token, float[] logits)
    {
        float most = TensorPrimitives.Max<float>(logits), sum = 0;
        foreach (float logit in logits)
        {
            sum += MathF.Exp(logit - most);
        }
        float all = most + MathF.Log(sum);
        int[] best = [.. Enumerable.Range(0, logits.Length).OrderByDescending(i => logits[i]).ThenBy(i => i).Take(sampling.LogProbabilities!.Value)];
        return new TokenChance(token, logits[token] - all, [.. best.Select(b => (b, logits[b] - all))]);
    }

    private void Penalize(Span<float> logits, IReadOnlyList<int> prompt)
    {
        if (sampling.RepetitionPenalty != 1)
        {
            foreach (int token in prompt.Where(t => t >= 0).Concat(_generated.Keys).Distinct())
            {
                logits[token] = logits[token] > 0 ? logits[token] / sampling.RepetitionPenalty : logits[token] * sampling.RepetitionPenalty;
            }
        }
        if (sampling.FrequencyPenalty != 0 || sampling.PresencePenalty != 0)
        {
            foreach (var (token, count) in _generated)
            {
                logits[token] -= (sampling.FrequencyPenalty * count) + sampling.PresencePenalty;
            }
        }
        foreach (var (token, bias) in sampling.Bias ?? new Dictionary<int, float>())
        {
            if (token >= 0 && token < logits.Length)
            {
                logits[token] += bias;
            }
        }
    }

    /// <summary>Probabilities. The greatest logit is taken from all before they are divided: nothing overflows then, however low the temperature.</summary>
    private void Soften(Span<float> logits, Span<float> probabilities)
    {
        float most = logits[MostOf(logits)];
        if (float.IsPositiveInfinity(most))
        {
            // What a penalty or bias has lifted beyond every number is equally likely, and nothing else is.
            for (int i = 0; i < logits.Length; i++)
            {
                logits[i] = float.IsPositiveInfinity(logits[i]) ? 0 : float.NegativeInfinity;
            }
            most = 0;
        }
        TensorPrimitives.Subtract(logits, most, logits);
        TensorPrimitives.Divide(logits, sampling.Temperature, logits);
        TensorPrimitives.Exp(logits, probabilities);
        TensorPrimitives.Divide(probabilities, TensorPrimitives.Sum<float>(probabilities), probabilities);
    }

    private int Draw(Span<float> logits, int left)
    {
        _position?.Mask(logits, ends, left);
        _probabilities ??= new float[logits.Length];
        _order ??= new int[logits.Length];
        Soften(logits, _probabilities);
        float floor = Math.Min(sampling.MinP, 1) * TensorPrimitives.Max<float>(_probabilities);
        int count = 0;
        for (int i = 0; i < _probabilities.Length; i++)
        {
            // What is this unlikely would be reached once in a million draws.
            if (_probabilities[i] >= Math.Max(floor, 1e-9f))
            {
                _order[count++] = i;
            }
        }
        float[] p = _probabilities;
        _order.AsSpan(0, count).Sort((a, b) => p[b] != p[a] ? p[b].CompareTo(p[a]) : a.CompareTo(b));
        count = sampling.TopK > 0 ? Math.Min(count, sampling.TopK) : count;
        float sum = 0;
        int kept = 0;
        while (kept < count && (kept == 0 || sum < sampling.TopP))
        {
            sum += p[_order[kept++]];
        }
        double at = _random.NextDouble() * sum;
        for (int i = 0; i < kept; i++)
        {
            at -= p[_order[i]];
            if (at <= 0)
            {
                return _order[i];
            }
        }
        return _order[kept - 1];
    }
}
