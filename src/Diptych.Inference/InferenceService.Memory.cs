using Diptych.Core;
using Diptych.Inference.Memory;
using Diptych.Inference.Scheduling;

namespace Diptych.Inference;

/// <summary>Models coming and going within the ledgers, and what is done when memory runs short all the same.</summary>
public sealed partial class InferenceService
{
    /// <summary>A model that failed to load is not tried again for so long.</summary>
    private const double RetryLoadSeconds = 5;

    private readonly SemaphoreSlim _loading = new(1);

    /// <summary>Loads every model that is known, one after the other.</summary>
    public async Task LoadAsync(CancellationToken cancellation)
    {
        foreach (ModelDescription model in Models)
        {
            await LoadAsync(model.Name, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Loads a model now; one that is loaded stays.</summary>
    /// <exception cref="OverloadedException">There is no room for it now.</exception>
    /// <exception cref="InvalidRequestException">There never will be.</exception>
    public async Task LoadAsync(string model, CancellationToken cancellation)
    {
        HeldModel held = Find(model);
        lock (_gate)
        {
            if (held.Placements.Count > 0)
            {
                return;
            }
            held.Loading = true;
        }
        await LoadNowAsync(held, cancellation).ConfigureAwait(false);
        cancellation.ThrowIfCancellationRequested();
        if (held.Removed)
        {
            throw Gone(held);
        }
        if (held.LoadError is { } error)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(error);
        }
        if (held.Placements.Count == 0)
        {
            throw new OverloadedException($"There is no room for {model} until another model may leave.", TimeSpan.FromSeconds(Math.Max(1, held.RetryAt - Now())));
        }
    }

    /// <summary>Takes a model off its devices once its running batches have ended. It comes back when it is asked for.</summary>
    public async Task UnloadAsync(string model)
    {
        HeldModel held = Find(model);
        lock (_gate)
        {
            held.Pinned = false;
        }
        await EvictAsync(held).ConfigureAwait(false);
    }

    /// <summary>Takes a model away for good; what waits for it fails.</summary>
    public async Task RemoveAsync(string model)
    {
        HeldModel held = Find(model);
        lock (_gate)
        {
            held.Removed = true;
            _byName.Remove(model);
            FailAdmissions(held);
            Fail(held, Gone(held));
        }
        await EvictAsync(held).ConfigureAwait(false);
    }

    private static NotFoundException Gone(HeldModel model) => new($"The model '{model.Backend.Description.Name}' was removed.");

    /// <summary>A pinned model never leaves to make room.</summary>
    public void Pin(string model, bool pinned)
    {
        HeldModel held = Find(model);
        lock (_gate)
        {
            held.Pinned = pinned;
        }
    }

    /// <summary>Starts loading unless it is under way or was tried a moment ago. Called within the gate.</summary>
    private void LoadSoon(HeldModel model)
    {
        if (!model.Loading && Now() >= model.RetryAt && !model.Removed)
        {
            model.Loading = true;
            // A load never blocks requests for loaded models: it has a thread of its own.
            _ = Task.Run(() => LoadNowAsync(model, _stop.Token), CancellationToken.None);
        }
    }

    private async Task LoadNowAsync(HeldModel model, CancellationToken cancellation)
    {
        try
        {
            await _loading.WaitAsync(cancellation).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            model.Loading = false;
            return;
        }
        try
        {
            if (model.Placements.Count == 0 && !_stopping && !model.Removed)
            {
                await PlaceAsync(model, cancellation).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            // Whoever asked for it went away. That says nothing of the model, and what waits for it asks again.
        }
        catch (Exception error)
        {
            lock (_gate)
            {
                model.LoadError = error;
                model.RetryAt = Now() + RetryLoadSeconds;
                Fail(model, error);
            }
            _options.Told?.Invoke(new ModelEvent(ModelEventKind.Failed, model.Backend.Description.Name, "", 0, TimeSpan.Zero, error));
        }
        finally
        {
            lock (_gate)
            {
                model.Loading = false;
                Monitor.PulseAll(_gate);
            }
            _loading.Release();
        }
    }

    private async Task PlaceAsync(HeldModel model, CancellationToken cancellation)
    {
        long needed = model.WeightBytes + model.WorkspaceBytes;
        double retryAt = double.PositiveInfinity;
        foreach (HeldDevice device in _devices.OrderByDescending(d => d.Ledger.FreeBytes))
        {
            List<HeldModel>? victims;
            lock (_gate)
            {
                double now = Now();
                var residents = _models.SelectMany(m => m.Placements.Where(p => p.Device == device).Select(p => new Resident(
                    m.Index, p.Bytes, m.LoadSeconds, p.LoadedAt, m.UsesPerSecond(now), m.Pinned, p.Busy > 0))).ToList();
                victims = Residency.Victims(residents, device.Ledger.FreeBytes, needed, now, out double when)?.ConvertAll(i => _models[i]);
                retryAt = Math.Min(retryAt, when);
            }
            if (victims is null)
            {
                continue;
            }
            foreach (HeldModel victim in victims)
            {
                await EvictAsync(victim).ConfigureAwait(false);
            }
            if (await PlaceOnAsync(model, device, cancellation).ConfigureAwait(false))
            {
                return;
            }
            retryAt = Math.Min(retryAt, Now() + 1);
        }
        if (double.IsPositiveInfinity(retryAt))
        {
            throw new InvalidRequestException(
                $"{model.Backend.Description.Name} needs {needed >> 20} MiB, and no device has room for that beside its pinned models ({string.Join(", ", _devices.Select(d => $"{d.Device.Name}: {d.Ledger.FreeBytes >> 20} of {d.Device.BudgetBytes >> 20} MiB free"))}).");
        }
        lock (_gate)
        {
            model.RetryAt = retryAt;
        }
        // Workers ask again then, for what waits for this model.
        _ = WakeAtAsync(retryAt);
    }

    private async Task<bool> PlaceOnAsync(HeldModel model, HeldDevice device, CancellationToken cancellation)
    {
        ModelDescription description = model.Backend.Description;
        using MemoryLedger.Reservation? weights = device.Ledger.TryReserve(MemoryKind.Weights, description.Name, model.WeightBytes);
        using MemoryLedger.Reservation? workspace = device.Ledger.TryReserve(MemoryKind.Workspace, description.Name, model.WorkspaceBytes);
        if (weights is null || workspace is null)
        {
            return false;
        }
        bool measures = !_costs[model.Index].IsMeasured;
        if (measures)
        {
            // What was freed and kept would hide as much of the growth.
            NativeHeap.GiveBack();
        }
        long before = Environment.WorkingSet;
        double start = Now();
        ILoadedModel loaded = await model.Backend.LoadAsync(device.Device, cancellation).ConfigureAwait(false);
        double loadSeconds = Math.Max(Now() - start, 1e-3);
        long weightBytes = model.WeightBytes, workspaceBytes = model.WorkspaceBytes;
        if (measures)
        {
            try
            {
                NativeHeap.GiveBack();
                long after = Environment.WorkingSet;
                await ProbeAsync(loaded, description, _costs[model.Index], device.Device.Workers, cancellation).ConfigureAwait(false);
                // What the process grew by with all workers at it, within what is plausible: others allocate meanwhile.
                weightBytes = Math.Clamp(after - before, description.WeightBytes, 3 * description.WeightBytes);
                workspaceBytes = Math.Clamp(Environment.WorkingSet - after, 0, 16 * Math.Max(description.WeightBytes, 1 << 20));
            }
            catch
            {
                await loaded.DisposeAsync().ConfigureAwait(false);
                throw;
            }
            _options.Profiles.Save(description, device.Device.Name, new ModelProfile(_costs[model.Index].Profile, weightBytes, workspaceBytes, loadSeconds));
        }
        lock (_gate)
        {
            model.LoadSeconds = loadSeconds;
            (model.WeightBytes, model.WorkspaceBytes) = (weightBytes, workspaceBytes);
            // One that was removed while it was read goes again. The ledger holds what it turned out to be; what does not fit any more makes
            // room first, and is placed then.
            if (model.Removed || !weights.Commit(weightBytes) || !workspace.Commit(workspaceBytes))
            {
                _ = loaded.DisposeAsync().AsTask();
                return false;
            }
            model.LoadError = null;
            model.Placements.Add(new Placement(device, loaded, weights.Take(), workspace.Take(), Now()));
            device.Runnable[model.Index] = true;
        }
        _options.Told?.Invoke(new ModelEvent(
            ModelEventKind.Loaded, description.Name, device.Device.Name, weightBytes + workspaceBytes, TimeSpan.FromSeconds(loadSeconds)));
        return true;
    }

    private async Task EvictAsync(HeldModel model)
    {
        List<Placement> leaving;
        lock (_gate)
        {
            leaving = [.. model.Placements];
            model.Placements.Clear();
            foreach (Placement placement in leaving)
            {
                placement.Device.Runnable[model.Index] = false;
            }
        }
        foreach (Placement placement in leaving)
        {
            await WaitUntilAsync(() => placement.Busy == 0).ConfigureAwait(false);
            await placement.Loaded.DisposeAsync().ConfigureAwait(false);
            placement.Release();
            _options.Told?.Invoke(new ModelEvent(
                ModelEventKind.Evicted, model.Backend.Description.Name, placement.Device.Device.Name, placement.Bytes, TimeSpan.Zero));
        }
        NativeHeap.GiveBack();
    }

    private async Task WaitUntilAsync(Func<bool> holds)
    {
        while (true)
        {
            lock (_gate)
            {
                if (holds())
                {
                    return;
                }
            }
            await Task.Delay(TimeSpan.FromMilliseconds(2), _time, CancellationToken.None).ConfigureAwait(false);
        }
    }

    private async Task WakeAtAsync(double at)
    {
        try
        {
            // A timer may fire a little early.
            while (Now() < at)
            {
                await Task.Delay(TimeSpan.FromSeconds(Math.Max(0.001, at - Now())), _time, _stop.Token).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException)
        {
            return;
        }
        lock (_gate)
        {
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Fails everything that waits for a model. Called within the gate.</summary>
    private void Fail(HeldModel model, Exception error)
    {
        foreach (Entry entry in _entries.Values.Where(e => _work[e.Slot].Model == model.Index).ToList())
        {
            int tenant = _work[entry.Slot].Tenant;
            _work.Remove(entry.Slot);
            Leave(entry, tenant);
            if (entry.Result.TrySetException(error))
            {
                _metrics.Ended(entry.Request.Lane, Outcome.Failed);
            }
        }
    }

    /// <summary>
    /// Runs a batch. When the device has no memory for it: smaller batches, then without caches, then alone on the device, then with an
    /// idle model gone, and only then not at all.
    /// </summary>
    private BatchOutput Run(Placement placement, HeldModel model, List<Entry> entries)
    {
        if (TryRun(placement, model, entries) is { } output)
        {
            return output;
        }
        if (entries.Count > 1)
        {
            int half = entries.Count / 2;
            return Join(Run(placement, model, entries[..half]), Run(placement, model, entries[half..]));
        }
        Action[] caches;
        lock (_gate)
        {
            caches = [.. _caches];
        }
        foreach (Action drop in caches)
        {
            drop();
        }
        if (TryRun(placement, model, entries) is { } withoutCaches)
        {
            return withoutCaches;
        }
        lock (_gate)
        {
            placement.Device.Exclusive = true;
        }
        WaitUntilAsync(() => placement.Device.Idle == placement.Device.Device.Workers - 1).GetAwaiter().GetResult();
        if (TryRun(placement, model, entries) is { } alone)
        {
            return alone;
        }
        HeldModel? idle;
        lock (_gate)
        {
            double now = Now();
            idle = _models.Where(m => m != model && !m.Pinned && m.Placements.Exists(p => p.Device == placement.Device && p.Busy == 0))
                .MinBy(m => m.LoadSeconds * m.UsesPerSecond(now) / Math.Max(1, m.WeightBytes));
        }
        if (idle is not null)
        {
            EvictAsync(idle).GetAwaiter().GetResult();
            if (TryRun(placement, model, entries) is { } afterEviction)
            {
                return afterEviction;
            }
        }
        throw new OverloadedException($"{placement.Device.Device.Name} has no memory for this request.", TimeSpan.FromSeconds(5));
    }

    private BatchOutput? TryRun(Placement placement, HeldModel model, List<Entry> entries)
    {
        try
        {
            return placement.Loaded.ExecuteAsync(Assemble(entries, model.Backend.Description.Input), _stop.Token).AsTask().GetAwaiter().GetResult();
        }
        catch (Exception error) when (error is DeviceMemoryException or OutOfMemoryException)
        {
            return null;
        }
    }

    private static BatchOutput Join(BatchOutput first, BatchOutput second) =>
        new(first.Rows.ToDictionary(r => r.Key, r => (float[][])[.. r.Value, .. second.Rows[r.Key]]));
}
