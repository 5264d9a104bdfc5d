using System.Globalization;
using System.Net.Http.Json;
using System.Runtime.CompilerServices;
using System.Text;
using Diptych.App;
using Diptych.App.Http;
using Diptych.App.Load;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Diptych.Inference.Simulation;

namespace Diptych.Bench.Serving;

/// <summary>The inference service under load: what issue and docs promise, each beside what it is held against in the same run.</summary>
internal static class ServeSpeed
{
    private const int Seed = 7;
    private static readonly string TracesFolder = Path.Combine(Report.Shared, "traces");

    public static async Task RunAsync(Report report)
    {
        DecisionCost(report);
        string data = Directory.CreateTempSubdirectory("diptych-serve-").FullName;
        var options = new DiptychOptions { Data = data, Url = "http://127.0.0.1:0" };
        try
        {
            await using (Product product = await Product.OpenAsync(options, TimeProvider.System, default))
            await using (var app = Server.Build(options, product, TimeProvider.System))
            {
                await app.StartAsync();
                var url = new Uri(app.Urls.First());
                using var load = new OpenLoop(url, product.Embedder.Tokenizer, TimeProvider.System, options.Objectives());
                await load.RunAsync(Workload.FromTraces("mixed", TracesFolder, 0.5, 10, Seed + 1), default);
                await MixedAsync(report, product, load);
                await OverloadAsync(report, load, product);
                await TenantsAsync(report, load, product);
                await ThroughputAsync(report, url, product);
            }
            await SimulatedAsync(report, options);
        }
        finally
        {
            Directory.Delete(data, recursive: true);
        }
    }

    /// <summary>The simulator alone, beside life.</summary>
    public static async Task SimulateAsync(Report report)
    {
        string data = Directory.CreateTempSubdirectory("diptych-serve-").FullName;
        try
        {
            await SimulatedAsync(report, new DiptychOptions { Data = data, Url = "http://127.0.0.1:0" });
        }
        finally
        {
            Directory.Delete(data, recursive: true);
        }
    }

    /// <summary>Ten thousand items of ten tenants in three lanes and two models.</summary>
    private static void DecisionCost(Report report)
    {
        var random = new Random(Seed);
        CostModel[] costs = [new CostModel(new CostProfile(0.001, 0.0002, 1.1, 0)), new CostModel(new CostProfile(0.001, 0.005, 1.1, 0))];
        var policy = new DeadlinePolicy(costs, LaneObjective.Defaults);
        var work = new WaitingWork();
        var decision = new Decision();
        for (int i = 0; i < 10_000; i++)
        {
            int units = random.Next(1, 257);
            work.Add(new WorkItem(i, random.Next(2), (Lane)random.Next(3), work.Shares.IndexOf($"t{random.Next(10)}"), units, 0, 100 + random.NextDouble(), 200, 0.0002 * units, 0.0002 * units));
        }
        long allocated = 0;
        double Cycle(int rounds)
        {
            double seconds = 0;
            for (int i = 0; i < rounds; i++)
            {
                long before = GC.GetAllocatedBytesForCurrentThread(), start = TimeProvider.System.GetTimestamp();
                policy.Step(work, i * 1e-5, new DeviceView([true, true], 1), decision);
                seconds += TimeProvider.System.GetElapsedTime(start).TotalSeconds;
                allocated += GC.GetAllocatedBytesForCurrentThread() - before - 32;
                foreach (WorkItem item in decision.Batch)
                {
                    work.Add(item);
                }
            }
            return seconds / rounds * 1e6;
        }
        Cycle(3000);
        allocated = 0;
        double micros = Cycle(3000);
        report.Row("Scheduler cost per decision, 10,000 queued, µs (bytes allocated)", $"{Report.Number(micros, "0.0")} ({Math.Max(0, allocated)})", "<= 50 (0)", micros <= 50 && allocated <= 0);
    }

    /// <summary>Queries alone, then beside ingest that takes every cycle.</summary>
    private static async Task MixedAsync(Report report, Product product, OpenLoop load)
    {
        const double Seconds = 30;
        Workload queries = Poisson("queries", 10, Seconds, Seed, [12], Lane.Interactive, WorkKind.Query);
        LaneResult alone = (await load.RunAsync(queries, default)).Lanes.Single();
        double solo = await BulkAsync(product, Seconds, CancellationToken.None);
        using var stop = new CancellationTokenSource();
        Task<double> bulk = BulkAsync(product, Seconds, stop.Token);
        LaneResult beside = (await load.RunAsync(queries, default)).Lanes.Single();
        double shared = await bulk;
        double subBatch = LaneObjective.Defaults[Lane.Bulk].MaxBatchTime.TotalMilliseconds;
        report.Row("Interactive p99 beside bulk ingest on all cores, ms", Report.Number(beside.P99Ms, "0.0"), $"<= alone {Report.Number(alone.P99Ms, "0.0")} + one bulk sub-batch {subBatch:0}", beside.P99Ms <= alone.P99Ms + subBatch);
        report.Row("Bulk throughput beside 10 interactive requests a second, of its own", Report.Number(shared / solo, "0.00"), $">= 0.80 of {Report.Number(solo, "0.0")} passages/s", shared >= 0.8 * solo);
    }

    /// <summary>Passages of one length through the bulk lane, always enough waiting.</summary>
    private static async Task<double> BulkAsync(Product product, double seconds, CancellationToken cancellation)
    {
        long start = TimeProvider.System.GetTimestamp(), done = 0, next = 0;
        await Task.WhenAll(Enumerable.Range(0, 128).Select(async _ =>
        {
            while (TimeProvider.System.GetElapsedTime(start).TotalSeconds < seconds && !cancellation.IsCancellationRequested)
            {
                long n = Interlocked.Increment(ref next);
                await product.Embedder.EmbedTextAsync($"{n} {string.Join(' ', Enumerable.Repeat("passage", 150))}", Lane.Bulk, default);
                Interlocked.Increment(ref done);
            }
        }));
        return done / TimeProvider.System.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>Queries at growing rates: what is answered in time must not fall once there are too many.</summary>
    private static async Task OverloadAsync(Report report, OpenLoop load, Product product)
    {
        double capacity = Environment.ProcessorCount / Cost(product, 100);
        double peak = 0, over = 0, refusal = 0;
        foreach (double factor in new[] { 0.6, 0.8, 1.0, 1.5, 3.0 })
        {
            var (lanes, refusals) = await load.RunAsync(Poisson("overload", factor * capacity, 12, Seed, [100], Lane.Interactive, WorkKind.Query), default);
            double goodput = lanes.Single().Attainment * lanes.Single().Rate;
            peak = Math.Max(peak, goodput);
            if (factor == 3.0)
            {
                (over, refusal) = (goodput, refusals[(int)(0.5 * refusals.Count)]);
                report.Row("Refusals answered in, ms: median (99 of 100; client and server share the cores)", $"{Report.Number(refusal, "0.0")} ({Report.Number(refusals[(int)(0.99 * refusals.Count)], "0.0")})", "<= 5", refusal <= 5);
            }
        }
        report.Row("Goodput at 3 x the models' capacity, of the peak", Report.Number(over / peak, "0.00"), $">= 0.90 of {Report.Number(peak, "0.0")}/s", over >= 0.9 * peak);
    }

    /// <summary>Nine tenants within their share, alone and beside one that floods.</summary>
    private static async Task TenantsAsync(Report report, OpenLoop load, Product product)
    {
        const double Seconds = 20;
        double capacity = Environment.ProcessorCount / Cost(product, 60);
        Arrival[] nine = [.. Enumerable.Range(0, 9).SelectMany(t => Poisson("nine", 0.05 * capacity, Seconds, Seed + t, [60], Lane.Interactive, WorkKind.Query).Arrivals.Select(a => a with { Tenant = $"tenant-{t}" })).OrderBy(a => a.Seconds)];
        Arrival[] flood = [.. Poisson("flood", 2 * capacity, Seconds, Seed + 99, [60], Lane.Interactive, WorkKind.Query).Arrivals.Select(a => a with { Tenant = "flood" })];
        double before = (await load.RunAsync(new Workload("nine", Seconds, nine), default)).Lanes.Single().Attainment;
        Arrival[] all = [.. nine.Concat(flood).OrderBy(a => a.Seconds)];
        double after = await load.AttainmentAsync(new Workload("all", Seconds, all), a => a.Tenant != "flood", default);
        report.Row("Attainment of nine tenants while a tenth floods (twice the capacity), and alone", $"{Report.Number(after)}, {Report.Number(before)}", "loses <= 0.05", after >= before - 0.05);
    }

    /// <summary>64 clients that always wait for one answer each, against the session itself over the same inputs, sorted by length.</summary>
    private static async Task ThroughputAsync(Report report, Uri url, Product product)
    {
        const int Clients = 64, Each = 24;
        var random = new Random(Seed);
        string[] texts = [.. Enumerable.Range(0, Clients * Each).Select(i => $"{i} {string.Join(' ', Enumerable.Range(0, random.Next(20, 160)).Select(_ => "word"))}")];
        int[][] ids = [.. texts.Select(product.Embedder.Tokenizer.Encode).OrderBy(t => t.Length)];
        var (tower, _, _) = Runtimes.StarterModel.Open(new DiptychOptions().StarterModel);
        await using ILoadedModel loaded = await tower.LoadAsync(Device.Cpu, default);
        double Raw(int size) => Report.Time(() => Parallel.ForEach(ids.Chunk(size), new ParallelOptions { MaxDegreeOfParallelism = Environment.ProcessorCount }, chunk =>
        {
            int[] offsets = [0, .. chunk.Select((_, i) => chunk.Take(i + 1).Sum(c => c.Length))];
            loaded.ExecuteAsync(new Batch([.. chunk.SelectMany(c => c)], [], offsets), default).AsTask().GetAwaiter().GetResult();
        }));
        Raw(4);
        int best = new[] { 1, 4, 16 }.MinBy(Raw);
        using var client = new HttpClient(new SocketsHttpHandler { MaxConnectionsPerServer = Clients }) { BaseAddress = url };
        client.DefaultRequestHeaders.Add("X-Lane", "bulk");
        var ratios = new List<double>();
        for (int round = 0; round < 3; round++)
        {
            double limit = Raw(best);
            string mark = $"round {round} ";
            long start = TimeProvider.System.GetTimestamp();
            await Parallel.ForEachAsync(texts, new ParallelOptions { MaxDegreeOfParallelism = Clients }, async (text, stop) =>
            {
                using HttpResponseMessage response = await client.PostAsJsonAsync("/v1/embeddings", new { model = "starter-text", input = mark + text, encoding_format = "base64" }, stop);
                response.EnsureSuccessStatusCode();
            });
            ratios.Add(limit / TimeProvider.System.GetElapsedTime(start).TotalSeconds);
        }
        report.Row("Embedding throughput over HTTP, 64 clients, of the raw session", Report.Number(Report.Median(ratios), "0.00"), ">= 0.90 (length-sorted inputs on all cores)", Report.Median(ratios) >= 0.9);
    }

    /// <summary>The mixed trace: how much faster than the ways in which others serve, and how near the simulator is to life.</summary>
    private static async Task SimulatedAsync(Report report, DiptychOptions options)
    {
        await using Product product = await Product.OpenAsync(options, TimeProvider.System, default);
        await using var app = Server.Build(options, product, TimeProvider.System);
        await app.StartAsync();
        using var load = new OpenLoop(new Uri(app.Urls.First()), product.Embedder.Tokenizer, TimeProvider.System, options.Objectives());
        await load.RunAsync(Workload.FromTraces("mixed", TracesFolder, 0.5, 10, Seed + 1), default);
        InferenceOptions inference = options.Inference();
        int workers = inference.Devices.Sum(d => d.Workers);

        // Long enough that the hundredth of every lane is more than a few requests. What a model takes is learned as it runs: the mean is taken.
        Workload same = Workload.FromTraces("mixed", TracesFolder, 0.7, 300, Seed);
        var learned = new Dictionary<string, List<CostProfile>> { [Runtimes.StarterModel.TextName] = [], [Runtimes.StarterModel.ImageName] = [] };
        Task<(IReadOnlyList<LaneResult> Lanes, IReadOnlyList<double> RefusalMs)> running = load.RunAsync(same, default);
        while (await Task.WhenAny(running, Task.Delay(TimeSpan.FromSeconds(2), TimeProvider.System)) != running)
        {
            foreach (ModelSnapshot model in product.Inference.Snapshot().Models.Where(m => learned.ContainsKey(m.Name)))
            {
                learned[model.Name].Add(model.Cost);
            }
        }
        IReadOnlyList<LaneResult> live = (await running).Lanes;
        CostProfile Mean(string model) => new(
            learned[model].Average(c => c.FixedSeconds), learned[model].Average(c => c.PerUnitSeconds), learned[model].Average(c => c.High), learned[model].Average(c => c.Error));
        CostProfile text = Mean(Runtimes.StarterModel.TextName), image = Mean(Runtimes.StarterModel.ImageName);
        OutsideModels outside = await load.CalibrateAsync(text, image, default);
        var simulator = new Simulator(text, image, options.Objectives(), outside);
        Compare(report, live, simulator.Run(same, workers, DiptychOptions.Policy("deadline")!, Seed));

        async Task<double> HighestAsync(string policy) => (await HighestRate.FindAsync(
            rate => Task.FromResult(simulator.Run(Workload.FromTraces("mixed", TracesFolder, rate, 600, Seed), workers, DiptychOptions.Policy(policy)!, Seed)), 0.25, 9)).Factor;
        async Task<(string Policy, double Factor)> BestAsync(string name) =>
            (await Task.WhenAll(new[] { 64, 16, 4, 1 }.Select(async size => (Policy: $"{name}:{size}", Factor: await HighestAsync($"{name}:{size}"))))).MaxBy(p => p.Factor);
        double ours = await HighestAsync("deadline");
        double arrivalDefault = await HighestAsync("arrival"), priorityDefault = await HighestAsync("priority");
        var arrival = await BestAsync("arrival");
        var priority = await BestAsync("priority");
        report.Row("Highest rate, mixed trace, every lane >= 99 % (simulated), x traced", Report.Number(ours, "0.00"),
            $">= 2 x arrival order with 5 ms delay: {Report.Number(arrivalDefault, "0.00")} at batch 64, best {Report.Number(arrival.Factor, "0.00")} ({arrival.Policy})", ours >= 2 * arrival.Factor);
        report.Row("the same, beside a priority queue without deadlines", Report.Number(ours, "0.00"),
            $">= 1.3 x {Report.Number(priorityDefault, "0.00")} at batch 64; tuned by hand it reaches {Report.Number(priority.Factor, "0.00")} ({priority.Policy})", ours >= 1.3 * priorityDefault);

        Plot(rate => new[] { "deadline", "priority:1", "priority", "arrival", "unbatched" }.Select(policy => (
            policy, simulator.Run(Workload.FromTraces("mixed", TracesFolder, rate, 300, Seed), workers, DiptychOptions.Policy(policy)!, Seed).Min(l => l.Attainment))));
    }

    /// <summary>The simulator and life on the same trace.</summary>
    private static void Compare(Report report, IReadOnlyList<LaneResult> live, IReadOnlyList<LaneResult> simulated)
    {
        foreach (LaneResult lane in live)
        {
            LaneResult sim = simulated.Single(s => s.Lane == lane.Lane);
            bool near = Math.Abs(sim.Attainment - lane.Attainment) <= 0.03 && Math.Abs((sim.P99Ms / lane.P99Ms) - 1) <= 0.2;
            report.Row($"Simulated and live, {lane.Lane.ToString().ToLowerInvariant()}: attainment, p99 ms", $"{Report.Number(sim.Attainment)} and {Report.Number(lane.Attainment)}, {Report.Number(sim.P99Ms, "0.0")} and {Report.Number(lane.P99Ms, "0.0")} (medians {Report.Number(sim.P50Ms, "0.0")} and {Report.Number(lane.P50Ms, "0.0")}; {lane.Offered} requests)", "within 0.03, within 20 %", near);
        }
    }

    /// <summary>docs/inference-attainment.svg: the worst lane's attainment over the rate, a line for each policy.</summary>
    private static void Plot(Func<double, IEnumerable<(string Policy, double Attainment)>> attainment, [CallerFilePath] string here = "")
    {
        double[] rates = [.. Enumerable.Range(1, 20).Select(i => 0.1 * i)];
        var lines = rates.SelectMany(rate => attainment(rate).Select(a => (rate, a.Policy, a.Attainment))).GroupBy(a => a.Policy);
        double X(double rate) => 50 + (rate * 180);
        double Y(double share) => 260 - (share * 220);
        var svg = new StringBuilder("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 520 300\" font-family=\"sans-serif\" font-size=\"12\"><rect width=\"520\" height=\"300\" fill=\"#fff\"/>\n");
        foreach (double share in new[] { 0, 0.5, 0.99 })
        {
            svg.AppendLine(CultureInfo.InvariantCulture, $"<path d=\"M50 {Y(share):0}H410\" stroke=\"#ddd\"/><text x=\"44\" y=\"{Y(share) + 4:0}\" text-anchor=\"end\">{100 * share:0} %</text>");
        }
        foreach (double rate in new[] { 0.5, 1, 1.5, 2 })
        {
            svg.AppendLine(CultureInfo.InvariantCulture, $"<text x=\"{X(rate):0}\" y=\"280\" text-anchor=\"middle\">{rate} x</text>");
        }
        string[] colours = ["#c33", "#36c", "#393", "#a60", "#777"];
        foreach (var (line, i) in lines.Select((l, i) => (l, i)))
        {
            svg.AppendLine(CultureInfo.InvariantCulture, $"<polyline fill=\"none\" stroke=\"{colours[i]}\" stroke-width=\"2\" points=\"{string.Join(' ', line.Select(p => string.Create(CultureInfo.InvariantCulture, $"{X(p.rate):0},{Y(p.Attainment):0}")))}\"/>");
            svg.AppendLine(CultureInfo.InvariantCulture, $"<text x=\"420\" y=\"{60 + (20 * i)}\" fill=\"{colours[i]}\">{line.Key}</text>");
        }
        File.WriteAllText(Path.Combine(Path.GetDirectoryName(here)!, "..", "..", "..", "docs", "inference-attainment.svg"), svg.Append("</svg>\n").ToString().ReplaceLineEndings("\n"));
    }

    private static double Cost(Product product, int tokens)
    {
        var random = new Random(Seed);
        double seconds = Report.Time(() => Task.WhenAll(Enumerable.Range(0, 200).Select(i => product.Embedder.EmbedTextAsync(
            $"{random.Next()} {string.Join(' ', Enumerable.Repeat("cost", tokens - 6))}", Lane.Bulk, default))).GetAwaiter().GetResult());
        return seconds * Environment.ProcessorCount / 200;
    }

    private static Workload Poisson(string name, double rate, double seconds, int seed, int[] units, Lane lane, WorkKind kind)
    {
        var random = new Random(seed);
        var arrivals = new List<Arrival>();
        for (double at = 0; (at += -Math.Log(1 - random.NextDouble()) / rate) < seconds;)
        {
            arrivals.Add(new Arrival(at, lane, kind, units));
        }
        return new Workload(name, seconds, arrivals);
    }
}
