using Diptych.Core;

namespace Diptych.Inference;

/// <summary>An item to run: token ids for a text model, or RGB bytes for an image model.</summary>
/// <param name="TimeLimit">From submission to result; null takes the lane's.</param>
public sealed record InferenceRequest(string Model, Lane Lane, int[] Tokens, byte[] Pixels, TimeSpan? TimeLimit = null)
{
    public int Units => Math.Max(1, Tokens.Length);
}

/// <summary>
/// Runs models for everyone in the process: keeps what waits, asks <see cref="Scheduler"/> what is next, and drives the backends
/// with one worker per core. Bulk submissions wait for room (backpressure); interactive ones are refused when they would be late.
/// </summary>
public sealed class InferenceService : IAsyncDisposable
{
    private readonly IReadOnlyDictionary<string, IModelBackend> _backends;
    private readonly Dictionary<string, CostModel> _costs;
    private readonly IReadOnlyDictionary<Lane, LaneObjective> _objectives;
    private readonly TimeProvider _time;
    private readonly int _maxBulkItems;
    private readonly int _workerCount;
    private readonly Lock _lock = new();
    private readonly Dictionary<long, Entry> _waiting = [];
    private readonly Queue<TaskCompletionSource> _bulkAdmissions = new();
    private readonly SemaphoreSlim _work = new(0);
    private readonly CancellationTokenSource _stop = new();
    private readonly Thread[] _workers;
    private long _nextId;
    private int _bulkItems;

    /// <param name="workers">Batches in flight at a time; by default one per core.</param>
    /// <param name="maxBulkItems">Bulk items that may wait; enough for tight length buckets, few enough to bound memory.</param>
    public InferenceService(
        IEnumerable<IModelBackend> backends,
        TimeProvider time,
        int? workers = null,
        int maxBulkItems = 512,
        IReadOnlyDictionary<Lane, LaneObjective>? objectives = null)
    {
        _backends = backends.ToDictionary(b => b.Description.Name);
        _costs = _backends.Values.ToDictionary(
            b => b.Description.Name,
            b => new CostModel(b.Description.Input == InputKind.Tokens ? 0.0002 : 0.02));
        _objectives = objectives ?? LaneObjective.Defaults;
        _time = time;
        _maxBulkItems = maxBulkItems;
        _workerCount = workers ?? Environment.ProcessorCount;
        // Threads of their own: a native call that holds a thread for tens of milliseconds must not starve the thread pool.
        _workers = [.. Enumerable.Range(0, _workerCount).Select(i => new Thread(Work) { IsBackground = true, Name = $"inference {i}" })];
        foreach (Thread worker in _workers)
        {
            worker.Start();
        }
    }

    public IEnumerable<ModelDescription> Models => _backends.Values.Select(b => b.Description);

    /// <summary>Mean relative error of the model's recent time predictions.</summary>
    public double PredictionError(string model) => _costs[model].Error;

    public ModelDescription Describe(string model) => _backends.TryGetValue(model, out IModelBackend? backend)
        ? backend.Description
        : throw new NotFoundException($"There is no model '{model}'. Known: {string.Join(", ", _backends.Keys)}.");

    public async Task LoadAsync(CancellationToken cancellation)
    {
        foreach (IModelBackend backend in _backends.Values)
        {
            await backend.LoadAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Runs one item.</summary>
    /// <returns>The item's row of each output.</returns>
    /// <exception cref="OverloadedException">The item cannot meet its deadline behind what waits already, or missed it.</exception>
    public async Task<IReadOnlyDictionary<string, float[]>> RunAsync(InferenceRequest request, CancellationToken cancellation)
    {
        ModelDescription model = Describe(request.Model);
        if (request.Units > model.MaxUnits)
        {
            throw new InvalidRequestException($"{model.Name} takes at most {model.MaxUnits} tokens, not {request.Units}.");
        }
        if (request.Lane == Lane.Bulk)
        {
            await AdmitBulkAsync(cancellation).ConfigureAwait(false);
        }
        var entry = new Entry(request);
        try
        {
            lock (_lock)
            {
                double now = Now();
                double limit = (request.TimeLimit ?? _objectives[request.Lane].TimeLimit).TotalSeconds;
                entry.Item = new PendingItem(_nextId++, request.Model, request.Lane, now, now + limit, request.Units);
                if (_objectives[request.Lane].Expires)
                {
                    RefuseIfLate(entry.Item, limit);
                }
                _waiting.Add(entry.Item.Id, entry);
            }
            _work.Release();
            await using var registration = cancellation.Register(() => Withdraw(entry, cancellation)).ConfigureAwait(false);
            return await entry.Result.Task.ConfigureAwait(false);
        }
        finally
        {
            if (request.Lane == Lane.Bulk)
            {
                ReleaseBulk();
            }
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        foreach (Thread worker in _workers)
        {
            worker.Join();
        }
        foreach (IModelBackend backend in _backends.Values)
        {
            await backend.UnloadAsync().ConfigureAwait(false);
        }
        _stop.Dispose();
        _work.Dispose();
    }

    private double Now() => _time.GetTimestamp() / (double)_time.TimestampFrequency;

    private void RefuseIfLate(PendingItem item, double limit)
    {
        double ahead = _waiting.Values
            .Where(e => e.Item.Deadline <= item.Deadline)
            .GroupBy(e => e.Item.Model)
            .Sum(g => _costs[g.Key].Predict(g.Sum(e => e.Item.Units))) / _workerCount;
        if (ahead + _costs[item.Model].Predict(item.Units) > limit)
        {
            throw new OverloadedException($"The queue ahead needs {ahead:0.0} s, more than this request's {limit:0.0} s.", TimeSpan.FromSeconds(Math.Ceiling(ahead)));
        }
    }

    private async Task AdmitBulkAsync(CancellationToken cancellation)
    {
        TaskCompletionSource admission;
        lock (_lock)
        {
            if (_bulkItems < _maxBulkItems)
            {
                _bulkItems++;
                return;
            }
            admission = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            _bulkAdmissions.Enqueue(admission);
        }
        await using (cancellation.Register(() => admission.TrySetCanceled(cancellation)).ConfigureAwait(false))
        {
            await admission.Task.ConfigureAwait(false);
        }
    }

    private void ReleaseBulk()
    {
        lock (_lock)
        {
            // A place passes straight to the next waiter; one that gave up is passed over.
            while (_bulkAdmissions.TryDequeue(out TaskCompletionSource? next))
            {
                if (next.TrySetResult())
                {
                    return;
                }
            }
            _bulkItems--;
        }
    }

    private void Withdraw(Entry entry, CancellationToken cancellation)
    {
        lock (_lock)
        {
            _waiting.Remove(entry.Item.Id);
        }
        entry.Result.TrySetCanceled(cancellation);
    }

    private void Work()
    {
        while (true)
        {
            try
            {
                _work.Wait(_stop.Token);
            }
            catch (OperationCanceledException)
            {
                FailWaiting();
                return;
            }
            List<Entry> batch = Take();
            if (batch.Count > 0)
            {
                Execute(batch);
                _work.Release();
            }
        }
    }

    private List<Entry> Take()
    {
        lock (_lock)
        {
            Decision decision = Scheduler.Step(
                [.. _waiting.Values.Select(e => e.Item)], Now(), (model, units) => _costs[model].Predict(units), _objectives);
            foreach (PendingItem item in decision.Expired)
            {
                _waiting.Remove(item.Id, out Entry? entry);
                entry!.Result.TrySetException(new OverloadedException("The request missed its deadline while it waited.", TimeSpan.FromSeconds(1)));
            }
            var batch = new List<Entry>(decision.Batch.Count);
            foreach (PendingItem item in decision.Batch)
            {
                _waiting.Remove(item.Id, out Entry? entry);
                batch.Add(entry!);
            }
            return batch;
        }
    }

    private void Execute(List<Entry> entries)
    {
        IModelBackend backend = _backends[entries[0].Item.Model];
        try
        {
            Batch batch = Assemble(entries, backend.Description.Input);
            long start = _time.GetTimestamp();
            BatchOutput output = backend.ExecuteAsync(batch, _stop.Token).AsTask().GetAwaiter().GetResult();
            double seconds = _time.GetElapsedTime(start).TotalSeconds;
            _costs[entries[0].Item.Model].Observe(entries.Max(e => e.Item.Units) * entries.Count, Math.Max(seconds, 1e-6));
            for (int i = 0; i < entries.Count; i++)
            {
                entries[i].Result.TrySetResult(output.Rows.ToDictionary(
                    r => r.Key,
                    r => r.Value.AsSpan(i * (r.Value.Length / entries.Count), r.Value.Length / entries.Count).ToArray()));
            }
        }
        catch (Exception error) when (error is not OutOfMemoryException)
        {
            // Whatever a backend throws belongs to the callers of this batch; the worker serves the next one.
            foreach (Entry entry in entries)
            {
                entry.Result.TrySetException(error);
            }
        }
    }

    private static Batch Assemble(List<Entry> entries, InputKind kind)
    {
        int[] offsets = new int[entries.Count + 1];
        for (int i = 0; i < entries.Count; i++)
        {
            offsets[i + 1] = offsets[i] + (kind == InputKind.Tokens ? entries[i].Request.Tokens.Length : entries[i].Request.Pixels.Length);
        }
        int[] tokens = kind == InputKind.Tokens ? new int[offsets[^1]] : [];
        byte[] pixels = kind == InputKind.Pixels ? new byte[offsets[^1]] : [];
        for (int i = 0; i < entries.Count; i++)
        {
            entries[i].Request.Tokens.CopyTo(tokens, kind == InputKind.Tokens ? offsets[i] : 0);
            entries[i].Request.Pixels.CopyTo(pixels, kind == InputKind.Pixels ? offsets[i] : 0);
        }
        return new Batch(tokens, pixels, offsets);
    }

    private void FailWaiting()
    {
        lock (_lock)
        {
            foreach (Entry entry in _waiting.Values)
            {
                entry.Result.TrySetException(new ObjectDisposedException(nameof(InferenceService)));
            }
            _waiting.Clear();
        }
    }

    private sealed class Entry(InferenceRequest request)
    {
        public InferenceRequest Request { get; } = request;

        public PendingItem Item { get; set; } = null!;

        public TaskCompletionSource<IReadOnlyDictionary<string, float[]>> Result { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}
