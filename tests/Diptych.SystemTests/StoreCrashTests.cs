using System.Diagnostics;
using System.Numerics.Tensors;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Sqlite;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>A process that writes to a store is killed with SIGKILL at random moments, over and over, on the same store.</summary>
public sealed class StoreCrashTests
{
    private const int Rounds = 200;

    [Fact]
    public async Task Two_hundred_kills_lose_nothing_acknowledged_and_leave_nothing_half_there()
    {
        string folder = Directory.CreateTempSubdirectory("diptych-crash-").FullName, database = Path.Combine(folder, "d.db");
        string child = Path.Combine(AppContext.BaseDirectory, "Diptych.StoreChild.dll");
        var random = new Random(31);
        var sure = new Dictionary<string, string>();
        int graphs = 0, unfinished = 0;
        for (int round = 0; round < Rounds; round++)
        {
            (string Source, string Version)? open = null;
            using (Process process = Process.Start(new ProcessStartInfo("dotnet", [child, database, $"{round}"]) { RedirectStandardOutput = true })!)
            {
                Task<string?> line = process.StandardOutput.ReadLineAsync();
                Assert.Equal("open", await line);
                using var soon = new CancellationTokenSource(TimeSpan.FromMilliseconds(random.Next(5, 500)));
                using CancellationTokenRegistration kill = soon.Token.Register(process.Kill);
                while (await process.StandardOutput.ReadLineAsync() is { } said && said.Split(' ') is [var what, var source, var version])
                {
                    open = what == "begin" ? (source, version) : null;
                    if (what == "done")
                    {
                        Set(source, version);
                    }
                }
                await process.WaitForExitAsync();
            }
            using SqliteStore store = SqliteStore.Open(database, new EmbeddingSpace("text", 8, "t", "1"), new EmbeddingSpace("cross", 4, "i", "1"), TimeProvider.System);
            Assert.Empty(store.CheckIntegrity());
            var there = store.Documents("c").ToDictionary(d => d.Source);
            if (open is var (began, intended) && (there.GetValueOrDefault(began)?.ContentHash ?? "-") == intended)
            {
                // It was committed, and killed before it could say so.
                unfinished++;
                Set(began, intended);
            }
            Assert.Equal(sure.OrderBy(s => s.Key, StringComparer.Ordinal), there.Select(t => KeyValuePair.Create(t.Key, t.Value.ContentHash)).OrderBy(s => s.Key, StringComparer.Ordinal));
            foreach (Document document in there.Values)
            {
                Assert.Equal(int.Parse(document.ContentHash.Split(':')[1], System.Globalization.CultureInfo.InvariantCulture), store.Passages(document.Id).Count);
            }
            graphs += store.GraphCounts("c").GetValueOrDefault("text") > 0 ? 1 : 0;
            if (round % 10 == 9 && there.Count > 0)
            {
                await store.SettleAsync(TimeProvider.System, TestContext.Current.CancellationToken);
                AssertSearchEqualsExact(store, there.Values, random);
            }

            void Set(string source, string version)
            {
                if (version == "-")
                {
                    sure.Remove(source);
                }
                else
                {
                    sure[source] = version;
                }
            }
        }
        Assert.True(graphs > Rounds / 10, $"a graph was opened in {graphs} rounds only");
        Assert.True(unfinished > 0, "no kill fell between a commit and its acknowledgement");
        Directory.Delete(folder, recursive: true);
    }

    private static void AssertSearchEqualsExact(SqliteStore store, IEnumerable<Document> documents, Random random)
    {
        float[][] vectors = [.. documents.SelectMany(d => store.Vectors(store.Passages(d.Id).Select(p => p.Id)).Values.Select(v => v.Text!))];
        int hits = 0, wanted = 0;
        for (int q = 0; q < 20; q++)
        {
            float[] query = vectors[random.Next(vectors.Length)];
            double[] expected = [.. vectors.Select(v => (double)TensorPrimitives.Dot<float>(v, query)).OrderDescending().Take(10)];
            IReadOnlyList<Candidate> found = store.SearchText("c", query, 10, null, Modality.Text);
            hits += found.Count(f => f.Score >= expected[^1] - 1e-3);
            wanted += expected.Length;
        }
        Assert.True(hits >= wanted * 0.97, $"{hits} of {wanted}");
        Document some = documents.First();
        string version = some.ContentHash.Split(':')[0];
        Assert.Equal(some.PassageCount, store.SearchLexical("c", $"v{version}", 2000, null, Modality.Text).Count);
    }
}
