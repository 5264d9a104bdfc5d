using System.Diagnostics;
using System.Text.Json;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>A started server over a folder of its own.</summary>
public sealed class StartedServer : IAsyncLifetime
{
    private Process _process = null!;

    public string Data { get; } = Directory.CreateTempSubdirectory("diptych-server-").FullName;

    public HttpClient Client { get; } = new();

    public Uri Url { get; private set; } = null!;

    public async ValueTask InitializeAsync()
    {
        var ingest = await Host.DiptychAsync(Data, "ingest", Host.Samples, "-c", "samples", "--json");
        Assert.True(ingest.ExitCode == 0, ingest.Error + ingest.Output);
        _process = Process.Start(new ProcessStartInfo("dotnet", [Host.Program, "serve", "--json", "--url", "http://127.0.0.1:0", "--data", Data])
        {
            RedirectStandardOutput = true,
            // What it logs goes to the tests' own output.
            Environment = { ["DIPTYCH__LOGLEVEL"] = "Warning" },
        })!;
        using var line = JsonDocument.Parse((await _process.StandardOutput.ReadLineAsync())!);
        Url = new Uri(line.RootElement.GetProperty("url").GetString()!);
        Client.BaseAddress = Url;
    }

    public async ValueTask DisposeAsync()
    {
        // SIGTERM, as a service manager sends it: the server must stop by itself.
        using Process? signal = Process.Start("kill", ["-TERM", $"{_process.Id}"]);
        await _process.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(20));
        _process.Dispose();
        Client.Dispose();
        Directory.Delete(Data, recursive: true);
    }
}

[CollectionDefinition(nameof(StartedServer))]
public sealed class ServerCollection : ICollectionFixture<StartedServer>;
