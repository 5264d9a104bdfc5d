using System.Globalization;
using Diptych.Engine.Evaluation;
using Diptych.Index.Lexical;
using Diptych.Index.Sqlite;
using Lucene.Net.Analysis.En;
using Lucene.Net.Analysis.TokenAttributes;
using Lucene.Net.Documents;
using Lucene.Net.Index;
using Lucene.Net.Search;
using Lucene.Net.Search.Similarities;
using Lucene.Net.Store;
using Lucene.Net.Util;
using Microsoft.Data.Sqlite;

namespace Diptych.Bench.Index;

/// <summary>Word search by FTS5, as the product has it, and by Lucene.NET: how right on Cranfield, how fast at a million passages.</summary>
internal static class LexicalSpeed
{
    private const int Million = 1_000_000, Asked = 200, K = 10;

    public static async Task RunAsync(Report report)
    {
        string folder = System.IO.Directory.CreateTempSubdirectory("diptych-lexical-").FullName;
        try
        {
            string cranfield = Path.Combine(Report.Shared, "data", "cranfield");
            var corpus = TestCollections.Corpus(Path.Combine(cranfield, "cran.all.1400")).Where(d => d.Text.Length > 0).ToList();
            var queries = TestCollections.Queries(Path.Combine(cranfield, "cran.qry"));
            var relevant = TestCollections.Qrels(Path.Combine(cranfield, "cranqrel"));
            using (var fts = new Fts(Path.Combine(folder, "small.db"), corpus.Select(d => (d.Text, d.Title))))
            using (var lucene = new LuceneIndex(Path.Combine(folder, "small"), corpus.Select(d => $"{d.Text} {d.Title}")))
            {
                double Score(Func<string, List<long>> search) => queries.Where(q => relevant.ContainsKey(q.Id)).Average(q => RankingMetrics.Ndcg([.. search(q.Text).Select(row => corpus[(int)row].Id)], relevant[q.Id], K));
                double ours = Score(fts.Search), theirs = Score(lucene.Search);
                report.Row("Words alone, Cranfield nDCG@10: FTS5", Report.Number(ours), $"Lucene.NET (English analyzer, BM25 1.2, 0.75) {Report.Number(theirs)}", ours >= theirs - 0.005);
            }

            var (definitions, examples) = await WordNet.TextsAsync();
            IEnumerable<string> million = Enumerable.Range(0, Million).Select(i => i < definitions.Count ? definitions[i] : $"{definitions[i % definitions.Count]} {definitions[(int)(i * 7919L % definitions.Count)]}");
            long start = TimeProvider.System.GetTimestamp();
            using var large = new Fts(Path.Combine(folder, "large.db"), million.Select(t => (t, "")));
            double ftsBuild = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
            start = TimeProvider.System.GetTimestamp();
            using var largeLucene = new LuceneIndex(Path.Combine(folder, "large"), million);
            double luceneBuild = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
            string[] asked = [.. examples.Where(e => FullTextQuery.Terms(e).Count is >= 2 and <= 5).Take(Asked)];
            double[] Times(Func<string, List<long>> search) => [.. asked.Select(q =>
            {
                search(q);
                return Report.Time(() => search(q)) * 1000;
            }).Order()];
            double[] fast = Times(large.Search), other = Times(largeLucene.Search);
            report.Row("Words alone, a million passages, ms median (p99): FTS5", $"{Report.Number(fast[Asked / 2], "0.0")} ({Report.Number(fast[Asked * 99 / 100], "0.0")})",
                $"Lucene.NET {Report.Number(other[Asked / 2], "0.0")} ({Report.Number(other[Asked * 99 / 100], "0.0")})", fast[Asked / 2] <= other[Asked / 2]);
            report.Row("Words alone, a million passages, indexing s: FTS5", Report.Number(ftsBuild, "0"), $"Lucene.NET {Report.Number(luceneBuild, "0")}", ftsBuild <= luceneBuild);
        }
        finally
        {
            System.IO.Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>The product's full-text table and its query.</summary>
    private sealed class Fts : IDisposable
    {
        private readonly SqliteConnection _connection;

        public Fts(string path, IEnumerable<(string Text, string Context)> rows)
        {
            _connection = new SqliteConnection($"Data Source={path};Pooling=False");
            _connection.Open();
            _connection.Execute("PRAGMA journal_mode=WAL");
            _connection.Execute("PRAGMA synchronous=NORMAL");
            _connection.Execute(Schema.FullText(1, Language.Default));
            long id = 0;
            foreach (var chunk in rows.Chunk(64_000))
            {
                using SqliteTransaction transaction = _connection.BeginTransaction();
                using SqliteCommand insert = _connection.Command("INSERT INTO fulltext_1 (rowid, text, context) VALUES ($id, $text, $context)", ("$id", 0L), ("$text", ""), ("$context", ""));
                foreach (var (text, context) in chunk)
                {
                    (insert.Parameters[0].Value, insert.Parameters[1].Value, insert.Parameters[2].Value) = (id++, text, context);
                    insert.ExecuteNonQuery();
                }
                transaction.Commit();
            }
        }

        public List<long> Search(string text) => FullTextQuery.Parse(text) is { } expression
            ? [.. _connection.Rows(string.Create(CultureInfo.InvariantCulture, $"SELECT rowid FROM fulltext_1 WHERE fulltext_1 MATCH $q ORDER BY bm25(fulltext_1, 1.0, 1.0) LIMIT {K}"), ("$q", expression)).Select(r => r.GetInt64(0))]
            : [];

        public void Dispose() => _connection.Dispose();
    }

    private sealed class LuceneIndex : IDisposable
    {
        private readonly MMapDirectory _directory;
        private readonly DirectoryReader _reader;
        private readonly IndexSearcher _searcher;
        private readonly EnglishAnalyzer _analyzer = new(LuceneVersion.LUCENE_48);

        public LuceneIndex(string path, IEnumerable<string> rows)
        {
            _directory = new MMapDirectory(path);
            using (var writer = new IndexWriter(_directory, new IndexWriterConfig(LuceneVersion.LUCENE_48, _analyzer) { Similarity = new BM25Similarity(1.2f, 0.75f), RAMBufferSizeMB = 256 }))
            {
                foreach (string row in rows)
                {
                    writer.AddDocument([new TextField("text", row, Field.Store.NO)]);
                }
                writer.ForceMerge(1);
            }
            _reader = DirectoryReader.Open(_directory);
            _searcher = new IndexSearcher(_reader) { Similarity = new BM25Similarity(1.2f, 0.75f) };
        }

        public List<long> Search(string text)
        {
            var query = new BooleanQuery();
            using (Lucene.Net.Analysis.TokenStream tokens = _analyzer.GetTokenStream("text", string.Join(' ', FullTextQuery.Terms(text))))
            {
                var term = tokens.AddAttribute<ICharTermAttribute>();
                tokens.Reset();
                while (tokens.IncrementToken())
                {
                    query.Add(new TermQuery(new Term("text", term.ToString())), Occur.SHOULD);
                }
                tokens.End();
            }
            return [.. _searcher.Search(query, K).ScoreDocs.Select(d => (long)d.Doc)];
        }

        public void Dispose()
        {
            _reader.Dispose();
            _directory.Dispose();
            _analyzer.Dispose();
        }
    }
}
