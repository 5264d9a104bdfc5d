using System.Diagnostics;
using Diptych.Core;
using Diptych.Engine.Ingestion;
using Xunit;

namespace Diptych.Tests.Engine;

public sealed class FileSourcesTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-walk-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task What_cannot_be_read_is_told_by_name_and_nothing_waits_for_a_pipe()
    {
        Write("ok.txt", "The ferry leaves at nine.");
        Write("empty.txt", "");
        if (!OperatingSystem.IsWindows())
        {
            using Process make = Process.Start("mkfifo", Path.Combine(_folder, "pipe.txt"));
            await make.WaitForExitAsync(TestContext.Current.CancellationToken);
        }
        var read = await ReadAsync(FileSources.Find([_folder], [], []));
        Assert.Equal("The ferry leaves at nine.", read["ok.txt"]);
        Assert.Contains("empty", read["empty.txt"], StringComparison.Ordinal);
        if (!OperatingSystem.IsWindows())
        {
            Assert.Contains("pipe", read["pipe.txt"], StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task Links_are_not_followed_and_counted_whatever_they_lead_to()
    {
        Write("in/a.txt", "Inside.");
        Write("out/b.txt", "Outside.");
        string root = Path.Combine(_folder, "in");
        File.CreateSymbolicLink(Path.Combine(root, "to-file.txt"), Path.Combine(_folder, "out", "b.txt"));
        File.CreateSymbolicLink(Path.Combine(root, "dangling.txt"), Path.Combine(_folder, "nowhere"));
        File.CreateSymbolicLink(Path.Combine(root, "loop.txt"), Path.Combine(root, "loop.txt"));
        Directory.CreateSymbolicLink(Path.Combine(root, "up"), _folder);
        var files = new FileSources([root], [], []);
        Assert.Equal(["a.txt"], (await ReadAsync(files.Find())).Keys);
        Assert.Equal(4, files.Skipped["link"]);
        // What is named is followed.
        Assert.Equal("Outside.", (await ReadAsync(FileSources.Find([Path.Combine(root, "to-file.txt")], [], [])))["to-file.txt"]);
        Assert.Contains("b.txt", (await ReadAsync(FileSources.Find([Path.Combine(root, "up", "out")], [], []))).Keys);
    }

    [Fact]
    public async Task Files_without_a_reader_are_counted_by_kind()
    {
        foreach (string name in new[] { "a.doc", "b.DOC", "c.heic", "LICENSE2", "n.txt", ".hidden.doc" })
        {
            Write(name, "words");
        }
        var files = new FileSources([_folder], [], []);
        Assert.Equal(["n.txt"], (await ReadAsync(files.Find())).Keys);
        Assert.Equal((2, 1, 1), (files.Skipped[".doc"], files.Skipped[".heic"], files.Skipped["no extension"]));
        Assert.Empty(new FileSources([_folder], [], ["**/*.doc", "**/*.heic", "**/LICENSE2"]) is var fewer && fewer.Find().Count() == 1 ? fewer.Skipped.Keys.Except([".doc"]) : ["found"]);
    }

    [Fact]
    public async Task A_file_that_vanishes_in_between_fails_alone()
    {
        Write("a.txt", "First.");
        Write("b.txt", "Second.");
        var sources = FileSources.Find([_folder], [], []).ToList();
        File.Delete(Path.Combine(_folder, "a.txt"));
        var read = await ReadAsync(sources);
        Assert.Contains("a.txt", read["a.txt"], StringComparison.Ordinal);
        Assert.Equal("Second.", read["b.txt"]);
    }

    [Fact]
    public void A_path_that_is_not_there_is_refused_at_once() =>
        Assert.Throws<NotFoundException>(() => new FileSources([Path.Combine(_folder, "nowhere")], [], []));

    private void Write(string name, string text)
    {
        string path = Path.Combine(_folder, name);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, text);
    }

    /// <returns>By name the content, or why there is none.</returns>
    private static async Task<Dictionary<string, string>> ReadAsync(IEnumerable<IngestSource> sources)
    {
        var read = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (IngestSource source in sources)
        {
            try
            {
                read[source.Name] = System.Text.Encoding.UTF8.GetString(await source.Read(TestContext.Current.CancellationToken));
            }
            catch (Exception error) when (error is UnreadableException or IOException)
            {
                read[source.Name] = error.Message;
            }
        }
        return read;
    }
}
