using Diptych.Core;

namespace Diptych.Runtimes.Structured;

/// <summary>
/// The form that an answer must have, for one vocabulary: at each token those are masked out that no text of the form goes on with. An
/// answer always comes to its end: when the tokens that are left are few, only those that lead there are allowed.
/// </summary>
public sealed class TextConstraint
{
    private readonly Automaton _automaton;
    private readonly TokenTrie _trie;

    private TextConstraint(Pattern pattern, TokenTrie trie) => (_automaton, _trie) = (new Automaton(pattern), trie);

    /// <exception cref="InvalidRequestException">It is no schema, or has what cannot be held to.</exception>
    internal static TextConstraint OfSchema(string schema, TokenTrie trie) => new(SchemaReader.Read(schema), trie);

    /// <exception cref="InvalidRequestException">It is no regular expression, or has what cannot be held to.</exception>
    internal static TextConstraint OfRegex(string expression, TokenTrie trie) => new(RegexReader.Read(expression), trie);

    /// <summary>Nodes of its automaton.</summary>
    internal int Size => _automaton.Size;

    internal Position Begin() => new(this);

    /// <summary>How far an answer has come.</summary>
    internal sealed class Position(TextConstraint constraint)
    {
        private Automaton.State _state = constraint._automaton.Start;

        /// <summary>True where the text can end here and cannot go on.</summary>
        public bool Complete { get; private set; }

        /// <summary>
        /// Whether a token is one that a mask leaves, told without working out the mask. False may also be said of a token that a mask would
        /// leave: where every token leads too far from an end.
        /// </summary>
        public bool Allows(int token, IReadOnlySet<int> ends, int left)
        {
            ReadOnlySpan<byte> bytes = constraint._trie.Bytes(token);
            if (bytes.IsEmpty || ends.Contains(token))
            {
                return _state.Accepts && ends.Contains(token);
            }
            Automaton.State state = Follow(bytes);
            return state != constraint._automaton.Dead && state.Distance <= Math.Max(0, left - 1);
        }

        /// <summary>Puts what may not come next out of reach.</summary>
        /// <param name="logits">[vocabulary]</param>
        /// <param name="ends">Tokens that end an answer.</param>
        /// <param name="left">Tokens that the answer may still have.</param>
        public void Mask(Span<float> logits, IReadOnlySet<int> ends, int left)
        {
            Automaton automaton = constraint._automaton;
            ulong[] allowed = constraint._trie.Allowed(automaton, _state);
            if (_state.Farthest > left - 1)
            {
                // A byte is a token at the least, so that an end within so many bytes is one within so many tokens.
                var (hurried, _) = constraint._trie.Allowed(automaton, _state, Math.Max(0, left - 1));
                allowed = hurried.Any(w => w != 0) || _state.Accepts ? hurried : allowed;
            }
            (int Token, float Logit)[] kept = [];
            if (_state.Accepts)
            {
                kept = new (int, float)[ends.Count];
                int count = 0;
                foreach (int end in ends)
                {
                    kept[count++] = (end, logits[end]);
                }
            }
            for (int word = 0; word < allowed.Length; word++)
            {
                ulong bits = allowed[word];
                int first = word * 64, last = Math.Min(first + 64, logits.Length);
                if (bits == 0)
                {
                    logits[first..last].Fill(float.NegativeInfinity);
                    continue;
                }
                for (int token = first; bits != ulong.MaxValue && token < last; token++)
                {
                    if ((bits >> (token - first) & 1) == 0)
                    {
                        logits[token] = float.NegativeInfinity;
                    }
                }
            }
            foreach (var (token, logit) in kept)
            {
                logits[token] = logit;
            }
        }

        public void Advance(ReadOnlySpan<byte> token)
        {
            _state = Follow(token);
            Complete = _state.Accepts && constraint._trie.Allowed(constraint._automaton, _state).All(w => w == 0);
        }

        private Automaton.State Follow(ReadOnlySpan<byte> token)
        {
            Automaton.State state = _state;
            foreach (byte value in token)
            {
                state = constraint._automaton.Next(state, value);
            }
            return state;
        }
    }
}
