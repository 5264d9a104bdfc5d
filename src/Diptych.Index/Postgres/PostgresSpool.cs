using System.Collections.Concurrent;
using System.Security.Cryptography;
using Diptych.Core;
using Diptych.Index.Jobs;
using NpgsqlTypes;

namespace Diptych.Index.Postgres;

/// <summary>Spooled bytes in the database, in parts, so that no file is in memory as a whole while it comes in.</summary>
internal sealed class PostgresSpool(PostgresStore store, long capacityBytes, TimeProvider time) : ISpool
{
    private const int PartBytes = 1 << 20;

    /// <summary>How long this node goes by what it knows of the spool's size.</summary>
    private static readonly TimeSpan Known = TimeSpan.FromSeconds(2);

    /// <summary>A file of another node that is younger may be about to become part of a job.</summary>
    private static readonly TimeSpan Abandoned = TimeSpan.FromDays(1);

    /// <summary>Files that this process writes, or has written for what is not a job yet.</summary>
    private readonly ConcurrentDictionary<string, bool> _unclaimed = new(StringComparer.Ordinal);
    private readonly Lock _lock = new();
    private long _used, _asked;

    public async Task<SpooledFile> WriteAsync(Stream content, long maxBytes, CancellationToken cancellation)
    {
        string name = Guid.NewGuid().ToString("N");
        _unclaimed[name] = true;
        long length = 0;
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] buffer = new byte[PartBytes];
        try
        {
            await store.Queueing(c => c.Execute("INSERT INTO spool_files (name, bytes) VALUES ($1, 0) ON CONFLICT DO NOTHING", name)).ConfigureAwait(false);
            for (int part = 0; ; part++)
            {
                int read = await content.ReadAtLeastAsync(buffer, PartBytes, throwOnEndOfStream: false, cancellation).ConfigureAwait(false);
                if (read == 0)
                {
                    return new SpooledFile(name, length, Convert.ToHexStringLower(hash.GetHashAndReset()));
                }
                if (length + read > maxBytes)
                {
                    throw new UnreadableException($"The content has more than the limit of {maxBytes >> 20} MB.");
                }
                await TakeAsync(read).ConfigureAwait(false);
                length += read;
                hash.AppendData(buffer, 0, read);
                await store.Queueing(c =>
                {
                    c.Execute(
                        "INSERT INTO spool_parts (name, part, content) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                        name, part, new Npgsql.NpgsqlParameter { Value = new ArraySegment<byte>(buffer, 0, read), NpgsqlDbType = NpgsqlDbType.Bytea });
                    return c.Execute("UPDATE spool_files SET bytes = $2 WHERE name = $1", name, length);
                }).ConfigureAwait(false);
            }
        }
        catch
        {
            await DeleteAsync(name, CancellationToken.None).ConfigureAwait(false);
            throw;
        }
    }

    public async Task<byte[]> ReadAsync(string name, CancellationToken cancellation)
    {
        return await store.Queueing(c =>
        {
            byte[] content = new byte[c.Scalar("SELECT bytes FROM spool_files WHERE name = $1", name) as long? ?? throw new FileNotFoundException($"The spooled file {name} is gone.")];
            int at = 0;
            c.Rows(
                r =>
                {
                    byte[] part = r.GetFieldValue<byte[]>(0);
                    part.CopyTo(content, at);
                    return at += part.Length;
                },
                "SELECT content FROM spool_parts WHERE name = $1 ORDER BY part", name);
            return content;
        }).ConfigureAwait(false);
    }

    public async Task DeleteAsync(string name, CancellationToken cancellation)
    {
        List<long> freed = await store.Queueing(c => c.Rows(r => r.GetInt64(0), "DELETE FROM spool_files WHERE name = $1 RETURNING bytes", name)).ConfigureAwait(false);
        lock (_lock)
        {
            _used -= freed.Sum();
        }
        _unclaimed.TryRemove(name, out _);
    }

    public void Claim(IEnumerable<string> names)
    {
        foreach (string name in names)
        {
            _unclaimed.TryRemove(name, out _);
        }
    }

    public Task SweepAsync(Func<CancellationToken, Task<IReadOnlySet<string>>> claimed, CancellationToken cancellation)
    {
        string[] own = [.. _unclaimed.Keys];
        // What jobs have is known here without asking.
        return store.Queueing(c => c.Execute(
            "DELETE FROM spool_files f WHERE f.at < now() - $1 AND f.name <> ALL($2) AND NOT EXISTS (SELECT 1 FROM job_items i WHERE i.spool = f.name)", Abandoned, own));
    }

    private async Task TakeAsync(int bytes)
    {
        bool ask;
        lock (_lock)
        {
            ask = _asked == 0 || time.GetElapsedTime(_asked) > Known;
            _asked = ask ? time.GetTimestamp() : _asked;
        }
        if (ask)
        {
            long used = await store.Queueing(c => (long)c.Scalar("SELECT coalesce(sum(bytes), 0)::bigint FROM spool_files")!).ConfigureAwait(false);
            lock (_lock)
            {
                _used = used;
            }
        }
        lock (_lock)
        {
            if (_used + bytes > capacityBytes)
            {
                throw new StorageFullException($"{_used >> 20} MB wait to be ingested, and the spool holds {capacityBytes >> 20} MB (Diptych:SpoolMb). Send this again when some of it is done.");
            }
            _used += bytes;
        }
    }
}
