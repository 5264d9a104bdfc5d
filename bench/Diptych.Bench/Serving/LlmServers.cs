using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using Diptych.SystemTests;

namespace Diptych.Bench.Serving;

/// <summary>A server that speaks OpenAI's completions, on loopback: ours, or llama.cpp's as Debian sid has it.</summary>
internal sealed class LlmServer : IAsyncDisposable
{
    private static readonly string Root = Path.Combine(Path.GetTempPath(), "diptych-llama-sid");
    private readonly Process _process;
    private readonly HttpClient _client;

    private LlmServer(string name, Process process, Uri url)
    {
        (Name, _process) = (name, process);
        // A connection for each request: llama-server closes idle ones while they are taken up again.
        _client = new HttpClient(new SocketsHttpHandler { MaxConnectionsPerServer = 512, PooledConnectionLifetime = TimeSpan.Zero }) { BaseAddress = url, Timeout = TimeSpan.FromMinutes(10) };
    }

    public string Name { get; }

    public static string Gguf { get; } = Path.GetFullPath(Path.Combine(Report.Shared, "models", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"));

    /// <summary>Our server as its own process, with the model added.</summary>
    /// <param name="adapters">Folders of adapters to add.</param>
    public static async Task<LlmServer> OursAsync(string data, params string[] adapters)
    {
        await OkAsync(data, "models", "add", Gguf, "--name", "smollm2");
        foreach (string adapter in adapters)
        {
            await OkAsync(data, "models", "add", adapter, "--name", Path.GetFileName(adapter));
        }
        Process process = Process.Start(new ProcessStartInfo("dotnet", [Host.Program, "serve", "--json", "--url", "http://127.0.0.1:0", "--data", data]) { RedirectStandardOutput = true })!;
        string line = await process.StandardOutput.ReadLineAsync() ?? throw new InvalidOperationException("The server did not start.");
        using var json = JsonDocument.Parse(line);
        var server = new LlmServer("Diptych", process, new Uri(json.RootElement.GetProperty("url").GetString()!));
        await server.ReadyAsync();
        return server;
    }

    /// <summary>llama.cpp's server with a slot for each of 16 answers.</summary>
    public static async Task<LlmServer> LlamaAsync()
    {
        string model = Path.Combine(Root, "m.gguf");
        if (!File.Exists(model))
        {
            await Host.DebianAsync("debootstrap", "/usr/sbin/debootstrap");
            if (!File.Exists(Path.Combine(Root, "usr", "bin", "llama-server")))
            {
                var made = await Host.RunAsync("debootstrap", ["--variant=minbase", "--include=llama.cpp", "sid", Root, "http://deb.debian.org/debian"]);
                if (made.ExitCode != 0)
                {
                    throw new InvalidOperationException(made.Output + made.Error);
                }
            }
            File.Copy(Gguf, model);
        }
        int port;
        using (var listener = new TcpListener(IPAddress.Loopback, 0))
        {
            listener.Start();
            port = ((IPEndPoint)listener.LocalEndpoint).Port;
        }
        string threads = $"{Environment.ProcessorCount}";
        Process process = Process.Start(new ProcessStartInfo("chroot",
            [Root, "llama-server", "-m", "/m.gguf", "-t", threads, "-tb", threads, "-np", "16", "-c", $"{16 * 2048}", "--host", "127.0.0.1", "--port", $"{port}"])
        { RedirectStandardOutput = true, RedirectStandardError = true })!;
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        var server = new LlmServer("llama-server", process, new Uri($"http://127.0.0.1:{port}"));
        await server.ReadyAsync();
        return server;
    }

    /// <summary>Sends a prompt and takes the answer as it comes. The end is held off, so that every answer has the tokens it was asked for.</summary>
    /// <param name="guess">Whether our server may look back.</param>
    public async Task<Streamed> CompleteAsync(string prompt, int tokens, string model = "smollm2", bool guess = false, CancellationToken cancellation = default)
    {
        byte[] body = JsonSerializer.SerializeToUtf8Bytes(new Dictionary<string, object>(StringComparer.Ordinal)
        {
            ["model"] = model,
            ["prompt"] = prompt,
            ["max_tokens"] = tokens,
            ["temperature"] = 0,
            ["stream"] = true,
            ["stream_options"] = new { include_usage = true },
            ["logit_bias"] = new Dictionary<string, int>(StringComparer.Ordinal) { ["0"] = -100, ["2"] = -100 },
            ["speculative"] = guess,
        });
        long start = TimeProvider.System.GetTimestamp();
        using var content = new ByteArrayContent(body);
        content.Headers.ContentType = new("application/json");
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions") { Content = content };
        using HttpResponseMessage response = await _client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancellation);
        if (!response.IsSuccessStatusCode)
        {
            throw new HttpRequestException($"{Name}: {response.StatusCode}: {await response.Content.ReadAsStringAsync(cancellation)}");
        }
        using var reader = new StreamReader(await response.Content.ReadAsStreamAsync(cancellation));
        var times = new List<double>();
        string text = "";
        int read = 0, written = 0;
        while (await reader.ReadLineAsync(cancellation) is { } line)
        {
            if (!line.StartsWith("data: {", StringComparison.Ordinal))
            {
                continue;
            }
            using var json = JsonDocument.Parse(line[6..]);
            if (json.RootElement.GetProperty("choices") is { } choices && choices.GetArrayLength() > 0)
            {
                times.Add(TimeProvider.System.GetElapsedTime(start).TotalSeconds);
                text += choices[0].GetProperty("text").GetString();
            }
            if (json.RootElement.TryGetProperty("usage", out JsonElement usage) && usage.ValueKind == JsonValueKind.Object)
            {
                (read, written) = (usage.GetProperty("prompt_tokens").GetInt32(), usage.GetProperty("completion_tokens").GetInt32());
            }
        }
        return new Streamed(times, text, read, written);
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        _process.Kill(entireProcessTree: true);
        await _process.WaitForExitAsync();
        _process.Dispose();
    }

    private async Task ReadyAsync()
    {
        for (int i = 0; ; i++)
        {
            try
            {
                await CompleteAsync("Hello", 2);
                return;
            }
            catch (HttpRequestException) when (i < 120 && !_process.HasExited)
            {
                await Task.Delay(TimeSpan.FromSeconds(0.5), TimeProvider.System);
            }
        }
    }

    private static async Task OkAsync(string data, params string[] arguments)
    {
        var run = await Host.DiptychAsync(data, arguments);
        if (run.ExitCode != 0)
        {
            throw new InvalidOperationException(run.Output + run.Error);
        }
    }

    /// <summary>An answer as it came.</summary>
    /// <param name="Times">Seconds from sending to each piece.</param>
    internal sealed record Streamed(IReadOnlyList<double> Times, string Text, int Read, int Written)
    {
        public double First => Times[0];

        public double TokensPerSecond => (Written - 1) / (Times[^1] - Times[0]);

        public IEnumerable<double> Gaps => Times.Zip(Times.Skip(1), (a, b) => b - a);
    }
}
