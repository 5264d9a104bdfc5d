using System.Net;
using System.Text;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>A disk that runs full while documents are ingested: a small tmpfs.</summary>
public sealed class FullDiskTests
{
    [Fact]
    public async Task A_full_disk_is_said_to_be_full_and_what_was_acknowledged_stays()
    {
        string disk = Directory.CreateTempSubdirectory("diptych-disk-").FullName, notes = Directory.CreateTempSubdirectory("diptych-notes-").FullName;
        var mount = await Host.RunAsync("mount", ["-t", "tmpfs", "-o", "size=12m", "tmpfs", disk]);
        Assert.True(mount.ExitCode == 0, mount.Error);
        try
        {
            var random = new Random(4);
            string[] words = "river stone lamp cloud paper engine garden window harbour winter copper violin".Split(' ');
            for (int i = 0; i < 60; i++)
            {
                var text = new StringBuilder();
                for (int w = 0; w < 25_000; w++)
                {
                    text.Append(words[random.Next(words.Length)]).Append(w % 12 == 11 ? ". " : " ");
                }
                await File.WriteAllTextAsync(Path.Combine(notes, $"{i:00}.txt"), text.ToString()[..2000] + i);
                await File.WriteAllTextAsync(Path.Combine(notes, $"{i:00}.md"), $"# Note {i}\n\n{text.ToString()[..3000]}");
            }
            // Something else takes most of what is left.
            await File.WriteAllBytesAsync(Path.Combine(disk, "other"), new byte[9 << 20]);
            var full = await Host.DiptychAsync(disk, "ingest", notes, "--json");
            Assert.True(full.ExitCode == 1 && full.Error.Contains("full", StringComparison.OrdinalIgnoreCase), $"{full.ExitCode}: {full.Error}");
            Assert.DoesNotContain("   at ", full.Error, StringComparison.Ordinal);
            File.Delete(Path.Combine(disk, "other"));
            var sound = await Host.DiptychAsync(disk, "doctor");
            Assert.True(sound.ExitCode == 0, sound.Output + sound.Error);
            var again = await Host.DiptychAsync(disk, "ingest", notes, "--json");
            Assert.True(again.ExitCode == 0, again.Output + again.Error);
            var found = await Host.DiptychAsync(disk, "search", "violin harbour", "--json");
            Assert.True(found.ExitCode == 0, found.Error);
        }
        finally
        {
            await Host.RunAsync("umount", [disk]);
            Directory.Delete(disk, recursive: true);
            Directory.Delete(notes, recursive: true);
        }
    }

    [Fact]
    public async Task A_server_on_a_full_disk_says_so_and_goes_on_by_itself_when_there_is_room()
    {
        string disk = Directory.CreateTempSubdirectory("diptych-disk-").FullName, other = Path.Combine(disk, "other");
        var mount = await Host.RunAsync("mount", ["-t", "tmpfs", "-o", "size=32m", "tmpfs", disk]);
        Assert.True(mount.ExitCode == 0, mount.Error);
        try
        {
            CancellationToken cancellation = TestContext.Current.CancellationToken;
            await using ServerProcess server = await ServerProcess.StartAsync(disk, ("MinFreeMb", "4"));
            Assert.StartsWith("ready", await server.Client.GetStringAsync("/readyz", cancellation), StringComparison.Ordinal);
            await Fill(other);
            string note = string.Join('\n', Enumerable.Range(0, 20_000).Select(i => $"The heron waits beside pond {i}."));
            await AssertFullAsync(() => server.PostFilesAsync("default", ("note.md", Encoding.UTF8.GetBytes(note))));
            int made = 0;
            await AssertFullAsync(async () =>
            {
                HttpResponseMessage? response;
                do
                {
                    using var body = new StringContent($"{{\"name\":\"c{made++}\"}}", Encoding.UTF8, "application/json");
                    response = await server.Client.PostAsync("/v1/collections", body);
                }
                while (response.IsSuccessStatusCode && made < 2000);
                return response;
            });
            HttpResponseMessage unready = await server.Client.GetAsync("/readyz", cancellation);
            Assert.Equal(HttpStatusCode.ServiceUnavailable, unready.StatusCode);
            Assert.Contains("make room", await unready.Content.ReadAsStringAsync(cancellation), StringComparison.Ordinal);
            // It lives, and can be asked.
            Assert.Equal("ok", await server.Client.GetStringAsync("/healthz", cancellation));
            await server.GetAsync("/v1/collections");
            File.Delete(other);
            using var tick = new PeriodicTimer(TimeSpan.FromMilliseconds(200));
            while (!(await server.Client.GetAsync("/readyz", cancellation)).IsSuccessStatusCode)
            {
                await tick.WaitForNextTickAsync(cancellation);
            }
            await server.EndAsync(await server.UploadAsync("default", ("short.md", "The heron waits beside the pond.")));
            Assert.Equal(1, (await server.GetAsync("/v1/collections/default/documents")).GetProperty("documents").GetArrayLength());
            Assert.Equal(0, await server.TerminateAsync());
        }
        finally
        {
            await Host.RunAsync("umount", [disk]);
            Directory.Delete(disk, recursive: true);
        }

        static async Task AssertFullAsync(Func<Task<HttpResponseMessage>> write)
        {
            HttpResponseMessage response = await write();
            string said = await response.Content.ReadAsStringAsync();
            Assert.True((int)response.StatusCode == 507, $"{response.StatusCode}: {said}");
            Assert.Contains("full", said, StringComparison.Ordinal);
        }

        static async Task Fill(string file)
        {
            await using var stream = new FileStream(file, FileMode.Create, FileAccess.Write, FileShare.None, 0);
            byte[] block = new byte[4096];
            try
            {
                while (true)
                {
                    await stream.WriteAsync(block);
                }
            }
            catch (IOException)
            {
                // That was the last block.
            }
        }
    }
}
