using Diptych.Core;
using Diptych.Index.Jobs;

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

    /// <summary>How many bytes it has, where that is known before they are read.</summary>
    public long? SizeBytes { get; init; }

    /// <summary>The item of a job that ends with it.</summary>
    public ItemLease? Lease { get; init; }

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

    /// <summary>Something that was found and cannot be read, so that it is told by name.</summary>
    internal static IngestSource Unreadable(string path, string reason) => new(path, Path.GetFileName(path), _ => throw new UnreadableException(reason), KeepOriginal: false);
}
