using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Jobs;
using Microsoft.Data.Sqlite;

namespace Diptych.Index.Sqlite;

/// <summary>Jobs and their items. Their connection flushes the log at each commit: what it acknowledged outlives a power cut, with all that was committed before.</summary>
public sealed partial class SqliteStore : IJobQueue
{
    /// <summary>States of an item. A leased one is its waiting state and two.</summary>
    private const int ToFetch = 0, ToRead = 1, Leased = 2, Ended = 4;

    /// <summary>Leases after which an item is worked on alone, and after which it ends as failed: each one's node died.</summary>
    private const int AloneAfter = 2, MostAttempts = 5;

    private readonly Lock _queueing = new();
    private SqliteConnection? _queue;

    public Task AddAsync(Job job, IReadOnlyList<JobItem> items, CancellationToken cancellation) => Queueing(queue =>
    {
        if (queue.Scalar("SELECT 1 FROM collections WHERE name = $c", ("$c", job.Collection)) is null)
        {
            throw new NotFoundException($"There is no collection '{job.Collection}'.");
        }
        queue.Execute(
            "INSERT INTO jobs (id, collection, created_at, items, state, ended_at) VALUES ($id, $c, $at, $n, $s, $end)",
            ("$id", job.Id), ("$c", job.Collection), ("$at", Iso(job.CreatedAt)), ("$n", items.Count), ("$s", items.Count == 0 ? 1 : 0), ("$end", items.Count == 0 ? Iso(job.CreatedAt) : null));
        foreach (JobItem item in items)
        {
            queue.Execute(
                "INSERT INTO job_items (job, number, source, name, media_type, metadata, url, host, spool, bytes, state) VALUES ($j, $n, $source, $name, $type, $meta, $url, $host, $spool, $bytes, $state)",
                ("$j", job.Id), ("$n", item.Key.Number), ("$source", item.Source), ("$name", item.Name), ("$type", item.MediaType), ("$meta", JsonSerializer.Serialize(item.Metadata)),
                ("$url", item.Url), ("$host", item.Host), ("$spool", item.Spool), ("$bytes", item.Bytes), ("$state", item.Url is null || item.Spool is not null ? ToRead : ToFetch));
        }
        return true;
    });

    public Task<Job?> FindAsync(string id, CancellationToken cancellation) => Task.FromResult(Jobs("WHERE id = $id", ("$id", id)).FirstOrDefault());

    public Task<IReadOnlyList<Job>> ListAsync(string? collection, JobState? state, string? before, int limit, CancellationToken cancellation) => Task.FromResult<IReadOnlyList<Job>>(
    [
        .. Jobs(
            """
            WHERE ($c IS NULL OR collection = $c)
              AND ($s IS NULL OR CASE state WHEN 1 THEN 'Done' WHEN 2 THEN 'Cancelled' ELSE iif(turn = 0, 'Queued', 'Running') END = $s)
              AND ($b IS NULL OR (created_at, id) < (SELECT created_at, id FROM jobs WHERE id = $b))
            ORDER BY created_at DESC, id DESC LIMIT $l
            """,
            ("$c", collection), ("$s", state?.ToString()), ("$b", before), ("$l", limit)),
    ]);

    public Task<IReadOnlyList<JobItem>> ItemsAsync(string id, IngestOutcome? outcome, long? after, int limit, CancellationToken cancellation)
    {
        using SqliteConnection connection = ForReading();
        return Task.FromResult<IReadOnlyList<JobItem>>([.. connection.Rows(
            $"{SelectItem} WHERE job = $j AND ($o IS NULL OR outcome = $o) AND ($a IS NULL OR position > $a) ORDER BY position IS NULL, position, number LIMIT $l",
            ("$j", id), ("$o", (int?)outcome), ("$a", after), ("$l", limit)).Select(ReadItem)]);
    }

    public Task<IReadOnlyList<JobItem>> LeaseAsync(string node, int most, TimeSpan lease, CancellationToken cancellation) => Lease(node, ToRead, [], most, lease);

    public Task<IReadOnlyList<JobItem>> LeaseToFetchAsync(string node, IReadOnlyCollection<string> busyHosts, int most, TimeSpan lease, CancellationToken cancellation) =>
        Lease(node, ToFetch, busyHosts, most, lease);

    public Task<IReadOnlyList<string>> RenewAsync(string node, IReadOnlyList<JobItemKey> items, TimeSpan lease, CancellationToken cancellation) => Queueing<IReadOnlyList<string>>(queue =>
    {
        long until = (_time.GetUtcNow() + lease).ToUnixTimeMilliseconds();
        var lost = new HashSet<string>(StringComparer.Ordinal);
        foreach (JobItemKey item in items)
        {
            int renewed = queue.Execute(
                $"UPDATE job_items SET lease_until = $until WHERE job = $j AND number = $n AND node = $node AND state BETWEEN {Leased} AND {Leased + ToRead}",
                ("$until", until), ("$j", item.Job), ("$n", item.Number), ("$node", node));
            if (renewed == 0 && queue.Scalar("SELECT 1 FROM jobs WHERE id = $j AND state = 0", ("$j", item.Job)) is null)
            {
                lost.Add(item.Job);
            }
        }
        return [.. lost];
    });

    public Task ReleaseAsync(string node, IReadOnlyList<JobItemKey> items, bool counts, CancellationToken cancellation) => Queueing(queue =>
    {
        foreach (JobItemKey item in items)
        {
            queue.Execute(
                $"UPDATE job_items SET state = state - {Leased}, node = NULL, lease_until = 0, attempts = attempts - $less WHERE job = $j AND number = $n AND node = $node AND state BETWEEN {Leased} AND {Leased + ToRead}",
                ("$less", counts ? 0 : 1), ("$j", item.Job), ("$n", item.Number), ("$node", node));
        }
        return true;
    });

    public Task<IReadOnlyList<string>> NodesAsync(CancellationToken cancellation)
    {
        using SqliteConnection connection = ForReading();
        return Task.FromResult<IReadOnlyList<string>>([.. connection.Rows("SELECT DISTINCT node FROM job_items WHERE node IS NOT NULL").Select(r => r.GetString(0))]);
    }

    public Task ExpireAsync(string node, CancellationToken cancellation) => Queueing(queue => queue.Execute("UPDATE job_items SET lease_until = 0 WHERE node = $node", ("$node", node)));

    public Task<bool> SpooledAsync(string node, JobItemKey item, string spool, long bytes, string? mediaType, CancellationToken cancellation) => Queueing(queue => queue.Execute(
        $"UPDATE job_items SET state = {ToRead}, node = NULL, attempts = 0, lease_until = 0, spool = $s, bytes = $b, media_type = coalesce($t, media_type) WHERE job = $j AND number = $n AND node = $node AND state = {Leased + ToFetch}",
        ("$s", spool), ("$b", bytes), ("$t", mediaType), ("$j", item.Job), ("$n", item.Number), ("$node", node)) == 1);

    public Task EndAsync(string node, IReadOnlyList<ItemEnd> ends, CancellationToken cancellation) => Queueing(queue =>
    {
        foreach (ItemEnd end in ends)
        {
            End(queue, end, node);
        }
        return true;
    });

    public Task<bool> CancelAsync(string id, CancellationToken cancellation) => Queueing(queue => Cancel(queue, "id = $x", id) > 0);

    public Task ForgetAsync(DateTimeOffset endedBefore, CancellationToken cancellation) => Queueing(queue =>
    {
        queue.Execute("DELETE FROM job_items WHERE job IN (SELECT id FROM jobs WHERE ended_at < $t)", ("$t", Iso(endedBefore)));
        return queue.Execute("DELETE FROM jobs WHERE ended_at < $t", ("$t", Iso(endedBefore)));
    });

    public Task<long> WaitingAsync(CancellationToken cancellation)
    {
        using SqliteConnection connection = ForReading();
        return Task.FromResult((long)connection.Scalar("SELECT coalesce(sum(items - ended), 0) FROM jobs WHERE state = 0")!);
    }

    public Task<bool> IsWaitedForAsync(string collection, string source, CancellationToken cancellation)
    {
        using SqliteConnection connection = ForReading();
        return Task.FromResult(connection.Scalar(
            $"SELECT 1 FROM job_items i JOIN jobs j ON j.id = i.job WHERE i.source = $s AND i.state < {Ended} AND j.collection = $c LIMIT 1", ("$s", source), ("$c", collection)) is not null);
    }

    public Task<IReadOnlySet<string>> SpooledFilesAsync(CancellationToken cancellation)
    {
        using SqliteConnection connection = ForReading();
        return Task.FromResult<IReadOnlySet<string>>(connection.Rows("SELECT spool FROM job_items WHERE spool IS NOT NULL").Select(r => r.GetString(0)).ToHashSet(StringComparer.Ordinal));
    }

    public async Task<IReadOnlyList<string>> SpentFilesAsync(CancellationToken cancellation)
    {
        List<string> spent;
        using (SqliteConnection connection = ForReading())
        {
            spent = [.. connection.Rows($"SELECT spool FROM job_items WHERE state = {Ended} AND spool IS NOT NULL").Select(r => r.GetString(0))];
        }
        if (spent.Count > 0)
        {
            // Whatever is written here brings the log to the disk, with all that is before it there.
            await Queueing(queue => queue.Execute("INSERT INTO settings (key, value) VALUES ('flushed', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1")).ConfigureAwait(false);
        }
        return spent;
    }

    public Task ForgetFilesAsync(IReadOnlyList<string> spooled, CancellationToken cancellation) => Queueing(queue => queue.Execute(
        $"UPDATE job_items SET spool = NULL WHERE state = {Ended} AND spool IN (SELECT value FROM json_each($s))", ("$s", JsonSerializer.Serialize(spooled))));

    private Task<IReadOnlyList<JobItem>> Lease(string node, int waiting, IReadOnlyCollection<string> busyHosts, int most, TimeSpan lease) => Queueing<IReadOnlyList<JobItem>>(queue =>
    {
        long now = _time.GetUtcNow().ToUnixTimeMilliseconds();
        (string, object?)[] free = [("$w", waiting), ("$l", waiting + Leased), ("$now", now), ("$busy", JsonSerializer.Serialize(busyHosts))];
        // The state is named against the index's condition, so that what has ended costs nothing.
        const string isFree =
            """
            (i.state < 4 AND (i.state = $w OR (i.state = $l AND i.lease_until < $now)) AND (i.host IS NULL OR $w <> 0 OR i.host NOT IN (SELECT value FROM json_each($busy)))
             AND NOT EXISTS (
               SELECT 1 FROM job_items e JOIN jobs k ON k.id = e.job
               WHERE e.source = i.source AND e.state < 4 AND k.collection = j.collection AND (k.created_at, k.id, e.number) < (j.created_at, j.id, i.number)))
            """;
        while (queue.Scalar($"SELECT j.id FROM jobs j WHERE j.state = 0 AND EXISTS (SELECT 1 FROM job_items i WHERE i.job = j.id AND {isFree}) ORDER BY j.turn, j.created_at, j.id LIMIT 1", free) is string job)
        {
            var items = queue.Rows($"{SelectItem} JOIN jobs j ON j.id = i.job WHERE i.job = $j AND {isFree} ORDER BY i.attempts, i.number LIMIT $m", [.. free, ("$j", job), ("$m", most)]).Select(ReadItem).ToList();
            foreach (JobItem exhausted in items.Where(i => i.Attempts >= MostAttempts))
            {
                End(queue, new ItemEnd(exhausted.Key, IngestOutcome.Failed, "The server ended each time while it was being ingested.", null), null);
            }
            items.RemoveAll(i => i.Attempts >= MostAttempts);
            if (items.Count == 0)
            {
                continue;
            }
            items = items[0].Attempts >= AloneAfter ? items[..1] : [.. items.TakeWhile(i => i.Attempts < AloneAfter)];
            foreach (JobItem item in items)
            {
                queue.Execute(
                    "UPDATE job_items SET state = $l, node = $node, lease_until = $until, attempts = attempts + 1 WHERE job = $j AND number = $n",
                    ("$l", waiting + Leased), ("$node", node), ("$until", now + (long)lease.TotalMilliseconds), ("$j", job), ("$n", item.Key.Number));
            }
            queue.Execute("UPDATE jobs SET turn = (SELECT max(turn) + 1 FROM jobs) WHERE id = $j", ("$j", job));
            return [.. items.Select(i => i with { Attempts = i.Attempts + 1 })];
        }
        return [];
    });

    private const string SelectItem =
        "SELECT i.job, i.number, i.source, i.name, i.media_type, i.metadata, i.url, i.spool, i.bytes, i.attempts, i.outcome, i.reason, i.document_id, coalesce(i.position, 0) FROM job_items i";

    private static JobItem ReadItem(SqliteDataReader r) => new(
        new JobItemKey(r.GetString(0), r.GetInt32(1)), r.GetString(2), r.GetString(3), r.IsDBNull(4) ? null : r.GetString(4), JsonSerializer.Deserialize<Metadata>(r.GetString(5))!,
        r.IsDBNull(6) ? null : r.GetString(6), r.IsDBNull(7) ? null : r.GetString(7), r.GetInt64(8))
    {
        Attempts = r.GetInt32(9),
        Outcome = r.IsDBNull(10) ? null : (IngestOutcome)r.GetInt32(10),
        Reason = r.IsDBNull(11) ? null : r.GetString(11),
        DocumentId = r.IsDBNull(12) ? null : r.GetInt64(12),
        EndedPosition = r.GetInt64(13),
    };

    private List<Job> Jobs(string where, params (string, object?)[] parameters)
    {
        using SqliteConnection connection = ForReading();
        List<Job> jobs = [.. connection.Rows($"SELECT id, collection, created_at, state, turn, ended_at, items FROM jobs {where}", parameters).Select(r => new Job(r.GetString(0), r.GetString(1), Time(r.GetString(2)))
        {
            State = r.GetInt32(3) switch { 1 => JobState.Done, 2 => JobState.Cancelled, _ => r.GetInt64(4) == 0 ? JobState.Queued : JobState.Running },
            EndedAt = r.IsDBNull(5) ? null : Time(r.GetString(5)),
            Items = r.GetInt32(6),
        })];
        return [.. jobs.Select(j => j with
        {
            Outcomes = connection.Rows("SELECT outcome, count(*) FROM job_items WHERE job = $j AND state = 4 GROUP BY outcome", ("$j", j.Id)).ToDictionary(r => (IngestOutcome)r.GetInt32(0), r => r.GetInt32(1)),
        })];
    }

    /// <summary>Within a transaction: ends an item, and its job with the last of them.</summary>
    /// <param name="node">Who must hold its lease; null where nobody need.</param>
    /// <returns>False where it has ended, or another node holds it.</returns>
    private bool End(SqliteConnection connection, ItemEnd end, string? node)
    {
        int changed = connection.Execute(
            $"UPDATE job_items SET state = {Ended}, outcome = $o, reason = $r, document_id = $d, node = NULL WHERE job = $j AND number = $n AND state < {Ended} AND ($node IS NULL OR node = $node)",
            ("$o", (int)end.Outcome), ("$r", end.Reason), ("$d", end.DocumentId), ("$j", end.Key.Job), ("$n", end.Key.Number), ("$node", node));
        if (changed == 0)
        {
            return false;
        }
        connection.Execute(
            "UPDATE jobs SET ended = ended + 1, state = iif(ended + 1 = items, 1, state), ended_at = iif(ended + 1 = items, $at, ended_at) WHERE id = $j", ("$at", Iso(_time.GetUtcNow())), ("$j", end.Key.Job));
        connection.Execute("UPDATE job_items SET position = (SELECT ended FROM jobs WHERE id = $j) WHERE job = $j AND number = $n", ("$j", end.Key.Job), ("$n", end.Key.Number));
        return true;
    }

    /// <summary>Within the writer's transaction: ends the item whose document is about to be stored.</summary>
    /// <returns>False where nothing may be stored for it.</returns>
    private bool EndItem(ItemLease? lease) => lease is null || End(_writer, new ItemEnd(lease.Item, IngestOutcome.Added, null, null), lease.Node);

    private void SetDocument(ItemLease? lease, long document, IngestOutcome outcome)
    {
        if (lease is not null)
        {
            _writer.Execute("UPDATE job_items SET document_id = $d, outcome = $o WHERE job = $j AND number = $n", ("$d", document), ("$o", (int)outcome), ("$j", lease.Item.Job), ("$n", lease.Item.Number));
        }
    }

    /// <summary>Within a transaction: cancels the open jobs of which a condition on $x holds.</summary>
    private int Cancel(SqliteConnection connection, string condition, string x)
    {
        List<string> jobs = [.. connection.Rows($"SELECT id FROM jobs WHERE state = 0 AND {condition}", ("$x", x)).Select(r => r.GetString(0))];
        foreach (string job in jobs)
        {
            foreach (int number in connection.Rows($"SELECT number FROM job_items WHERE job = $j AND state < {Ended}", ("$j", job)).Select(r => r.GetInt32(0)).ToList())
            {
                End(connection, new ItemEnd(new JobItemKey(job, number), IngestOutcome.Cancelled, null, null), null);
            }
            connection.Execute("UPDATE jobs SET state = 2, ended_at = $at WHERE id = $j", ("$at", Iso(_time.GetUtcNow())), ("$j", job));
        }
        return jobs.Count;
    }

    private Task<T> Queueing<T>(Func<SqliteConnection, T> work) => Storing(() =>
    {
        lock (_queueing)
        {
            if (_queue is null)
            {
                _queue = Connect();
                _queue.Execute("PRAGMA synchronous = FULL");
            }
            using SqliteTransaction transaction = _queue.BeginTransaction(deferred: false);
            T result = work(_queue);
            transaction.Commit();
            return Task.FromResult(result);
        }
    });
}
