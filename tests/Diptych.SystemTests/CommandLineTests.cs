using System.Diagnostics;
using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Sqlite;
using Xunit;

namespace Diptych.SystemTests;

public sealed class CommandLineTests : IDisposable
{
    private readonly string _data = Directory.CreateTempSubdirectory("diptych-cli-").FullName;

    public void Dispose() => Directory.Delete(_data, recursive: true);

    [Fact]
    public async Task Standard_input_is_ingested_searched_listed_shown_and_deleted()
    {
        var ingest = await Host.RunAsync("dotnet", [Host.Program, "ingest", "-", "--name", "ferry.md", "-m", "line=12", "--json", "--data", _data], "# Ferry\n\nThe ferry leaves at seven.");
        Assert.Equal(0, ingest.ExitCode);
        Assert.Contains("\"outcome\":\"added\"", ingest.Output, StringComparison.Ordinal);
        var search = await Host.DiptychAsync(_data, "search", "when does the ferry leave", "--filter", "line=12", "--json");
        using var found = JsonDocument.Parse(search.Output);
        Assert.Equal("The ferry leaves at seven.", found.RootElement.GetProperty("hits")[0].GetProperty("text").GetString());
        var ask = await Host.DiptychAsync(_data, "ask", "When does the ferry leave?");
        Assert.Equal((0, "The ferry leaves at seven. [1]"), (ask.ExitCode, ask.Output.Split('\n')[0]));
        Assert.Contains("ferry.md", (await Host.DiptychAsync(_data, "documents", "list")).Output, StringComparison.Ordinal);
        Assert.Equal(0, (await Host.DiptychAsync(_data, "documents", "show", "1")).ExitCode);
        Assert.Equal(0, (await Host.DiptychAsync(_data, "documents", "delete", "1")).ExitCode);
        Assert.Equal(1, (await Host.DiptychAsync(_data, "documents", "delete", "1")).ExitCode);
        Assert.Equal(0, (await Host.DiptychAsync(_data, "doctor")).ExitCode);
        Assert.Contains("starter-text", (await Host.DiptychAsync(_data, "models", "list", "--json")).Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_backup_is_restored_elsewhere_and_answers_the_same()
    {
        Assert.Equal(0, (await Host.RunAsync("dotnet", [Host.Program, "ingest", "-", "--name", "ferry.md", "--data", _data], "The ferry leaves at seven.")).ExitCode);
        string file = Path.Combine(_data, "copy"), other = Path.Combine(_data, "other");
        var backup = await Host.DiptychAsync(_data, "backup", file, "--json");
        var restore = await Host.DiptychAsync(other, "restore", file, "--json");
        Assert.True(backup.ExitCode == 0 && restore.ExitCode == 0, backup.Error + restore.Error);
        Assert.Equal(backup.Output, restore.Output);
        Assert.Contains("leaves at seven", (await Host.DiptychAsync(other, "ask", "When does the ferry leave?")).Output, StringComparison.Ordinal);
        Assert.Equal(2, (await Host.DiptychAsync(other, "restore", file)).ExitCode);
        Assert.Equal(2, (await Host.DiptychAsync(_data, "backup", file)).ExitCode);
        Assert.Equal(0, (await Host.DiptychAsync(_data, "backup", file, "--force")).ExitCode);
        Assert.Equal(0, (await Host.DiptychAsync(other, "restore", file, "--force")).ExitCode);
        Assert.Equal(0, (await Host.DiptychAsync(other, "doctor", "--repair")).ExitCode);
    }

    [Theory]
    [InlineData("http_proxy", "http://example.org/")]
    [InlineData("HTTPS_PROXY", "https://example.org/")]
    [InlineData("ALL_PROXY", "https://example.org/")]
    public async Task Behind_a_proxy_from_the_environment_a_host_that_is_not_listed_is_refused_in_words(string variable, string url)
    {
        var run = await Host.RunAsync("env", [$"{variable}=http://127.0.0.1:9", "dotnet", Host.Program, "ingest", url, "--data", _data]);
        Assert.True(run.ExitCode == 3, $"exit code {run.ExitCode}: {run.Error}");
        Assert.Contains("list the host in Diptych:UrlHosts", run.Output + run.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1, "PostgreSQL does not answer", "search", "a", "--store", "postgres://127.0.0.1:1/none")]
    [InlineData(2, "postgres://", "search", "a", "--store", "nonsense")]
    [InlineData(1, "does not exist", "ingest", "/no/such/folder")]
    [InlineData(1, "no collection 'default'", "search", "a")]
    [InlineData(2, "Say what to look for", "search")]
    [InlineData(2, "is not a filter", "search", "a", "--filter", "nonsense")]
    [InlineData(2, "Unrecognized command", "serach", "a")]
    [InlineData(2, "Diptych:Url", "serve", "--url", "not an address")]
    [InlineData(2, "Llm:Model", "serve", "--llm", "http://127.0.0.1:1/v1")]
    [InlineData(2, "settings file", "doctor", "--config", "/no/such.json")]
    public async Task A_mistake_is_one_sentence_and_an_exit_code(int exitCode, string words, params string[] arguments)
    {
        var run = await Host.DiptychAsync(_data, arguments);
        Assert.True(run.ExitCode == exitCode, $"exit code {run.ExitCode}: {run.Error}");
        Assert.Contains(words, run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_broken_file_is_reported_and_the_others_are_ingested()
    {
        string folder = Directory.CreateDirectory(Path.Combine(_data, "in")).FullName;
        await File.WriteAllTextAsync(Path.Combine(folder, "good.txt"), "A good file.");
        await File.WriteAllBytesAsync(Path.Combine(folder, "empty.pdf"), []);
        var run = await Host.DiptychAsync(_data, "ingest", folder);
        Assert.Equal(3, run.ExitCode);
        Assert.Contains("empty.pdf: The file is empty (0 bytes)", run.Output, StringComparison.Ordinal);
        Assert.Contains("1 added", run.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Completion_and_help_name_every_command()
    {
        Assert.Contains("complete -F", (await Host.DiptychAsync(_data, "completion", "bash")).Output, StringComparison.Ordinal);
        string help = (await Host.DiptychAsync(_data, "--help")).Output;
        Assert.All(new[] { "demo", "serve", "ingest", "search", "ask", "documents", "models", "eval", "doctor", "completion" }, c => Assert.Contains(c, help, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(15)]
    [InlineData(45)]
    [InlineData(90)]
    public async Task Killing_an_ingest_loses_nothing_that_it_acknowledged(int afterEvents)
    {
        string folder = Directory.CreateDirectory(Path.Combine(_data, "many")).FullName;
        for (int i = 0; i < 400; i++)
        {
            await File.WriteAllTextAsync(Path.Combine(folder, $"{i:000}.txt"), $"Note {i}.\n\nFirst part about item {i}.\n\nSecond part about item {i}.");
        }
        var acknowledged = new List<long>();
        using (Process process = Process.Start(new ProcessStartInfo("dotnet", [Host.Program, "ingest", folder, "--json", "--data", _data]) { RedirectStandardOutput = true })!)
        {
            while (acknowledged.Count < afterEvents && await process.StandardOutput.ReadLineAsync() is { } line)
            {
                using var json = JsonDocument.Parse(line);
                acknowledged.Add(json.RootElement.GetProperty("document_id").GetInt64());
            }
            process.Kill();
            await process.WaitForExitAsync();
        }
        var spaces = Runtimes();
        using SqliteStore store = SqliteStore.Open(Path.Combine(_data, "diptych.db"), spaces.Text, spaces.Cross, TimeProvider.System);
        Assert.Empty(store.CheckIntegrity());
        var documents = store.Documents("default");
        Assert.Subset(documents.Select(d => d.Id).ToHashSet(), acknowledged.ToHashSet());
        Assert.All(documents, d => Assert.Equal(d.PassageCount, store.Passages(d.Id).Count));
    }

    private static (EmbeddingSpace Text, EmbeddingSpace Cross) Runtimes()
    {
        var (text, image, _) = Diptych.Runtimes.StarterModel.Open(Path.Combine(Host.Repository, "models", "starter"));
        return (new EmbeddingSpace("text", 384, text.Description.Name, text.Description.Revision), new EmbeddingSpace("cross", 256, image.Description.Name, image.Description.Revision));
    }
}
