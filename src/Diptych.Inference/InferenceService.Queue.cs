using Diptych.Core;
using Diptych.Inference.Scheduling;

namespace Diptych.Inference;

/// <summary>Admission, and the workers that run what was admitted.</summary>
public sealed partial class InferenceService
{
    private readonly Dictionary<(int Tenant, Lane Lane), WaitingRoom> _rooms = [];

    private async Task AdmitAsync(Entry entry, HeldModel model, CancellationToken cancellation)
    {
        InferenceRequest request = entry.Request;
        TaskCompletionSource? place = null;
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_stopping, this);
            if (model.LoadError is { } failed && model.Placements.Count == 0 && Now() < model.RetryAt)
            {
                // Its failure was a moment ago; waiting would end the same.
                System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failed);
            }
            if (model.Removed)
            {
                throw Gone(model);
            }
            int tenant = _work.Shares.IndexOf(request.Tenant);
            entry.Room = Math.Max(request.Tokens.Length / (double)_options.MaxWaitingTokens, request.Bytes / (double)_options.MaxWaitingBytes);
            if (!_rooms.TryGetValue((tenant, request.Lane), out WaitingRoom? room))
            {
                _rooms.Add((tenant, request.Lane), room = new WaitingRoom());
            }
            if (request.Lane != Lane.Bulk)
            {
                RefuseIfLate(model, request.Lane, entry.Units, tenant, request.TimeLimit, Now());
                if (room.Used + entry.Room > 1 && room.Used > 0)
                {
                    throw new OverloadedException("Too much of this client waits already.", TimeSpan.FromSeconds(1));
                }
            }
            if (request.Lane != Lane.Bulk || (room.Used + entry.Room <= 1 && room.Waiting.Count == 0) || room.Used == 0)
            {
                room.Used += entry.Room;
                Enqueue(entry, model, tenant);
                return;
            }
            place = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            room.Waiting.Enqueue((place, entry, model, tenant));
        }
        await using (cancellation.Register(() => place.TrySetCanceled(cancellation)).ConfigureAwait(false))
        {
            await place.Task.ConfigureAwait(false);
        }
    }

    private void Enqueue(Entry entry, HeldModel model, int tenant)
    {
        double now = Now();
        LaneObjective objective = _options.Objectives[entry.Request.Lane];
        CostModel cost = _costs[model.Index];
        double solo = cost.Predict(entry.Units), load = Missing(model);
        double limit = entry.Request.TimeLimit?.TotalSeconds ?? Admission.LimitSeconds(objective, solo) + load;
        double expiry = entry.Request.TimeLimit?.TotalSeconds ?? (objective.Expires ? Math.Max(objective.Expiry.TotalSeconds, 2 * limit) : double.PositiveInfinity);
        entry.Id = _nextId++;
        entry.Due = now + limit;
        var item = new WorkItem(entry.Id, model.Index, entry.Request.Lane, tenant, entry.Units, now, now + limit, now + expiry, solo, cost.ExpectShare(entry.Units));
        entry.Slot = _work.Add(item);
        _entries.Add(entry.Id, entry);
        if (_devices.Length == 1)
        {
            Monitor.Pulse(_gate);
        }
        else
        {
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Seconds until a model that is not loaded can run.</summary>
    private static double Missing(HeldModel model) => model.Placements.Count > 0 ? 0 : Math.Max(model.LoadSeconds, 1);

    private void RefuseIfLate(HeldModel model, Lane lane, int units, int tenant, TimeSpan? timeLimit, double now)
    {
        if (!_policy.RefusesLateWork || lane == Lane.Bulk)
        {
            return;
        }
        double solo = _costs[model.Index].Expect(units), load = Missing(model);
        double limit = timeLimit?.TotalSeconds ?? Admission.LimitSeconds(_options.Objectives[lane], solo) + load;
        double ahead = Admission.AheadSeconds(_work, _policy, lane, tenant, _workerCount, Running(now)) + load;
        if (ahead + solo > limit)
        {
            double wait = Math.Max(ahead + solo - limit, 0.05);
            throw new OverloadedException($"The queue ahead needs {ahead:0.000} s and the request {solo:0.000} s, more than the {limit:0.000} s it has.", TimeSpan.FromSeconds(wait));
        }
    }

    /// <summary>Predicted seconds until the first worker is free.</summary>
    private double Running(double now)
    {
        double first = double.PositiveInfinity;
        foreach (HeldDevice device in _devices)
        {
            if (device.Idle > 0)
            {
                return 0;
            }
            foreach (double end in device.EndsAt)
            {
                first = Math.Min(first, end);
            }
        }
        return double.IsPositiveInfinity(first) ? 0 : Math.Max(0, first - now);
    }

    /// <summary>The entry leaves the queue: its place goes to the next of its tenant that waits for one.</summary>
    private void Leave(Entry entry, int tenant)
    {
        entry.Slot = -1;
        _entries.Remove(entry.Id);
        WaitingRoom room = _rooms[(tenant, entry.Request.Lane)];
        room.Used = Math.Max(0, room.Used - entry.Room);
        while (room.Waiting.TryPeek(out var next) && (room.Used + next.Entry.Room <= 1 || room.Used == 0))
        {
            room.Waiting.Dequeue();
            // One that gave up is passed over.
            if (next.Place.TrySetResult())
            {
                room.Used += next.Entry.Room;
                Enqueue(next.Entry, next.Model, next.Tenant);
            }
        }
    }

    /// <summary>Fails what waits for room to wait for a model. Called within the gate.</summary>
    private void FailAdmissions(HeldModel model)
    {
        foreach (WaitingRoom room in _rooms.Values)
        {
            foreach (var place in room.Waiting.Where(w => w.Model == model))
            {
                // Those that follow pass over it when there is room.
                place.Place.TrySetException(Gone(model));
            }
        }
    }

    private void FailAdmissions()
    {
        foreach (WaitingRoom room in _rooms.Values)
        {
            while (room.Waiting.TryDequeue(out var next))
            {
                next.Place.TrySetException(new ObjectDisposedException(nameof(InferenceService)));
            }
        }
    }

    private void Withdraw(Entry entry, CancellationToken cancellation)
    {
        lock (_gate)
        {
            if (entry.Slot >= 0)
            {
                int tenant = _work[entry.Slot].Tenant;
                _work.Remove(entry.Slot);
                Leave(entry, tenant);
            }
        }
        if (entry.Result.TrySetCanceled(cancellation))
        {
            _metrics.Ended(entry.Request.Lane, Outcome.Cancelled);
        }
    }

    private void Work(HeldDevice device, int worker)
    {
        ThreadNiceness.GiveWay();
        var decision = new Decision();
        var batch = new List<Entry>(SchedulingPolicy.MaxItems);
        while (true)
        {
            Placement placement;
            lock (_gate)
            {
                while (!Next(device, decision))
                {
                    if (_stopping)
                    {
                        return;
                    }
                    double wait = decision.WakeAt - Now();
                    Monitor.Wait(_gate, double.IsPositiveInfinity(wait) ? Timeout.Infinite : Math.Max(1, (int)Math.Ceiling(1000 * wait)));
                }
                HeldModel model = _models[decision.Batch[0].Model];
                placement = model.Placements.First(p => p.Device == device);
                placement.Busy++;
                device.Idle--;
                device.EndsAt[worker] = Now() + _costs[decision.Batch[0].Model].Expect(decision.PaddedUnits);
                model.Used(Now(), decision.Batch.Count);
                batch.Clear();
                foreach (WorkItem item in decision.Batch)
                {
                    Entry entry = _entries[item.Id];
                    batch.Add(entry);
                    Leave(entry, item.Tenant);
                }
            }
            Execute(placement, batch, decision);
            lock (_gate)
            {
                placement.Busy--;
                device.Idle++;
                if (device.Exclusive)
                {
                    device.Exclusive = false;
                    Monitor.PulseAll(_gate);
                }
            }
        }
    }

    /// <summary>Asks the policy; true with a batch to run.</summary>
    private bool Next(HeldDevice device, Decision decision)
    {
        decision.Clear();
        if (_stopping || device.Exclusive)
        {
            return false;
        }
        _policy.Step(_work, Now(), new DeviceView(device.Runnable, device.Idle), decision);
        foreach (WorkItem item in decision.Expired)
        {
            Entry entry = _entries[item.Id];
            Leave(entry, item.Tenant);
            if (entry.Result.TrySetException(new OverloadedException("The request missed its deadline while it waited.", TimeSpan.FromSeconds(1))))
            {
                _metrics.Ended(item.Lane, Outcome.Expired);
            }
        }
        if (decision.Load >= 0 && !_models[decision.Load].Placements.Exists(p => p.Device != device))
        {
            LoadSoon(_models[decision.Load]);
        }
        return decision.Batch.Count > 0;
    }

    private void Execute(Placement placement, List<Entry> entries, Decision decision)
    {
        int model = decision.Batch[0].Model;
        ModelDescription description = _models[model].Backend.Description;
        try
        {
            double start = Now();
            BatchOutput output = Run(placement, _models[model], entries);
            double seconds = Math.Max(Now() - start, 1e-6);
            _costs[model].Observe(decision.PaddedUnits, seconds);
            _metrics.Ran(description.Name, System.Runtime.InteropServices.CollectionsMarshal.AsSpan(decision.Batch), start, seconds, decision.PaddedUnits);
            for (int i = 0; i < entries.Count; i++)
            {
                var rows = new Dictionary<string, float[]>(output.Rows.Count);
                foreach (var (name, of) in output.Rows)
                {
                    rows.Add(name, of[i]);
                }
                if (entries[i].Result.TrySetResult(rows))
                {
                    _metrics.Ended(entries[i].Request.Lane, start + seconds <= entries[i].Due ? Outcome.Attained : Outcome.Late);
                }
            }
        }
        catch (Exception error)
        {
            // Whatever a backend throws belongs to the callers of this batch; the worker serves the next one.
            foreach (Entry entry in entries)
            {
                if (entry.Result.TrySetException(error))
                {
                    _metrics.Ended(entry.Request.Lane, Outcome.Failed);
                }
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
        int[]? widths = entries[0].Request.Width > 0 ? [.. entries.Select(e => e.Request.Width)] : null;
        return new Batch(tokens, pixels, offsets, widths);
    }

    /// <summary>What one tenant has waiting in a lane, as a share of what it may, and what waits for room.</summary>
    private sealed class WaitingRoom
    {
        public double Used { get; set; }

        public Queue<(TaskCompletionSource Place, Entry Entry, HeldModel Model, int Tenant)> Waiting { get; } = new();
    }
}
