using System.Globalization;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Hnsw;
using Diptych.Index.Postgres;
using Diptych.SystemTests;
using Npgsql;
using Pgvector;

namespace Diptych.Bench.Index;

/// <summary>
/// The PostgreSQL store against plain SQL over the same tables and against psql's own \copy; and pgvector beside the embedded index,
/// on the same vectors.
/// </summary>
internal static class PostgresSpeed
{
    private const int Passages = 10_000, PerDocument = 100, Queries = 400, K = 10;

    public static async Task RunAsync(Report report)
    {
        WordNet data = await WordNet.LoadAsync();
        await using var server = new PostgresServer();
        await server.InitializeAsync();
        await StoreAsync(report, data, server);
        await PeerAsync(report, data, server);
    }

    private static async Task StoreAsync(Report report, WordNet data, PostgresServer server)
    {
        string address = await server.DatabaseAsync();
        var text = new EmbeddingSpace("text", 384, "bench", "1");
        var cross = new EmbeddingSpace("cross", 256, "bench", "1");
        using IDocumentStore store = PostgresStore.Open(address, text, cross, TimeProvider.System);
        store.EnsureCollection("bench");
        IngestedDocument[] documents = [.. Enumerable.Range(0, Passages / PerDocument).Select(d => Document(data, d))];
        double commit = Report.Time(() =>
        {
            foreach (IngestedDocument[] batch in documents.Chunk(8))
            {
                store.Commit(batch);
            }
        });

        // The same rows through psql, into a database with the same tables and graphs.
        string from = Database(address), to = Database(await server.DatabaseAsync());
        using (IDocumentStore empty = PostgresStore.Open(address.Replace(from, to, StringComparison.Ordinal), text, cross, TimeProvider.System))
        {
            empty.EnsureCollection("bench");
        }
        const string Columns = "id, collection_id, document_id, ordinal, modality, text, heading_path, page, x, y, w, h, start_at, end_at, label, width_px, height_px, text_vector, cross_vector, context, token_count";
        await server.PsqlAsync(from, $"\\copy (SELECT {Columns} FROM passages ORDER BY id) TO '/tmp/passages.txt'");
        long start = TimeProvider.System.GetTimestamp();
        await server.PsqlAsync(to, $"\\copy passages ({Columns}) FROM '/tmp/passages.txt'");
        double copy = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
        report.Row("PostgreSQL: ingest of 10,000 passages (documents, words, graphs), passages/s", $"{Report.Number(Passages / commit, "0")} ({Report.Number(copy / commit, "0.00")} of psql)",
            $">= 0.80 of psql's \\copy of the passages alone, {Report.Number(Passages / copy, "0")}", copy >= 0.8 * commit);

        await using var source = new NpgsqlDataSourceBuilder($"Host=127.0.0.1;Port={server.Port};Username=postgres;Database={from}").UseVectorAndBuild();
        await using NpgsqlConnection connection = await source.OpenConnectionAsync();
        await using (var settings = new NpgsqlCommand("SET hnsw.ef_search = 200; SET hnsw.iterative_scan = 'strict_order'", connection))
        {
            await settings.ExecuteNonQueryAsync();
        }
        await using var plain = new NpgsqlCommand(
            """
            SELECT p.id, p.page, -(p.text_vector <#> $1), d.id, d.source, d.title, d.metadata::text FROM passages_1 p JOIN documents d ON d.id = p.document_id
            WHERE p.modality = 0 AND p.text_vector IS NOT NULL ORDER BY p.text_vector <#> $1 LIMIT 10
            """,
            connection);
        plain.Parameters.Add(new NpgsqlParameter { Value = new HalfVector(new Half[384]) });
        await plain.PrepareAsync();
        var ours = new List<double>();
        var theirs = new List<double>();
        for (int i = -50; i < Queries; i++)
        {
            float[] query = data.Queries.AsSpan((i + 50) * 384, 384).ToArray();
            plain.Parameters[0].Value = new HalfVector(Array.ConvertAll(query, v => (Half)v));
            double sql = Report.Time(() =>
            {
                using NpgsqlDataReader reader = plain.ExecuteReader();
                while (reader.Read())
                {
                    _ = (reader.GetInt64(0), reader.GetDouble(2), reader.GetString(4), reader.GetString(5), reader.GetString(6));
                }
            });
            double search = Report.Time(() => store.SearchText("bench", query, K, null, Modality.Text));
            if (i >= 0)
            {
                theirs.Add(sql * 1000);
                ours.Add(search * 1000);
            }
        }
        double ratio = Report.Median(ours) / Report.Median(theirs);
        report.Row("PostgreSQL: search of 10,000 passages, ms (median)", $"{Report.Number(Report.Median(ours), "0.00")} ({Report.Number(ratio, "0.00")} x plain SQL)", $"<= 1.15 x {Report.Number(Report.Median(theirs), "0.00")}", ratio <= 1.15);
    }

    private static async Task PeerAsync(Report report, WordNet data, PostgresServer server)
    {
        string database = Database(await server.DatabaseAsync());
        await using var source = new NpgsqlDataSourceBuilder($"Host=127.0.0.1;Port={server.Port};Username=postgres;Database={database}").UseVectorAndBuild();
        await using NpgsqlConnection connection = await source.OpenConnectionAsync();
        async Task DoAsync(string sql)
        {
            await using var command = new NpgsqlCommand(sql, connection) { CommandTimeout = 0 };
            await command.ExecuteNonQueryAsync();
        }
        await DoAsync("CREATE EXTENSION IF NOT EXISTS vector");
        await connection.ReloadTypesAsync();
        await DoAsync("CREATE TABLE glosses (id integer PRIMARY KEY, share smallint NOT NULL, v halfvec(384) NOT NULL)");
        await using (NpgsqlBinaryImporter copy = await connection.BeginBinaryImportAsync("COPY glosses FROM STDIN (FORMAT binary)"))
        {
            for (int i = 0; i < data.Count; i++)
            {
                await copy.StartRowAsync();
                await copy.WriteAsync(i, NpgsqlTypes.NpgsqlDbType.Integer);
                await copy.WriteAsync((short)(i * 7919L % 1000), NpgsqlTypes.NpgsqlDbType.Smallint);
                await copy.WriteAsync(new HalfVector(Array.ConvertAll(data.Vectors.AsSpan(i * 384, 384).ToArray(), v => (Half)v)), "halfvec");
            }
            await copy.CompleteAsync();
        }
        await DoAsync("SET maintenance_work_mem = '2GB'; SET max_parallel_maintenance_workers = 2");
        long start = TimeProvider.System.GetTimestamp();
        await DoAsync("CREATE INDEX ON glosses USING hnsw (v halfvec_ip_ops) WITH (m = 16, ef_construction = 128)");
        double build = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
        await DoAsync("SET hnsw.iterative_scan = 'relaxed_order'; SET enable_seqscan = on");

        var index = HnswIndex.Create(384);
        int[] slots = new int[data.Count];
        double ourBuild = Report.Time(() => index.AddRange(data.Vectors, slots, 2, default));
        report.Row("pgvector: build of 117,659 x 384, 2 workers, s", $"{Report.Number(ourBuild, "0.0")} ({Report.Number(ourBuild / build, "0.00")} x)", $"pgvector (halfvec, m 16, ef_construction 128) {Report.Number(build, "0.0")}", ourBuild <= 0.8 * build);
        foreach (int perMille in new[] { 1000, 100, 10 })
        {
            int[][] truth = Truth(data, perMille);
            (double Rate, int Ef)? peer = null;
            foreach (int ef in new[] { 20, 40, 80, 160, 320, 640, 1000 })
            {
                await DoAsync($"SET hnsw.ef_search = {ef}");
                await using var command = new NpgsqlCommand($"SELECT id FROM glosses WHERE share < {perMille} ORDER BY v <#> $1 LIMIT 10", connection);
                command.Parameters.Add(new NpgsqlParameter { Value = new HalfVector(new Half[384]) });
                await command.PrepareAsync();
                int found = 0;
                double seconds = Report.Time(() =>
                {
                    for (int q = 0; q < Queries; q++)
                    {
                        command.Parameters[0].Value = new HalfVector(Array.ConvertAll(data.Queries.AsSpan(q * 384, 384).ToArray(), v => (Half)v));
                        using NpgsqlDataReader reader = command.ExecuteReader();
                        while (reader.Read())
                        {
                            found += truth[q].Contains(reader.GetInt32(0)) ? 1 : 0;
                        }
                    }
                });
                if (found >= 0.95 * K * Queries)
                {
                    peer = (Queries / seconds, ef);
                    break;
                }
            }
            report.Row($"pgvector: queries/s at recall@10 0.95 over SQL, {perMille} of 1,000 rows match", peer is { } p ? $"{Report.Number(p.Rate, "0")} (ef {p.Ef})" : "not reached", "(beside the rows of 'index', which are of the same vectors and machine)", true);
        }
    }

    private static int[][] Truth(WordNet data, int perMille)
    {
        int[] matching = [.. Enumerable.Range(0, data.Count).Where(i => i * 7919L % 1000 < perMille)];
        int[][] truth = new int[Queries][];
        Parallel.For(0, Queries, q =>
        {
            ReadOnlySpan<float> query = data.Queries.AsSpan(q * 384, 384);
            var best = new PriorityQueue<int, float>();
            foreach (int i in matching)
            {
                best.Enqueue(i, System.Numerics.Tensors.TensorPrimitives.Dot(query, data.Vectors.AsSpan(i * 384, 384)));
                if (best.Count > K)
                {
                    best.Dequeue();
                }
            }
            truth[q] = [.. best.UnorderedItems.Select(b => b.Element)];
        });
        return truth;
    }

    private static IngestedDocument Document(WordNet data, int number) => new(
        new Document { Collection = "bench", Source = $"d{number}", ContentHash = number.ToString(CultureInfo.InvariantCulture), MediaType = "text/plain", Title = $"Document {number}", IngestedAt = TimeProvider.System.GetUtcNow() },
        "text",
        null,
        [.. Enumerable.Range(0, PerDocument).Select(i =>
        {
            int row = (number * PerDocument) + i;
            float[] vector = data.Vectors.AsSpan(row * 384, 384).ToArray();
            float[] cross = vector[..256];
            float norm = MathF.Sqrt(cross.Sum(v => v * v));
            return new IngestedPassage(
                new Passage { Ordinal = i, Modality = Modality.Text, Text = $"passage {row} of words about matter {row % 977} and place {row % 311}" }, vector, [.. cross.Select(v => v / norm)]);
        })]);

    private static string Database(string address) => address[(address.LastIndexOf('/') + 1)..];

    private static NpgsqlDataSource UseVectorAndBuild(this NpgsqlDataSourceBuilder builder)
    {
        builder.UseVector();
        return builder.Build();
    }
}
