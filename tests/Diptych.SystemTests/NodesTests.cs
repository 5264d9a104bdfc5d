using System.Text.Json;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>Several servers over one PostgreSQL database, some of which die.</summary>
public sealed class NodesTests(PostgresServer database) : IClassFixture<PostgresServer>
{
    [Fact]
    public async Task What_a_node_took_is_ingested_by_the_others_when_it_dies()
    {
        string address = await database.DatabaseAsync();
        string[] folders = [.. Enumerable.Range(0, 3).Select(_ => Directory.CreateTempSubdirectory("diptych-node-").FullName)];
        var nodes = new List<ServerProcess>();
        try
        {
            foreach (string folder in folders)
            {
                nodes.Add(await ServerProcess.StartAsync(folder, ("Store", address)));
            }
            string job = await nodes[0].UploadAsync("c", Enumerable.Range(0, 400).Select(i => ($"{i}.txt", $"Entry {i}.\n\nBolt {i} was tightened at noon.")));
            // The node that took the upload in dies with its share of the items.
            await nodes[0].KillAsync();
            long killed = TimeProvider.System.GetTimestamp();
            JsonElement ended = await nodes[1].EndAsync(job);
            Assert.True(TimeProvider.System.GetElapsedTime(killed) < TimeSpan.FromSeconds(60), "its leases did not pass on");
            Assert.Equal(400, ended.GetProperty("totals").GetProperty("added").GetInt32());
            JsonElement[] documents = [.. (await nodes[2].GetAsync("/v1/collections/c/documents?limit=1000")).GetProperty("documents").EnumerateArray()];
            Assert.Equal(400, documents.Select(d => d.GetProperty("source").GetString()).Distinct(StringComparer.Ordinal).Count());
            Assert.Equal(
                documents.Select(d => d.GetProperty("id").GetInt64()).Order(), ended.GetProperty("files").EnumerateArray().Select(f => f.GetProperty("document_id").GetInt64()).Order());
            Assert.Equal(0, await nodes[1].TerminateAsync());
            Assert.Equal(0, await nodes[2].TerminateAsync());
        }
        finally
        {
            foreach (ServerProcess node in nodes)
            {
                await node.DisposeAsync();
            }
            foreach (string folder in folders)
            {
                Directory.Delete(folder, recursive: true);
            }
        }
    }
}
