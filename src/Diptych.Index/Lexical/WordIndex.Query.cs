using Lucene.Net.Index;
using Lucene.Net.Search;
using Lucene.Net.Search.Similarities;
using Lucene.Net.Util;

namespace Diptych.Index.Lexical;

/// <summary>How a query is put, and what reads beside it.</summary>
internal sealed partial class WordIndex
{
    private BooleanQuery Expression(IndexReader reader, IReadOnlyList<FullTextQuery.Part> parts, string field)
    {
        var any = new BooleanQuery();
        foreach (FullTextQuery.Part part in parts)
        {
            IReadOnlyList<string> terms = _analyzer.Terms(part.Words);
            Query? query = terms.Count switch
            {
                0 => null,
                1 when part.IsPrefix => new PrefixQuery(new Term(field, terms[0])),
                1 => Word(reader, field, terms[0], part.Words),
                _ => Phrase(field, terms),
            };
            if (query is not null)
            {
                any.Add(query, Occur.SHOULD);
            }
        }
        return any;
    }

    /// <summary>
    /// The word as it is where the collection has it; one that it does not have is taken for a typing error, and stands for the words
    /// that differ from it least and begin with the same letter (Schulz and Mihov 2002: automata over the term dictionary).
    /// </summary>
    private static Query Word(IndexReader reader, string field, string term, string typed)
    {
        if (typed.Length >= 4 && typed.All(char.IsLetter) && reader.DocFreq(new Term("text", term)) + reader.DocFreq(new Term("image", term)) == 0)
        {
            for (int edits = 1; edits <= (term.Length < 8 ? 1 : 2); edits++)
            {
                Query near = new FuzzyQuery(new Term(field, term), edits, prefixLength: 1, maxExpansions: 3, transpositions: true).Rewrite(reader);
                if (near is not BooleanQuery { Clauses.Count: 0 })
                {
                    return near;
                }
            }
        }
        return new TermQuery(new Term(field, term));
    }

    private static PhraseQuery Phrase(string field, IReadOnlyList<string> terms)
    {
        var phrase = new PhraseQuery();
        foreach (string term in terms)
        {
            phrase.Add(new Term(field, term));
        }
        return phrase;
    }

    /// <summary>BM25 whose statistics are those of the passages that have the field, not of all in the index.</summary>
    private sealed class Bm25 : BM25Similarity
    {
        public static Bm25 Instance { get; } = new();

        private Bm25()
            : base(1.2f, 0.75f)
        {
        }

        public override Explanation IdfExplain(CollectionStatistics collectionStats, TermStatistics termStats) =>
            new(Idf(termStats.DocFreq, Passages(collectionStats)), "idf");

        public override Explanation IdfExplain(CollectionStatistics collectionStats, TermStatistics[] termStats) =>
            new(termStats.Sum(t => Idf(t.DocFreq, Passages(collectionStats))), "idf");

        protected override float AvgFieldLength(CollectionStatistics collectionStats) =>
            collectionStats.SumTotalTermFreq <= 0 ? 1 : (float)(collectionStats.SumTotalTermFreq / (double)Passages(collectionStats));

        private static long Passages(CollectionStatistics statistics) => statistics.DocCount > 0 ? statistics.DocCount : statistics.MaxDoc;
    }

    /// <summary>A segment's numbers by row.</summary>
    private sealed record Columns(NumericDocValues Passage, NumericDocValues Document, NumericDocValues Page)
    {
        public static Columns Of(AtomicReader reader) =>
            new(reader.GetNumericDocValues(PassageField), reader.GetNumericDocValues(DocumentField), reader.GetNumericDocValues(PageField));

        public WordHit Hit(int row, double score) => new(Passage.Get(row), Document.Get(row), Page.Get(row) is >= 0 and var page ? (int)page : null, score);
    }

    private sealed class PassageFilter(Func<long, long, int?, bool> passes) : Lucene.Net.Search.Filter
    {
        public override DocIdSet GetDocIdSet(AtomicReaderContext context, IBits acceptDocs) =>
            new Passing(context.AtomicReader.MaxDoc, acceptDocs, Columns.Of(context.AtomicReader), passes);

        private sealed class Passing(int rows, IBits accepted, Columns columns, Func<long, long, int?, bool> passes) : FieldCacheDocIdSet(rows, accepted)
        {
            protected override bool MatchDoc(int doc) => columns.Hit(doc, 0) is var hit && passes(hit.Passage, hit.Document, hit.Page);
        }
    }

    /// <summary>An index as it stands in files, with rows that can leave.</summary>
    private sealed class LiveReader(DirectoryReader files) : FilterDirectoryReader(files, new Wrapper())
    {
        /// <exception cref="IOException">A checksum is not the file's.</exception>
        public void CheckIntegrity()
        {
            foreach (AtomicReaderContext leaf in Leaves)
            {
                leaf.AtomicReader.CheckIntegrity();
            }
        }

        /// <returns>Whether it had the document.</returns>
        public bool Drop(Term document)
        {
            bool there = false;
            foreach (AtomicReaderContext leaf in Leaves)
            {
                there |= ((LiveLeaf)leaf.AtomicReader).Drop(document);
            }
            return there;
        }

        /// <returns>The documents that it has and that are not alive: they leave.</returns>
        public HashSet<long> Drop(Func<long, bool> alive)
        {
            var dead = new HashSet<long>();
            foreach (AtomicReaderContext leaf in Leaves)
            {
                ((LiveLeaf)leaf.AtomicReader).Drop(alive, dead);
            }
            return dead;
        }

        protected override DirectoryReader DoWrapDirectoryReader(DirectoryReader @in) => new LiveReader(@in);

        private sealed class Wrapper : SubReaderWrapper
        {
            public override AtomicReader Wrap(AtomicReader reader) => new LiveLeaf(reader);
        }
    }

    private sealed class LiveLeaf : FilterAtomicReader
    {
        private readonly FixedBitSet _live;
        private int _rows;

        public LiveLeaf(AtomicReader input)
            : base(input)
        {
            _live = new FixedBitSet(input.MaxDoc);
            IBits? live = input.LiveDocs;
            for (int row = 0; row < input.MaxDoc; row++)
            {
                if (live?.Get(row) != false)
                {
                    _live.Set(row);
                    _rows++;
                }
            }
        }

        public override IBits? LiveDocs => _rows == MaxDoc ? null : _live;

        public override int NumDocs => _rows;

        public bool Drop(Term document)
        {
            bool there = false;
            DocsEnum? rows = GetTermDocsEnum(document);
            while (rows is not null && rows.NextDoc() is var row && row != DocIdSetIterator.NO_MORE_DOCS)
            {
                there |= Clear(row);
            }
            return there;
        }

        public void Drop(Func<long, bool> alive, HashSet<long> dead)
        {
            NumericDocValues documents = GetNumericDocValues(DocumentField);
            for (int row = 0; row < MaxDoc; row++)
            {
                if (_live.Get(row) && documents.Get(row) is var document && !alive(document) && Clear(row))
                {
                    dead.Add(document);
                }
            }
        }

        private bool Clear(int row)
        {
            if (!_live.GetAndClear(row))
            {
                return false;
            }
            _rows--;
            return true;
        }
    }
}
