using System.Collections.Concurrent;
using System.Security.Cryptography;
using Diptych.Core;

namespace Diptych.Index.Jobs;

/// <summary>Spooled bytes as files of one folder, flushed to the disk one by one.</summary>
/// <param name="folder">Made when it is needed.</param>
/// <param name="capacityBytes">Most bytes in it at a time.</param>
public sealed class FolderSpool(string folder, long capacityBytes, TimeProvider time) : ISpool
{
    private const int BufferBytes = 1 << 17;

    /// <summary>A file of another process that is younger may be about to become part of a job.</summary>
    private static readonly TimeSpan Abandoned = TimeSpan.FromHours(1);

    private readonly Lock _lock = new();

    /// <summary>Files that this process writes, or has written for what is not a job yet.</summary>
    private readonly ConcurrentDictionary<string, bool> _unclaimed = new(StringComparer.Ordinal);
    private long? _used;

    public async Task<SpooledFile> WriteAsync(Stream content, long maxBytes, CancellationToken cancellation)
    {
        string name = Guid.NewGuid().ToString("N"), path = PathOf(name);
        _unclaimed[name] = true;
        long length = 0;
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        try
        {
            CreateFolder();
            byte[] buffer = new byte[BufferBytes];
            await using (var file = new FileStream(path, FileMode.CreateNew, FileAccess.Write, FileShare.None, 0, useAsync: true))
            {
                for (int read; (read = await content.ReadAsync(buffer, cancellation).ConfigureAwait(false)) > 0;)
                {
                    if (length + read > maxBytes)
                    {
                        throw new UnreadableException($"The content has more than the limit of {maxBytes >> 20} MB.");
                    }
                    Take(read);
                    length += read;
                    hash.AppendData(buffer, 0, read);
                    await file.WriteAsync(buffer.AsMemory(0, read), cancellation).ConfigureAwait(false);
                }
                file.Flush(flushToDisk: true);
            }
            return new SpooledFile(name, length, Convert.ToHexStringLower(hash.GetHashAndReset()));
        }
        catch (Exception error)
        {
            if (File.Exists(path))
            {
                File.Delete(path);
            }
            _unclaimed.TryRemove(name, out _);
            Give(length);
            if (StorageFullException.Is(error))
            {
                throw new StorageFullException($"The disk of {folder} is full.", error);
            }
            throw;
        }
    }

    public Task<byte[]> ReadAsync(string name, CancellationToken cancellation) => File.ReadAllBytesAsync(PathOf(name), cancellation);

    public Task DeleteAsync(string name, CancellationToken cancellation)
    {
        var file = new FileInfo(PathOf(name));
        if (file.Exists)
        {
            long length = file.Length;
            file.Delete();
            Give(length);
        }
        _unclaimed.TryRemove(name, out _);
        return Task.CompletedTask;
    }

    public void Claim(IEnumerable<string> names)
    {
        foreach (string name in names)
        {
            _unclaimed.TryRemove(name, out _);
        }
    }

    public async Task SweepAsync(Func<CancellationToken, Task<IReadOnlySet<string>>> claimed, CancellationToken cancellation)
    {
        DateTimeOffset before = time.GetUtcNow() - Abandoned;
        FileInfo[] files = Directory.Exists(folder) ? new DirectoryInfo(folder).GetFiles() : [];
        string[] candidates = [.. files.Where(f => !_unclaimed.ContainsKey(f.Name) && f.LastWriteTimeUtc < before).Select(f => f.Name)];
        if (candidates.Length == 0)
        {
            return;
        }
        IReadOnlySet<string> kept = await claimed(cancellation).ConfigureAwait(false);
        foreach (string name in candidates.Where(n => !kept.Contains(n)))
        {
            await DeleteAsync(name, cancellation).ConfigureAwait(false);
        }
    }

    private void CreateFolder()
    {
        if (OperatingSystem.IsWindows())
        {
            Directory.CreateDirectory(folder);
        }
        else
        {
            Directory.CreateDirectory(folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
    }

    private void Take(long bytes)
    {
        lock (_lock)
        {
            _used ??= Directory.Exists(folder) ? new DirectoryInfo(folder).GetFiles().Sum(f => f.Length) : 0;
            if (_used + bytes > capacityBytes)
            {
                throw new StorageFullException($"{_used >> 20} MB wait to be ingested, and the spool holds {capacityBytes >> 20} MB (Diptych:SpoolMb). Send this again when some of it is done.");
            }
            _used += bytes;
        }
    }

    private void Give(long bytes)
    {
        lock (_lock)
        {
            _used = Math.Max(0, (_used ?? bytes) - bytes);
        }
    }

    private string PathOf(string name) => Path.Combine(folder, name);
}
