using System.Text;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Jobs;
using Xunit;

namespace Diptych.Tests.Index;

/// <summary>What every store's job queue does, whoever works on it and dies when.</summary>
public abstract class JobQueueConformance
{
    private static readonly TimeSpan Lease = TimeSpan.FromMinutes(1);

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    /// <summary>Opens the store of this test, with the collection "c": the same one each time.</summary>
    protected abstract IDocumentStore Open();

    protected abstract ISpool Spool(IDocumentStore store, long capacityBytes);

    [Fact]
    public async Task A_job_is_leased_in_turns_ended_once_and_told_with_its_outcomes()
    {
        using IDocumentStore store = Open(), other = Open();
        IJobQueue queue = (IJobQueue)store, second = (IJobQueue)other;
        await AddAsync(queue, "long", "a1", "a2", "a3", "a4");
        await AddAsync(queue, "short", "b1");
        Assert.Equal(JobState.Queued, (await second.FindAsync("long", Cancellation))!.State);
        Assert.Equal(["a1", "a2"], await LeaseAsync(queue, "node1", 2));
        // The job that waited longest for its turn is next, and what another node has is not given out again.
        Assert.Equal(["b1"], await LeaseAsync(second, "node2", 2));
        Assert.Equal(["a3", "a4"], await LeaseAsync(second, "node2", 5));
        Assert.Empty(await LeaseAsync(queue, "node1", 5));
        Assert.Equal(5, await queue.WaitingAsync(Cancellation));

        await queue.EndAsync("node1", [new ItemEnd(new("long", 0), IngestOutcome.Failed, "broken", null)], Cancellation);
        // Neither a node without the lease nor the same one again ends it anew.
        await second.EndAsync("node2", [new ItemEnd(new("long", 0), IngestOutcome.Unchanged, null, 7), new ItemEnd(new("long", 1), IngestOutcome.Unchanged, null, 7)], Cancellation);
        await queue.EndAsync("node1", [new ItemEnd(new("long", 0), IngestOutcome.Unchanged, null, 7)], Cancellation);
        Job half = (await second.FindAsync("long", Cancellation))!;
        Assert.Equal((JobState.Running, 1, 1), (half.State, half.Outcomes.Count, half.Outcomes[IngestOutcome.Failed]));
        await queue.EndAsync("node1", [new ItemEnd(new("long", 1), IngestOutcome.Unchanged, null, 7)], Cancellation);
        await second.EndAsync("node2", [new ItemEnd(new("long", 2), IngestOutcome.Unchanged, null, 8), new ItemEnd(new("long", 3), IngestOutcome.Unchanged, null, 9)], Cancellation);
        Job done = (await queue.FindAsync("long", Cancellation))!;
        Assert.Equal((JobState.Done, 3), (done.State, done.Outcomes[IngestOutcome.Unchanged]));
        Assert.NotNull(done.EndedAt);

        IReadOnlyList<JobItem> items = await second.ItemsAsync("long", null, 0, 100, Cancellation);
        Assert.Equal(["a1", "a2", "a3", "a4"], items.Select(i => i.Source));
        Assert.Equal("broken", items[0].Reason);
        Assert.Equal(9, items[3].DocumentId);
        Assert.Equal(["a3", "a4"], (await second.ItemsAsync("long", null, items[1].EndedPosition, 100, Cancellation)).Select(i => i.Source));
        Assert.Equal(["a1"], (await second.ItemsAsync("long", IngestOutcome.Failed, null, 100, Cancellation)).Select(i => i.Source));
        Assert.Equal(["short", "long"], (await queue.ListAsync("c", null, null, 10, Cancellation)).Select(j => j.Id));
        Assert.Equal(["long"], (await queue.ListAsync(null, JobState.Done, null, 10, Cancellation)).Select(j => j.Id));
        Assert.Equal(["long"], (await queue.ListAsync(null, null, "short", 10, Cancellation)).Select(j => j.Id));
        await queue.ForgetAsync(DateTimeOffset.UnixEpoch.AddYears(100), Cancellation);
        Assert.Equal(["short"], (await queue.ListAsync(null, null, null, 10, Cancellation)).Select(j => j.Id));
    }

    [Fact]
    public async Task What_a_dead_node_had_passes_on_and_its_late_commit_stores_nothing()
    {
        using IDocumentStore store = Open();
        IJobQueue queue = (IJobQueue)store;
        await AddAsync(queue, "job", "a", "b");
        JobItemKey a = new("job", 0), b = new("job", 1);
        Assert.Equal(["a", "b"], await LeaseAsync(queue, "dead", 5));
        Assert.Equal(["dead"], await queue.NodesAsync(Cancellation));
        Assert.Empty(await queue.RenewAsync("dead", [a, b], Lease, Cancellation));
        Assert.Empty(await LeaseAsync(queue, "living", 5));
        await queue.ExpireAsync("dead", Cancellation);
        Assert.Equal(["a", "b"], await LeaseAsync(queue, "living", 5));

        Assert.Equal(0, store.Commit([Document("a") with { Item = new ItemLease(a, "dead") }])[0].Id);
        Assert.Empty(store.Documents("c"));
        long id = store.Commit([Document("a") with { Item = new ItemLease(a, "living") }])[0].Id;
        Assert.Equal(id, store.Document("c", "a")!.Id);
        JobItem ended = (await queue.ItemsAsync("job", null, 0, 10, Cancellation)).Single();
        Assert.Equal((IngestOutcome.Added, id), (ended.Outcome, ended.DocumentId));

        // A stop gives back what is not done, as if it had never been taken.
        await queue.ReleaseAsync("living", [a, b], counts: false, Cancellation);
        Assert.Equal(1, (await queue.ItemsAsync("job", null, null, 10, Cancellation)).Single(i => i.Source == "b").Attempts);
        Assert.Equal(["b"], await LeaseAsync(queue, "living", 5));
        Assert.Equal(
            IngestOutcome.Duplicate, await PlaceAsync(store, queue, new Placement("b", "b", id, "hash a", false, Metadata.Empty, null, DateTimeOffset.UnixEpoch) { Item = new ItemLease(b, "living") }));
        Assert.Equal(JobState.Done, (await queue.FindAsync("job", Cancellation))!.State);
    }

    [Fact]
    public async Task What_ends_its_node_again_and_again_is_worked_on_alone_and_then_fails()
    {
        using IDocumentStore store = Open();
        IJobQueue queue = (IJobQueue)store;
        await AddAsync(queue, "job", "killer", "innocent");
        var leased = new List<string[]>();
        for (int death = 0; death < 12 && (await queue.FindAsync("job", Cancellation))!.State != JobState.Done; death++)
        {
            leased.Add(await LeaseAsync(queue, $"node{death}", 5));
            if (leased[^1] is ["innocent"])
            {
                await queue.EndAsync($"node{death}", [new ItemEnd(new("job", 1), IngestOutcome.Added, null, 1)], Cancellation);
            }
            else
            {
                await queue.ExpireAsync($"node{death}", Cancellation);
            }
        }
        Assert.Equal([["killer", "innocent"], ["killer", "innocent"]], leased[..2]);
        Assert.All(leased[2..], l => Assert.True(l.Length <= 1));
        Job job = (await queue.FindAsync("job", Cancellation))!;
        Assert.Equal((JobState.Done, 1, 1), (job.State, job.Outcomes[IngestOutcome.Failed], job.Outcomes[IngestOutcome.Added]));
    }

    [Fact]
    public async Task A_cancelled_job_and_one_of_a_deleted_collection_store_nothing_more()
    {
        using IDocumentStore store = Open();
        IJobQueue queue = (IJobQueue)store;
        await AddAsync(queue, "cancelled", "a", "b");
        await LeaseAsync(queue, "node", 5);
        store.Commit([Document("a") with { Item = new ItemLease(new("cancelled", 0), "node") }]);
        Assert.True(await queue.CancelAsync("cancelled", Cancellation));
        Assert.False(await queue.CancelAsync("cancelled", Cancellation));
        Assert.Equal(0, store.Commit([Document("b") with { Item = new ItemLease(new("cancelled", 1), "node") }])[0].Id);
        Assert.Equal(["a"], store.Documents("c").Select(d => d.Source));
        Assert.Equal(["cancelled"], await queue.RenewAsync("node", [new("cancelled", 1)], Lease, Cancellation));

        await AddAsync(queue, "deleted", "d");
        Assert.Equal(["d"], await LeaseAsync(queue, "node", 5));
        Assert.True(store.DeleteCollection("c"));
        Assert.Equal(0, store.Commit([Document("d") with { Item = new ItemLease(new("deleted", 0), "node") }])[0].Id);
        Assert.DoesNotContain("c", store.Collections().Select(c => c.Name));
        Assert.Equal(JobState.Cancelled, (await queue.FindAsync("deleted", Cancellation))!.State);
        Assert.Equal(0, await queue.WaitingAsync(Cancellation));
        await Assert.ThrowsAsync<NotFoundException>(() => AddAsync(queue, "late", "e"));
    }

    [Fact]
    public async Task Versions_of_one_source_are_ingested_in_the_order_in_which_they_came()
    {
        using IDocumentStore store = Open();
        IJobQueue queue = (IJobQueue)store;
        await AddAsync(queue, "first", "a");
        await AddAsync(queue, "second", "a", "b");
        Assert.Equal(["a"], await LeaseAsync(queue, "node1", 5));
        Assert.Equal(["b"], await LeaseAsync(queue, "node2", 5));
        Assert.Empty(await LeaseAsync(queue, "node2", 5));
        Assert.True(await queue.IsWaitedForAsync("c", "a", Cancellation));
        store.Commit([Document("a") with { Item = new ItemLease(new("first", 0), "node1") }]);
        Assert.Equal(["a"], await LeaseAsync(queue, "node2", 5));
        store.Commit([Document("a") with { Item = new ItemLease(new("second", 0), "node2") }]);
        Assert.False(await queue.IsWaitedForAsync("c", "a", Cancellation));
        Assert.Equal(IngestOutcome.Replaced, (await queue.ItemsAsync("second", null, 0, 10, Cancellation)).Single().Outcome);
    }

    [Fact]
    public async Task A_busy_host_holds_up_its_own_items_only_and_what_was_fetched_is_ingested()
    {
        using IDocumentStore store = Open();
        IJobQueue queue = (IJobQueue)store;
        ISpool spool = Spool(store, 1 << 20);
        string[] urls = ["http://slow.example/1", "http://slow.example/2", "http://quick.example/3"];
        await queue.AddAsync(
            new Job("job", "c", DateTimeOffset.UnixEpoch) { Items = 3 }, [.. urls.Select((u, i) => new JobItem(new("job", i), u, $"{i}.html", null, Metadata.Empty, u, null, 0))], Cancellation);
        Assert.Empty(await LeaseAsync(queue, "node", 5));
        JobItem quick = (await queue.LeaseToFetchAsync("node", ["slow.example"], 5, Lease, Cancellation)).Single();
        Assert.Equal(urls[2], quick.Url);
        SpooledFile file = await spool.WriteAsync(new MemoryStream([1, 2, 3]), 10, Cancellation);
        Assert.True(await queue.SpooledAsync("node", quick.Key, file.Name, file.Bytes, "text/html", Cancellation));
        JobItem fetched = (await queue.LeaseAsync("node", 5, Lease, Cancellation)).Single();
        Assert.Equal((file.Name, 3, "text/html"), (fetched.Spool, fetched.Bytes, fetched.MediaType));
        Assert.Equal([1, 2, 3], await spool.ReadAsync(fetched.Spool!, Cancellation));
    }

    [Fact]
    public async Task The_spool_keeps_what_jobs_need_and_nothing_else_and_refuses_more_than_it_holds()
    {
        using IDocumentStore store = Open();
        IJobQueue queue = (IJobQueue)store;
        ISpool spool = Spool(store, 4 << 20);
        byte[] large = new byte[(2 << 20) + 17];
        new Random(3).NextBytes(large);
        SpooledFile kept = await spool.WriteAsync(new MemoryStream(large), 4 << 20, Cancellation), fresh = await spool.WriteAsync(new MemoryStream([1]), 10, Cancellation);
        Assert.Equal(Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(large)), kept.Hash);
        Assert.Equal(large, await spool.ReadAsync(kept.Name, Cancellation));
        await Assert.ThrowsAsync<UnreadableException>(() => spool.WriteAsync(new MemoryStream(large), 1 << 20, Cancellation));
        StorageFullException full = await Assert.ThrowsAsync<StorageFullException>(() => spool.WriteAsync(new MemoryStream(large), 4 << 20, Cancellation));
        Assert.Contains("Diptych:SpoolMb", full.Message, StringComparison.Ordinal);

        await queue.AddAsync(new Job("job", "c", DateTimeOffset.UnixEpoch) { Items = 1 }, [new JobItem(new("job", 0), "a", "a", null, Metadata.Empty, null, kept.Name, kept.Bytes)], Cancellation);
        spool.Claim([kept.Name]);
        await spool.SweepAsync(queue.SpooledFilesAsync, Cancellation);
        Assert.Equal(large, await spool.ReadAsync(kept.Name, Cancellation));
        Assert.Equal([1], await spool.ReadAsync(fresh.Name, Cancellation));
        Assert.Empty(await queue.SpentFilesAsync(Cancellation));
        await queue.CancelAsync("job", Cancellation);
        Assert.Equal([kept.Name], await queue.SpentFilesAsync(Cancellation));
        await spool.DeleteAsync(kept.Name, Cancellation);
        await queue.ForgetFilesAsync([kept.Name], Cancellation);
        Assert.Empty(await queue.SpentFilesAsync(Cancellation));
        await Assert.ThrowsAsync<FileNotFoundException>(() => spool.ReadAsync(kept.Name, Cancellation));
        Assert.Equal(large.Length, (await spool.WriteAsync(new MemoryStream(large), 4 << 20, Cancellation)).Bytes);
    }

    private static async Task<IngestOutcome?> PlaceAsync(IDocumentStore store, IJobQueue queue, Placement placement)
    {
        Assert.NotNull(store.Place("c", [placement])[0]);
        return (await queue.ItemsAsync(placement.Item!.Item.Job, null, 0, 10, Cancellation))[^1].Outcome;
    }

    private static Task AddAsync(IJobQueue queue, string id, params string[] sources) => queue.AddAsync(
        new Job(id, "c", DateTimeOffset.UnixEpoch.AddSeconds(id.Length)) { Items = sources.Length },
        [.. sources.Select((s, i) => new JobItem(new(id, i), s, s, null, Metadata.Empty.With("key", s), null, null, 0))],
        Cancellation);

    private static async Task<string[]> LeaseAsync(IJobQueue queue, string node, int most) => [.. (await queue.LeaseAsync(node, most, Lease, Cancellation)).Select(i => i.Source)];

    private static IngestedDocument Document(string source) => new(
        new Document { Collection = "c", Source = source, ContentHash = $"hash {source}", MediaType = "text/plain", Title = source, SizeBytes = 1, IngestedAt = DateTimeOffset.UnixEpoch, PageCount = 1 },
        source, Encoding.UTF8.GetBytes(source), []);
}
