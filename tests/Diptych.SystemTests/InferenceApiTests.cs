using System.Net;
using System.Net.Http.Json;
using System.Text;
using System.Text.Json;
using Diptych.Tests;
using Xunit;

namespace Diptych.SystemTests;

[Collection(nameof(StartedServer))]
public sealed class InferenceApiTests(StartedServer server)
{
    private HttpClient Client => server.Client;

    [Fact]
    public async Task Documents_are_reranked_in_the_dialect_that_others_speak()
    {
        JsonElement answer = await PostAsync("/v1/rerank", new { query = "a sleeping cat", documents = new object[] { "stock prices fell", "a kitten asleep on a chair", new { text = "dogs bark" } }, top_n = 2, return_documents = true });
        JsonElement results = answer.GetProperty("results");
        Assert.Equal(2, results.GetArrayLength());
        Assert.Equal(1, results[0].GetProperty("index").GetInt32());
        Assert.Equal("a kitten asleep on a chair", results[0].GetProperty("document").GetProperty("text").GetString());
        Assert.True(results[0].GetProperty("relevance_score").GetDouble() > results[1].GetProperty("relevance_score").GetDouble());
        Assert.True(answer.GetProperty("usage").GetProperty("total_tokens").GetInt32() > 5);
    }

    [Fact]
    public async Task An_operator_sees_lanes_and_memory_and_moves_models()
    {
        await PostAsync("/v1/embeddings", new { model = "starter-cross", input = "an operator looks" });
        JsonElement unloaded = await PostAsync("/v1/models/starter-text/unload", new { });
        Assert.Equal(("unloaded", 0L), (unloaded.GetProperty("state").GetString(), unloaded.GetProperty("bytes").GetInt64()));
        JsonElement loaded = await PostAsync("/v1/models/starter-text/load", new { });
        Assert.Equal("loaded", loaded.GetProperty("state").GetString());
        Assert.True((await PostAsync("/v1/models/starter-text/pin", new { })).GetProperty("pinned").GetBoolean());
        Assert.False((await PostAsync("/v1/models/starter-text/unpin", new { })).GetProperty("pinned").GetBoolean());
        using var snapshot = JsonDocument.Parse(await Client.GetStringAsync("/v1/inference"));
        JsonElement device = snapshot.RootElement.GetProperty("devices")[0];
        Assert.InRange(device.GetProperty("used_bytes").GetInt64(), 1 << 20, device.GetProperty("budget_bytes").GetInt64());
        string metrics = await Client.GetStringAsync("/metrics");
        foreach (string name in new[] { "diptych_inference_requests_total", "diptych_inference_wait_seconds_bucket", "diptych_inference_ledger_bytes", "diptych_inference_queue", "http_server_request_duration_seconds" })
        {
            Assert.Contains(name, metrics, StringComparison.Ordinal);
        }
        var top = await Host.RunAsync("dotnet", [Host.Program, "top", "--once", "--url", server.Url.ToString()]);
        Assert.True(top.ExitCode == 0 && top.Output.Contains("interactive", StringComparison.Ordinal) && top.Output.Contains("starter-text", StringComparison.Ordinal), top.Error + top.Output);
    }

    [Fact]
    public async Task A_deadline_that_cannot_be_met_is_refused_at_once_with_when_to_come_back()
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/search") { Content = JsonContent.Create(new { collection = "samples", query = $"never asked before {Guid.NewGuid()}" }) };
        request.Headers.Add("X-Request-Timeout-Ms", "0.01");
        HttpResponseMessage refused = await Client.SendAsync(request);
        Assert.Equal(HttpStatusCode.TooManyRequests, refused.StatusCode);
        Assert.True(refused.Headers.RetryAfter!.Delta >= TimeSpan.FromSeconds(1));
        using var wrong = new HttpRequestMessage(HttpMethod.Get, "/v1/models");
        wrong.Headers.Add("X-Request-Timeout-Ms", "soon");
        Assert.Equal(HttpStatusCode.BadRequest, (await Client.SendAsync(wrong)).StatusCode);
    }

    [Fact]
    public async Task Bad_input_is_refused_and_leaves_nothing_behind()
    {
        foreach (var (body, status, words) in new[]
        {
            (JsonSerializer.Serialize(new { model = "starter-cross", input = new[] { new { image = Convert.ToBase64String(Encoding.ASCII.GetBytes("no image")) } } }), 400, "image"),
            ("{\"model\":\"starter-cross\",\"input\":[{\"image\":\"%%%\"}]}", 400, "base64"),
            ("{\"model\":\"starter-text\",\"input\":\"a\",\"dimensions\":4096}", 400, "dimensions"),
            ("{\"model\":\"starter-text\",\"input\":[]}", 400, "input has 1 to"),
            ("{\"model\":\"starter-text\"", 400, "JSON"),
        })
        {
            HttpResponseMessage response = await Client.PostAsync("/v1/embeddings", new StringContent(body, Encoding.UTF8, "application/json"));
            string text = await response.Content.ReadAsStringAsync();
            Assert.True((int)response.StatusCode == status && text.Contains(words, StringComparison.OrdinalIgnoreCase), text);
        }
        // A million tokens are cut to what the model reads, as its card says, and take no longer than others.
        JsonElement cut = await PostAsync("/v1/embeddings", new { model = "starter-text", input = string.Join(' ', Enumerable.Repeat("word", 1_000_000)) });
        Assert.Equal(256, cut.GetProperty("usage").GetProperty("prompt_tokens").GetInt32());
        // Clients that vanish while their work waits.
        for (int i = 0; i < 20; i++)
        {
            using var vanish = new CancellationTokenSource(TimeSpan.FromMilliseconds(30), TimeProvider.System);
            int seed = i;
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Client.PostAsJsonAsync(
                "/v1/embeddings", new { model = "starter-text", input = Enumerable.Range(0, 300).Select(n => $"gone {seed} {n} {string.Join(' ', Enumerable.Repeat("word", 200))}") }, vanish.Token));
        }
        long start = TimeProvider.System.GetTimestamp();
        while (await WaitingAsync() > 0)
        {
            Assert.True(TimeProvider.System.GetElapsedTime(start) < TimeSpan.FromSeconds(20), "work of clients that are gone still waits");
            await Task.Delay(TimeSpan.FromMilliseconds(100), TimeProvider.System);
        }
    }

    [Fact]
    public async Task One_huge_request_does_not_hold_up_others()
    {
        Task<JsonElement> huge = PostAsync("/v1/embeddings", new { model = "starter-text", input = Enumerable.Range(0, 400).Select(n => $"passage {n} {string.Join(' ', Enumerable.Repeat("word", 120))}") });
        await Task.Delay(TimeSpan.FromMilliseconds(500), TimeProvider.System);
        var latencies = new List<double>();
        for (int i = 0; i < 20; i++)
        {
            long start = TimeProvider.System.GetTimestamp();
            await PostAsync("/v1/embeddings", new { model = "starter-text", input = $"a question nobody asked {i}" });
            latencies.Add(TimeProvider.System.GetElapsedTime(start).TotalMilliseconds);
        }
        Assert.False(huge.IsCompleted, "the huge request was no load at all");
        Assert.True(latencies.Order().ElementAt(10) < 500, string.Join(", ", latencies));
        Assert.Equal(400, (await huge).GetProperty("data").GetArrayLength());
    }

    [Fact]
    public async Task The_openai_package_for_node_runs_against_it()
    {
        string folder = Directory.CreateTempSubdirectory("diptych-node-").FullName;
        await File.WriteAllTextAsync(Path.Combine(folder, "package.json"), "{\"type\":\"module\"}");
        var install = await Host.RunAsync("npm", ["install", "--no-audit", "--no-fund", "openai@6"], directory: folder);
        Assert.True(install.ExitCode == 0, install.Error);
        await File.WriteAllTextAsync(Path.Combine(folder, "check.mjs"), """
            import OpenAI from "openai";
            const client = new OpenAI({ baseURL: process.argv[2] + "v1", apiKey: "none" });
            const many = await client.embeddings.create({ model: "starter-text", input: ["a cat", "a kitten", "tax law"] });
            const dot = (a, b) => a.reduce((s, x, i) => s + x * b[i], 0);
            const [cat, kitten, law] = many.data.map(d => d.embedding);
            const short = await client.embeddings.create({ model: "starter-cross", input: "a cat", dimensions: 64, encoding_format: "float" });
            const models = (await client.models.list()).data.map(m => m.id);
            let refused = "";
            try { await client.embeddings.create({ model: "nothing", input: "x" }); } catch (e) { refused = `${e.status} ${e.message}`; }
            console.log(JSON.stringify({ near: dot(cat, kitten), far: dot(cat, law), width: short.data[0].embedding.length, models, refused }));
            """);
        var run = await Host.RunAsync("node", ["check.mjs", server.Url.ToString()], directory: folder);
        Assert.True(run.ExitCode == 0, run.Error);
        using var said = JsonDocument.Parse(run.Output);
        JsonElement r = said.RootElement;
        Assert.True(r.GetProperty("near").GetDouble() > r.GetProperty("far").GetDouble() + 0.2);
        Assert.Equal(64, r.GetProperty("width").GetInt32());
        Assert.Contains("404", r.GetProperty("refused").GetString(), StringComparison.Ordinal);
        Directory.Delete(folder, recursive: true);
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task Load_is_sent_and_simulated_from_traces()
    {
        string traces = Shared.Require("traces");
        string data = Directory.CreateTempSubdirectory("diptych-bench-").FullName;
        foreach (string[] arguments in (string[][])
        [
            ["bench", "serve", "--seconds", "5", "--rate", "0.5"],
            ["bench", "simulate", "--seconds", "60", "--rate", "0.2", "--find-max"],
            ["bench", "simulate", "--seconds", "10", "--rate", "50", "--devices", "64"],
            ["bench", "simulate", "--seconds", "60", "--rate", "0.2", "--scheduling", "arrival:8", "--trace", "azure-code"],
        ])
        {
            var run = await Host.DiptychAsync(data, [.. arguments, "--traces", traces, "--json"]);
            Assert.True(run.ExitCode == 0, run.Error + run.Output);
            using var json = JsonDocument.Parse(run.Output);
            foreach (JsonProperty lane in json.RootElement.GetProperty("lanes").EnumerateObject())
            {
                Assert.True(lane.Value.GetProperty("offered").GetInt64() >= lane.Value.GetProperty("completed").GetInt64() + lane.Value.GetProperty("refused").GetInt64(), run.Output);
                Assert.InRange(lane.Value.GetProperty("attainment").GetDouble(), 0, 1);
                Assert.True(lane.Value.GetProperty("p99_ms").GetDouble() >= lane.Value.GetProperty("p50_ms").GetDouble());
            }
            if (arguments.Contains("--find-max"))
            {
                Assert.True(json.RootElement.GetProperty("lanes").GetProperty("interactive").GetProperty("max_rate_at_99").GetDouble() > 0, run.Output);
            }
        }
        Directory.Delete(data, recursive: true);
    }

    private async Task<long> WaitingAsync()
    {
        using var snapshot = JsonDocument.Parse(await Client.GetStringAsync("/v1/inference"));
        return snapshot.RootElement.GetProperty("lanes").EnumerateArray().Sum(l => l.GetProperty("waiting_units").GetInt64());
    }

    private async Task<JsonElement> PostAsync(string path, object body)
    {
        HttpResponseMessage response = await Client.PostAsJsonAsync(path, body);
        string text = await response.Content.ReadAsStringAsync();
        Assert.True(response.IsSuccessStatusCode, text);
        return JsonDocument.Parse(text).RootElement;
    }
}
