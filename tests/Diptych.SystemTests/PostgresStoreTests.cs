using Diptych.App.Http;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Postgres;
using Diptych.Tests.Index;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>The store conformance suite over PostgreSQL, and what only a server can do: fail, come back, and be replicated.</summary>
public sealed class PostgresStoreTests(PostgresServer server) : DocumentStoreConformance, IClassFixture<PostgresServer>, IAsyncLifetime
{
    private string _address = "";

    protected override double ScoreTolerance => 1e-3;

    public async ValueTask InitializeAsync() => _address = await server.DatabaseAsync();

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    protected override IDocumentStore Open(EmbeddingSpace text, EmbeddingSpace cross) => PostgresStore.Open(_address, text, cross, TimeProvider.System);

    [Fact]
    public async Task Other_nodes_hear_of_a_commit_without_asking()
    {
        using IDocumentStore first = Open(), second = Open();
        long before = second.Sequence;
        first.Commit([RandomDocument(new Random(1), "c", "a", 1)]);
        await UntilAsync(() => second.Sequence > before);
    }

    [Fact]
    public async Task A_database_that_crashes_and_comes_back_is_used_again_and_has_all_that_was_acknowledged()
    {
        using IDocumentStore store = Open();
        var random = new Random(2);
        var acknowledged = new List<string>();
        Task writer = Task.Run(() =>
        {
            for (int i = 0; i < 300; i++)
            {
                store.Commit([RandomDocument(random, "c", $"doc{i}", i)]);
                acknowledged.Add($"doc{i}");
            }
        }, TestContext.Current.CancellationToken);
        await UntilAsync(() => acknowledged.Count > 20);
        await server.StopAsync(server.Port);
        await server.StartAsync(server.Port);
        await writer;
        Assert.Equal(acknowledged.Order(StringComparer.Ordinal), store.Documents("c").Select(d => d.Source).Order(StringComparer.Ordinal));
        Assert.Empty(store.CheckIntegrity());
    }

    [Fact]
    public async Task A_database_that_stays_away_is_a_clear_error()
    {
        using IDocumentStore store = Open();
        var readiness = new Readiness(store, store.Loops, Path.GetTempPath(), _ => null, 0, TimeProvider.System);
        Assert.Empty(await readiness.FaultsAsync(TestContext.Current.CancellationToken));
        await server.StopAsync(server.Port);
        try
        {
            string fault = Assert.Single(await readiness.FaultsAsync(TestContext.Current.CancellationToken));
            Assert.StartsWith("store: ", fault, StringComparison.Ordinal);
            Assert.Contains("PostgreSQL does not answer", Assert.Throws<StoreUnavailableException>(() => store.Documents("c")).Message, StringComparison.Ordinal);
        }
        finally
        {
            await server.StartAsync(server.Port);
        }
        Assert.Empty(store.Documents("c"));
        Assert.Empty(await readiness.FaultsAsync(TestContext.Current.CancellationToken));
    }

    [Fact]
    public async Task A_node_reads_from_a_replica_and_still_sees_what_it_wrote()
    {
        Open().Dispose();
        int replica = await server.ReplicaAsync();
        _address = _address.Replace($":{server.Port}/", $":{server.Port},127.0.0.1:{replica}/", StringComparison.Ordinal);
        using IDocumentStore store = Open();
        var random = new Random(3);
        for (int i = 0; i < 60; i++)
        {
            store.Commit([RandomDocument(random, "c", $"doc{i}", i)]);
            Assert.Equal(i + 1, store.Documents("c").Count);
        }
        // Once it has caught up the replica answers: reads go on while the primary is away.
        await UntilAsync(() =>
        {
            using var source = Npgsql.NpgsqlDataSource.Create($"Host=127.0.0.1;Port={replica};Username=postgres;Database={_address.Split('/')[^1]};Pooling=false");
            using Npgsql.NpgsqlCommand count = source.CreateCommand("SELECT count(*) FROM documents");
            return (long)count.ExecuteScalar()! == 60;
        });
        await server.StopAsync(server.Port);
        try
        {
            Assert.Equal(60, store.Documents("c").Count);
        }
        finally
        {
            await server.StopAsync(replica);
            await server.StartAsync(server.Port);
        }
    }

    [Fact]
    public void Two_nodes_that_commit_the_same_sources_leave_one_version_of_each()
    {
        using IDocumentStore first = Open(), second = Open();
        Parallel.ForEach(new[] { first, second }, node =>
        {
            var random = new Random(4);
            for (int i = 0; i < 40; i++)
            {
                node.Commit([.. Enumerable.Range(0, 4).Select(s => RandomDocument(random, "c", $"doc{(i + s) % 7}", i))]);
            }
        });
        Assert.Equal(7, first.Documents("c").Count);
        Assert.Empty(first.CheckIntegrity());
    }

    [Fact]
    public async Task The_whole_product_runs_over_it()
    {
        string data = Directory.CreateTempSubdirectory("diptych-pg-").FullName;
        var ingest = await Host.DiptychAsync(data, "ingest", Host.Samples, "--store", _address, "--json");
        Assert.True(ingest.ExitCode == 0, ingest.Error + ingest.Output);
        var search = await Host.DiptychAsync(data, "search", "a pink flower", "--only", "image", "--store", _address, "--json");
        using var found = System.Text.Json.JsonDocument.Parse(search.Output);
        Assert.EndsWith("flower.jpg", found.RootElement.GetProperty("hits")[0].GetProperty("document").GetProperty("source").GetString(), StringComparison.Ordinal);
        var ask = await Host.DiptychAsync(data, "ask", "How many galaxies are in the Hubble Deep Field?", "--store", _address);
        Assert.True(ask.ExitCode == 0 && ask.Output.Contains("[1]", StringComparison.Ordinal), ask.Output + ask.Error);
        var again = await Host.DiptychAsync(data, "ingest", Host.Samples, "--store", _address);
        Assert.Contains("0 added", again.Output, StringComparison.Ordinal);
        var doctor = await Host.DiptychAsync(data, "doctor", "--repair", "--store", _address);
        Assert.True(doctor.ExitCode == 0, doctor.Output);
        var backup = await Host.DiptychAsync(data, "backup", Path.Combine(data, "x"), "--store", _address);
        Assert.Equal(2, backup.ExitCode);
        Assert.Contains("pg_dump", backup.Error, StringComparison.Ordinal);
        Assert.False(File.Exists(Path.Combine(data, "diptych.db")), "nothing is kept in SQLite");
        Directory.Delete(data, recursive: true);
    }

    [Theory]
    [InlineData("nonsense")]
    [InlineData("postgres://host:port:port/x?foo=bar")]
    public void An_address_that_is_none_says_how_one_looks(string address)
    {
        _address = address;
        Assert.Contains("postgres://", Assert.Throws<InvalidRequestException>(() => Open()).Message, StringComparison.Ordinal);
    }

    private static async Task UntilAsync(Func<bool> holds)
    {
        using var timer = new PeriodicTimer(TimeSpan.FromMilliseconds(20));
        for (int i = 0; i < 1000 && !holds(); i++)
        {
            await timer.WaitForNextTickAsync();
        }
        Assert.True(holds());
    }
}
