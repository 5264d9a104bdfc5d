using System.Diagnostics;
using Xunit;

namespace Diptych.SystemTests;

public sealed class FirstCommandTests
{
    /// <summary>Packages are in the cache; cloning, building, ingesting and serving are not.</summary>
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(120);

    [Fact]
    public async Task The_readmes_first_command_serves_the_page_from_a_clean_clone()
    {
        string readme = await File.ReadAllTextAsync(Path.Combine(Host.Repository, "README.md"));
        const string command = "dotnet run -c Release --project src/Diptych.App -- demo";
        Assert.Contains(command, readme, StringComparison.Ordinal);
        string clone = Directory.CreateTempSubdirectory("diptych-clone-").FullName, data = Directory.CreateTempSubdirectory("diptych-data-").FullName;
        try
        {
            Assert.Equal(0, (await Host.RunAsync("git", ["clone", "--quiet", Host.Repository, clone])).ExitCode);
            long start = TimeProvider.System.GetTimestamp();
            using Process demo = Process.Start(new ProcessStartInfo("dotnet", [.. command.Split(' ')[1..], "--url", "http://127.0.0.1:0", "--data", data])
            {
                WorkingDirectory = clone,
                RedirectStandardOutput = true,
            })!;
            var output = new List<string>();
            string? url = null;
            while (url is null && await demo.StandardOutput.ReadLineAsync() is { } line)
            {
                output.Add(line);
                url = line.StartsWith("Listening on ", StringComparison.Ordinal) ? line.Split(' ')[2] : null;
            }
            try
            {
                Assert.True(url is not null, string.Join('\n', output));
                using var client = new HttpClient();
                Assert.Contains("<title>Diptych</title>", await client.GetStringAsync(url), StringComparison.Ordinal);
                TimeSpan took = TimeProvider.System.GetElapsedTime(start);
                Assert.True(took <= Limit, $"{took.TotalSeconds:0} s");
                string all = string.Join('\n', output);
                Assert.Contains("flower.jpg", all, StringComparison.Ordinal);
                Assert.Contains("between 92 and 96 degrees", all, StringComparison.Ordinal);
                Assert.Contains("0 failed", all, StringComparison.Ordinal);
            }
            finally
            {
                demo.Kill(entireProcessTree: true);
                await demo.WaitForExitAsync();
            }
        }
        finally
        {
            Directory.Delete(clone, recursive: true);
            Directory.Delete(data, recursive: true);
        }
    }
}
