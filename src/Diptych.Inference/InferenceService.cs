using Diptych.Core;
using Diptych.Inference.Memory;
using Diptych.Inference.Scheduling;

namespace Diptych.Inference;

/// <summary>How a service is set up.</summary>
public sealed record InferenceOptions
{
    public IReadOnlyList<Device> Devices { get; init; } = [Device.Cpu];

    public IReadOnlyDictionary<Lane, LaneObjective> Objectives { get; init; } = LaneObjective.Defaults;

    /// <summary>Makes the policy; the deadline policy unless told otherwise.</summary>
    public Func<IReadOnlyList<CostModel>, IReadOnlyDictionary<Lane, LaneObjective>, SchedulingPolicy> Policy { get; init; } = (costs, objectives) => new DeadlinePolicy(costs, objectives);

    /// <summary>Where measured profiles are kept.</summary>
    public ModelProfiles Profiles { get; init; } = new(null);

    /// <summary>Told of models that come and go; it must be quick.</summary>
    public Action<ModelEvent>? Told { get; init; }

    /// <summary>Tokens that a tenant may have waiting in a lane; where pixels wait, <see cref="MaxWaitingBytes"/> bounds them.</summary>
    public int MaxWaitingTokens { get; init; } = 1 << 17;

    public long MaxWaitingBytes { get; init; } = 96 << 20;
}

/// <summary>
/// Runs models for everyone in the process: keeps what waits, asks a <see cref="SchedulingPolicy"/> what is next, brings models onto
/// devices within their ledgers, and drives them with the devices' workers. Bulk submissions wait for room (backpressure); others are
/// refused at once when they would be late.
/// </summary>
public sealed partial class InferenceService : IAsyncDisposable
{
    /// <summary>Batches after which what was learned is worth more than what was known at the start.</summary>
    private const int MeasurementsWorthKeeping = 200;

    private readonly InferenceOptions _options;
    private readonly TimeProvider _time;
    private readonly object _gate = new();
    private readonly List<CostModel> _costs = [];
    private readonly List<HeldModel> _models = [];
    private readonly Dictionary<string, HeldModel> _byName = new(StringComparer.Ordinal);
    private readonly HeldDevice[] _devices;
    private readonly int _workerCount;
    private readonly SchedulingPolicy _policy;
    private readonly WaitingWork _work = new();
    private readonly Dictionary<long, Entry> _entries = [];
    private readonly InferenceMetrics _metrics;
    private readonly CancellationTokenSource _stop = new();
    private readonly List<Thread> _threads = [];
    private readonly List<Action> _caches = [];
    private long _nextId;
    private bool _stopping;

    public InferenceService(IEnumerable<IModelBackend> backends, TimeProvider time, InferenceOptions? options = null)
    {
        _options = options ?? new InferenceOptions();
        _time = time;
        _devices = [.. _options.Devices.Select(d => new HeldDevice(d))];
        _workerCount = _options.Devices.Sum(d => d.Workers);
        _policy = _options.Policy(_costs, _options.Objectives);
        _metrics = new InferenceMetrics(this);
        foreach (IModelBackend backend in backends)
        {
            Add(backend);
        }
        // Threads of their own: a native call that holds a thread for tens of milliseconds must not starve the thread pool.
        foreach (HeldDevice device in _devices)
        {
            for (int i = 0; i < device.Device.Workers; i++)
            {
                int worker = i;
                var thread = new Thread(() => Work(device, worker)) { IsBackground = true, Name = $"{device.Device.Name} {i}" };
                _threads.Add(thread);
                thread.Start();
            }
        }
    }

    public IEnumerable<ModelDescription> Models
    {
        get
        {
            lock (_gate)
            {
                return [.. _models.Where(m => !m.Removed).Select(m => m.Backend.Description)];
            }
        }
    }

    public TimeProvider Time => _time;

    /// <summary>What was measured of models, kept from start to start.</summary>
    public ModelProfiles Profiles => _options.Profiles;

    /// <summary>Makes a model known. It is loaded when it is asked for, or by <see cref="LoadAsync(string, CancellationToken)"/>.</summary>
    /// <exception cref="InvalidRequestException">There is a model of this name.</exception>
    public void Add(IModelBackend backend)
    {
        ModelDescription model = backend.Description;
        ModelProfile? profile = _options.Profiles.Find(model, _devices[0].Device.Name);
        lock (_gate)
        {
            if (_byName.ContainsKey(model.Name))
            {
                throw new InvalidRequestException($"There is a model '{model.Name}' already.");
            }
            var held = new HeldModel(_models.Count, backend, profile);
            _costs.Add(profile is null ? new CostModel(model.Input == InputKind.Tokens ? 0.0002 : 0.02) : new CostModel(profile.Cost));
            _models.Add(held);
            _byName.Add(model.Name, held);
            foreach (HeldDevice device in _devices)
            {
                Array.Resize(ref device.Runnable, _models.Count);
            }
        }
    }

    /// <summary>Enters a cache into the first device's ledger with the most that it may hold.</summary>
    /// <param name="drop">Called when memory runs short: it gives back what can be made again.</param>
    /// <exception cref="InvalidRequestException">The budget has no room for it.</exception>
    public void AddCache(string name, long maxBytes, Action drop)
    {
        _ = _devices[0].Ledger.TryReserve(MemoryKind.Caches, name, maxBytes)
            ?? throw new InvalidRequestException($"The budget of {_devices[0].Device.Name} has no room for {name} ({maxBytes >> 20} MiB).");
        lock (_gate)
        {
            _caches.Add(drop);
        }
    }

    /// <summary>Holds memory of the first device for something that is no model of this service; disposing of it gives it back.</summary>
    /// <exception cref="InvalidRequestException">The budget has no room for it.</exception>
    public IDisposable Hold(MemoryKind kind, string owner, long bytes) => _devices[0].Ledger.TryReserve(kind, owner, bytes)
        ?? throw new InvalidRequestException($"{owner} needs {bytes >> 20} MiB, and {_devices[0].Device.Name} has {_devices[0].Ledger.FreeBytes >> 20} of {_devices[0].Device.BudgetBytes >> 20} MiB free.");

    public ModelDescription Describe(string model) => Find(model).Backend.Description;

    /// <summary>Tokens and images that wait in a lane.</summary>
    public long WaitingUnits(Lane lane)
    {
        lock (_gate)
        {
            return _work.UnitsWaiting(lane);
        }
    }

    /// <summary>Whether an item would be refused, before anything is spent on preparing it.</summary>
    /// <exception cref="OverloadedException">It would.</exception>
    public void Admit(string model, Lane lane, int units, TimeSpan? timeLimit = null, string tenant = "")
    {
        HeldModel held = Find(model);
        lock (_gate)
        {
            RefuseIfLate(held, lane, units, _work.Shares.IndexOf(tenant), timeLimit, Now());
        }
    }

    /// <summary>Runs one item.</summary>
    /// <returns>The item's row of each output.</returns>
    /// <exception cref="OverloadedException">The item cannot meet its deadline behind what waits already, or missed it.</exception>
    /// <exception cref="InvalidRequestException">The item is longer than the model takes.</exception>
    public async Task<IReadOnlyDictionary<string, float[]>> RunAsync(InferenceRequest request, CancellationToken cancellation)
    {
        HeldModel model = Find(request.Model);
        int units = request.UnitsOf(model.Backend.Description);
        if (units > model.Backend.Description.MaxUnits)
        {
            throw new InvalidRequestException($"{request.Model} takes at most {model.Backend.Description.MaxUnits} {(model.Backend.Description.Input == InputKind.Tokens ? "tokens" : "tiles")}, not {units}.");
        }
        cancellation.ThrowIfCancellationRequested();
        _metrics.Offered(request.Lane);
        using System.Diagnostics.Activity? activity = InferenceMetrics.Source.StartActivity("inference");
        activity?.SetTag("diptych.model", request.Model).SetTag("diptych.lane", request.Lane.ToString()).SetTag("diptych.units", units);
        var entry = new Entry(request, units);
        try
        {
            await AdmitAsync(entry, model, cancellation).ConfigureAwait(false);
        }
        catch (Exception error)
        {
            _metrics.Ended(request.Lane, error is OverloadedException ? Outcome.Refused : error is OperationCanceledException ? Outcome.Cancelled : Outcome.Failed);
            throw;
        }
        await using (cancellation.Register(() => Withdraw(entry, cancellation)).ConfigureAwait(false))
        {
            return await entry.Result.Task.ConfigureAwait(false);
        }
    }

    /// <summary>The service now.</summary>
    public InferenceSnapshot Snapshot()
    {
        lock (_gate)
        {
            double now = Now();
            return new InferenceSnapshot(
                [.. Enum.GetValues<Lane>().Select(l => _metrics.Lane(l, _options.Objectives[l].Target.TotalMilliseconds, _work.UnitsWaiting(l)))],
                [.. _models.Where(m => !m.Removed).Select(m => new ModelSnapshot(
                    m.Backend.Description.Name, m.Backend.Description.Revision, State(m), m.Pinned, [.. m.Placements.Select(p => p.Device.Device.Name)],
                    m.UsesPerSecond(now), _costs[m.Index].Profile.Error, m.LoadSeconds, m.Placements.Sum(p => p.Bytes), m.LoadError?.Message, _costs[m.Index].Profile))],
                [.. _devices.Select(d => new DeviceSnapshot(
                    d.Device.Name, d.Device.BudgetBytes, d.Ledger.UsedBytes, Enum.GetValues<MemoryKind>().ToDictionary(k => k, d.Ledger.Bytes), d.Device.Workers, d.Idle))]);
        }
    }

    public async ValueTask DisposeAsync()
    {
        lock (_gate)
        {
            if (_stopping)
            {
                return;
            }
            _stopping = true;
            Monitor.PulseAll(_gate);
        }
        await _stop.CancelAsync().ConfigureAwait(false);
        foreach (Thread thread in _threads)
        {
            thread.Join();
        }
        await _loading.WaitAsync(CancellationToken.None).ConfigureAwait(false);
        lock (_gate)
        {
            foreach (Entry entry in _entries.Values)
            {
                entry.Result.TrySetException(new ObjectDisposedException(nameof(InferenceService)));
            }
            _entries.Clear();
            FailAdmissions();
        }
        foreach (HeldModel model in _models)
        {
            if (_costs[model.Index] is { Observed: > MeasurementsWorthKeeping } cost && !model.Removed)
            {
                _options.Profiles.Save(model.Backend.Description, _devices[0].Device.Name, new ModelProfile(cost.Profile, model.WeightBytes, model.WorkspaceBytes, model.LoadSeconds));
            }
            await EvictAsync(model).ConfigureAwait(false);
        }
        _metrics.Dispose();
        _stop.Dispose();
        _loading.Dispose();
    }

    private double Now() => _time.GetTimestamp() / (double)_time.TimestampFrequency;

    private HeldModel Find(string model)
    {
        lock (_gate)
        {
            return _byName.GetValueOrDefault(model) ?? throw new NotFoundException($"There is no model '{model}'. Known: {string.Join(", ", _byName.Keys)}.");
        }
    }

    private static string State(HeldModel model) =>
        model.Placements.Count > 0 ? "loaded" : model.Loading ? "loading" : model.LoadError is null ? "unloaded" : "failed";

    /// <summary>A request from its admission to its end.</summary>
    private sealed class Entry(InferenceRequest request, int units)
    {
        public InferenceRequest Request { get; } = request;

        public int Units { get; } = units;

        public long Id { get; set; }

        public int Slot { get; set; } = -1;

        /// <summary>When it was due as it was admitted.</summary>
        public double Due { get; set; }

        /// <summary>Its part of what its tenant may have waiting, given back when it leaves the queue.</summary>
        public double Room { get; set; }

        public TaskCompletionSource<IReadOnlyDictionary<string, float[]>> Result { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }

    private sealed class HeldDevice(Device device)
    {
        public Device Device { get; } = device;

        public MemoryLedger Ledger { get; } = new(device.BudgetBytes);

        public bool[] Runnable = [];

        public int Idle { get; set; } = device.Workers;

        /// <summary>When each worker's batch is predicted to end.</summary>
        public double[] EndsAt { get; } = new double[device.Workers];

        /// <summary>Batches that run alone for want of memory.</summary>
        public bool Exclusive { get; set; }
    }

    /// <summary>A model on a device.</summary>
    private sealed class Placement(HeldDevice device, ILoadedModel loaded, MemoryLedger.Reservation weights, MemoryLedger.Reservation workspace, double loadedAt)
    {
        public HeldDevice Device => device;

        public ILoadedModel Loaded => loaded;

        public double LoadedAt => loadedAt;

        public int Busy { get; set; }

        public long Bytes => weights.Bytes + workspace.Bytes;

        public void Release()
        {
            weights.Dispose();
            workspace.Dispose();
        }
    }

    private sealed class HeldModel(int index, IModelBackend backend, ModelProfile? profile)
    {
        private const double RateWindowSeconds = 60;
        private double _rate, _rateAt;

        public int Index => index;

        public IModelBackend Backend => backend;

        public bool Removed { get; set; }

        public bool Pinned { get; set; }

        public bool Loading { get; set; }

        public double RetryAt { get; set; }

        public Exception? LoadError { get; set; }

        public double LoadSeconds { get; set; } = profile?.LoadSeconds ?? 0;

        /// <summary>Memory by measurement, or a guess until there is one.</summary>
        public long WeightBytes { get; set; } = profile?.WeightBytes ?? backend.Description.WeightBytes;

        public long WorkspaceBytes { get; set; } = profile?.WorkspaceBytes ?? 0;

        public List<Placement> Placements { get; } = [];

        public void Used(double now, int items)
        {
            _rate = UsesPerSecond(now) + (items / RateWindowSeconds);
            _rateAt = now;
        }

        public double UsesPerSecond(double now) => _rate * Math.Exp(-(now - _rateAt) / RateWindowSeconds);
    }
}
