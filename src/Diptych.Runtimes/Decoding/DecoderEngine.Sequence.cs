using System.Threading.Channels;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Scheduling;

namespace Diptych.Runtimes.Decoding;

/// <summary>An answer that is being written, and its pace.</summary>
public sealed partial class DecoderEngine
{
    /// <summary>
    /// Puts a request to those that wait, unless its tenant has its part of the queue already, or it would come too late for the client, or
    /// wait for longer than its lane lets anything wait.
    /// </summary>
    private void Join(Sequence sequence, RequestTerms terms)
    {
        int tenant = sequence.Tenant = _shares.IndexOf(terms.Tenant);
        sequence.Lane = terms.Lane ?? Lane.Generate;
        sequence.PromptSeconds = sequence.Prompt.Length * _cost.Expect(TokenBudget.MostTokens) / TokenBudget.MostTokens;
        int own = _waiting.Count(w => w.Tenant == tenant), tenants = _waiting.Select(w => w.Tenant).Append(tenant).Distinct().Count();
        double ahead = Enum.GetValues<Lane>().Where(l => l <= sequence.Lane).Sum(l => _shares.Ahead(tenant, l, 0));
        LaneObjective objective = _objectives[sequence.Lane];
        if (own >= MaxWaiting / tenants || _waiting.Count >= 2 * MaxWaiting)
        {
            throw new OverloadedException($"{own} requests wait for the language model.", TimeSpan.FromSeconds(Math.Max(1, ahead)));
        }
        if (objective.Expires)
        {
            sequence.DueAt = ahead <= objective.Expiry.TotalSeconds ? sequence.Arrived + objective.Expiry.TotalSeconds
                : throw new OverloadedException($"Those who wait for the language model have {ahead:0} s of prompts.", TimeSpan.FromSeconds(Math.Max(1, ahead - objective.Expiry.TotalSeconds)));
        }
        if (terms.Left(_time) is { } left)
        {
            double late = ahead + sequence.PromptSeconds - left.TotalSeconds;
            sequence.DueAt = late <= 0 ? Math.Min(sequence.DueAt, sequence.Arrived + left.TotalSeconds)
                : throw new OverloadedException("The language model would begin its answer after the request's time has passed.", TimeSpan.FromSeconds(Math.Max(1, late)));
        }
        _shares.Enter(tenant, sequence.Lane, sequence.PromptSeconds);
    }

    /// <summary>What admission reckons with before anything was measured: one step of few tokens and one of many.</summary>
    private void Probe()
    {
        if (_cost.IsMeasured)
        {
            return;
        }
        var blocks = SequenceBlocks.For(_blocks, StepCosts.Wide);
        foreach (int tokens in new[] { 1, StepCosts.Wide })
        {
            double start = Now();
            _logits = _decoder.Forward([new Stretch(new int[tokens], 0, blocks)], _blocks, _team, _logits);
            _cost.Observe(tokens, Now() - start);
        }
        blocks.Release();
    }

    private void Unlist(LinkedListNode<Sequence> node)
    {
        _waiting.Remove(node);
        _shares.Leave(node.Value.Tenant, node.Value.Lane, node.Value.PromptSeconds);
    }

    /// <summary>
    /// Who comes next: an answer that gave way; else what somebody waits for, and bulk work that has reached its age; of that the tenant's that
    /// was served least, the one that waits longest.
    /// </summary>
    private LinkedListNode<Sequence>? Leading()
    {
        double now = Now();
        (bool, double) Rank(Sequence s) => (s.Lane == Lane.Bulk && now < s.Arrived + _objectives[Lane.Bulk].Target.TotalSeconds, _shares.Served(s.Tenant, s.Lane));
        LinkedListNode<Sequence>? leads = _waiting.First;
        for (LinkedListNode<Sequence>? node = leads?.Value.GaveWay == true ? null : leads?.Next; node is not null; node = node.Next)
        {
            if (Rank(node.Value).CompareTo(Rank(leads!.Value)) < 0)
            {
                leads = node;
            }
        }
        return leads;
    }

    /// <summary>Shares a step's time out to those whose tokens it computed.</summary>
    private void Charge(List<Sequence> members, List<Stretch> stretches, double seconds)
    {
        double perToken = seconds / stretches.Sum(s => s.Tokens.Length);
        lock (_gate)
        {
            for (int i = 0; i < members.Count; i++)
            {
                _shares.Charge(members[i].Tenant, members[i].Lane, perToken * stretches[i].Tokens.Length);
            }
        }
    }

    /// <summary>Takes an answer's memory, and keeps on disk what was in it where that is quicker than to compute it anew.</summary>
    private void GiveWay(Sequence victim)
    {
        victim.Preempted = true;
        _preemptions++;
        if (_swap.Expect(victim.Blocks.Held) < victim.Computed * _cost.Expect(TokenBudget.MostTokens) / TokenBudget.MostTokens && _swap.Save(victim.Blocks) is { } saved)
        {
            _swapped++;
            victim.Saved = (saved, victim.Computed);
        }
        victim.Blocks.Release();
    }

    /// <summary>Brings back what answers had in memory when they gave way.</summary>
    private void Resume()
    {
        foreach (Sequence s in _running)
        {
            if (s.Saved is not { } saved)
            {
                continue;
            }
            s.Saved = null;
            s.Computed = _swap.Restore(saved.Places, s.Blocks, _prefixes.Evict) ? Math.Max(saved.Computed, s.Computed) : 0;
            _swap.Drop(saved.Places);
            s.Blocks.Forget(s.Computed);
        }
    }

    /// <summary>Tokens of the longest sequence that a memory holds alone.</summary>
    private static int LongestWithin(KeyValueLayout layout, int most, int pages)
    {
        int fits = 0;
        for (int above = most + 1; above - fits > 1;)
        {
            int middle = fits + ((above - fits) / 2);
            (fits, above) = layout.MostPages(middle, TokenBudget.MostTokens) <= pages ? (middle, above) : (fits, middle);
        }
        return fits;
    }

    private sealed class Sequence(Prompt prompt, Sampling sampling, LoraAdapter? adapter, double arrived, KeyValueBlocks memory)
    {
        private readonly PromptLookup? _lookup = sampling.LooksBack ? new PromptLookup() : null;

        /// <summary>What may come next, by what came after the same tokens before.</summary>
        public int[] Guess(int mostTokens, Func<int, double> time) => _lookup?.Guess(Ids, Math.Min(Sampling.MaxTokens - Generated, mostTokens - Ids.Count) - 1, time) ?? [];

        public void Learn(int guessed, int right) => _lookup?.Learn(guessed, right);

        public int[] Prompt => prompt.Ids;

        /// <summary>What stands in place of picture tokens from a token on; null where there are none.</summary>
        public float[]? PicturesFrom(int token, int width, Func<int, bool> isPicture) =>
            prompt.Pictures is null || token >= prompt.Ids.Length ? null : prompt.Pictures[(width * prompt.Ids.Take(token).Count(isPicture))..];

        public Sampling Sampling => sampling;

        public LoraAdapter? Adapter => adapter;

        private int _released;

        /// <summary>Lets its adapter go; more than once is no matter.</summary>
        public void ReleaseAdapter()
        {
            if (Interlocked.Exchange(ref _released, 1) == 0)
            {
                adapter?.Release();
            }
        }

        public double Arrived => arrived;

        public int Tenant { get; set; }

        public Lane Lane { get; set; }

        /// <summary>What computing its prompt is expected to take.</summary>
        public double PromptSeconds { get; set; }

        /// <summary>When it is dropped if it still waits.</summary>
        public double DueAt { get; set; } = double.PositiveInfinity;

        /// <summary>Whether it ran before.</summary>
        public bool GaveWay { get; set; }

        public Sampler Sampler { get; set; } = null!;

        public List<int> Ids { get; } = [.. prompt.Ids];

        public SequenceBlocks Blocks { get; } = new(memory);

        /// <summary>Of its blocks, chained; as far as they were needed.</summary>
        public List<UInt128> Hashes { get; } = [];

        public UInt128 Seed { get; } = PrefixCache.Seed(adapter, prompt.Owner);

        /// <summary>Where its keys and values are while it has given way, and of how many tokens; null where they are to be computed anew.</summary>
        public (int[][] Places, int Computed)? Saved { get; set; }

        /// <summary>Tokens whose keys and values are in the blocks.</summary>
        public int Computed { get; set; }

        public int Cached { get; set; }

        public int Generated { get; set; }

        public double LastTokenAt { get; set; }

        public bool Preempted { get; set; }

        public volatile bool Cancelled;

        public TextStream Text { get; } = new(sampling.Stop);

        public Channel<GeneratedText> Output { get; } = System.Threading.Channels.Channel.CreateUnbounded<GeneratedText>(new UnboundedChannelOptions { SingleReader = true });
    }
}
