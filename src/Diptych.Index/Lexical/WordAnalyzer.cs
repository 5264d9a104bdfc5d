using Lucene.Net.Analysis;
using Lucene.Net.Analysis.Core;
using Lucene.Net.Analysis.En;
using Lucene.Net.Analysis.Miscellaneous;
using Lucene.Net.Analysis.Snowball;
using Lucene.Net.Analysis.TokenAttributes;
using Lucene.Net.Util;

namespace Diptych.Index.Lexical;

/// <summary>
/// Text to the terms that are indexed: words as <see cref="FullTextQuery.Words"/> finds them (each ideograph and kana is one), lower case,
/// stemmed in one language, accents off.
/// </summary>
internal sealed class WordAnalyzer(string language) : Analyzer
{
    public const LuceneVersion Version = LuceneVersion.LUCENE_48;

    // A phrase never goes from a passage's own text into the words around it.
    public override int GetPositionIncrementGap(string fieldName) => 100;

    /// <summary>The terms of a text, in order.</summary>
    public IReadOnlyList<string> Terms(string text)
    {
        var terms = new List<string>();
        using TokenStream tokens = GetTokenStream("", text);
        ICharTermAttribute term = tokens.AddAttribute<ICharTermAttribute>();
        tokens.Reset();
        while (tokens.IncrementToken())
        {
            terms.Add(term.ToString());
        }
        tokens.End();
        return terms;
    }

    protected override TokenStreamComponents CreateComponents(string fieldName, TextReader reader)
    {
        var words = new WordTokenizer(reader);
        var lower = new LowerCaseFilter(Version, words);
        // Snowball's stemmers know their language's accents; Porter's knows none.
        TokenStream terms = Language.Stemmer(language) is { } stemmer
            ? new ASCIIFoldingFilter(new SnowballFilter(lower, stemmer))
            : new PorterStemFilter(new ASCIIFoldingFilter(lower));
        return new TokenStreamComponents(words, terms);
    }

    private sealed class WordTokenizer : Tokenizer
    {
        private readonly ICharTermAttribute _term;
        private readonly IOffsetAttribute _offset;
        private string _text = "";
        private IEnumerator<(int Start, int End)> _words = Enumerable.Empty<(int, int)>().GetEnumerator();

        public WordTokenizer(TextReader reader)
            : base(reader)
        {
            _term = AddAttribute<ICharTermAttribute>();
            _offset = AddAttribute<IOffsetAttribute>();
        }

        public override void Reset()
        {
            base.Reset();
            _text = m_input.ReadToEnd();
            // Some files have a letter and its accent apart; stemmers and folding know them as one.
            _text = _text.IsNormalized() ? _text : _text.Normalize();
            _words = FullTextQuery.Words(_text).SelectMany(Pieces).GetEnumerator();
        }

        public override bool IncrementToken()
        {
            ClearAttributes();
            if (!_words.MoveNext())
            {
                return false;
            }
            var (start, end) = _words.Current;
            _term.Append(_text, start, Math.Min(end - start, 255));
            _offset.SetOffset(start, end);
            return true;
        }

        public override void End()
        {
            base.End();
            _offset.SetOffset(_text.Length, _text.Length);
        }

        protected override void Dispose(bool disposing)
        {
            if (disposing)
            {
                _words.Dispose();
            }
            base.Dispose(disposing);
        }

        /// <summary>Scripts that are written without spaces: each sign is a word.</summary>
        private IEnumerable<(int Start, int End)> Pieces((int Start, int End) word)
        {
            int start = word.Start;
            for (int i = word.Start; i < word.End; i++)
            {
                if (_text[i] is >= '\u2E80' and <= '\u9FFF' or >= '\uF900' and <= '\uFAFF')
                {
                    if (i > start)
                    {
                        yield return (start, i);
                    }
                    yield return (i, i + 1);
                    start = i + 1;
                }
            }
            if (start < word.End)
            {
                yield return (start, word.End);
            }
        }
    }
}
