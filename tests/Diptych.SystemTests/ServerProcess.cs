using System.Diagnostics;
using System.Net;
using System.Text;
using System.Text.Json;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>A server that may be stopped, killed and started again over the same folder.</summary>
internal sealed class ServerProcess : IAsyncDisposable
{
    private readonly Process _process;
    private readonly Task<string> _log;

    private ServerProcess(Process process, Uri url, Task<string> log) =>
        (_process, Client, _log) = (process, new HttpClient { BaseAddress = url }, log);

    public HttpClient Client { get; }

    public int Id => _process.Id;

    /// <summary>What it wrote to standard error, once it has ended.</summary>
    public Task<string> LogAsync() => _log;

    /// <param name="settings">By their names without the prefix, such as ("SpoolMb", "1").</param>
    public static async Task<ServerProcess> StartAsync(string data, params (string Key, string Value)[] settings)
    {
        var start = new ProcessStartInfo("dotnet", [Host.Program, "serve", "--json", "--url", "http://127.0.0.1:0", "--data", data])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach (var (key, value) in settings)
        {
            start.Environment[$"DIPTYCH__{key.ToUpperInvariant()}"] = value;
        }
        Process process = Process.Start(start)!;
        Task<string> log = process.StandardError.ReadToEndAsync();
        string said = await process.StandardOutput.ReadLineAsync() ?? throw new InvalidOperationException($"It did not start: {await log}");
        using var line = JsonDocument.Parse(said);
        return new ServerProcess(process, new Uri(line.RootElement.GetProperty("url").GetString()!), log);
    }

    /// <summary>SIGKILL: nothing of it runs any more when this returns.</summary>
    public async Task KillAsync()
    {
        _process.Kill();
        await _process.WaitForExitAsync();
    }

    /// <summary>SIGTERM, as a service manager sends it.</summary>
    /// <returns>The exit code.</returns>
    public async Task<int> TerminateAsync()
    {
        using Process? signal = Process.Start("kill", ["-TERM", $"{_process.Id}"]);
        await _process.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(30));
        return _process.ExitCode;
    }

    /// <summary>Uploads files; the answer may be any.</summary>
    public async Task<HttpResponseMessage> PostFilesAsync(string collection, params IEnumerable<(string Name, byte[] Content)> files)
    {
        using var form = new MultipartFormDataContent();
        foreach (var (name, content) in files)
        {
            var part = new ByteArrayContent(content);
            part.Headers.TryAddWithoutValidation("Content-Disposition", $"form-data; name=\"file\"; filename=\"{name}\"");
            form.Add(part);
        }
        return await Client.PostAsync($"/v1/collections/{collection}/documents", form);
    }

    /// <summary>Uploads files that are taken.</summary>
    /// <returns>The job's id.</returns>
    public async Task<string> UploadAsync(string collection, params IEnumerable<(string Name, string Text)> files)
    {
        HttpResponseMessage accepted = await PostFilesAsync(collection, files.Select(f => (f.Name, Encoding.UTF8.GetBytes(f.Text))));
        Assert.True(accepted.StatusCode == HttpStatusCode.Accepted, await accepted.Content.ReadAsStringAsync());
        return (await JsonAsync(accepted)).GetProperty("id").GetString()!;
    }

    public async Task<JsonElement> GetAsync(string path) => await JsonAsync(await Client.GetAsync(path));

    /// <summary>Waits for a job's last event.</summary>
    /// <returns>The job.</returns>
    public async Task<JsonElement> EndAsync(string job)
    {
        await Client.GetStringAsync($"/v1/jobs/{job}/events");
        return await GetAsync($"/v1/jobs/{job}");
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
        {
            await KillAsync();
        }
        _process.Dispose();
        Client.Dispose();
    }

    private static async Task<JsonElement> JsonAsync(HttpResponseMessage response)
    {
        string text = await response.Content.ReadAsStringAsync();
        Assert.True(response.IsSuccessStatusCode, text);
        return JsonDocument.Parse(text).RootElement;
    }
}
