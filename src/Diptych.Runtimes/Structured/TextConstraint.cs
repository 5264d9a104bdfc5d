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

    internal Position Begin() => new(this);

    /// <summary>How far an answer has come.</summary>
    internal sealed class Position(TextConstraint constraint)
    {
        private Automaton.State _state = constraint._automaton.Start;

        /// <summary>True where the text can end here and cannot go on.</summary>
        public bool Complete { get; private set; }

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
            for (int word = 0; word < allowed.Length; word++)
            {
                ulong bits = allowed[word];
                if (bits == ulong.MaxValue)
                {
                    continue;
                }
                int first = word * 64, last = Math.Min(first + 64, logits.Length);
                for (int token = first; token < last; token++)
                {
                    if ((bits >> (token - first) & 1) == 0 && !(_state.Accepts && ends.Contains(token)))
                    {
                        logits[token] = float.NegativeInfinity;
                    }
                }
            }
        }

        public void Advance(ReadOnlySpan<byte> token)
        {
            foreach (byte value in token)
            {
                _state = constraint._automaton.Next(_state, value);
            }
            Complete = _state.Accepts && constraint._trie.Allowed(constraint._automaton, _state).All(w => w == 0);
        }
    }
}
