using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Scheduling;

namespace Diptych.Runtimes.Decoding;

/// <summary>A piece of an answer.</summary>
/// <param name="Text">May be empty, while a character is not whole.</param>
/// <param name="Finish">stop or length with the last piece; null before.</param>
public sealed record GeneratedText(string Text, string? Finish, int PromptTokens, int CompletionTokens, int CachedTokens)
{
    /// <summary>How likely its token was, where that was asked for.</summary>
    public TokenChance? Chance { get; init; }
}

/// <summary>What an engine has done and holds.</summary>
/// <param name="Preemptions">Answers that gave way to others.</param>
/// <param name="Swapped">Of those, whose keys and values were kept on disk, since that is quicker than to compute them anew.</param>
public sealed record EngineSnapshot(int Running, int Waiting, int BlocksUsed, int Blocks, long PromptTokens, long CachedTokens, long GeneratedTokens, long Preemptions, long Swapped, double PredictionError, long GuessedTokens, long GuessedRight);

/// <summary>
/// Continuous batching over one decoder: each step has a token budget sized so that running answers keep their pace; they decode first, and
/// chunks of prompts fill the rest. Blocks of prompts are kept by chained hash, so that a known beginning is not computed again. When
/// pages run out the latest answer gives its own back: they go to disk where that is quicker than to compute them anew.
/// </summary>
public sealed partial class DecoderEngine : IDisposable
{
    /// <summary>Answers beside each other at most.</summary>
    public const int MaxRunning = 32;

    private const int MaxWaiting = 256;

    /// <summary>Answers beside each other up to which guesses are tried: more fill a step by themselves.</summary>
    private const int GuessesWithin = 4;
    private static readonly TimeSpan BetweenTokens = TimeSpan.FromMilliseconds(100);
    private readonly Decoder _decoder;
    private readonly BytePairTokenizer _tokenizer;
    private readonly KeyValueBlocks _blocks;
    private readonly CoreTeam _team;
    private readonly TimeProvider _time;
    private readonly StepCosts _cost;
    private readonly IReadOnlyDictionary<Lane, LaneObjective> _objectives;
    private readonly GuessCost _guessCost;
    private readonly PrefixCache _prefixes;
    private readonly SwapFile _swap;
    private readonly object _gate = new();
    private readonly LinkedList<Sequence> _waiting = new();
    private readonly TenantShares _shares = new();
    private readonly List<Sequence> _running = [];
    private readonly HashSet<int> _ends;
    private readonly Thread _thread;
    private float[]? _logits;
    private bool _stopping;
    private int _seed;
    private long _promptTokens, _cachedTokens, _generatedTokens, _preemptions, _swapped, _guessed, _guessedRight;

    /// <param name="cacheBytes">Memory for keys and values.</param>
    /// <param name="cost">What is known of steps from before; it goes on learning.</param>
    /// <param name="swapBytes">Room on disk for those of answers that gave way; as much as the memory where it is not said.</param>
    /// <param name="objectives">When first tokens are due, and when those that wait for theirs are dropped; null for the defaults.</param>
    public DecoderEngine(Decoder decoder, BytePairTokenizer tokenizer, long cacheBytes, TimeProvider time, StepCosts cost, int? threads = null, long? swapBytes = null, IReadOnlyDictionary<Lane, LaneObjective>? objectives = null)
    {
        (_decoder, _tokenizer, _time, _objectives, _cost) = (decoder, tokenizer, time, objectives ?? LaneObjective.Defaults, cost);
        var layout = new KeyValueLayout(decoder.Config);
        _blocks = new KeyValueBlocks(decoder.Config, (int)Math.Clamp(cacheBytes / layout.PageBytes, 8L * layout.Groups, 1 << 26));
        MaxTokens = LongestWithin(layout, decoder.Config.MaxTokens, _blocks.Count);
        _guessCost = new GuessCost(_cost);
        _prefixes = new PrefixCache(_blocks);
        _swap = new SwapFile(_blocks, swapBytes ?? cacheBytes, time);
        _team = new CoreTeam(threads ?? Environment.ProcessorCount);
        _ends = [.. decoder.Config.EndTokens, .. new[] { "<|im_end|>", "<|eot_id|>", "<|eot|>", "<|end_of_text|>", "<|endoftext|>" }.Where(tokenizer.Specials.ContainsKey).Select(s => tokenizer.Specials[s])];
        Probe();
        _thread = new Thread(Work) { IsBackground = true, Name = "decoder" };
        _thread.Start();
    }

    public DecoderConfig Config => _decoder.Config;

    public long Parameters => _decoder.Parameters;

    /// <summary>Most tokens of a prompt and its answer together.</summary>
    public int MaxTokens { get; }

    public EngineSnapshot Snapshot()
    {
        lock (_gate)
        {
            return new EngineSnapshot(_running.Count, _waiting.Count, _blocks.Count - _blocks.Free, _blocks.Count, _promptTokens, _cachedTokens, _generatedTokens, _preemptions, _swapped, _cost.Error, _guessed, _guessedRight);
        }
    }

    /// <summary>Answers a prompt; ends early, and gives its memory back at once, when it is cancelled.</summary>
    /// <exception cref="InvalidRequestException">The prompt is empty, or longer than the model or the memory takes.</exception>
    /// <exception cref="OverloadedException">Too many of this tenant's wait already, or the client's limit or the lane's expiry would pass before the first token, or has.</exception>
    public async IAsyncEnumerable<GeneratedText> GenerateAsync(
        Prompt prompt, Sampling sampling, LoraAdapter? adapter, [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellation)
    {
        if (prompt.Ids.Length == 0 || prompt.Ids.Length >= MaxTokens)
        {
            throw new InvalidRequestException($"The prompt has {prompt.Ids.Length} tokens; this model takes 1 to {MaxTokens - 1}.");
        }
        CheckIds(prompt);
        var sequence = new Sequence(prompt, sampling, adapter, Now(), _blocks);
        // Held until the thread that multiplies with it has ended the answer, which is after the client has gone.
        adapter?.Hold();
        try
        {
            lock (_gate)
            {
                ObjectDisposedException.ThrowIf(_stopping, this);
                sequence.Sampler = new Sampler(sampling, ++_seed, _tokenizer, _ends);
                Join(sequence, RequestTerms.Current);
                _waiting.AddLast(sequence);
                Monitor.Pulse(_gate);
            }
        }
        catch
        {
            sequence.ReleaseAdapter();
            throw;
        }
        await using var registration = cancellation.Register(() => sequence.Cancelled = true).ConfigureAwait(false);
        try
        {
            await foreach (GeneratedText text in sequence.Output.Reader.ReadAllAsync(cancellation).ConfigureAwait(false))
            {
                yield return text;
            }
        }
        finally
        {
            sequence.Cancelled = true;
        }
    }

    public void Dispose()
    {
        lock (_gate)
        {
            _stopping = true;
            Monitor.Pulse(_gate);
        }
        _thread.Join();
        _team.Dispose();
        _swap.Dispose();
        _blocks.Dispose();
        _decoder.Dispose();
    }

    private double Now() => _time.GetTimestamp() / (double)_time.TimestampFrequency;

    private void Work()
    {
        while (true)
        {
            lock (_gate)
            {
                while (_running.Count == 0 && _waiting.Count == 0 && !_stopping)
                {
                    Monitor.Wait(_gate);
                }
                if (_stopping)
                {
                    foreach (Sequence sequence in _running.Concat(_waiting).ToList())
                    {
                        End(sequence, new NotFoundException("The language model was taken away before the answer was whole."));
                    }
                    return;
                }
            }
            try
            {
                lock (_gate)
                {
                    Drop();
                    Admit();
                }
                Step();
            }
            catch (Exception error)
            {
                // What is no single answer's fault is told to those in the step; the engine serves the next.
                foreach (Sequence sequence in _running.ToList())
                {
                    End(sequence, error);
                }
            }
        }
    }

    /// <summary>Waiting prompts come in while there are blocks for them whole, so that what runs need not be thrown out for what comes.</summary>
    private void Admit()
    {
        long Needed(Sequence s) => _blocks.Layout.MostPages(s.Ids.Count, TokenBudget.MostTokens);
        while (_running.Count < MaxRunning && Leading() is { } first)
        {
            Sequence sequence = first.Value;
            // Prompts that came in before take pages as they are computed.
            long promised = _running.Sum(r => Math.Max(0, Needed(r) - r.Blocks.Held));
            if (Needed(sequence) + promised > _blocks.Free + _prefixes.Evictable && _running.Count > 0)
            {
                return;
            }
            Unlist(first);
            sequence.DueAt = double.PositiveInfinity;
            sequence.Computed = _prefixes.Find(sequence.Hashes, sequence.Seed, sequence.Ids, sequence.Blocks) * KeyValueBlocks.TokensPerBlock;
            sequence.Cached = Math.Max(sequence.Cached, sequence.Computed);
            _cachedTokens += sequence.Computed;
            _running.Add(sequence);
        }
    }

    /// <exception cref="InvalidRequestException">An id is not in the vocabulary, or a picture has not as many tokens as stand for it.</exception>
    private void CheckIds(Prompt prompt)
    {
        int pictured = prompt.Pictures is null ? 0 : prompt.Ids.Count(Config.IsPicture);
        if (prompt.Ids.Any(id => id >= Config.Vocabulary || (id < 0 && prompt.Pictures is null)))
        {
            throw new InvalidRequestException($"The prompt has a token that is not among the model's {Config.Vocabulary}.");
        }
        if (prompt.Pictures is { } pictures && pictures.Length != (long)pictured * Config.Width)
        {
            throw new InvalidRequestException($"The prompt's pictures have {pictures.Length / Config.Width} tokens, and {pictured} stand for them.");
        }
    }

    private void Step()
    {
        Resume();
        double now = Now();
        Sequence[] running = [.. _running];
        var states = new DecodingSequence[running.Length];
        for (int i = 0; i < states.Length; i++)
        {
            Sequence s = running[i];
            int left = s.Ids.Count - s.Computed;
            double due = s.Generated == 0 ? s.Arrived + _objectives[s.Lane].Target.TotalSeconds : s.Lane == Lane.Bulk ? double.PositiveInfinity : s.LastTokenAt + BetweenTokens.TotalSeconds;
            states[i] = new DecodingSequence(left > 1 || s.Generated == 0 ? left : 0, due);
        }
        int[] tokens = new int[states.Length];
        TokenBudget.Step(states, now, _cost, tokens);
        var stretches = new List<Stretch>();
        var members = new List<Sequence>();
        for (int i = 0; i < tokens.Length; i++)
        {
            Sequence s = running[i];
            int[] guess = tokens[i] == 1 && tokens.Length <= GuessesWithin ? s.Guess(MaxTokens, _guessCost.Relative) : [];
            if (tokens[i] > 0 && Reserve(s, s.Computed + tokens[i] + guess.Length))
            {
                stretches.Add(new Stretch([.. s.Ids.GetRange(s.Computed, tokens[i]), .. guess], s.Computed, s.Blocks, s.Adapter, AllLogits: guess.Length > 0, Pictures: s.PicturesFrom(s.Computed, Config.Width, Config.IsPicture)));
                members.Add(s);
            }
        }
        // Whom memory was taken from in favour of another is computed anew later.
        for (int i = members.Count - 1; i >= 0; i--)
        {
            if (members[i].Preempted)
            {
                members.RemoveAt(i);
                stretches.RemoveAt(i);
            }
        }
        Requeue();
        if (stretches.Count == 0)
        {
            return;
        }
        if (!TryForward(stretches))
        {
            StepAlone(members, stretches);
            return;
        }
        double end = Now();
        double seconds = Math.Max(end - now, 1e-6);
        _cost.Observe(stretches.Sum(s => s.Tokens.Length), seconds);
        if (members.Count <= GuessesWithin && members.TrueForAll(s => s.Ids.Count - s.Computed == 1))
        {
            _guessCost.Observe(members.Count, stretches.Sum(s => s.Tokens.Length - 1), seconds);
        }
        Charge(members, stretches, seconds);
        int row = 0;
        for (int i = 0; i < members.Count; i++)
        {
            int rows = stretches[i].AllLogits ? stretches[i].Tokens.Length : 1;
            Continue(members[i], stretches[i], _logits.AsSpan(row * Config.Vocabulary, rows * Config.Vocabulary), end);
            row += rows;
        }
    }

    /// <summary>Takes an answer further by what was computed for it.</summary>
    /// <param name="logits">[tokens of the stretch, or its last alone, vocabulary]</param>
    private void Continue(Sequence s, Stretch stretch, Span<float> logits, double now)
    {
        int[] computed = stretch.Tokens;
        try
        {
            if (stretch.AllLogits)
            {
                Accept(s, computed, logits, now);
                return;
            }
            s.Computed += computed.Length;
            if (s.Generated == 0)
            {
                _prefixes.Add(s.Hashes, s.Seed, s.Ids, s.Blocks, s.Computed);
            }
            s.Blocks.Forget(s.Computed);
            _promptTokens += s.Generated == 0 ? computed.Length : 0;
            if (s.Computed == s.Ids.Count)
            {
                Emit(s, Choose(s, logits), now);
            }
        }
        catch (Exception error)
        {
            // What choosing a token, holding to a form or looking for a stop text throws is this answer's alone.
            End(s, error);
        }
    }

    private int Choose(Sequence s, Span<float> logits) => s.Sampler.Next(logits, s.Prompt, Math.Min(s.Sampling.MaxTokens - s.Generated, MaxTokens - s.Ids.Count));

    /// <summary>Takes of a guess what would have been chosen anyway, and the token after it.</summary>
    /// <param name="computed">The last token, and the guess.</param>
    private void Accept(Sequence s, int[] computed, Span<float> logits, double now)
    {
        int right = 0;
        while (true)
        {
            s.Computed++;
            int token = Choose(s, logits.Slice(right * Config.Vocabulary, Config.Vocabulary));
            bool finished = Emit(s, token, now);
            if (finished || right + 1 == computed.Length || token != computed[right + 1])
            {
                break;
            }
            right++;
        }
        s.Blocks.Forget(s.Computed);
        _guessed += computed.Length - 1;
        _guessedRight += right;
        s.Learn(computed.Length - 1, right);
    }

    /// <summary>Blocks for so many tokens; the latest other answer gives way where none is free.</summary>
    private bool Reserve(Sequence s, int tokens)
    {
        if (s.Preempted)
        {
            return false;
        }
        while (!s.Blocks.Grow(tokens))
        {
            if (_prefixes.Evict())
            {
                continue;
            }
            Sequence victim = _running.Where(r => !r.Preempted && r.Blocks.Held > 0).MaxBy(r => (r.Lane == Lane.Bulk, r.Arrived))!;
            GiveWay(victim);
            if (victim == s)
            {
                return false;
            }
        }
        return true;
    }

    private void Requeue()
    {
        lock (_gate)
        {
            foreach (Sequence sequence in _running.Where(r => r.Preempted).OrderByDescending(r => r.Arrived).ToList())
            {
                _running.Remove(sequence);
                sequence.Preempted = false;
                sequence.GaveWay = true;
                _shares.Enter(sequence.Tenant, sequence.Lane, sequence.PromptSeconds);
                _waiting.AddFirst(sequence);
            }
        }
    }
}
