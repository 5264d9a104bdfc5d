using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using Diptych.Tests.Runtimes;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>A server with a reranker from a hub, and with embeddings from another server.</summary>
[Collection(nameof(StartedServer))]
public sealed class AddedModelsTests(StartedServer far) : IDisposable
{
    private readonly string _data = Directory.CreateTempSubdirectory("diptych-added-").FullName;

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_reranker_from_a_hub_orders_and_another_servers_embeddings_are_served_under_a_name_of_ours()
    {
        await using LocalHub hub = await LocalHub.StartAsync(await JudgeAsync());
        var environment = new Dictionary<string, string>
        {
            ["DIPTYCH__HUB"] = hub.Url,
            ["DIPTYCH__EMBEDDINGS__FAR__ENDPOINT"] = new Uri(far.Url, "v1").ToString(),
            ["DIPTYCH__EMBEDDINGS__FAR__MODEL"] = "starter-text",
            ["DIPTYCH__EMBEDDINGS__GONE__ENDPOINT"] = "http://127.0.0.1:9/v1",
            ["DIPTYCH__EMBEDDINGS__GONE__MODEL"] = "any",
        };
        using (Process add = Start(environment, "models", "add", "hf:judges/judge"))
        {
            await add.WaitForExitAsync(Stop);
            Assert.Equal(0, add.ExitCode);
        }
        Assert.Contains("onnx/model.onnx", hub.Asked);
        Assert.DoesNotContain("pytorch_model.bin", hub.Asked);
        // What is broken beside it is listed with its reason, and keeps nothing else from being served.
        Directory.CreateDirectory(Path.Combine(_data, "models", "bad"));
        await File.WriteAllTextAsync(Path.Combine(_data, "models", "bad", "diptych.json"), "{", Stop);
        using Process server = Start(environment, "serve", "--json", "--url", "http://127.0.0.1:0");
        try
        {
            using var line = JsonDocument.Parse((await server.StandardOutput.ReadLineAsync(Stop))!);
            using var client = new HttpClient { BaseAddress = new Uri(line.RootElement.GetProperty("url").GetString()!) };
            using JsonDocument ranked = await PostAsync(client, "/v1/rerank", new { query = "which", documents = new[] { "cat", "wing flow", "of" } });
            Assert.Equal("judge", ranked.RootElement.GetProperty("model").GetString());
            Assert.Equal([1, 2, 0], ranked.RootElement.GetProperty("results").EnumerateArray().Select(r => r.GetProperty("index").GetInt32()));

            string[] texts = ["a cat on a mat", "the ferry leaves at nine", "z"];
            using JsonDocument here = await PostAsync(client, "/v1/embeddings", new { model = "FAR", input = texts, dimensions = 100 }), there = await PostAsync(far.Client, "/v1/embeddings", new { model = "starter-text", input = texts, dimensions = 100 });
            Assert.Equal(Numbers(there), Numbers(here), (a, b) => Math.Abs(a - b) < 1e-5);
            using JsonDocument seen = await GetAsync(client, "/v1/inference");
            JsonElement remote = seen.RootElement.GetProperty("remotes").EnumerateArray().Single(r => r.GetProperty("name").GetString()!.StartsWith("starter-text at", StringComparison.Ordinal));
            Assert.True(remote.GetProperty("healthy").GetBoolean() && remote.GetProperty("requests").GetInt64() > 0);
            using JsonDocument models = await GetAsync(client, "/v1/models");
            Assert.Superset(new HashSet<string?> { "judge", "FAR", "GONE", "starter-text" }, models.RootElement.GetProperty("data").EnumerateArray().Select(m => m.GetProperty("id").GetString()).ToHashSet());

            JsonElement[] broken = [.. models.RootElement.GetProperty("data").EnumerateArray().Where(m => m.TryGetProperty("broken", out _))];
            Assert.Equal("bad", Assert.Single(broken).GetProperty("id").GetString());
            Assert.Contains("is damaged", broken[0].GetProperty("broken").GetString(), StringComparison.Ordinal);

            using HttpResponseMessage gone = await client.PostAsJsonAsync("/v1/embeddings", new { model = "GONE", input = "x" }, Stop);
            Assert.Equal(HttpStatusCode.BadGateway, gone.StatusCode);
            Assert.Contains("any at http://127.0.0.1:9/v1", await gone.Content.ReadAsStringAsync(Stop), StringComparison.Ordinal);
            using HttpResponseMessage wide = await client.PostAsJsonAsync("/v1/embeddings", new { model = "FAR", input = "x", dimensions = 9999 }, Stop);
            Assert.Equal(HttpStatusCode.BadRequest, wide.StatusCode);
        }
        finally
        {
            server.Kill();
            await server.WaitForExitAsync(Stop);
        }
    }

    public void Dispose() => Directory.Delete(_data, recursive: true);

    /// <summary>A cross-encoder in the layout of its hub: the later a word stands in the vocabulary, the lighter it weighs.</summary>
    private async Task<string> JudgeAsync()
    {
        string folder = Directory.CreateDirectory(Path.Combine(_data, "hub")).FullName;
        Directory.CreateDirectory(Path.Combine(folder, "onnx"));
        string[] vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "wing", "flow", "of", "cat"];
        await File.WriteAllBytesAsync(Path.Combine(folder, "onnx", "model.onnx"), TinyOnnx.PairScorer([0, 0, 0, 0, 0.9f, 0.8f, 0.5f, 0.1f]), Stop);
        await File.WriteAllLinesAsync(Path.Combine(folder, "vocab.txt"), vocabulary, Stop);
        await File.WriteAllTextAsync(Path.Combine(folder, "config.json"), """{"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}, "max_position_embeddings": 64}""", Stop);
        await File.WriteAllTextAsync(Path.Combine(folder, "pytorch_model.bin"), "the same in another format", Stop);
        return folder;
    }

    private Process Start(Dictionary<string, string> environment, params string[] arguments)
    {
        var start = new ProcessStartInfo("dotnet", [Host.Program, .. arguments, "--data", _data]) { RedirectStandardOutput = true };
        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }
        return Process.Start(start)!;
    }

    private static async Task<JsonDocument> PostAsync(HttpClient client, string path, object body)
    {
        using HttpResponseMessage response = await client.PostAsJsonAsync(path, body, Stop);
        string text = await response.Content.ReadAsStringAsync(Stop);
        Assert.True(response.IsSuccessStatusCode, text);
        return JsonDocument.Parse(text);
    }

    private static async Task<JsonDocument> GetAsync(HttpClient client, string path) => JsonDocument.Parse(await client.GetStringAsync(path, Stop));

    private static List<double> Numbers(JsonDocument embeddings) =>
        [.. embeddings.RootElement.GetProperty("data").EnumerateArray().SelectMany(d => d.GetProperty("embedding").EnumerateArray().Select(v => v.GetDouble()))];
}
