using System.Diagnostics.Metrics;
using Diptych.Inference.Memory;
using Diptych.Inference.Scheduling;

namespace Diptych.Inference;

/// <summary>Counts and durations of the service, as .NET metrics (meter <c>Diptych.Inference</c>) and for <see cref="InferenceSnapshot"/>.</summary>
internal sealed class InferenceMetrics : IDisposable
{
    public const string Name = "Diptych.Inference";
    public static readonly System.Diagnostics.ActivitySource Source = new(Name);
    private static readonly string[] LaneNames = ["interactive", "generate", "bulk"];
    private readonly Meter _meter = new(Name);
    private readonly Counter<long> _requests;
    private readonly Histogram<double> _wait;
    private readonly Histogram<double> _run;
    private readonly Histogram<double> _latency;
    private readonly Histogram<int> _batch;
    private readonly Counter<long> _units;
    private readonly LaneCounts[] _lanes = [new(), new(), new()];

    public InferenceMetrics(InferenceService service)
    {
        _requests = _meter.CreateCounter<long>("diptych.inference.requests", description: "Requests by lane and outcome: attained, late, refused, expired, cancelled, failed.");
        _wait = _meter.CreateHistogram<double>("diptych.inference.wait", "s", "From submission to the start of the batch.");
        _run = _meter.CreateHistogram<double>("diptych.inference.run", "s", "Time of a batch in the model.");
        _latency = _meter.CreateHistogram<double>("diptych.inference.latency", "s", "From submission to result.");
        _batch = _meter.CreateHistogram<int>("diptych.inference.batch.size", "{item}", "Items in a batch.");
        _units = _meter.CreateCounter<long>("diptych.inference.units", "{unit}", "Tokens and images run, padding apart.");
        _meter.CreateObservableGauge("diptych.inference.queue", () => Enum.GetValues<Lane>().Select(l => new Measurement<long>(service.WaitingUnits(l), Tag(l))), "{unit}", "Tokens and images that wait.");
        _meter.CreateObservableGauge("diptych.inference.ledger", () => service.Snapshot().Devices.SelectMany(d => d.Bytes.Select(b => new Measurement<long>(
            b.Value, new KeyValuePair<string, object?>("device", d.Name), new("kind", Kind(b.Key))))), "By", "Memory held, by device and kind.");
        _meter.CreateObservableGauge("diptych.inference.ledger.budget", () => service.Snapshot().Devices.Select(d => new Measurement<long>(d.BudgetBytes, new KeyValuePair<string, object?>("device", d.Name))), "By", "Memory that models may take.");
        _meter.CreateObservableGauge("diptych.inference.prediction.error", () => service.Snapshot().Models.Select(m => new Measurement<double>(m.PredictionError, new KeyValuePair<string, object?>("model", m.Name))), description: "Mean absolute relative error of predicted batch times.");
    }

    public void Offered(Lane lane) => Interlocked.Increment(ref _lanes[(int)lane].Offered);

    public void Ended(Lane lane, Outcome outcome)
    {
        LaneCounts counts = _lanes[(int)lane];
        Interlocked.Increment(ref counts.Outcomes[(int)outcome]);
        _requests.Add(1, Tag(lane), new("outcome", outcome.ToString().ToLowerInvariant()));
    }

    public void Ran(string model, ReadOnlySpan<WorkItem> items, double started, double seconds, int paddedUnits)
    {
        int used = 0;
        Lane lane = items[0].Lane;
        foreach (ref readonly WorkItem item in items)
        {
            used += item.Units;
            _wait.Record(started - item.EnqueuedAt, Tag(item.Lane));
            _latency.Record(started + seconds - item.EnqueuedAt, Tag(item.Lane));
            LaneCounts of = _lanes[(int)item.Lane];
            lock (of)
            {
                of.Latest(started).Add(started + seconds - item.EnqueuedAt);
                of.Waited += started - item.EnqueuedAt;
                of.Ran++;
            }
        }
        var tag = new KeyValuePair<string, object?>("model", model);
        _run.Record(seconds, tag);
        _batch.Record(items.Length, tag);
        _units.Add(used, tag, new("padding", false));
        _units.Add(paddedUnits - used, tag, new("padding", true));
        LaneCounts counts = _lanes[(int)lane];
        lock (counts)
        {
            (counts.Batches, counts.Items, counts.Units, counts.Padded) = (counts.Batches + 1, counts.Items + items.Length, counts.Units + used, counts.Padded + paddedUnits);
        }
    }

    public LaneSnapshot Lane(Lane lane, double targetMs, long waiting)
    {
        LaneCounts c = _lanes[(int)lane];
        lock (c)
        {
            var both = new LatencyHistogram();
            both.Add(c.Older);
            both.Add(c.Recent);
            return new LaneSnapshot(
                lane, targetMs, waiting, c.Offered, c.Of(Outcome.Attained) + c.Of(Outcome.Late), c.Of(Outcome.Refused), c.Of(Outcome.Expired), c.Of(Outcome.Cancelled),
                c.Of(Outcome.Failed), c.Of(Outcome.Attained), 1000 * both.Quantile(0.5), 1000 * both.Quantile(0.99), 1000 * c.Waited / Math.Max(1, c.Ran),
                c.Items / Math.Max(1.0, c.Batches), c.Padded == 0 ? 0 : 1 - (c.Units / (double)c.Padded));
        }
    }

    public void Dispose() => _meter.Dispose();

    private static KeyValuePair<string, object?> Tag(Lane lane) => new("lane", LaneNames[(int)lane]);

    private static string Kind(MemoryKind kind) => kind == MemoryKind.KeyValues ? "kv" : kind.ToString().ToLowerInvariant();

    private sealed class LaneCounts
    {
        private const double WindowSeconds = 120;
        private double _since;

        public readonly long[] Outcomes = new long[6];
        public long Offered;
        public long Ran, Batches, Items, Units, Padded;
        public double Waited;

        public LatencyHistogram Recent { get; private set; } = new();

        public LatencyHistogram Older { get; private set; } = new();

        public long Of(Outcome outcome) => Volatile.Read(ref Outcomes[(int)outcome]);

        public LatencyHistogram Latest(double now)
        {
            if (now - _since > WindowSeconds)
            {
                (Older, Recent) = (Recent, Older);
                Recent.Clear();
                _since = now;
            }
            return Recent;
        }
    }
}

/// <summary>How a request ended; each ends exactly once.</summary>
internal enum Outcome
{
    Attained,
    Late,
    Refused,
    Expired,
    Cancelled,
    Failed,
}
