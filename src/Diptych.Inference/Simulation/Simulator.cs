using Diptych.Inference.Scheduling;

namespace Diptych.Inference.Simulation;

/// <summary>
/// Runs a workload through the scheduler's own code under a virtual clock. Batches take what the measured profiles say, with their
/// measured spread; everything else (queue, policy, admission, tenants) is what runs live.
/// </summary>
/// <param name="text">The text model's profile.</param>
/// <param name="image">The image model's profile.</param>
public sealed class Simulator(CostProfile text, CostProfile image, IReadOnlyDictionary<Lane, LaneObjective> objectives, OutsideModels outside)
{
    private const int TextModel = 0, ImageModel = 1;

    /// <param name="workers">Batches at a time over all devices.</param>
    /// <returns>One result a lane that the workload has.</returns>
    public IReadOnlyList<LaneResult> Run(
        Workload workload, int workers, Func<IReadOnlyList<CostModel>, IReadOnlyDictionary<Lane, LaneObjective>, SchedulingPolicy> makePolicy, int seed)
    {
        CostModel[] costs = [new CostModel(text), new CostModel(image)];
        var session = new Session(this, workload, workers, costs, makePolicy(costs, objectives), new Random(seed));
        session.ToEnd();
        return session.Results();
    }

    private sealed class Session(Simulator simulator, Workload workload, int workers, CostModel[] costs, SchedulingPolicy policy, Random random)
    {
        private readonly WaitingWork _work = new();
        private readonly Decision _decision = new();
        private readonly bool[] _runnable = [true, true];
        private readonly PriorityQueue<(int Kind, int Index), double> _events = new();
        private readonly double[] _endsAt = new double[workers];
        private readonly SharedCores _cores = new(workers);
        private readonly Queue<(int Request, double Seconds)> _undecoded = new();
        private readonly (double At, int Model, int Units)[] _started = new (double, int, int)[workers];
        private readonly List<WorkItem>?[] _running = new List<WorkItem>?[workers];
        private readonly Stack<int> _idle = new(Enumerable.Range(0, workers).Reverse());
        private readonly State[] _states = new State[workload.Arrivals.Count];
        private readonly List<int> _requestOf = [];
        private double _wakeAt = double.PositiveInfinity;
        private int _decoding;

        private const int Arrives = 0, Wakes = 1, Parsed = 2, Decoded = 3, Ends = 4;

        public void ToEnd()
        {
            for (int i = 0; i < workload.Arrivals.Count; i++)
            {
                _events.Enqueue((Arrives, i), workload.Arrivals[i].Seconds);
            }
            while (true)
            {
                double now = _cores.NextEnd;
                (int Kind, int Index) e;
                if (_events.TryPeek(out e, out double at) && at <= now)
                {
                    now = at;
                    _events.Dequeue();
                }
                else if (double.IsPositiveInfinity(now))
                {
                    return;
                }
                else
                {
                    e = _cores.TakeNext();
                }
                switch (e.Kind)
                {
                    case Arrives:
                        Arrive(e.Index, now);
                        break;
                    case Parsed:
                        Prepare(e.Index, now);
                        break;
                    case Decoded:
                        _decoding--;
                        Decode(now);
                        Enqueue(e.Index, 1, now);
                        break;
                    case Ends:
                        End(e.Index, now);
                        break;
                    default:
                        _wakeAt = double.PositiveInfinity;
                        break;
                }
                Dispatch(now);
            }
        }

        public IReadOnlyList<LaneResult> Results() =>
        [
            .. Enumerable.Range(0, _states.Length).GroupBy(i => workload.Arrivals[i].Lane).OrderBy(g => g.Key).Select(g => LaneResult.Of(
                g.Key, workload.Seconds,
                [.. g.Select(i => (!_states[i].Refused && _states[i].Left == 0, _states[i].Refused, _states[i].EndedAt - workload.Arrivals[i].Seconds))],
                simulator.Target(g.Key))),
        ];

        private void Arrive(int index, double now)
        {
            Arrival arrival = workload.Arrivals[index];
            _states[index] = new State { Left = arrival.Units.Count };
            double prepare = simulator.Outside.Request.FixedSeconds + (arrival.Kind == WorkKind.Picture ? arrival.Units.Max(simulator.Outside.PictureSeconds) : 0);
            if (arrival.Lane != Lane.Bulk && policy.RefusesLateWork && Late(arrival, now, prepare))
            {
                _states[index].Refused = true;
                return;
            }
            _cores.Start((Parsed, index), Spread(simulator.Outside.Request.FixedSeconds, simulator.Outside.Request.High, random), light: true, now);
        }

        /// <summary>Pictures are decoded by as many threads as there are workers, in the order in which they came, on the cores that batches run on.</summary>
        private void Prepare(int index, double now)
        {
            Arrival arrival = workload.Arrivals[index];
            if (arrival.Kind != WorkKind.Picture)
            {
                foreach (int tokens in arrival.Units)
                {
                    Enqueue(index, tokens, now);
                }
                return;
            }
            foreach (int side in arrival.Units)
            {
                _undecoded.Enqueue((index, Spread(simulator.Outside.PictureSeconds(side), simulator.Outside.Request.High, random)));
            }
            Decode(now);
        }

        private void Decode(double now)
        {
            while (_decoding < workers && _undecoded.TryDequeue(out var picture))
            {
                _decoding++;
                _cores.Start((Decoded, picture.Request), picture.Seconds, light: false, now);
            }
        }

        private bool Late(Arrival arrival, double now, double prepare)
        {
            int model = arrival.Kind == WorkKind.Picture ? ImageModel : TextModel;
            double solo = arrival.Units.Sum(u => costs[model].Expect(model == TextModel ? u : 1));
            double busy = _idle.Count > 0 ? 0 : Math.Max(0, _endsAt.Min() - now);
            double ahead = Admission.AheadSeconds(_work, policy, arrival.Lane, _work.Shares.IndexOf(arrival.Tenant), workers, busy);
            return ahead + solo + prepare > Admission.LimitSeconds(simulator.Objective(arrival.Lane), solo);
        }

        private void Enqueue(int index, int units, double now)
        {
            Arrival arrival = workload.Arrivals[index];
            LaneObjective objective = simulator.Objective(arrival.Lane);
            int model = arrival.Kind == WorkKind.Picture ? ImageModel : TextModel;
            double solo = costs[model].Predict(units), limit = Admission.LimitSeconds(objective, solo);
            double expiry = objective.Expires ? Math.Max(objective.Expiry.TotalSeconds, 2 * limit) : double.PositiveInfinity;
            _requestOf.Add(index);
            _work.Add(new WorkItem(
                _requestOf.Count - 1, model, arrival.Lane, _work.Shares.IndexOf(arrival.Tenant), units, now, arrival.Seconds + limit, arrival.Seconds + expiry, solo, costs[model].ExpectShare(units)));
        }

        private void Dispatch(double now)
        {
            while (_idle.Count > 0 && _work.Count > 0)
            {
                policy.Step(_work, now, new DeviceView(_runnable, _idle.Count), _decision);
                foreach (WorkItem item in _decision.Expired)
                {
                    _states[_requestOf[(int)item.Id]].Refused = true;
                }
                if (_decision.Batch.Count == 0)
                {
                    if (_decision.WakeAt < _wakeAt)
                    {
                        _wakeAt = _decision.WakeAt;
                        _events.Enqueue((Wakes, 0), Math.Max(now, _wakeAt));
                    }
                    return;
                }
                int worker = _idle.Pop(), model = _decision.Batch[0].Model;
                _running[worker] = [.. _decision.Batch];
                _started[worker] = (now, model, _decision.PaddedUnits);
                _endsAt[worker] = now + costs[model].Expect(_decision.PaddedUnits);
                _cores.Start((Ends, worker), simulator.Time(model, _decision.PaddedUnits, random), light: false, now);
            }
        }

        private void End(int worker, double now)
        {
            foreach (WorkItem item in _running[worker]!)
            {
                ref State state = ref _states[_requestOf[(int)item.Id]];
                state.Left--;
                state.EndedAt = now;
            }
            var (at, model, units) = _started[worker];
            costs[model].Observe(units, Math.Max(now - at, 1e-6));
            _running[worker] = null;
            _idle.Push(worker);
        }

        private struct State
        {
            public int Left;
            public bool Refused;
            public double EndedAt;
        }
    }

    private OutsideModels Outside => outside;

    private LaneObjective Objective(Lane lane) => objectives[lane];

    private double Target(Lane lane) => objectives[lane].Target.TotalSeconds;

    private double Time(int model, int units, Random random)
    {
        CostProfile p = model == TextModel ? text : image;
        return Spread(p.FixedSeconds + (p.PerUnitSeconds * units), p.High, random);
    }

    /// <summary>A time, with a log-normal spread of which nine of ten stay below so many times it.</summary>
    private static double Spread(double seconds, double high, Random random)
    {
        double normal = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
        return seconds * Math.Exp(normal * Math.Log(high) / 1.2816);
    }
}

/// <summary>What requests take outside the models.</summary>
/// <param name="Request">The fixed part: parsing, tokenising, writing the answer; and its spread, which pictures' times have too.</param>
/// <param name="Pictures">Seconds to read, decode and resize a picture, by its longer side in pixels, in order.</param>
public sealed record OutsideModels(CostProfile Request, IReadOnlyList<(int Side, double Seconds)> Pictures)
{
    /// <summary>Before anything was measured.</summary>
    public static OutsideModels Usual { get; } = new(new CostProfile(0.001, 0, 1, 0), [.. Workload.PictureSides.Select(s => (s, 0.001 + (6e-9 * s * s)))]);

    /// <summary>Of the first measured side that is no smaller.</summary>
    internal double PictureSeconds(int side) => Pictures.FirstOrDefault(p => p.Side >= side, Pictures[^1]).Seconds;
}

/// <summary>Finds the highest rate at which a lane still attains its objective.</summary>
public static class HighestRate
{
    /// <summary>Doubles the rate until no lane attains any more, then halves the gap; each lane keeps its best.</summary>
    /// <param name="run">Results at a rate factor.</param>
    /// <returns>The highest rate factor at which every lane attained, and by lane the highest rate in requests a second; 0 for none.</returns>
    public static async Task<(double Factor, IReadOnlyDictionary<Lane, double> Rates)> FindAsync(
        Func<double, Task<IReadOnlyList<LaneResult>>> run, double start, int steps, double share = 0.99)
    {
        var best = new Dictionary<Lane, double>();
        double low = 0, high = double.PositiveInfinity, rate = start;
        for (int step = 0; step < steps; step++)
        {
            IReadOnlyList<LaneResult> results = await run(rate).ConfigureAwait(false);
            foreach (LaneResult result in results)
            {
                best[result.Lane] = Math.Max(best.GetValueOrDefault(result.Lane), result.Attainment >= share ? result.Rate : 0);
            }
            bool all = results.All(r => r.Attainment >= share);
            (low, high) = all ? (rate, high) : (low, rate);
            rate = double.IsPositiveInfinity(high) ? 2 * rate : (low + high) / 2;
        }
        return (low, best);
    }
}
