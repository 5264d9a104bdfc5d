using System.Text;
using Diptych.Core;
using Diptych.Reading;
using Diptych.Reading.Processes;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>Readers that take too much, never end or break: each costs its file alone, in time, and the next file is read.</summary>
public sealed class ReaderPoolTests : IDisposable
{
    private static readonly ReaderLimits Limits = new()
    {
        MemoryBytes = 256L << 20,
        CpuTime = TimeSpan.FromSeconds(3),
        Time = TimeSpan.FromSeconds(20),
        Characters = 5_000_000,
        OutputBytes = 64L << 20,
    };

    private readonly ReaderPool _pool = new(new ReaderCommand("dotnet", [Path.Combine(AppContext.BaseDirectory, "Diptych.ReaderChild.dll")]), Limits, TimeProvider.System, 2);

    public void Dispose() => _pool.Dispose();

    [Theory]
    [InlineData("allocate", "memory", ReadFailure.Memory)]
    [InlineData("native", "memory", ReadFailure.Memory)]
    [InlineData("recurse", "nested too deeply", ReadFailure.Depth)]
    [InlineData("spin", "3 s of processor time", ReadFailure.CpuTime)]
    [InlineData("sleep", "longer than 20 s", ReadFailure.Time)]
    [InlineData("write", "5,000,000 characters", ReadFailure.Output)]
    [InlineData("giant", "5,000,000 characters", ReadFailure.Output)]
    [InlineData("garbage", "cannot be", ReadFailure.Crash)]
    [InlineData("exit", "exit code 3", ReadFailure.Crash)]
    [InlineData("abort", "exit code", ReadFailure.Crash)]
    [InlineData("throw", "A bug in a reader", ReadFailure.Content)]
    public void A_reader_that_misbehaves_costs_its_file_alone(string what, string words, ReadFailure failure)
    {
        long start = TimeProvider.System.GetTimestamp();
        UnreadableException error = Assert.Throws<UnreadableException>(() => Read($"{what}.txt"));
        TimeSpan took = TimeProvider.System.GetElapsedTime(start);
        Assert.Contains(words, error.Message, StringComparison.Ordinal);
        Assert.Equal(failure, error.Failure);
        Assert.True(took < Limits.Time + TimeSpan.FromSeconds(5), $"took {took.TotalSeconds:0.0} s");
        Assert.Equal("A sound file.", Read("sound.txt").Blocks.Single().Text);
    }

    [Fact]
    public async Task Others_are_read_while_one_misbehaves()
    {
        Task<UnreadableException> spinning = Task.Run(() => Assert.Throws<UnreadableException>(() => Read("spin.txt")), TestContext.Current.CancellationToken);
        for (int i = 0; i < 20; i++)
        {
            Assert.Equal("A sound file.", Read("sound.txt").Blocks.Single().Text);
        }
        Assert.False(spinning.IsCompleted, "twenty files took longer than the limit of one");
        await spinning;
    }

    [Fact]
    public async Task Who_gives_up_waits_no_longer_and_leaves_nothing_running()
    {
        using var given = new CancellationTokenSource();
        Task read = Task.Run(() => Read("sleep.txt", given.Token), CancellationToken.None);
        given.CancelAfter(TimeSpan.FromSeconds(1));
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => read.WaitAsync(TimeSpan.FromSeconds(4), TestContext.Current.CancellationToken));
        _pool.Dispose();
        // One that was being started ahead ends when it has begun.
        for (int i = 0; i < 100 && Children().Any(); i++)
        {
            await Task.Delay(TimeSpan.FromMilliseconds(50), TimeProvider.System, TestContext.Current.CancellationToken);
        }
        Assert.Empty(Children());
    }

    [Fact]
    public async Task A_reader_does_not_outlive_the_program_that_was_killed()
    {
        string data = Directory.CreateTempSubdirectory("diptych-orphan-").FullName;
        try
        {
            await using ServerProcess server = await ServerProcess.StartAsync(data);
            await server.EndAsync(await server.UploadAsync("c", ("a.txt", "A note.")));
            int[] readers = [.. Children(server.Id)];
            Assert.NotEmpty(readers);
            await server.KillAsync();
            for (int i = 0; i < 100 && readers.Any(Runs); i++)
            {
                await Task.Delay(TimeSpan.FromMilliseconds(50), TimeProvider.System, TestContext.Current.CancellationToken);
            }
            Assert.DoesNotContain(readers, Runs);
        }
        finally
        {
            Directory.Delete(data, recursive: true);
        }
    }

    private ReadDocument Read(string name, CancellationToken cancellation = default) =>
        _pool.Read(new SourceFile(name, Encoding.UTF8.GetBytes("A sound file.")), "text/plain", 0, cancellation).ToDocument();

    private static bool Runs(int process) => Text($"/proc/{process}/stat") is { Length: > 0 } state && !state.Contains(") Z ", StringComparison.Ordinal);

    /// <summary>What the system says of a thread or process; nothing where it has ended meanwhile.</summary>
    private static string Text(string path)
    {
        try
        {
            return File.ReadAllText(path);
        }
        catch (IOException)
        {
            return "";
        }
    }

    /// <summary>Processes that read, started by a process: by this one where none is named.</summary>
    private static IEnumerable<int> Children(int? parent = null)
    {
        int of = parent ?? Environment.ProcessId;
        return Directory.GetDirectories($"/proc/{of}/task").SelectMany(t => Text(Path.Combine(t, "children")).Split(' ', StringSplitOptions.RemoveEmptyEntries))
            .Select(c => int.Parse(c, System.Globalization.CultureInfo.InvariantCulture))
            .Where(c => Runs(c) && Text($"/proc/{c}/cmdline") is var command && (parent is null ? command.Contains("ReaderChild", StringComparison.Ordinal) : command.Contains("reader", StringComparison.Ordinal)));
    }
}
