using Diptych.Core;
using Diptych.Reading;
using MAB.DotIgnore;
using Microsoft.Extensions.FileSystemGlobbing;
using Matcher = Microsoft.Extensions.FileSystemGlobbing.Matcher;

namespace Diptych.Engine.Ingestion;

/// <summary>
/// Finds the files under folders. Nothing that a folder holds ends the walk: what cannot be read is a source of its own that fails with the
/// reason. Links, to files and to folders, are not followed; a path that is given is.
/// </summary>
public sealed class FileSources
{
    /// <summary>Beside what it rules over; the same patterns as a .gitignore file.</summary>
    public const string IgnoreFile = ".diptychignore";

    private readonly Dictionary<string, int> _skipped = new(StringComparer.OrdinalIgnoreCase);
    private readonly IReadOnlyList<string> _paths, _include, _exclude;

    /// <param name="paths">Files, which are taken as they are, and folders, which are searched.</param>
    /// <param name="include">Globs relative to the folder; none takes every file of a known format.</param>
    /// <exception cref="NotFoundException">A path does not exist.</exception>
    public FileSources(IReadOnlyList<string> paths, IReadOnlyList<string> include, IReadOnlyList<string> exclude)
    {
        (_paths, _include, _exclude) = (paths, include, exclude);
        foreach (string path in paths)
        {
            if (!Path.Exists(path))
            {
                throw new NotFoundException($"{path} does not exist.");
            }
        }
    }

    /// <summary>Files that no reader knows, by extension, and links, under "link"; complete once all have been found.</summary>
    public IReadOnlyDictionary<string, int> Skipped => _skipped;

    /// <returns>The sources, found as they are asked for.</returns>
    public static IEnumerable<IngestSource> Find(IReadOnlyList<string> paths, IReadOnlyList<string> include, IReadOnlyList<string> exclude) =>
        new FileSources(paths, include, exclude).Find();

    public IEnumerable<IngestSource> Find() => _paths.SelectMany(p => Directory.Exists(p) ? Under(Path.GetFullPath(p)) : [Of(new FileInfo(Path.GetFullPath(p)))]);

    private IEnumerable<IngestSource> Under(string root)
    {
        var matcher = new Matcher(StringComparison.OrdinalIgnoreCase);
        matcher.AddIncludePatterns(_include.Count > 0 ? _include : ["**/*"]);
        matcher.AddExcludePatterns(_exclude);
        bool Wanted(FileSystemInfo entry) => matcher.Match(Path.GetRelativePath(root, entry.FullName)).HasMatches;
        return Walk(new DirectoryInfo(root), [], Wanted).Select(source => source with { Root = root });
    }

    private IEnumerable<IngestSource> Walk(DirectoryInfo directory, IReadOnlyList<(string Directory, IgnoreList Rules)> ignores, Func<FileSystemInfo, bool> wanted)
    {
        FileSystemInfo[] entries;
        string? failure = null;
        try
        {
            string ignoreFile = Path.Combine(directory.FullName, IgnoreFile);
            if (File.Exists(ignoreFile))
            {
                ignores = [.. ignores, (directory.FullName, new IgnoreList(ignoreFile))];
            }
            entries = [.. directory.EnumerateFileSystemInfos().OrderBy(e => e.Name, StringComparer.Ordinal)];
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            (entries, failure) = ([], error.Message);
        }
        if (failure is not null)
        {
            yield return IngestSource.Unreadable(directory.FullName, $"The folder cannot be read: {failure}");
        }
        foreach (FileSystemInfo entry in entries)
        {
            // A hidden entry is not content.
            if (entry.Name.StartsWith('.') || ignores.Any(i => i.Rules.IsIgnored(Path.GetRelativePath(i.Directory, entry.FullName), entry is DirectoryInfo)))
            {
                continue;
            }
            if (entry.LinkTarget is not null || (entry is DirectoryInfo && entry.Attributes.HasFlag(FileAttributes.ReparsePoint)))
            {
                Skip("link");
            }
            else if (entry is DirectoryInfo inner)
            {
                foreach (IngestSource source in Walk(inner, ignores, wanted))
                {
                    yield return source;
                }
            }
            else if (wanted(entry))
            {
                if (_include.Count > 0 || MediaTypes.IsKnown(entry.FullName))
                {
                    yield return Of((FileInfo)entry);
                }
                else
                {
                    Skip(entry.Extension is { Length: > 0 } extension ? extension.ToLowerInvariant() : "no extension");
                }
            }
        }
    }

    private static IngestSource Of(FileInfo file)
    {
        file.Refresh();
        if (!file.Exists)
        {
            return IngestSource.Unreadable(file.FullName, file.Name.Contains('\uFFFD', StringComparison.Ordinal)
                ? "The file's name is not valid UTF-8: rename it."
                : "The file is no longer there.");
        }
        // Pipes, sockets and devices have no length either, and reading one could wait for ever.
        return file.Length == 0 ? IngestSource.Unreadable(file.FullName, "The file is empty (0 bytes), or no file but a pipe, a socket or a device.") : IngestSource.File(file.FullName);
    }

    private void Skip(string kind) => _skipped[kind] = _skipped.GetValueOrDefault(kind) + 1;
}
