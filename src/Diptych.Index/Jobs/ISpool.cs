using Diptych.Core;

namespace Diptych.Index.Jobs;

/// <summary>Where uploaded and fetched bytes wait until they are ingested: on this machine's disk, or where every node can read them.</summary>
public interface ISpool
{
    /// <summary>Keeps the bytes: they are on disk when this returns.</summary>
    /// <param name="maxBytes">A longer content is refused, and nothing of it stays.</param>
    /// <returns>Its name, its length, and its SHA-256 in lower-case hex.</returns>
    /// <exception cref="UnreadableException">The content is longer than allowed.</exception>
    /// <exception cref="StorageFullException">The spool's bound or the disk's end is reached.</exception>
    Task<SpooledFile> WriteAsync(Stream content, long maxBytes, CancellationToken cancellation);

    /// <exception cref="FileNotFoundException">It is not there.</exception>
    Task<byte[]> ReadAsync(string name, CancellationToken cancellation);

    /// <summary>Gives the room back; nothing happens where it is gone.</summary>
    Task DeleteAsync(string name, CancellationToken cancellation);

    /// <summary>Deletes what a crash left between being written and being part of a job.</summary>
    /// <param name="needed">The names that jobs still need.</param>
    /// <param name="olderThan">What is younger may be about to become part of a job.</param>
    Task SweepAsync(IReadOnlySet<string> needed, TimeSpan olderThan, CancellationToken cancellation);
}

/// <param name="Hash">SHA-256, lower-case hex.</param>
public sealed record SpooledFile(string Name, long Bytes, string Hash);
