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

    /// <summary>The files are a job's now.</summary>
    void Claim(IEnumerable<string> names);

    /// <summary>Deletes what a crash left between being written and being claimed.</summary>
    /// <param name="claimed">The files of jobs, asked after the files have been listed.</param>
    Task SweepAsync(Func<CancellationToken, Task<IReadOnlySet<string>>> claimed, CancellationToken cancellation);
}

/// <param name="Hash">SHA-256, lower-case hex.</param>
public sealed record SpooledFile(string Name, long Bytes, string Hash);
