using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Text;
using System.Text.Json;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>What an operator sees of a server: its log, and how it stops.</summary>
public sealed class OperationTests
{
    private const string Secret = "quokkas hoard amethysts";

    [Theory]
    [InlineData("text")]
    [InlineData("json")]
    public async Task The_log_of_a_run_tells_start_models_job_and_stop_and_nothing_that_users_wrote(string format)
    {
        string data = Directory.CreateTempSubdirectory("diptych-log-").FullName, job;
        ServerProcess server = await ServerProcess.StartAsync(data, ("LogFormat", format));
        await using (server)
        {
            job = await server.UploadAsync(
                "default", ("quokka-diary.md", $"# Amethysts\n\nAt night {Secret}."), ("amethyst.pdf", $"%PDF-1.4 {Secret}"));
            await server.EndAsync(job);
            await AskAsync(server, "quokkas amethysts");
            // A request that cannot be carried out is its sender's concern.
            using var broken = new StringContent($"{{\"query\": \"{Secret}\", ", Encoding.UTF8, "application/json");
            await server.Client.PostAsync("/v1/search", broken, TestContext.Current.CancellationToken);
            await server.Client.GetAsync($"/v1/search/{Uri.EscapeDataString(Secret)}", TestContext.Current.CancellationToken);
            Assert.Equal(0, await server.TerminateAsync());
        }
        string log = await server.LogAsync();
        string[] lines = log.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        string[] events =
        [
            "serves at http://127.0.0.1:", data, "starter-text was loaded", $"Job {job} was accepted: 2 files",
            $"Job {job} has ended: 2 files, some failed", "Stopping", "starter-text left cpu", "Stopped",
        ];
        foreach (string said in events)
        {
            Assert.True(lines.Count(l => l.Contains(said, StringComparison.Ordinal)) == 1, $"'{said}' in: {log}");
        }
        Assert.DoesNotContain("quokka", log, StringComparison.OrdinalIgnoreCase);
        Assert.DoesNotContain("amethyst", log, StringComparison.OrdinalIgnoreCase);
        Assert.All(lines, l => Assert.Contains("Diptych.", l, StringComparison.Ordinal));
        if (format == "json")
        {
            Assert.All(lines, l => Assert.Equal("Information", JsonDocument.Parse(l).RootElement.GetProperty("LogLevel").GetString()));
        }
        Directory.Delete(data, recursive: true);
    }

    [Fact]
    public async Task A_server_that_is_told_to_stop_at_any_moment_answers_what_it_took_and_ends_with_zero()
    {
        string data = Directory.CreateTempSubdirectory("diptych-stop-").FullName;
        var random = new Random(8);
        var jobs = new ConcurrentQueue<string>();
        int searches = 0;
        for (int round = 0; round < 10; round++)
        {
            ServerProcess server = await ServerProcess.StartAsync(data);
            await using (server)
            {
                int number = round;
                Task[] users =
                [
                    UntilGoneAsync(async i =>
                    {
                        HttpResponseMessage accepted = await server.PostFilesAsync("default", Enumerable.Range(0, 5).Select(f => (
                            $"{number}-{i}-{f}.md", Encoding.UTF8.GetBytes($"Note {i} of {number}: the ferry {f} leaves at seven."))));
                        string said = await accepted.Content.ReadAsStringAsync();
                        Assert.True(accepted.StatusCode == HttpStatusCode.Accepted, said);
                        jobs.Enqueue(JsonDocument.Parse(said).RootElement.GetProperty("id").GetString()!);
                    }),
                    UntilGoneAsync(async _ =>
                    {
                        await AskAsync(server, "When does the ferry leave?");
                        searches++;
                    }),
                    UntilGoneAsync(async _ =>
                    {
                        if (jobs.LastOrDefault() is { } job)
                        {
                            using HttpResponseMessage events = await server.Client.GetAsync($"/v1/jobs/{job}/events");
                            Assert.Equal(HttpStatusCode.OK, events.StatusCode);
                        }
                    }),
                ];
                using var moment = new CancellationTokenSource(random.Next(0, 1500));
                var came = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                await using (moment.Token.Register(() => came.TrySetResult()))
                {
                    await came.Task;
                }
                int code = await server.TerminateAsync();
                string log = await server.LogAsync();
                Assert.True(code == 0, $"round {round} ended with {code}: {log}");
                Assert.DoesNotContain("Exception", log, StringComparison.Ordinal);
                await Task.WhenAll(users);
            }
        }
        Assert.True(jobs.Count >= 10 && searches >= 10, $"{jobs.Count} jobs, {searches} searches");
        await using (ServerProcess server = await ServerProcess.StartAsync(data))
        {
            foreach (string job in jobs)
            {
                JsonElement ended = await server.EndAsync(job);
                Assert.Equal("done", ended.GetProperty("state").GetString());
                Assert.DoesNotContain(ended.GetProperty("files").EnumerateArray(), f => f.GetProperty("outcome").GetString() == "failed");
            }
        }
        Directory.Delete(data, recursive: true);

        // A server that is gone refuses a connection, or ends one that was idle.
        static async Task UntilGoneAsync(Func<int, Task> ask)
        {
            for (int i = 0; ; i++)
            {
                try
                {
                    await ask(i);
                    await Task.Yield();
                }
                catch (HttpRequestException)
                {
                    return;
                }
            }
        }
    }

    [Fact]
    public async Task A_server_that_is_told_to_stop_while_it_starts_ends_with_zero_too()
    {
        var random = new Random(6);
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        for (int round = 0; round < 6; round++)
        {
            string data = Directory.CreateTempSubdirectory("diptych-start-").FullName;
            string[] arguments = [Host.Program, "serve", "--json", "--url", "http://127.0.0.1:0", "--data", data];
            using Process process = Process.Start(new ProcessStartInfo("dotnet", arguments)
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            })!;
            Task<string> log = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
            using var tick = new PeriodicTimer(TimeSpan.FromMilliseconds(10));
            // Signals are heard from before the database is opened.
            while (!File.Exists(Path.Combine(data, "diptych.db.lock")))
            {
                await tick.WaitForNextTickAsync(TestContext.Current.CancellationToken);
            }
            for (int ticks = random.Next(60); ticks > 0; ticks--)
            {
                await tick.WaitForNextTickAsync(TestContext.Current.CancellationToken);
            }
            using Process? signal = Process.Start("kill", ["-TERM", $"{process.Id}"]);
            await process.WaitForExitAsync(cancellation).WaitAsync(TimeSpan.FromSeconds(30), cancellation);
            Assert.True(process.ExitCode == 0, $"round {round} ended with {process.ExitCode}: {await log}");
            Directory.Delete(data, recursive: true);
        }
    }

    [Fact]
    public async Task An_upload_that_is_under_way_when_the_server_is_told_to_stop_is_taken_and_its_job_goes_on_at_the_next_start()
    {
        string data = Directory.CreateTempSubdirectory("diptych-stop-").FullName, job;
        await using (ServerProcess server = await ServerProcess.StartAsync(data))
        {
            var rest = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            using var file = new HeldContent("The ferry leaves ", rest.Task, "at seven.");
            using var form = new MultipartFormDataContent { { file, "file", "ferry.md" } };
            CancellationToken cancellation = TestContext.Current.CancellationToken;
            Task<HttpResponseMessage> upload = server.Client.PostAsync("/v1/collections/default/documents", form, cancellation);
            using var tick = new PeriodicTimer(TimeSpan.FromMilliseconds(20));
            string spool = Path.Combine(data, "spool");
            while (!Directory.Exists(spool) || Directory.GetFiles(spool).Length == 0)
            {
                await tick.WaitForNextTickAsync(TestContext.Current.CancellationToken);
            }
            Task<int> ended = server.TerminateAsync();
            using var other = new HttpClient { BaseAddress = server.Client.BaseAddress };
            while (await AnswersAsync(other))
            {
                await tick.WaitForNextTickAsync(TestContext.Current.CancellationToken);
            }
            rest.SetResult();
            HttpResponseMessage accepted = await upload;
            string said = await accepted.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
            Assert.True(accepted.StatusCode == HttpStatusCode.Accepted, said);
            job = JsonDocument.Parse(said).RootElement.GetProperty("id").GetString()!;
            Assert.Equal(0, await ended);
        }
        await using (ServerProcess server = await ServerProcess.StartAsync(data))
        {
            Assert.Equal("done", (await server.EndAsync(job)).GetProperty("state").GetString());
            Assert.Equal(1, (await server.GetAsync("/v1/collections/default/documents")).GetProperty("documents").GetArrayLength());
        }
        Directory.Delete(data, recursive: true);

        static async Task<bool> AnswersAsync(HttpClient client)
        {
            try
            {
                using var request = new HttpRequestMessage(HttpMethod.Get, "/healthz");
                request.Headers.ConnectionClose = true;
                using HttpResponseMessage response = await client.SendAsync(request);
                return true;
            }
            catch (HttpRequestException)
            {
                return false;
            }
        }
    }

    /// <summary>A file of which the second half comes later.</summary>
    private sealed class HeldContent(string first, Task rest, string second) : HttpContent
    {
        protected override async Task SerializeToStreamAsync(Stream stream, TransportContext? context)
        {
            await stream.WriteAsync(Encoding.UTF8.GetBytes(first));
            await stream.FlushAsync();
            await rest;
            await stream.WriteAsync(Encoding.UTF8.GetBytes(second));
        }

        protected override bool TryComputeLength(out long length)
        {
            length = 0;
            return false;
        }
    }

    private static async Task AskAsync(ServerProcess server, string query)
    {
        string json = JsonSerializer.Serialize(new { collection = "default", query });
        using var body = new StringContent(json, Encoding.UTF8, "application/json");
        using HttpResponseMessage found = await server.Client.PostAsync("/v1/search", body);
        Assert.True(found.StatusCode == HttpStatusCode.OK, await found.Content.ReadAsStringAsync());
    }
}
