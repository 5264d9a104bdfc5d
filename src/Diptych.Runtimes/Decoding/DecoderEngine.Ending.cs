using Diptych.Core;

namespace Diptych.Runtimes.Decoding;

/// <summary>How answers end: by their last token, for want of time, with their client, or by a fault that is theirs alone.</summary>
public sealed partial class DecoderEngine
{
    /// <summary>Gives back what an answer holds, and tells its client: the error, or where there is none that nothing follows.</summary>
    private void End(Sequence s, Exception? error = null)
    {
        lock (_gate)
        {
            _running.Remove(s);
            if (_waiting.Find(s) is { } node)
            {
                Unlist(node);
            }
            s.Blocks.Release();
            if (s.Saved is { } saved)
            {
                s.Saved = null;
                _swap.Drop(saved.Places);
            }
        }
        s.ReleaseAdapter();
        s.Output.Writer.TryComplete(error);
    }

    private void Drop()
    {
        foreach (Sequence s in _running.Concat(_waiting).Where(s => s.Cancelled).ToList())
        {
            End(s);
        }
        double now = Now();
        foreach (Sequence s in _waiting.Where(s => s.DueAt < now).ToList())
        {
            End(s, new OverloadedException("The request's time has passed before the language model could begin.", TimeSpan.FromSeconds(1)));
        }
    }

    /// <returns>True when the answer is at its end.</returns>
    private bool Emit(Sequence s, int token, double now)
    {
        _generatedTokens++;
        s.LastTokenAt = now;
        bool ended = _ends.Contains(token);
        string text = "";
        if (!ended)
        {
            s.Ids.Add(token);
            s.Generated++;
            text = s.Text.Add(_tokenizer.Bytes(token));
        }
        bool full = s.Generated >= s.Sampling.MaxTokens || s.Ids.Count >= MaxTokens;
        string? finish = ended || s.Text.Stopped || s.Sampler.Complete ? "stop" : full ? "length" : null;
        if (finish is not null && !s.Text.Stopped)
        {
            text += s.Text.End();
        }
        s.Output.Writer.TryWrite(new GeneratedText(text, finish, s.Prompt.Length, s.Generated, s.Cached) { Chance = ended ? null : s.Sampler.Chance });
        if (finish is not null)
        {
            End(s);
        }
        return finish is not null;
    }

    /// <returns>False where it threw; what it wrote lies behind the tokens that count as computed.</returns>
    private bool TryForward(List<Stretch> stretches)
    {
        try
        {
            _logits = _decoder.Forward(stretches, _blocks, _team, _logits);
            return true;
        }
        catch (Exception)
        {
            // Whose fault it was shows when each is computed by itself, where it is told.
            return false;
        }
    }

    /// <summary>A step that threw, again for each of its answers by itself: only those end for which it throws again.</summary>
    private void StepAlone(List<Sequence> members, List<Stretch> stretches)
    {
        for (int i = 0; i < members.Count; i++)
        {
            try
            {
                _logits = _decoder.Forward([stretches[i]], _blocks, _team, _logits);
            }
            catch (Exception error)
            {
                End(members[i], error);
                continue;
            }
            int rows = stretches[i].AllLogits ? stretches[i].Tokens.Length : 1;
            Continue(members[i], stretches[i], _logits.AsSpan(0, rows * Config.Vocabulary), Now());
        }
    }
}
