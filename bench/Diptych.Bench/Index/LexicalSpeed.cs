using System.Globalization;
using Diptych.Core;
using Diptych.Engine.Evaluation;
using Diptych.Index.Lexical;
using Diptych.Index.Sqlite;
using Microsoft.Data.Sqlite;

namespace Diptych.Bench.Index;

/// <summary>Word search by the product's index (Lucene.NET) and by SQLite's FTS5: how right on Cranfield, how fast at a million passages.</summary>
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
            using (var words = new Ours(Path.Combine(folder, "small"), corpus.Select(d => (d.Text, d.Title))))
            {
                double Score(Func<string, List<long>> search) => queries.Where(q => relevant.ContainsKey(q.Id)).Average(q => RankingMetrics.Ndcg([.. search(q.Text).Select(row => corpus[(int)row].Id)], relevant[q.Id], K));
                double ours = Score(words.Search), theirs = Score(fts.Search);
                report.Row("Words alone, Cranfield nDCG@10", Report.Number(ours), $"FTS5 {Report.Number(theirs)}", ours >= theirs);
            }

            var (definitions, examples) = await WordNet.TextsAsync();
            IEnumerable<string> million = Enumerable.Range(0, Million).Select(i => i < definitions.Count ? definitions[i] : $"{definitions[i % definitions.Count]} {definitions[(int)(i * 7919L % definitions.Count)]}");
            long start = TimeProvider.System.GetTimestamp();
            using var large = new Fts(Path.Combine(folder, "large.db"), million.Select(t => (t, "")));
            double ftsBuild = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
            start = TimeProvider.System.GetTimestamp();
            using var words1M = new Ours(Path.Combine(folder, "large"), million.Select(t => (t, "")));
            double build = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
            string[] asked = [.. examples.Where(e => FullTextQuery.Terms(e).Count is >= 2 and <= 5).Take(Asked)];
            double[] Times(Func<string, List<long>> search) => [.. asked.Select(q =>
            {
                search(q);
                return Report.Time(() => search(q)) * 1000;
            }).Order()];
            double[] fast = Times(words1M.Search), other = Times(large.Search);
            report.Row("Words alone, a million passages, ms median (p99)", $"{Report.Number(fast[Asked / 2], "0.0")} ({Report.Number(fast[Asked * 99 / 100], "0.0")})",
                $"FTS5 {Report.Number(other[Asked / 2], "0.0")} ({Report.Number(other[Asked * 99 / 100], "0.0")})", fast[Asked / 2] <= other[Asked / 2]);
            report.Row("Words alone, a million passages, indexing s", Report.Number(build, "0"), $"FTS5 {Report.Number(ftsBuild, "0")}", build <= ftsBuild * 2);
        }
        finally
        {
            System.IO.Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>FTS5 with its Porter stemmer, contentless.</summary>
    private sealed class Fts : IDisposable
    {
        private readonly SqliteConnection _connection;

        public Fts(string path, IEnumerable<(string Text, string Context)> rows)
        {
            _connection = new SqliteConnection($"Data Source={path};Pooling=False");
            _connection.Open();
            _connection.Execute("PRAGMA journal_mode=WAL");
            _connection.Execute("PRAGMA synchronous=NORMAL");
            _connection.Execute("CREATE VIRTUAL TABLE fulltext_1 USING fts5 (text, context, content='', contentless_delete=1, tokenize='porter unicode61 remove_diacritics 2')");
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

        public List<long> Search(string text) => string.Join(" OR ", FullTextQuery.Parts(text).Select(p => $"\"{p.Words}\"")) is { Length: > 0 } expression
            ? [.. _connection.Rows(string.Create(CultureInfo.InvariantCulture, $"SELECT rowid FROM fulltext_1 WHERE fulltext_1 MATCH $q ORDER BY bm25(fulltext_1, 1.0, 1.0) LIMIT {K}"), ("$q", expression)).Select(r => r.GetInt64(0))]
            : [];

        public void Dispose() => _connection.Dispose();
    }

    /// <summary>The product's word index: what came goes to its files, as at a checkpoint, and is searched there.</summary>
    private sealed class Ours : IDisposable
    {
        private readonly WordIndex _index;

        public Ours(string path, IEnumerable<(string Text, string Context)> rows)
        {
            _index = new WordIndex(path, Language.Default, _ => true);
            long id = 0;
            foreach (var chunk in rows.Chunk(64_000))
            {
                foreach (var (text, context) in chunk)
                {
                    id++;
                    _index.Add(id, id, Modality.Text, null, text, context);
                }
                _index.Publish(id);
                _index.Checkpoint(action => action());
            }
        }

        public List<long> Search(string text) => [.. _index.Search(FullTextQuery.Parts(text), Modality.Text, K, null).Select(h => h.Passage - 1)];

        public void Dispose() => _index.Dispose();
    }
}
