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
}
