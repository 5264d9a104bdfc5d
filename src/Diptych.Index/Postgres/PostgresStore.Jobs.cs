using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Jobs;
using Npgsql;

namespace Diptych.Index.Postgres;

/// <summary>Jobs and their items, shared by all nodes. Leases run by the database's clock, so that nodes' clocks need not agree.</summary>
public sealed partial class PostgresStore : IJobQueue
{
    /// <summary>States of an item. A leased one is its waiting state and two.</summary>
    private const int ToFetch = 0, ToRead = 1, Leased = 2, ItemEnded = 4;

    /// <summary>Leases after which an item is worked on alone, and after which it ends as failed: each one's node died.</summary>
    private const int AloneAfter = 2, MostAttempts = 5;

    private const string SelectItem =
        "SELECT i.job, i.number, i.source, i.name, i.media_type, i.metadata::text, i.url, i.spool, i.bytes, i.attempts, i.outcome, i.reason, i.document_id, coalesce(i.position, 0) FROM job_items i";

    /// <summary>Spooled bytes in the database, where every node can read them.</summary>
    /// <param name="capacityBytes">Most bytes at a time.</param>
    public ISpool Spool(long capacityBytes) => new PostgresSpool(this, capacityBytes, _time);

    public Task AddAsync(Job job, IReadOnlyList<JobItem> items, CancellationToken cancellation) => Queueing(queue =>
    {
        if (queue.Scalar("SELECT 1 FROM collections WHERE name = $1 FOR SHARE", job.Collection) is null)
        {
            throw new NotFoundException($"There is no collection '{job.Collection}'.");
        }
        bool empty = items.Count == 0;
        // A transaction that is tried again though its answer alone was lost finds its job there.
        if (queue.Execute("INSERT INTO jobs (id, collection, created_at, items, state, ended_at) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            job.Id, job.Collection, job.CreatedAt.ToUniversalTime(), items.Count, (short)(empty ? 1 : 0), empty ? job.CreatedAt.ToUniversalTime() : null) == 0)
        {
            return true;
        }
        foreach (JobItem item in items)
        {
            queue.Execute(
                "INSERT INTO job_items (job, number, source, name, media_type, metadata, url, host, spool, bytes, state) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                job.Id, item.Key.Number, Clean(item.Source), Clean(item.Name), item.MediaType, Json(item.Metadata), item.Url, item.Host, item.Spool, item.Bytes, (short)(item.Url is null || item.Spool is not null ? ToRead : ToFetch));
        }
        return true;
    });

    public Task<Job?> FindAsync(string id, CancellationToken cancellation) => Task.Run(() => Read(c => Jobs(c, "WHERE id = $1", id).FirstOrDefault()), cancellation);

    public Task<IReadOnlyList<Job>> ListAsync(string? collection, JobState? state, string? before, int limit, CancellationToken cancellation) => Task.Run<IReadOnlyList<Job>>(
        () => Read(c => Jobs(
            c,
            """
            WHERE ($1::text IS NULL OR collection = $1)
              AND ($2::text IS NULL OR CASE state WHEN 1 THEN 'Done' WHEN 2 THEN 'Cancelled' ELSE CASE WHEN turn = 0 THEN 'Queued' ELSE 'Running' END END = $2)
              AND ($3::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM jobs WHERE id = $3))
            ORDER BY created_at DESC, id DESC LIMIT $4
            """,
            collection, state?.ToString(), before, limit)),
        cancellation);

    public Task<IReadOnlyList<JobItem>> ItemsAsync(string id, IngestOutcome? outcome, long? after, int limit, CancellationToken cancellation) => Task.Run<IReadOnlyList<JobItem>>(
        () => Read(c => c.Rows(
            ReadItem,
            $"{SelectItem} WHERE job = $1 AND ($2::smallint IS NULL OR outcome = $2) AND ($3::bigint IS NULL OR position > $3) ORDER BY position NULLS LAST, number LIMIT $4",
            id, (short?)outcome, after, limit)),
        cancellation);

    public Task<IReadOnlyList<JobItem>> LeaseAsync(string node, int most, TimeSpan lease, CancellationToken cancellation) => Lease(node, ToRead, [], most, lease);

    public Task<IReadOnlyList<JobItem>> LeaseToFetchAsync(string node, IReadOnlyCollection<string> busyHosts, int most, TimeSpan lease, CancellationToken cancellation) =>
        Lease(node, ToFetch, busyHosts, most, lease);

    public Task<IReadOnlyList<string>> RenewAsync(string node, IReadOnlyList<JobItemKey> items, TimeSpan lease, CancellationToken cancellation) => Queueing<IReadOnlyList<string>>(queue =>
    {
        string[] jobs = [.. items.Select(i => i.Job)];
        int[] numbers = [.. items.Select(i => i.Number)];
        queue.Execute(
            $"""
            UPDATE job_items i SET lease_until = clock_timestamp() + $4 FROM unnest($2::text[], $3::integer[]) k(job, number)
            WHERE i.job = k.job AND i.number = k.number AND i.node = $1 AND i.state BETWEEN {Leased} AND {Leased + ToRead}
            """,
            node, jobs, numbers, lease);
        return queue.Rows(r => r.GetString(0), "SELECT k FROM (SELECT DISTINCT unnest($1::text[]) AS k) k WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = k AND j.state = 0)", (object)jobs);
    });

    public Task ReleaseAsync(string node, IReadOnlyList<JobItemKey> items, bool counts, CancellationToken cancellation) => Queueing(queue => queue.Execute(
        $"""
        UPDATE job_items i SET state = state - {Leased}, node = NULL, lease_until = NULL, attempts = attempts - $4 FROM unnest($2::text[], $3::integer[]) k(job, number)
        WHERE i.job = k.job AND i.number = k.number AND i.node = $1 AND i.state BETWEEN {Leased} AND {Leased + ToRead}
        """,
        node, items.Select(i => i.Job).ToArray(), items.Select(i => i.Number).ToArray(), counts ? 0 : 1));

    public Task<IReadOnlyList<string>> NodesAsync(CancellationToken cancellation) => Queueing<IReadOnlyList<string>>(
        queue => queue.Rows(r => r.GetString(0), "SELECT DISTINCT node FROM job_items WHERE node IS NOT NULL"));

    public Task ExpireAsync(string node, CancellationToken cancellation) => Queueing(queue => queue.Execute("UPDATE job_items SET lease_until = '-infinity' WHERE node = $1", node));

    public Task<bool> SpooledAsync(string node, JobItemKey item, string spool, long bytes, string? mediaType, CancellationToken cancellation) => Queueing(queue => queue.Execute(
        $"""
        UPDATE job_items SET state = {ToRead}, node = NULL, lease_until = NULL, attempts = 0, spool = $4, bytes = $5, media_type = coalesce($6, media_type)
        WHERE job = $1 AND number = $2 AND ((node = $3 AND state = {Leased + ToFetch}) OR spool = $4)
        """,
        item.Job, item.Number, node, spool, bytes, mediaType) == 1);

    public Task EndAsync(string node, IReadOnlyList<ItemEnd> ends, CancellationToken cancellation) => Queueing(queue =>
    {
        End(queue, ends, node);
        return true;
    });

    public Task<bool> CancelAsync(string id, CancellationToken cancellation) => Queueing(queue => Cancel(queue, "id = $1", id) > 0);

    public Task ForgetAsync(DateTimeOffset endedBefore, CancellationToken cancellation) => Queueing(queue => queue.Execute("DELETE FROM jobs WHERE ended_at < $1", endedBefore.ToUniversalTime()));

    public Task<long> WaitingAsync(CancellationToken cancellation) => Task.Run(() => Read(c => (long)c.Scalar("SELECT coalesce(sum(items - ended), 0)::bigint FROM jobs WHERE state = 0")!), cancellation);

    public Task<bool> IsWaitedForAsync(string collection, string source, CancellationToken cancellation) => Queueing(queue => queue.Scalar(
        $"SELECT 1 FROM job_items i JOIN jobs j ON j.id = i.job WHERE i.source = $1 AND i.state < {ItemEnded} AND j.collection = $2 LIMIT 1", Clean(source), collection) is not null);

    public Task<IReadOnlySet<string>> SpooledFilesAsync(CancellationToken cancellation) => Queueing<IReadOnlySet<string>>(
        queue => queue.Rows(r => r.GetString(0), "SELECT spool FROM job_items WHERE spool IS NOT NULL").ToHashSet(StringComparer.Ordinal));

    // A commit is on the disk when PostgreSQL answers it.
    public Task<IReadOnlyList<string>> SpentFilesAsync(CancellationToken cancellation) => Queueing<IReadOnlyList<string>>(
        queue => queue.Rows(r => r.GetString(0), $"SELECT spool FROM job_items WHERE state = {ItemEnded} AND spool IS NOT NULL"));

    // The items forget files with the files' deletion.
    public Task ForgetFilesAsync(IReadOnlyList<string> spooled, CancellationToken cancellation) => Task.CompletedTask;

    private Task<IReadOnlyList<JobItem>> Lease(string node, int waiting, IReadOnlyCollection<string> busyHosts, int most, TimeSpan lease) => Queueing<IReadOnlyList<JobItem>>(queue =>
    {
        short to = (short)waiting, leased = (short)(waiting + Leased);
        string[] busy = [.. busyHosts];
        // The state is named against the index's condition, so that what has ended costs nothing.
        const string isFree =
            """
            (i.state < 4 AND (i.state = $1 OR (i.state = $2 AND i.lease_until < clock_timestamp())) AND (i.host IS NULL OR $1 <> 0 OR i.host <> ALL($3))
             AND NOT EXISTS (
               SELECT 1 FROM job_items e JOIN jobs k ON k.id = e.job
               WHERE e.source = i.source AND e.state < 4 AND k.collection = j.collection AND (k.created_at, k.id, e.number) < (j.created_at, j.id, i.number)))
            """;
        while (queue.Scalar($"SELECT j.id FROM jobs j WHERE j.state = 0 AND EXISTS (SELECT 1 FROM job_items i WHERE i.job = j.id AND {isFree}) ORDER BY j.turn, j.created_at, j.id LIMIT 1", to, leased, busy) is string job)
        {
            List<JobItem> items = queue.Rows(
                ReadItem, $"{SelectItem} JOIN jobs j ON j.id = i.job WHERE i.job = $4 AND {isFree} ORDER BY i.attempts, i.number LIMIT $5 FOR UPDATE OF i SKIP LOCKED", to, leased, busy, job, most);
            if (items.Count == 0)
            {
                // Another node is taking them.
                return [];
            }
            if (items.Where(i => i.Attempts >= MostAttempts).ToList() is { Count: > 0 } exhausted)
            {
                End(queue, [.. exhausted.Select(i => new ItemEnd(i.Key, IngestOutcome.Failed, "The server ended each time while it was being ingested.", null))], null);
                items.RemoveAll(i => i.Attempts >= MostAttempts);
                if (items.Count == 0)
                {
                    continue;
                }
            }
            items = items[0].Attempts >= AloneAfter ? items[..1] : [.. items.TakeWhile(i => i.Attempts < AloneAfter)];
            queue.Execute(
                "UPDATE job_items SET state = $1, node = $2, lease_until = clock_timestamp() + $3, attempts = attempts + 1 WHERE job = $4 AND number = ANY($5)",
                leased, node, lease, job, items.Select(i => i.Key.Number).ToArray());
            queue.Execute("UPDATE jobs SET turn = (SELECT max(turn) + 1 FROM jobs) WHERE id = $1", job);
            return [.. items.Select(i => i with { Attempts = i.Attempts + 1 })];
        }
        return [];
    });

    private static JobItem ReadItem(NpgsqlDataReader r) => new(
        new JobItemKey(r.GetString(0), r.GetInt32(1)), r.GetString(2), r.GetString(3), r.IsDBNull(4) ? null : r.GetString(4), JsonSerializer.Deserialize<Metadata>(r.GetString(5))!,
        r.IsDBNull(6) ? null : r.GetString(6), r.IsDBNull(7) ? null : r.GetString(7), r.GetInt64(8))
    {
        Attempts = r.GetInt32(9),
        Outcome = r.IsDBNull(10) ? null : (IngestOutcome)r.GetInt16(10),
        Reason = r.IsDBNull(11) ? null : r.GetString(11),
        DocumentId = r.IsDBNull(12) ? null : r.GetInt64(12),
        EndedPosition = r.GetInt32(13),
    };

    private static List<Job> Jobs(NpgsqlConnection connection, string where, params ReadOnlySpan<object?> parameters)
    {
        List<Job> jobs = connection.Rows(
            r => new Job(r.GetString(0), r.GetString(1), r.GetFieldValue<DateTimeOffset>(2))
            {
                State = r.GetInt16(3) switch { 1 => JobState.Done, 2 => JobState.Cancelled, _ => r.GetInt64(4) == 0 ? JobState.Queued : JobState.Running },
                EndedAt = r.IsDBNull(5) ? null : r.GetFieldValue<DateTimeOffset>(5),
                Items = r.GetInt32(6),
            },
            $"SELECT id, collection, created_at, state, turn, ended_at, items FROM jobs {where}", parameters);
        var outcomes = connection.Rows(
            r => (Job: r.GetString(0), Outcome: (IngestOutcome)r.GetInt16(1), Count: (int)r.GetInt64(2)),
            $"SELECT job, outcome, count(*) FROM job_items WHERE job = ANY($1) AND state = {ItemEnded} GROUP BY job, outcome", (object)jobs.Select(j => j.Id).ToArray()).ToLookup(o => o.Job);
        return [.. jobs.Select(j => j with { Outcomes = outcomes[j.Id].ToDictionary(o => o.Outcome, o => o.Count) })];
    }

    /// <summary>Within a transaction: locks the item whose document is about to be stored.</summary>
    /// <returns>False where nothing may be stored for it.</returns>
    private static bool MayEnd(NpgsqlConnection connection, ItemLease lease) => connection.Scalar(
        $"SELECT 1 FROM job_items WHERE job = $1 AND number = $2 AND node = $3 AND state < {ItemEnded} FOR UPDATE", lease.Item.Job, lease.Item.Number, lease.Node) is not null;

    /// <summary>The document that a lease ended with, or 0.</summary>
    private static long Ended(NpgsqlConnection connection, ItemLease lease) => connection.Scalar(
        $"SELECT document_id FROM job_items WHERE job = $1 AND number = $2 AND ended_by = $3", lease.Item.Job, lease.Item.Number, lease.Node) as long? ?? 0;

    /// <summary>Within a transaction, as its last step: ends items, and their job with the last of them. It holds the job until the transaction ends.</summary>
    /// <param name="node">Who must hold their leases; null where nobody need.</param>
    private void End(NpgsqlConnection connection, IReadOnlyList<ItemEnd> ends, string? node)
    {
        foreach (var job in ends.GroupBy(e => e.Key.Job).OrderBy(g => g.Key, StringComparer.Ordinal))
        {
            // Items before the job, everywhere: two that wait for each other in a ring would both be turned away.
            HashSet<int> open = [.. connection.Rows(
                r => r.GetInt32(0),
                $"SELECT number FROM job_items WHERE job = $1 AND number = ANY($2) AND state < {ItemEnded} AND ($3::text IS NULL OR node = $3) ORDER BY number FOR UPDATE",
                job.Key, job.Select(e => e.Key.Number).ToArray(), node)];
            ItemEnd[] ending = [.. job.Where(e => open.Contains(e.Key.Number))];
            if (ending.Length == 0)
            {
                continue;
            }
            int ended = (int)connection.Scalar(
                "UPDATE jobs SET ended = ended + $2, state = CASE WHEN ended + $2 = items THEN 1 ELSE state END, ended_at = CASE WHEN ended + $2 = items THEN $3 ELSE ended_at END WHERE id = $1 RETURNING ended",
                job.Key, ending.Length, _time.GetUtcNow().ToUniversalTime())!;
            connection.Execute(
                $"""
                UPDATE job_items i SET state = {ItemEnded}, outcome = e.outcome, reason = e.reason, document_id = e.document, ended_by = node, position = $2 + e.at, node = NULL
                FROM unnest($3::integer[], $4::smallint[], $5::text[], $6::bigint[]) WITH ORDINALITY e(number, outcome, reason, document, at) WHERE i.job = $1 AND i.number = e.number
                """,
                job.Key, ended - ending.Length, ending.Select(e => e.Key.Number).ToArray(), ending.Select(e => (short)e.Outcome).ToArray(),
                ending.Select(e => e.Reason is null ? null : Clean(e.Reason)).ToArray(), ending.Select(e => e.DocumentId).ToArray());
        }
    }

    /// <summary>Within a transaction: cancels the open jobs of which a condition on $1 holds.</summary>
    private int Cancel(NpgsqlConnection connection, string condition, string x)
    {
        List<string> jobs = connection.Rows(r => r.GetString(0), $"SELECT id FROM jobs WHERE state = 0 AND {condition} ORDER BY id", x);
        foreach (string job in jobs)
        {
            List<int> open = connection.Rows(r => r.GetInt32(0), $"SELECT number FROM job_items WHERE job = $1 AND state < {ItemEnded} ORDER BY number FOR UPDATE", job);
            End(connection, [.. open.Select(n => new ItemEnd(new JobItemKey(job, n), IngestOutcome.Cancelled, null, null))], null);
            if (open.Count > 0)
            {
                connection.Execute("UPDATE jobs SET state = 2 WHERE id = $1", job);
            }
        }
        return jobs.Count;
    }

    /// <summary>A transaction on the primary that changes no document, tried again where that may help.</summary>
    internal Task<T> Queueing<T>(Func<NpgsqlConnection, T> work) => Task.Run(() => Told(() => _retryWrites.Execute(() =>
    {
        using NpgsqlConnection connection = _primary.OpenConnection();
        using NpgsqlTransaction transaction = connection.BeginTransaction();
        T done = work(connection);
        transaction.Commit();
        return done;
    })), CancellationToken.None);
}
