using Diptych.Core;
using Diptych.Inference;
using Microsoft.Extensions.AI;

namespace Diptych.Runtimes.Remote;

/// <summary>
/// Embeddings from another server. Texts that wait go together in one request, interactive ones first. An interactive request that takes
/// longer than nineteen of twenty did, and twice what is usual, is sent a second time, and the answer that comes first counts (hedging: Dean and Barroso 2013); no
/// more than one in twenty is.
/// </summary>
public sealed class RemoteEncoder : IEncoder, IDisposable
{
    /// <summary>Texts of one request.</summary>
    private const int Together = 32;

    /// <summary>Times that are remembered, and from how many on a request may be sent again.</summary>
    private const int Remembered = 128, EnoughTimes = 20;

    private const double HedgedShare = 0.05;
    private readonly IEmbeddingGenerator<string, Embedding<float>> _generator;
    private readonly TimeProvider _time;
    private readonly IReadOnlyDictionary<Lane, LaneObjective> _objectives;
    private readonly object _gate = new();
    private readonly Queue<Item> _urgent = new(), _bulk = new();
    private readonly Queue<double> _seconds = new();
    private long _urgentRequests, _hedges;
    private volatile int _dimensions;

    public RemoteEncoder(IEmbeddingGenerator<string, Embedding<float>> generator, RemoteServer server, TimeProvider time, IReadOnlyDictionary<Lane, LaneObjective> objectives) =>
        (_generator, Server, _time, _objectives) = (generator, server, time, objectives);

    public RemoteServer Server { get; }

    public int Dimensions => _dimensions;

    public bool Sees => false;

    public IReadOnlyList<string> Models => [];

    public int CountTokens(string text) => 0;

    public async Task<float[]> EmbedTextAsync(string text, Lane lane, CancellationToken cancellation)
    {
        RequestTerms terms = RequestTerms.Current;
        lane = terms.Lane ?? lane;
        var item = new Item(text);
        lock (_gate)
        {
            (lane == Lane.Bulk ? _bulk : _urgent).Enqueue(item);
        }
        Pump();
        TimeSpan patience = terms.Left(_time) ?? _objectives[lane].Expiry;
        try
        {
            return await (lane == Lane.Bulk && terms.DueAt is null ? item.Result.Task.WaitAsync(cancellation) : item.Result.Task.WaitAsync(patience, _time, cancellation)).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            throw new OverloadedException($"{Server.Name} did not answer within {patience.TotalSeconds:0.#} s.", patience);
        }
        finally
        {
            // What nobody waits for any more is not sent.
            item.Result.TrySetCanceled(CancellationToken.None);
        }
    }

    public Task<float[]> EmbedImageAsync(byte[] file, Lane lane, CancellationToken cancellation) => throw new InvalidRequestException($"{Server.Name} embeds texts only.");

    public void Dispose()
    {
        Server.Dispose();
        _generator.Dispose();
    }

    private void Pump()
    {
        while (Server.TryEnter())
        {
            var batch = new List<Item>();
            bool urgent;
            lock (_gate)
            {
                Take(_urgent, batch);
                urgent = batch.Count > 0;
                Take(_bulk, batch);
            }
            if (batch.Count == 0)
            {
                Server.Leave();
                return;
            }
            _ = SendAsync(batch, urgent);
        }

        static void Take(Queue<Item> from, List<Item> batch)
        {
            while (batch.Count < Together && from.TryDequeue(out Item? item))
            {
                if (!item.Result.Task.IsCompleted)
                {
                    batch.Add(item);
                }
            }
        }
    }

    private async Task SendAsync(List<Item> batch, bool urgent)
    {
        try
        {
            string[] texts = [.. batch.Select(i => i.Text)];
            IReadOnlyList<float[]> vectors = urgent ? await HedgedAsync(texts).ConfigureAwait(false) : await RequestAsync(texts, CancellationToken.None).ConfigureAwait(false);
            _dimensions = vectors[0].Length;
            for (int i = 0; i < batch.Count; i++)
            {
                batch[i].Result.TrySetResult(vectors[i]);
            }
        }
        catch (Exception error)
        {
            // Whatever went wrong is told to those who wait.
            batch.ForEach(i => i.Result.TrySetException(error));
        }
        finally
        {
            Server.Leave();
        }
        Pump();
    }

    private async Task<IReadOnlyList<float[]>> HedgedAsync(string[] texts)
    {
        using var stop = new CancellationTokenSource();
        long start = _time.GetTimestamp();
        Task<IReadOnlyList<float[]>> first = RequestAsync(texts, stop.Token);
        Task<IReadOnlyList<float[]>> winner = first;
        if (Patience() is { } patience && await Task.WhenAny(first, Task.Delay(patience, _time, stop.Token)).ConfigureAwait(false) != first && Server.TryEnter())
        {
            Interlocked.Increment(ref _hedges);
            Server.CountHedge();
            try
            {
                Task<IReadOnlyList<float[]>> second = RequestAsync(texts, stop.Token);
                winner = await Task.WhenAny(first, second).ConfigureAwait(false);
                winner = winner.IsCompletedSuccessfully ? winner : winner == first ? second : first;
                await winner.ConfigureAwait(false);
            }
            finally
            {
                Server.Leave();
            }
        }
        IReadOnlyList<float[]> vectors = await winner.ConfigureAwait(false);
        await stop.CancelAsync().ConfigureAwait(false);
        lock (_gate)
        {
            _urgentRequests++;
            _seconds.Enqueue(_time.GetElapsedTime(start).TotalSeconds);
            if (_seconds.Count > Remembered)
            {
                _seconds.Dequeue();
            }
        }
        return vectors;
    }

    /// <returns>After how long a request is sent again; null while too little is known, or enough were.</returns>
    private TimeSpan? Patience()
    {
        lock (_gate)
        {
            if (_seconds.Count < EnoughTimes || Interlocked.Read(ref _hedges) >= HedgedShare * _urgentRequests)
            {
                return null;
            }
            double[] sorted = [.. _seconds.Order()];
            // Where all take about as long, a little longer means nothing.
            return TimeSpan.FromSeconds(Math.Max(sorted[(int)(0.95 * (sorted.Length - 1))], 2 * sorted[sorted.Length / 2]));
        }
    }

    private Task<IReadOnlyList<float[]>> RequestAsync(string[] texts, CancellationToken cancellation) => Server.AskAsync<IReadOnlyList<float[]>>(
        async stop =>
        {
            GeneratedEmbeddings<Embedding<float>> embeddings = await _generator.GenerateAsync(texts, null, stop).ConfigureAwait(false);
            return embeddings.Count == texts.Length ? [.. embeddings.Select(e => e.Vector.ToArray())] : throw new IOException($"{Server.Name} gave {embeddings.Count} vectors for {texts.Length} texts.");
        },
        cancellation);

    private sealed record Item(string Text)
    {
        public TaskCompletionSource<float[]> Result { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}
