using System.Security.Cryptography;
using System.Threading.Channels;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Jobs;
using Diptych.Inference;
using Diptych.Reading;
using Channel = System.Threading.Channels.Channel;

namespace Diptych.Engine.Ingestion;

/// <summary>
/// source -> read -> chunk -> embed -> commit, with every stage busy at once and a bounded queue between them. Reading and decoding
/// fill the cores beside the models; commits are gathered, each document in one transaction. One file's failure is told and stops nothing.
/// </summary>
/// <param name="reader">Reads files and decodes their pictures.</param>
/// <param name="pictures">Reads the text in pictures; null leaves them unread.</param>
public sealed partial class Ingestor(IDocumentStore store, Embedder embedder, IDocumentReader reader, TimeProvider time, IPictureReader? pictures = null)
{
    /// <summary>Documents between two stages.</summary>
    private const int QueueLength = 64;

    /// <summary>Documents being embedded at a time: enough for tight length buckets in the scheduler.</summary>
    private const int Embedding = 192;

    /// <summary>Most documents in one transaction.</summary>
    private const int CommitBatch = 64;

    private readonly Chunker _chunker = new(embedder.Tokenizer);

    /// <param name="sources">Enumerated lazily, so that work starts before a large folder has been walked.</param>
    /// <param name="report">Called from one thread at a time, with the sums so far.</param>
    /// <returns>The sums at the end.</returns>
    public async Task<IngestTotals> RunAsync(
        IEnumerable<IngestSource> sources, IngestOptions options, Action<IngestEvent, IngestTotals>? report, CancellationToken cancellation)
    {
        if (options.MakesCollection)
        {
            store.EnsureCollection(options.Collection, options.Language);
        }
        var run = new Run(options, report, time);
        try
        {
            await PassAsync(sources, run, cancellation).ConfigureAwait(false);
            while (run.TakePostponed() is { Count: > 0 } postponed)
            {
                await PassAsync(Reconcile(postponed, run), run, cancellation).ConfigureAwait(false);
            }
        }
        finally
        {
            run.ReturnAll();
        }
        Prune(run);
        return run.Totals;
    }

    /// <summary>Takes the sources through all stages.</summary>
    private async Task PassAsync(IEnumerable<IngestSource> sources, Run run, CancellationToken cancellation)
    {
        using var failed = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        CancellationToken stop = failed.Token;
        var found = Channel.CreateBounded<IngestSource>(QueueLength * 4);
        var read = Channel.CreateBounded<Readied>(QueueLength);
        var embedded = Channel.CreateBounded<(Readied Source, IngestedDocument Document)>(QueueLength);

        Task[] stages =
        [
            Stage(() => WalkAsync(sources, run, found.Writer, stop), failed),
            Stage(() => ReadAsync(found.Reader, read.Writer, run, stop), failed),
            Stage(() => EmbedAsync(read.Reader, embedded.Writer, run, stop), failed),
            Stage(() => CommitAsync(embedded.Reader, run, stop), failed),
        ];
        try
        {
            await Task.WhenAll(stages).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (stages.FirstOrDefault(s => s.IsFaulted) is { } culprit)
        {
            // The other stages were cancelled because this one failed: its error is the one to tell.
            await culprit.ConfigureAwait(false);
        }
    }

    private static async Task Stage(Func<Task> work, CancellationTokenSource failed)
    {
        try
        {
            await Task.Run(work, failed.Token).ConfigureAwait(false);
        }
        catch
        {
            await failed.CancelAsync().ConfigureAwait(false);
            throw;
        }
    }

    private static async Task WalkAsync(IEnumerable<IngestSource> sources, Run run, ChannelWriter<IngestSource> to, CancellationToken cancellation)
    {
        foreach (IngestSource source in sources)
        {
            if (!run.Found(source) && !run.IsSettled(source.Source))
            {
                continue;
            }
            await to.WriteAsync(source, cancellation).ConfigureAwait(false);
        }
        to.Complete();
    }

    private async Task ReadAsync(ChannelReader<IngestSource> from, ChannelWriter<Readied> to, Run run, CancellationToken cancellation)
    {
        // Twice the cores, so that a reader's next file is there when it has ended with one.
        var parallel = new ParallelOptions { MaxDegreeOfParallelism = 2 * Environment.ProcessorCount, CancellationToken = cancellation };
        await Parallel.ForEachAsync(from.ReadAllAsync(cancellation), parallel, async (source, token) =>
        {
            long reserved = 0;
            try
            {
                reserved = await run.ReserveAsync(source.SizeBytes ?? (source.Directory is null ? 0 : new FileInfo(source.Source).Length), token).ConfigureAwait(false);
                if (await ReadyAsync(source, run, token).ConfigureAwait(false) is { } readied)
                {
                    await to.WriteAsync(readied with { ReservedBytes = reserved }, token).ConfigureAwait(false);
                    reserved = 0;
                }
            }
            catch (Exception error) when (IsOfFile(error, token))
            {
                run.Say(new IngestEvent(source.Source, IngestOutcome.Failed, error.Message, null, 0, source.Lease));
            }
            finally
            {
                run.Return(reserved);
            }
        }).ConfigureAwait(false);
        to.Complete();
    }

    private async Task<Readied?> ReadyAsync(IngestSource source, Run run, CancellationToken cancellation)
    {
        if (source.Directory is not null && new FileInfo(source.Source).Length is var length && length > run.Options.MaxFileBytes)
        {
            throw new UnreadableException($"The file has {length >> 20} MB, more than the limit of {run.Options.MaxFileBytes >> 20} MB.");
        }
        byte[] bytes = await source.Read(cancellation).ConfigureAwait(false);
        if (bytes.LongLength > run.Options.MaxFileBytes)
        {
            throw new UnreadableException($"The content has {bytes.LongLength >> 20} MB, more than the limit of {run.Options.MaxFileBytes >> 20} MB.");
        }
        string hash = Convert.ToHexStringLower(SHA256.HashData(bytes));
        Document? before = store.Document(run.Options.Collection, source.Source);
        if (before?.ContentHash == hash && !run.Options.Again)
        {
            run.Say(new IngestEvent(source.Source, IngestOutcome.Unchanged, null, before, 0, source.Lease));
            return null;
        }
        if (before?.ContentHash != hash && !run.IsSettled(source.Source) && IsPostponed(source, before, hash, bytes, run))
        {
            return null;
        }
        string mediaType = MediaTypes.Detect(source.Name, bytes, source.MediaType);
        // A thread of its own may wait for the reader and for the models.
        return await PreparationPool.OnOwnThread(() => Ready(source, bytes, hash, mediaType, before is not null, cancellation), cancellation).ConfigureAwait(false);
    }

    private async Task EmbedAsync(
        ChannelReader<Readied> from, ChannelWriter<(Readied, IngestedDocument)> to, Run run, CancellationToken cancellation)
    {
        var parallel = new ParallelOptions { MaxDegreeOfParallelism = Embedding, CancellationToken = cancellation };
        await Parallel.ForEachAsync(from.ReadAllAsync(cancellation), parallel, async (readied, token) =>
        {
            IngestedPassage[] passages;
            try
            {
                passages = await Task.WhenAll(readied.Chunks.Select(c => EmbedAsync(c, readied.Single, token))).ConfigureAwait(false);
            }
            catch (Exception error) when (IsOfFile(error, token))
            {
                Fail(readied, error, run);
                return;
            }
            Document document = readied.Document with { Collection = run.Options.Collection };
            var ingested = new IngestedDocument(document, readied.Text, readied.Original, passages) { ReadTitle = readied.ReadTitle, ReadMetadata = readied.ReadMetadata, Item = readied.Lease };
            await to.WriteAsync((readied, ingested), token).ConfigureAwait(false);
        }).ConfigureAwait(false);
        to.Complete();
    }

    private async Task<IngestedPassage> EmbedAsync(Chunk chunk, bool single, CancellationToken cancellation)
    {
        PreparedImage? image = chunk.Picture?.Prepared;
        Task<TextEmbedding>? text = chunk.EmbeddedText.Length > 0 ? embedder.EmbedTextAsync(chunk.EmbeddedText, Lane.Bulk, cancellation) : null;
        if (image is null)
        {
            TextEmbedding embedding = await text!.ConfigureAwait(false);
            return new IngestedPassage(chunk.Passage, embedding.Text, embedding.Cross);
        }
        float[] cross = await embedder.EmbedImageAsync(image.Pixels, Lane.Bulk, cancellation).ConfigureAwait(false);
        Passage passage = chunk.Passage with { WidthPx = image.WidthPx, HeightPx = image.HeightPx };
        return new IngestedPassage(passage, text is null ? null : (await text.ConfigureAwait(false)).Text, cross, image.Thumbnail, single ? null : chunk.Picture!.Image);
    }

    private async Task CommitAsync(ChannelReader<(Readied Source, IngestedDocument Document)> from, Run run, CancellationToken cancellation)
    {
        while (await from.WaitToReadAsync(cancellation).ConfigureAwait(false))
        {
            var batch = new List<(Readied Source, IngestedDocument Document)>();
            while (batch.Count < CommitBatch && from.TryRead(out var next))
            {
                batch.Add(next);
            }
            try
            {
                Commit(batch, run);
            }
            catch (Exception error) when (IsOfFile(error, cancellation))
            {
                // One of them cannot be stored: each on its own, so that the others are.
                foreach (var one in batch)
                {
                    try
                    {
                        Commit([one], run);
                    }
                    catch (Exception own) when (IsOfFile(own, cancellation))
                    {
                        Fail(one.Source, own, run);
                    }
                }
            }
        }
    }

    private void Commit(List<(Readied Source, IngestedDocument Document)> batch, Run run)
    {
        IReadOnlyList<Document> committed = store.Commit([.. batch.Select(b => b.Document)]);
        for (int i = 0; i < committed.Count; i++)
        {
            Readied source = batch[i].Source;
            run.Return(source.ReservedBytes);
            IngestOutcome outcome = committed[i].Id == 0 ? IngestOutcome.Cancelled : source.Replaces ? IngestOutcome.Replaced : IngestOutcome.Added;
            run.Say(new IngestEvent(committed[i].Source, outcome, null, committed[i], batch[i].Document.Passages.Count(p => p.Thumbnail is not null), source.Lease) { Warnings = source.Warnings });
        }
    }

    private static void Fail(Readied readied, Exception error, Run run)
    {
        run.Return(readied.ReservedBytes);
        run.Say(new IngestEvent(readied.Document.Source, IngestOutcome.Failed, error.Message, null, 0, readied.Lease));
    }

    /// <summary>Whether an error is one file's, whatever its kind. A store that does not answer, a full disk and a stop are everybody's.</summary>
    private static bool IsOfFile(Exception error, CancellationToken cancellation) =>
        error is not (StoreUnavailableException or StorageFullException) && !(error is OperationCanceledException && cancellation.IsCancellationRequested);

    /// <summary>A document with its pixels, before it is embedded.</summary>
    private sealed record Readied(
        Document Document, string Text, byte[]? Original, IReadOnlyList<Chunk> Chunks, bool Single, bool Replaces)
    {
        public IReadOnlyList<string> Warnings { get; init; } = [];

        public long ReservedBytes { get; init; }

        public string? ReadTitle { get; init; }

        public required Metadata ReadMetadata { get; init; }

        public ItemLease? Lease { get; init; }
    }

    /// <summary>A source that is looked at again once all sources have been seen, since what it has may be somewhere else already.</summary>
    private sealed record Postponed(IngestSource Source, string Hash, bool MayCopy);
}
