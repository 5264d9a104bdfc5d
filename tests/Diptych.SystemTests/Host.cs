using System.Diagnostics;

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
            if (!Path.Exists(file))
            {
                throw new InvalidOperationException($"{file} is not here, and apt-get install {package} did not bring it: {install.Error}");
            }
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
