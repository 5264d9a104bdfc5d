using System.Diagnostics;
using System.Text.Json;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>The machine that the tests run on: the repository, the built program, Debian's packages.</summary>
internal static class Host
{
    public static string Repository { get; } = FindRepository();

    public static string Samples { get; } = Path.Combine(Repository, "samples");

    public static string Program { get; } = Path.Combine(AppContext.BaseDirectory, "diptych.dll");

    /// <summary>Runs a command to its end.</summary>
    public static async Task<(int ExitCode, string Output, string Error)> RunAsync(string file, IReadOnlyList<string> arguments, string? input = null, string? directory = null)
    {
        using Process process = Process.Start(new ProcessStartInfo(file, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = directory ?? Path.GetTempPath(),
        })!;
        if (input is not null)
        {
            await process.StandardInput.WriteAsync(input);
        }
        process.StandardInput.Close();
        Task<string> output = process.StandardOutput.ReadToEndAsync(), error = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        return (process.ExitCode, await output, await error);
    }

    public static Task<(int ExitCode, string Output, string Error)> DiptychAsync(string data, params string[] arguments) =>
        RunAsync("dotnet", [Program, .. arguments, "--data", data]);

    /// <summary>Makes sure that a Debian package's file is there, by apt-get where it is not.</summary>
    public static async Task<string> DebianAsync(string package, string file)
    {
        if (!Path.Exists(file))
        {
            await RunAsync("apt-get", ["update"]);
            var install = await RunAsync("apt-get", ["install", "-y", "--no-install-recommends", package]);
            Assert.True(Path.Exists(file), $"{file} is not here, and apt-get install {package} did not bring it: {install.Error}");
        }
        return file;
    }

    private static string FindRepository()
    {
        string? directory = AppContext.BaseDirectory;
        while (directory is not null && !File.Exists(Path.Combine(directory, "Diptych.slnx")))
        {
            directory = Path.GetDirectoryName(directory);
        }
        return directory ?? throw new InvalidOperationException("The tests run from within the repository.");
    }
}

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
        _process = Process.Start(new ProcessStartInfo("dotnet", [Host.Program, "serve", "--json", "--url", "http://127.0.0.1:0", "--data", Data]) { RedirectStandardOutput = true })!;
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
