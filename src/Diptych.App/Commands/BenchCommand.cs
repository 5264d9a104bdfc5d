using System.CommandLine;
using System.Globalization;
using Diptych.App.Load;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Diptych.Inference.Simulation;
using Spectre.Console;

namespace Diptych.App.Commands;

/// <summary>Load tests of the inference service: live, open loop, over HTTP; and simulated, past this machine.</summary>
internal static class BenchCommand
{
    private const int Seed = 7;

    /// <summary>The way from a request to the models, which has a profile as they have; and, by size, a picture's.</summary>
    private static readonly ModelDescription HttpPath = new("http", "2", InputKind.Tokens, new Dictionary<string, int>(), 1, 0);
    private static readonly Option<string> Trace = new Option<string>("--trace") { Description = "Workload made from production traces", DefaultValueFactory = _ => "mixed" }.AcceptOnlyFromAmong([.. Workload.Names]);
    private static readonly Option<string> SimulatedTrace = new Option<string>("--trace") { Description = "Workload made from production traces; answers-… are a language model's", DefaultValueFactory = _ => "mixed" }.AcceptOnlyFromAmong([.. Workload.Names, .. Workload.AnswerNames]);
    private static readonly Option<double> Lengths = new("--lengths") { Description = "Of answers-…: lengths of prompts and answers, as a share of the traced", DefaultValueFactory = _ => 1 };
    private static readonly Option<string?> Model = new("--model") { Description = "Of answers-…: the language model that was added (setting Diptych:Llm:Model; default: the first)" };
    private static readonly Option<string?> Traces = new("--traces") { Description = "Folder of the traces (default: traces in $DIPTYCH_SHARED, or in ../shared)" };
    private static readonly Option<double> Rate = new("--rate") { Description = "How many times faster than traced", DefaultValueFactory = _ => 1 };
    private static readonly Option<double> Seconds = new("--seconds") { Description = "How long requests arrive", DefaultValueFactory = _ => 60 };
    private static readonly Option<bool> FindMax = new("--find-max") { Description = "Search for the highest rate at which 99 % of every lane's requests attain its target" };
    private static readonly Option<string?> Scheduling = new("--scheduling") { Description = "deadline, arrival, unbatched or priority (setting Diptych:Scheduling)" };
    private static readonly Option<int> Devices = new("--devices") { Description = "Devices like this machine", DefaultValueFactory = _ => 1 };
    private static readonly Option<string?> Url = new("--url") { Description = "A server on this machine that runs already (default: one is started)" };

    public static Command Build()
    {
        var serve = new Command("serve", "Send a traced workload over HTTP, open loop, and report each lane's attainment") { Trace, Traces, Rate, Seconds, FindMax, Scheduling, Url };
        serve.SetAction(ServeAsync);
        var simulate = new Command("simulate", "Run a traced workload through the scheduler under a virtual clock, on any number of devices") { SimulatedTrace, Traces, Rate, Seconds, FindMax, Scheduling, Devices, Lengths, Model };
        simulate.SetAction(SimulateAsync);
        var index = new Command("index", "Measure the vector index beside hnswlib, USearch and LanceDB (from a checkout; the peers come from npm)");
        index.SetAction((_, cancellation) => RunFromCheckoutAsync("index", cancellation));
        return new Command("bench", "Measure the inference service under load, and the index") { serve, simulate, index };
    }

    /// <summary>Peers and their licences are no part of the product: what is measured beside them runs from the source tree.</summary>
    private static async Task<int> RunFromCheckoutAsync(string part, CancellationToken cancellation)
    {
        string? root = new[] { Environment.CurrentDirectory, AppContext.BaseDirectory }.Select(Checkout).FirstOrDefault(r => r is not null)
            ?? throw new InvalidRequestException("This measures beside libraries that are no part of the product: run it within a checkout of Diptych's source.");
        using var bench = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("dotnet", ["run", "-c", "Release", "--project", Path.Combine(root, "bench", "Diptych.Bench"), "--", part]) { WorkingDirectory = root })!;
        try
        {
            await bench.WaitForExitAsync(cancellation);
        }
        catch (OperationCanceledException)
        {
            bench.Kill(entireProcessTree: true);
            throw;
        }
        return bench.ExitCode;
    }

    private static string? Checkout(string? folder)
    {
        while (folder is not null && !Directory.Exists(Path.Combine(folder, "bench", "Diptych.Bench")))
        {
            folder = Path.GetDirectoryName(folder);
        }
        return folder;
    }

    private static async Task<int> SimulateAsync(ParseResult parsed, CancellationToken cancellation)
    {
        DiptychOptions options = CommandLine.Options(parsed, ("Scheduling", parsed.GetValue(Scheduling)), ("Llm:Model", parsed.GetValue(Model)));
        string trace = parsed.GetValue(SimulatedTrace)!;
        int devices = parsed.GetValue(Devices);
        if (devices < 1)
        {
            throw new InvalidRequestException("--devices is at least 1.");
        }
        if (Workload.AnswerNames.Contains(trace))
        {
            RequireLoad(parsed);
            if (parsed.GetValue(Lengths) <= 0)
            {
                throw new InvalidRequestException("--lengths is above 0.");
            }
            return await AnswerSimulation.RunAsync(
                options, trace, TracesFolder(parsed), parsed.GetValue(Rate), parsed.GetValue(Seconds), parsed.GetValue(Lengths), devices, parsed.GetValue(FindMax), parsed.GetValue(CommandLine.AsJson));
        }
        var (text, image) = await ProfilesAsync(options, cancellation);
        // What requests take outside the models, as bench serve last measured it here.
        InferenceOptions inference = options.Inference();
        CostProfile? Found(ModelDescription path) => inference.Profiles.Find(path, inference.Devices[0].Name)?.Cost;
        OutsideModels outside = Found(HttpPath) is { } request ? new OutsideModels(request, [.. OutsideModels.Usual.Pictures.Select(p => (p.Side, Found(PicturePath(p.Side))?.FixedSeconds ?? p.Seconds))]) : OutsideModels.Usual;
        var simulator = new Simulator(text, image, options.Objectives(), outside);
        return await ReportAsync(parsed, trace, options, devices, (rate, _) => Task.FromResult(simulator.Run(
            Load(parsed, trace, rate), devices * options.Inference().Devices.Sum(d => d.Workers), DiptychOptions.Policy(options.Scheduling)!, Seed)), cancellation);
    }

    private static async Task<int> ServeAsync(ParseResult parsed, CancellationToken cancellation)
    {
        DiptychOptions options = CommandLine.Options(parsed, ("Scheduling", parsed.GetValue(Scheduling)), ("Url", parsed.GetValue(Url) is null ? "http://127.0.0.1:0" : null));
        Workload.FromTraces(parsed.GetValue(Trace)!, TracesFolder(parsed), 1, 1, Seed);
        await using Product? product = parsed.GetValue(Url) is null ? await Product.OpenAsync(options, TimeProvider.System, cancellation) : null;
        await using WebApplication? app = product is null ? null : Http.Server.Build(options, product, TimeProvider.System);
        if (app is not null)
        {
            await app.StartAsync(cancellation);
        }
        ITokenizer tokenizer = product?.Embedder.Tokenizer ?? Runtimes.StarterModel.Open(options.StarterModel).Tokenizer;
        using var load = new OpenLoop(new Uri(parsed.GetValue(Url) ?? app!.Urls.First()), tokenizer, TimeProvider.System, options.Objectives());
        await load.RunAsync(Workload.FromTraces(parsed.GetValue(Trace)!, TracesFolder(parsed), 1, 5, Seed + 1), cancellation);
        if (product is not null)
        {
            InferenceOptions inference = options.Inference();
            var (text, image) = await ProfilesAsync(options, cancellation);
            OutsideModels outside = await load.CalibrateAsync(text, image, cancellation);
            void Keep(ModelDescription path, CostProfile cost) => inference.Profiles.Save(path, inference.Devices[0].Name, new ModelProfile(cost, 0, 0, 0));
            Keep(HttpPath, outside.Request);
            foreach (var (side, picture) in outside.Pictures)
            {
                Keep(PicturePath(side), new CostProfile(picture, 0, outside.Request.High, 0));
            }
        }
        string trace = parsed.GetValue(Trace)!;
        return await ReportAsync(parsed, trace, options, 1, async (rate, stop) => (await load.RunAsync(Load(parsed, trace, rate), stop)).Lanes, cancellation);
    }

    private static ModelDescription PicturePath(int side) => HttpPath with { Name = $"http-picture-{side}" };

    private static async Task<int> ReportAsync(
        ParseResult parsed, string trace, DiptychOptions options, int devices, Func<double, CancellationToken, Task<IReadOnlyList<LaneResult>>> run, CancellationToken cancellation)
    {
        double rate = parsed.GetValue(Rate);
        RequireLoad(parsed);
        IReadOnlyList<LaneResult> results = await run(rate, cancellation);
        (double Factor, IReadOnlyDictionary<Lane, double> Rates)? highest = parsed.GetValue(FindMax)
            ? await HighestRate.FindAsync(r => run(r, cancellation), rate, 9)
            : null;
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new
            {
                trace,
                rate,
                seconds = parsed.GetValue(Seconds),
                scheduling = options.Scheduling,
                devices,
                max_rate_factor_at_99 = highest?.Factor,
                lanes = results.ToDictionary(r => r.Lane.ToString().ToLowerInvariant(), r => new
                {
                    r.Offered,
                    r.Completed,
                    r.Refused,
                    r.Attainment,
                    p50_ms = r.P50Ms,
                    p99_ms = r.P99Ms,
                    max_rate_at_99 = highest?.Rates.GetValueOrDefault(r.Lane),
                }),
            });
            return ExitCode.Success;
        }
        var table = new Table().Border(TableBorder.Simple).AddColumns("lane", "target", "offered", "completed", "refused", "attainment", "p50", "p99", "highest rate at 99 %");
        foreach (LaneResult r in results)
        {
            table.AddRow(
                r.Lane.ToString().ToLowerInvariant(), $"{options.Objectives()[r.Lane].Target.TotalMilliseconds:0} ms", $"{r.Offered} ({Number(r.Rate, "0.0")}/s)", $"{r.Completed}", $"{r.Refused}",
                Number(100 * r.Attainment, "0.00") + " %", Number(r.P50Ms, "0.0") + " ms", Number(r.P99Ms, "0.0") + " ms",
                highest is { } h ? Number(h.Rates.GetValueOrDefault(r.Lane), "0.0") + "/s" : "(--find-max)");
        }
        AnsiConsole.Write(table);
        AnsiConsole.MarkupLineInterpolated(CultureInfo.InvariantCulture, $"{trace} at {rate} x for {parsed.GetValue(Seconds)} s, {options.Scheduling}, {devices} device(s){(highest is { } all ? $"; every lane attains up to {Number(all.Factor, "0.00")} x" : "")}");
        return ExitCode.Success;
    }

    private static void RequireLoad(ParseResult parsed)
    {
        if (parsed.GetValue(Rate) <= 0 || parsed.GetValue(Seconds) <= 0)
        {
            throw new InvalidRequestException("--rate and --seconds are above 0.");
        }
    }

    private static Workload Load(ParseResult parsed, string trace, double rate) =>
        Workload.FromTraces(trace, TracesFolder(parsed), rate, parsed.GetValue(Seconds), Seed);

    private static string TracesFolder(ParseResult parsed) =>
        parsed.GetValue(Traces) ?? Path.Combine(Environment.GetEnvironmentVariable("DIPTYCH_SHARED") ?? Path.Combine("..", "shared"), "traces");

    /// <summary>What was measured of the models here; measured now where it never was.</summary>
    private static async Task<(CostProfile Text, CostProfile Image)> ProfilesAsync(DiptychOptions options, CancellationToken cancellation)
    {
        InferenceOptions inference = options.Inference();
        var (text, image, _) = Runtimes.StarterModel.Open(options.StarterModel);
        ModelProfile? Find(IModelBackend model) => inference.Profiles.Find(model.Description, inference.Devices[0].Name);
        if (Find(text) is null || Find(image) is null)
        {
            await using var service = new InferenceService([text, image], TimeProvider.System, inference);
            await service.LoadAsync(cancellation);
        }
        return (Find(text)!.Cost, Find(image)!.Cost);
    }

    private static string Number(double value, string format) => value.ToString(format, CultureInfo.InvariantCulture);
}
