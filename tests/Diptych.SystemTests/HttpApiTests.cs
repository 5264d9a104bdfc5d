using System.ClientModel;
using System.Net;
using System.Net.Http.Json;
using System.Text;
using System.Text.Json;
using OpenAI;
using OpenAI.Embeddings;
using Xunit;

namespace Diptych.SystemTests;

[Collection(nameof(StartedServer))]
public sealed class HttpApiTests(StartedServer server)
{
    private HttpClient Client => server.Client;

    [Fact]
    public async Task The_served_openapi_document_equals_the_committed_one()
    {
        string served = await Client.GetStringAsync("/openapi/v1.json"), path = Path.Combine(Host.Repository, "docs", "openapi.json");
        if (Environment.GetEnvironmentVariable("DIPTYCH_UPDATE") == "1")
        {
            await File.WriteAllTextAsync(path, served.ReplaceLineEndings("\n").TrimEnd() + "\n");
        }
        Assert.Equal((await File.ReadAllTextAsync(path)).Trim(), served.ReplaceLineEndings("\n").Trim());
    }

    [Fact]
    public async Task A_text_finds_photos_and_a_stored_photo_finds_text()
    {
        JsonElement found = await PostAsync("/v1/search", new { collection = "samples", query = "a pink flower", modality = "image", limit = 3 });
        JsonElement hit = found.GetProperty("hits")[0];
        Assert.EndsWith("flower.jpg", hit.GetProperty("document").GetProperty("source").GetString(), StringComparison.Ordinal);
        HttpResponseMessage thumbnail = await Client.GetAsync(hit.GetProperty("thumbnail_url").GetString());
        Assert.Equal("image/jpeg", thumbnail.Content.Headers.ContentType!.MediaType);

        JsonElement back = await PostAsync("/v1/search", new
        {
            collection = "samples",
            parts = new object[] { new { image_url = hit.GetProperty("image_url").GetString() }, new { text = "bees", weight = 0.5 } },
            limit = 5,
        });
        Assert.True(back.GetProperty("hits").GetArrayLength() > 0);
    }

    [Fact]
    public async Task An_answer_streams_and_its_citation_opens_at_the_place()
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/answers")
        {
            Content = JsonContent.Create(new { collection = "samples", question = "What weighs 12 kilograms without the parachute?", stream = true }),
        };
        using HttpResponseMessage response = await Client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        string events = await response.Content.ReadAsStringAsync();
        Assert.Equal("text/event-stream", response.Content.Headers.ContentType!.MediaType);
        Assert.StartsWith("event: delta\n", events, StringComparison.Ordinal);
        using var answer = JsonDocument.Parse(events[(events.LastIndexOf("data: ", StringComparison.Ordinal) + 6)..]);
        JsonElement citation = answer.RootElement.GetProperty("citations")[0];
        Assert.Equal(2, citation.GetProperty("anchor").GetProperty("page").GetInt32());
        Assert.True(citation.GetProperty("anchor").GetProperty("box").GetProperty("height").GetDouble() > 0);
        byte[] pdf = await Client.GetByteArrayAsync(citation.GetProperty("document").GetProperty("original_url").GetString());
        Assert.Equal("%PDF-"u8.ToArray(), pdf[..5]);
    }

    [Fact]
    public async Task An_upload_is_ingested_found_given_back_and_deleted()
    {
        byte[] bytes = Encoding.UTF8.GetBytes("The lighthouse keeper polishes the Fresnel lens every Thursday.");
        using var form = new MultipartFormDataContent { { new ByteArrayContent(bytes), "file", "lighthouse.txt" }, { new ByteArrayContent([1, 2, 3]), "file", "broken.pdf" }, { new StringContent("{\"island\":\"Vinga\"}"), "metadata" } };
        HttpResponseMessage accepted = await Client.PostAsync("/v1/collections/uploads/documents", form);
        Assert.Equal(HttpStatusCode.Accepted, accepted.StatusCode);
        string events = await Client.GetStringAsync($"{accepted.Headers.Location}/events");
        Assert.Contains("\"outcome\":\"added\"", events, StringComparison.Ordinal);
        Assert.Contains("\"outcome\":\"failed\"", events, StringComparison.Ordinal);
        using var job = JsonDocument.Parse(await Client.GetStringAsync(accepted.Headers.Location));
        Assert.Equal("done", job.RootElement.GetProperty("state").GetString());
        Assert.Equal("upload:broken.pdf", job.RootElement.GetProperty("files").EnumerateArray().Single(f => f.GetProperty("outcome").GetString() == "failed").GetProperty("source").GetString());

        JsonElement found = await PostAsync("/v1/search", new { collection = "uploads", query = "Who polishes the lens?", filter = new { field = "island", eq = "vinga" } });
        JsonElement document = found.GetProperty("hits")[0].GetProperty("document");
        Assert.Equal(bytes, await Client.GetByteArrayAsync(document.GetProperty("original_url").GetString()));
        long id = document.GetProperty("id").GetInt64();
        Assert.Equal(HttpStatusCode.NoContent, (await Client.DeleteAsync($"/v1/documents/{id}")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await Client.GetAsync($"/v1/documents/{id}")).StatusCode);
        Assert.Equal(0, (await PostAsync("/v1/search", new { collection = "uploads", query = "lens" })).GetProperty("total").GetInt32());
        Assert.Equal(HttpStatusCode.NoContent, (await Client.DeleteAsync("/v1/collections/uploads")).StatusCode);
    }

    [Fact]
    public async Task The_official_openai_client_gets_embeddings()
    {
        var client = new EmbeddingClient("starter-text", new ApiKeyCredential("none"), new OpenAIClientOptions { Endpoint = new Uri(server.Url, "/v1") });
        OpenAIEmbeddingCollection vectors = await client.GenerateEmbeddingsAsync(["a cat", "a kitten", "tax law"]);
        float[][] v = [.. vectors.Select(e => e.ToFloats().ToArray())];
        Assert.Equal(384, v[0].Length);
        Assert.True(Dot(v[0], v[1]) > Dot(v[0], v[2]) + 0.2f);
        OpenAIEmbedding shortened = await client.GenerateEmbeddingAsync("a cat", new EmbeddingGenerationOptions { Dimensions = 64 });
        Assert.Equal(64, shortened.ToFloats().Length);

        string photo = Convert.ToBase64String(await File.ReadAllBytesAsync(Path.Combine(Host.Samples, "photos", "chelsea.png")));
        JsonElement cross = await PostAsync("/v1/embeddings", new { model = "starter-cross", input = new object[] { "a cat", new { image = photo }, "a rocket" } });
        float[][] c = [.. cross.GetProperty("data").EnumerateArray().Select(d => d.GetProperty("embedding").EnumerateArray().Select(x => x.GetSingle()).ToArray())];
        Assert.True(Dot(c[0], c[1]) > Dot(c[2], c[1]) + 0.1f);
    }

    [Theory]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"query\":\"\"}", 400, "The query is empty")]
    [InlineData("/v1/search", "{\"collection\":\"samples\"}", 400, "either 'query' or 'parts'")]
    [InlineData("/v1/search", "{\"colection\":\"samples\",\"query\":\"a\"}", 400, "colection")]
    [InlineData("/v1/search", "{\"collection\":\"nowhere\",\"query\":\"a\"}", 404, "no collection 'nowhere'")]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"parts\":[{\"image\":\"!!\"}]}", 400, "not valid base64")]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"query\":\"a\",\"filter\":{\"field\":\"x\"}}", 400, "needs one of")]
    [InlineData("/v1/answers", "{\"collection\":\"samples\",\"question\":\" \"}", 400, "question is empty")]
    [InlineData("/v1/embeddings", "{\"model\":\"gpt\",\"input\":\"a\"}", 404, "no model 'gpt'")]
    [InlineData("/v1/collections/x/urls", "{\"urls\":[\"ftp://a\"]}", 400, "not an http")]
    [InlineData("/v1/nothing", "{}", 404, "not part of this API")]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"query\":\"a\",\"offset\":2147483640}", 400, "their sum at most")]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"query\":\"a\",\"offset\":2000,\"mmr_lambda\":0.5}", 400, "mmr_lambda")]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"query\":\"a\\ud83d\"}", 400, "query")]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"query\":\"a\",\"filter\":{\"field\":\"x\",\"eq\":\"\\udc00\"}}", 400, "'$.filter'")]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"parts\":[null]}", 400, "holds null")]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"query\":\"a\",\"limit\":\"ten\"}", 400, "'$.limit'")]
    [InlineData("/v1/search", "{\"collection\":\"samples\",\"query\":\"a\",\"limit\":1e40}", 400, "'$.limit'")]
    [InlineData("/v1/embeddings", "{\"model\":\"starter-text\",\"input\":\"a\\ud83d\"}", 400, "surrogate")]
    [InlineData("/v1/embeddings", "{\"model\":null,\"input\":\"a\"}", 400, "model")]
    [InlineData("/v1/embeddings", "{\"input\":\"a\"}", 400, "'model'")]
    [InlineData("/v1/answers", "{\"collection\":\"samples\",\"question\":null}", 400, "question")]
    [InlineData("/v1/collections", "{\"name\":null}", 400, "name")]
    [InlineData("/v1/collections", "{}", 400, "name")]
    [InlineData("/v1/collections/x/urls", "{\"urls\":null}", 400, "urls")]
    [InlineData("/v1/collections/x/urls", "{\"urls\":[null]}", 400, "holds null")]
    [InlineData("/v1/rerank", "{\"model\":\"starter-text\",\"query\":\"a\",\"documents\":null}", 400, "documents")]
    public async Task Errors_are_problem_documents_that_say_what_to_do(string path, string body, int status, string words)
    {
        HttpResponseMessage response = await Client.PostAsync(path, new StringContent(body, Encoding.UTF8, "application/json"));
        string text = await response.Content.ReadAsStringAsync();
        Assert.True((int)response.StatusCode == status, text);
        Assert.Equal("application/problem+json", response.Content.Headers.ContentType!.MediaType);
        using var problem = JsonDocument.Parse(text);
        Assert.Contains(words, problem.RootElement.GetProperty("detail").GetString(), StringComparison.Ordinal);
        Assert.StartsWith("urn:diptych:problem:", problem.RootElement.GetProperty("type").GetString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_member_that_is_null_is_one_that_is_absent()
    {
        JsonElement plain = await PostAsync("/v1/search", new { query = "a pink flower", collection = "samples" });
        JsonElement nulls = await PostAsync("/v1/search", new
        {
            collection = "samples",
            query = (string?)null,
            parts = new object[] { new { text = "a pink flower", image = (string?)null, image_url = (string?)null, passage = (long?)null, weight = (double?)null } },
            channels = (string[]?)null,
            fusion = (string?)null,
            channel_weights = (object?)null,
            filter = (object?)null,
            modality = (string?)null,
            limit = (int?)null,
            offset = (int?)null,
            group_by_document = (bool?)null,
            mmr_lambda = (double?)null,
            min_confidence = (double?)null,
        });
        Assert.Equal(10, nulls.GetProperty("hits").GetArrayLength());
        Assert.Equal(plain.GetProperty("hits").GetRawText(), nulls.GetProperty("hits").GetRawText());
        JsonElement answer = await PostAsync("/v1/answers", new { collection = "samples", question = "What weighs 12 kilograms without the parachute?", stream = (bool?)null, extract_only = (bool?)null, min_confidence = (double?)null });
        Assert.Contains("12", answer.GetProperty("text").GetString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_body_that_is_no_upload_and_a_query_have_a_greatest_size()
    {
        foreach (var (body, status) in new[] { (new string('x', 33 << 20), HttpStatusCode.RequestEntityTooLarge), (new string('x', 100_000), HttpStatusCode.BadRequest) })
        {
            HttpResponseMessage response = await Client.PostAsJsonAsync("/v1/search", new { collection = "samples", query = body });
            Assert.Equal(status, response.StatusCode);
        }
    }

    [Fact]
    public async Task A_private_address_is_not_fetched_and_foreign_pages_are_refused()
    {
        HttpResponseMessage accepted = await Client.PostAsJsonAsync("/v1/collections/fetched/urls", new { urls = new[] { server.Url.ToString() } });
        Assert.Contains("private network", await Client.GetStringAsync($"{accepted.Headers.Location}/events"), StringComparison.Ordinal);

        using var foreign = new HttpRequestMessage(HttpMethod.Post, "/v1/collections") { Content = JsonContent.Create(new { name = "evil" }) };
        foreign.Headers.Add("Origin", "https://evil.example");
        Assert.Equal(HttpStatusCode.Forbidden, (await Client.SendAsync(foreign)).StatusCode);
        using var rebound = new HttpRequestMessage(HttpMethod.Get, "/v1/collections");
        rebound.Headers.Host = "evil.example";
        Assert.Equal(HttpStatusCode.BadRequest, (await Client.SendAsync(rebound)).StatusCode);
    }

    private async Task<JsonElement> PostAsync(string path, object body)
    {
        HttpResponseMessage response = await Client.PostAsJsonAsync(path, body);
        string text = await response.Content.ReadAsStringAsync();
        Assert.True(response.IsSuccessStatusCode, text);
        return JsonDocument.Parse(text).RootElement;
    }

    private static float Dot(float[] a, float[] b) => a.Zip(b, (x, y) => x * y).Sum();
}
