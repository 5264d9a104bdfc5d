using System.Net;
using System.Net.Http.Json;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>What an answer of 202 promises, whatever happens to the server after it.</summary>
public sealed class JobTests : IDisposable
{
    private readonly string _data = Directory.CreateTempSubdirectory("diptych-jobs-").FullName;

    public void Dispose() => Directory.Delete(_data, recursive: true);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public async Task A_server_that_is_killed_again_and_again_ingests_every_upload_once(int seed)
    {
        var random = new Random(seed);
        string[] sources = [.. Enumerable.Range(0, 150).Select(i => $"{i % 7}/{i}.txt")];
        string job;
        await using (ServerProcess server = await ServerProcess.StartAsync(_data))
        {
            job = await server.UploadAsync("c", sources.Select(s => (s, $"Report {s}.\n\nThe reading of {s} was taken at noon.")));
            await server.KillAsync();
        }
        var ids = new Dictionary<string, long>();
        for (int round = 0; round < 4; round++)
        {
            await using ServerProcess server = await ServerProcess.StartAsync(_data);
            await Task.Delay(TimeSpan.FromMilliseconds(random.Next(900)), TimeProvider.System, TestContext.Current.CancellationToken);
            await AssertKeptAsync(server, ids);
            await server.KillAsync();
        }
        await using ServerProcess last = await ServerProcess.StartAsync(_data);
        JsonElement ended = await last.EndAsync(job);
        Assert.Equal("done", ended.GetProperty("state").GetString());
        JsonElement totals = ended.GetProperty("totals");
        Assert.True(totals.GetProperty("added").GetInt32() == 150, ended.ToString());
        await AssertKeptAsync(last, ids);
        Assert.Equal(sources.Select(s => $"upload:{s}").Order(StringComparer.Ordinal), ids.Keys.Order(StringComparer.Ordinal));
        Assert.Equal(ids.Values.Order(), ended.GetProperty("files").EnumerateArray().Select(f => f.GetProperty("document_id").GetInt64()).Order());
        await AssertSpoolEmptiesAsync();
    }

    [Fact]
    public async Task A_server_that_is_told_to_stop_does_so_at_once_and_goes_on_where_it_was()
    {
        string job;
        await using (ServerProcess server = await ServerProcess.StartAsync(_data))
        {
            job = await server.UploadAsync("c", Enumerable.Range(0, 300).Select(i => ($"{i}.txt", $"Entry {i}.\n\nBolt {i} was tightened.")));
            Assert.Equal(0, await server.TerminateAsync());
        }
        await using ServerProcess next = await ServerProcess.StartAsync(_data);
        long started = TimeProvider.System.GetTimestamp();
        JsonElement ended = await next.EndAsync(job);
        Assert.Equal(300, ended.GetProperty("totals").GetProperty("added").GetInt32());
        // Leases were given back: nothing waited for them to run out.
        Assert.True(TimeProvider.System.GetElapsedTime(started) < TimeSpan.FromSeconds(15));
    }

    [Fact]
    public async Task Jobs_are_listed_with_their_files_and_a_cancelled_one_stores_nothing_more()
    {
        await using ServerProcess server = await ServerProcess.StartAsync(_data);
        string done = await server.UploadAsync("c", ("good.txt", "A good file about herons."), ("empty.txt", ""));
        JsonElement ended = await server.EndAsync(done);
        JsonElement[] files = [.. ended.GetProperty("files").EnumerateArray()];
        Assert.Equal(["added", "failed"], files.Select(f => f.GetProperty("outcome").GetString()).Order(StringComparer.Ordinal));
        Assert.Contains("empty", files.Single(f => f.GetProperty("outcome").GetString() == "failed").GetProperty("reason").GetString(), StringComparison.Ordinal);
        JsonElement failed = (await server.GetAsync($"/v1/jobs/{done}/files?outcome=failed")).GetProperty("files");
        Assert.Equal("upload:empty.txt", failed[0].GetProperty("source").GetString());

        string cancelled = await server.UploadAsync("c", Enumerable.Range(0, 400).Select(i => ($"{i}.txt", $"Entry {i}.\n\n{string.Concat(Enumerable.Repeat("A long walk along the river. ", 200))}")));
        JsonElement answer = JsonDocument.Parse(await (await server.Client.DeleteAsync($"/v1/jobs/{cancelled}")).Content.ReadAsStringAsync()).RootElement;
        Assert.Equal("cancelled", answer.GetProperty("state").GetString());
        int added = answer.GetProperty("totals").GetProperty("added").GetInt32();
        Assert.Equal(400, answer.GetProperty("totals").GetProperty("done").GetInt32());
        await server.EndAsync(await server.UploadAsync("c", ("later.txt", "Something later.")));
        Assert.Equal(added + 2, (await server.GetAsync("/v1/collections/c/documents?limit=1000")).GetProperty("documents").GetArrayLength());

        JsonElement listed = (await server.GetAsync("/v1/jobs?collection=c&state=cancelled")).GetProperty("jobs");
        Assert.Equal(cancelled, listed[0].GetProperty("id").GetString());
        Assert.Equal(1, listed.GetArrayLength());
        JsonElement page = await server.GetAsync("/v1/jobs?limit=1");
        Assert.Equal(2, (await server.GetAsync($"/v1/jobs?before={page.GetProperty("next").GetString()}")).GetProperty("jobs").GetArrayLength());
        Assert.Equal(HttpStatusCode.NotFound, (await server.Client.GetAsync("/v1/jobs/nothing")).StatusCode);
        Assert.Equal(HttpStatusCode.BadRequest, (await server.Client.GetAsync("/v1/jobs?limit=0")).StatusCode);
        Assert.Equal(HttpStatusCode.BadRequest, (await server.Client.GetAsync("/v1/jobs?state=sleeping")).StatusCode);
    }

    [Fact]
    public async Task A_job_never_makes_its_deleted_collection_anew()
    {
        await using ServerProcess server = await ServerProcess.StartAsync(_data);
        string job = await server.UploadAsync("gone", Enumerable.Range(0, 300).Select(i => ($"{i}.txt", $"Entry {i}.\n\nBolt {i} was tightened.")));
        Assert.Equal(HttpStatusCode.NoContent, (await server.Client.DeleteAsync("/v1/collections/gone")).StatusCode);
        Assert.Equal("cancelled", (await server.EndAsync(job)).GetProperty("state").GetString());
        await server.EndAsync(await server.UploadAsync("other", ("a.txt", "Something else.")));
        Assert.Equal(["default", "other"], (await server.GetAsync("/v1/collections")).EnumerateArray().Select(c => c.GetProperty("name").GetString()!).Order(StringComparer.Ordinal));
    }

    [Fact]
    public async Task Two_hosts_that_never_answer_hold_up_neither_other_hosts_nor_uploads()
    {
        using var silent = new TcpListener(IPAddress.Loopback, 0);
        silent.Start();
        int port = ((IPEndPoint)silent.LocalEndpoint).Port;
        await using ServerProcess server = await ServerProcess.StartAsync(_data, ("AllowPrivateUrls", "true"), ("FetchSeconds", "20"));
        string[] slow = [.. new[] { "127.0.0.1", "localhost" }.SelectMany(h => Enumerable.Range(0, 20).Select(i => $"http://{h}:{port}/{i}.html"))];
        string stuck = await PostUrlsAsync(server, slow);
        string quick = await PostUrlsAsync(server, $"{new UriBuilder(server.Client.BaseAddress!) { Host = "127.0.0.2" }.Uri}healthz");
        JsonElement upload = await server.EndAsync(await server.UploadAsync("c", ("a.txt", "A note.")));
        Assert.Equal(1, upload.GetProperty("totals").GetProperty("added").GetInt32());
        // Nobody listens at that address: it is told at once, while the slow ones are still waited for.
        Assert.Equal(1, (await server.EndAsync(quick)).GetProperty("totals").GetProperty("failed").GetInt32());
        Assert.Equal("running", (await server.GetAsync($"/v1/jobs/{stuck}")).GetProperty("state").GetString());
        // Each has its deadline.
        JsonElement first = default;
        for (int i = 0; i < 60 && first.ValueKind == JsonValueKind.Undefined; i++)
        {
            await Task.Delay(TimeSpan.FromSeconds(1), TimeProvider.System, TestContext.Current.CancellationToken);
            first = (await server.GetAsync($"/v1/jobs/{stuck}/files?outcome=failed")).GetProperty("files").EnumerateArray().FirstOrDefault();
        }
        Assert.Contains("took longer than 20 s", first.GetProperty("reason").GetString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_full_spool_and_a_full_queue_say_so_and_when_to_come_back_and_keep_what_they_took()
    {
        await using ServerProcess server = await ServerProcess.StartAsync(_data, ("SpoolMb", "3"), ("QueueItems", "40"));
        byte[] large = new byte[2 << 20];
        new Random(5).NextBytes(large);
        HttpResponseMessage full = await server.PostFilesAsync("c", ("a.bin", large), ("b.bin", large));
        Assert.Equal(HttpStatusCode.InsufficientStorage, full.StatusCode);
        Assert.NotNull(full.Headers.RetryAfter);
        Assert.Contains("SpoolMb", await full.Content.ReadAsStringAsync(), StringComparison.Ordinal);
        HttpResponseMessage many = await server.PostFilesAsync("c", Enumerable.Range(0, 41).Select(i => ($"{i}.txt", Encoding.UTF8.GetBytes($"Note {i}"))));
        Assert.Equal(HttpStatusCode.TooManyRequests, many.StatusCode);
        Assert.NotNull(many.Headers.RetryAfter);
        Assert.Empty((await server.GetAsync("/v1/jobs")).GetProperty("jobs").EnumerateArray());
        // Nothing of what was refused takes room.
        JsonElement taken = await server.EndAsync(await server.UploadAsync("c", Enumerable.Range(0, 40).Select(i => ($"{i}.txt", $"Note {i}"))));
        Assert.Equal(40, taken.GetProperty("totals").GetProperty("added").GetInt32());
        await AssertSpoolEmptiesAsync();
    }

    [Fact]
    public async Task Large_uploads_are_never_in_memory_as_a_whole()
    {
        await using ServerProcess server = await ServerProcess.StartAsync(_data);
        await server.EndAsync(await server.UploadAsync("c", ("warm.txt", "A note.")));
        long before = Resident(server.Id), peak = 0;
        byte[][] contents = [.. Enumerable.Range(0, 4).Select(i =>
        {
            byte[] content = new byte[40 << 20];
            new Random(i).NextBytes(content);
            "PK\u0003\u0004"u8.CopyTo(content);
            return content;
        })];
        using var watched = new CancellationTokenSource();
        Task watch = Task.Run(async () =>
        {
            while (!watched.IsCancellationRequested)
            {
                peak = Math.Max(peak, Resident(server.Id));
                await Task.Delay(TimeSpan.FromMilliseconds(20), TimeProvider.System, CancellationToken.None);
            }
        }, TestContext.Current.CancellationToken);
        string[] jobs = await Task.WhenAll(Enumerable.Range(0, 24).Select(async i =>
        {
            HttpResponseMessage accepted = await server.PostFilesAsync("c", ($"{i}.docx", contents[i % 4]));
            Assert.True(accepted.StatusCode == HttpStatusCode.Accepted, await accepted.Content.ReadAsStringAsync());
            return JsonDocument.Parse(await accepted.Content.ReadAsStringAsync()).RootElement.GetProperty("id").GetString()!;
        }));
        foreach (string job in jobs)
        {
            await server.EndAsync(job);
        }
        await watched.CancelAsync();
        await watch;
        Assert.True(peak - before <= 256L << 20, $"resident memory rose by {(peak - before) >> 20} MB");
    }

    [Theory]
    [InlineData("application/json", "{}")]
    [InlineData("multipart/form-data", "no boundary")]
    [InlineData("multipart/form-data; boundary=x", "--y\r\n")]
    [InlineData("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\ncut short")]
    [InlineData("multipart/form-data; boundary=x", "--x\r\nContent-Type: text/plain\r\n\r\nnameless\r\n--x--\r\n")]
    [InlineData("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n[1\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\na\r\n--x--\r\n")]
    public async Task A_form_that_is_none_is_refused_and_leaves_nothing(string type, string body)
    {
        await using ServerProcess server = await ServerProcess.StartAsync(_data);
        var content = new ByteArrayContent(Encoding.ASCII.GetBytes(body));
        content.Headers.TryAddWithoutValidation("Content-Type", type);
        HttpResponseMessage refused = await server.Client.PostAsync("/v1/collections/c/documents", content);
        Assert.True(refused.StatusCode == HttpStatusCode.BadRequest, await refused.Content.ReadAsStringAsync());
        Assert.Empty((await server.GetAsync("/v1/jobs")).GetProperty("jobs").EnumerateArray());
        Assert.Empty(Directory.Exists(Path.Combine(_data, "spool")) ? Directory.GetFiles(Path.Combine(_data, "spool")) : []);
    }

    /// <summary>Files go right after their job has been told to have ended.</summary>
    private async Task AssertSpoolEmptiesAsync()
    {
        string spool = Path.Combine(_data, "spool");
        for (int i = 0; i < 100 && Directory.GetFiles(spool).Length > 0; i++)
        {
            await Task.Delay(TimeSpan.FromMilliseconds(50), TimeProvider.System, TestContext.Current.CancellationToken);
        }
        Assert.Empty(Directory.GetFiles(spool));
    }

    private static async Task<string> PostUrlsAsync(ServerProcess server, params string[] urls)
    {
        HttpResponseMessage accepted = await server.Client.PostAsJsonAsync("/v1/collections/c/urls", new { urls });
        Assert.True(accepted.StatusCode == HttpStatusCode.Accepted, await accepted.Content.ReadAsStringAsync());
        return JsonDocument.Parse(await accepted.Content.ReadAsStringAsync()).RootElement.GetProperty("id").GetString()!;
    }

    /// <summary>What was there before is there still, under the same id.</summary>
    private static async Task AssertKeptAsync(ServerProcess server, Dictionary<string, long> ids)
    {
        var present = (await server.GetAsync("/v1/collections/c/documents?limit=1000")).GetProperty("documents").EnumerateArray()
            .ToDictionary(d => d.GetProperty("source").GetString()!, d => d.GetProperty("id").GetInt64());
        Assert.All(ids, known => Assert.Equal(known.Value, present[known.Key]));
        foreach (var (source, id) in present)
        {
            ids[source] = id;
        }
    }

    private static long Resident(int process) => long.Parse(
        File.ReadLines($"/proc/{process}/status").First(l => l.StartsWith("VmRSS:", StringComparison.Ordinal)).Split(' ', StringSplitOptions.RemoveEmptyEntries)[1],
        System.Globalization.CultureInfo.InvariantCulture) << 10;
}
