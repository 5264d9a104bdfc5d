using System.CommandLine;
using System.Text.RegularExpressions;
using Diptych.App.Commands;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>What the guides show, typed as they show it.</summary>
[Collection(nameof(StartedServer))]
public sealed partial class DocumentedCommandTests(StartedServer server)
{
    private static readonly string Docs = Path.Combine(Host.Repository, "docs");

    [Fact]
    public async Task Every_curl_of_the_guides_succeeds_against_a_started_server()
    {
        string folder = Directory.CreateTempSubdirectory("diptych-docs-").FullName;
        string pdf = Directory.GetFiles(Path.Combine(Host.Samples, "documents"), "*.pdf").First();
        File.Copy(pdf, Path.Combine(folder, "report.pdf"));
        string[] calls = [.. Lines().Where(l => l.StartsWith("curl ", StringComparison.Ordinal))];
        Assert.NotEmpty(calls);
        foreach (string call in calls)
        {
            string here = call.Replace("curl ", "curl --silent --show-error --fail-with-body ", StringComparison.Ordinal)
                .Replace("http://127.0.0.1:7820", server.Url.ToString().TrimEnd('/'), StringComparison.Ordinal);
            var done = await Host.RunAsync("bash", ["-c", here], directory: folder);
            Assert.True(done.ExitCode == 0 && done.Output.Length > 0, $"{call}\n{done.Output}{done.Error}");
        }
        Directory.Delete(folder, recursive: true);
    }

    [Fact]
    public void Every_diptych_command_of_the_guides_parses()
    {
        string[] commands = [.. Lines().Where(l => l.StartsWith("diptych ", StringComparison.Ordinal))];
        Assert.NotEmpty(commands);
        foreach (string command in commands)
        {
            Assert.Empty(CommandLine.Root().Parse(command["diptych ".Length..]).Errors.Select(e => $"{command}: {e.Message}"));
        }
    }

    [Fact]
    public void Every_option_of_the_command_table_exists()
    {
        RootCommand root = CommandLine.Root();
        foreach (string row in File.ReadLines(Path.Combine(Docs, "cli.md")).Where(l => l.StartsWith("| `", StringComparison.Ordinal)))
        {
            string name = Regex.Match(row, "^\\| `(\\S+?)[ `]", RegexOptions.None, TimeSpan.FromSeconds(1)).Groups[1].Value;
            Command command = Assert.Single(root.Subcommands, c => c.Name == name);
            var known = command.Subcommands.Append(command).SelectMany(c => c.Options).Select(o => o.Name).ToHashSet(StringComparer.Ordinal);
            Assert.Empty(Option().Matches(row).Select(m => m.Value).Where(o => !known.Contains(o)).Select(o => $"{name} has no {o}"));
        }
    }

    /// <summary>The lines of the shell blocks.</summary>
    private static IEnumerable<string> Lines() =>
        Directory.GetFiles(Docs, "*.md").SelectMany(f => ShellBlock().Matches(File.ReadAllText(f))).SelectMany(m => m.Groups[1].Value.Split('\n'));

    [GeneratedRegex(@"```sh\n(.*?)```", RegexOptions.Singleline, 1000)]
    private static partial Regex ShellBlock();

    [GeneratedRegex("--[a-z-]+", RegexOptions.None, 1000)]
    private static partial Regex Option();
}
