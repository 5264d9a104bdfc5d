using Diptych.Core;
using MAB.DotIgnore;
using Microsoft.Extensions.FileSystemGlobbing;
using Matcher = Microsoft.Extensions.FileSystemGlobbing.Matcher;

namespace Diptych.Engine.Ingestion;

/// <summary>Something to ingest, not read yet.</summary>
/// <param name="Source">Its identity within the collection: a full path, a URL, or <c>upload:name</c>.</param>
/// <param name="Name">File name with extension.</param>
/// <param name="Read">Gives the bytes.</param>
/// <param name="KeepOriginal">Whether the store keeps the bytes, since no file on this machine does.</param>
/// <param name="MediaType">What the sender said it is, where one did.</param>
public sealed record IngestSource(
    string Source,
    string Name,
    Func<CancellationToken, Task<byte[]>> Read,
    bool KeepOriginal,
    string? MediaType = null,
    Metadata? Metadata = null)
{
    /// <summary>The folder of a file, where its relative references are looked up.</summary>
    public string? Directory { get; init; }

    /// <summary>The folder that relative references may not leave; by default <see cref="Directory"/>.</summary>
    public string? Root { get; init; }

    /// <summary>The bytes, where they are in memory.</summary>
    public byte[]? Held { get; init; }

    public static IngestSource File(string path)
    {
        string full = Path.GetFullPath(path);
        return new IngestSource(full, Path.GetFileName(full), c => System.IO.File.ReadAllBytesAsync(full, c), KeepOriginal: false)
        {
            Directory = Path.GetDirectoryName(full),
        };
    }

    public static IngestSource Bytes(string source, string name, byte[] bytes, string? mediaType = null, Metadata? metadata = null) =>
        new(source, name, _ => Task.FromResult(bytes), KeepOriginal: true, mediaType, metadata) { Held = bytes };
}

/// <summary>Finds the files under folders.</summary>
public static class FileSources
{
    /// <summary>Beside what it rules over; the same patterns as a .gitignore file.</summary>
    public const string IgnoreFile = ".diptychignore";

    /// <param name="paths">Files, which are taken as they are, and folders, which are searched.</param>
    /// <param name="include">Globs relative to the folder; none takes every file of a known format.</param>
    /// <exception cref="NotFoundException">A path does not exist.</exception>
    public static IEnumerable<IngestSource> Find(IReadOnlyList<string> paths, IReadOnlyList<string> include, IReadOnlyList<string> exclude)
    {
        foreach (string path in paths)
        {
            if (!Path.Exists(path))
            {
                throw new NotFoundException($"{path} does not exist.");
            }
        }
        return paths.SelectMany(p => File.Exists(p) ? [IngestSource.File(p)] : Under(Path.GetFullPath(p), include, exclude));
    }

    private static IEnumerable<IngestSource> Under(string root, IReadOnlyList<string> include, IReadOnlyList<string> exclude)
    {
        var matcher = new Matcher(StringComparison.OrdinalIgnoreCase);
        matcher.AddIncludePatterns(include.Count > 0 ? include : ["**/*"]);
        matcher.AddExcludePatterns(exclude);
        return Walk(root, root, []).Where(file =>
            (include.Count > 0 || MediaTypes.IsKnown(file)) && matcher.Match(Path.GetRelativePath(root, file)).HasMatches).Select(file => IngestSource.File(file) with { Root = root });
    }

    private static IEnumerable<string> Walk(string root, string directory, IReadOnlyList<(string Directory, IgnoreList Rules)> ignores)
    {
        string ignoreFile = Path.Combine(directory, IgnoreFile);
        if (File.Exists(ignoreFile))
        {
            ignores = [.. ignores, (directory, new IgnoreList(ignoreFile))];
        }
        foreach (var entry in new DirectoryInfo(directory).EnumerateFileSystemInfos().OrderBy(e => e.Name, StringComparer.Ordinal))
        {
            bool isDirectory = entry is DirectoryInfo;
            // Hidden entries are not content, and a link could lead back up.
            if (entry.Name.StartsWith('.') || (isDirectory && entry.Attributes.HasFlag(FileAttributes.ReparsePoint))
                || ignores.Any(i => i.Rules.IsIgnored(Path.GetRelativePath(i.Directory, entry.FullName), isDirectory)))
            {
                continue;
            }
            if (!isDirectory)
            {
                yield return entry.FullName;
                continue;
            }
            foreach (string file in Walk(root, entry.FullName, ignores))
            {
                yield return file;
            }
        }
    }
}
