using System.Globalization;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Simulation;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Store;
using Spectre.Console;

namespace Diptych.App.Commands;

/// <summary>Answers of a language model under a traced load, by the decoder engine's own budget and its steps as measured here.</summary>
internal static class AnswerSimulation
{
    private const int Steps = 9;

    /// <param name="trace">One of <see cref="Workload.AnswerNames"/>.</param>
    /// <param name="lengths">Lengths of prompts and answers, as a share of the traced.</param>
    /// <exception cref="InvalidRequestException">No language model was added, or not the one that is named.</exception>
    public static async Task<int> RunAsync(DiptychOptions options, string trace, string traces, double rate, double seconds, double lengths, int devices, bool findMax, bool json)
    {
        ModelFolder folder = options.Models();
        InstalledModel[] decoders = [.. folder.List().Where(m => m.Kind == ModelKind.Decoder)];
        InstalledModel model = decoders.FirstOrDefault(m => options.Llm.Model is null || m.Name == options.Llm.Model)
            ?? throw new InvalidRequestException($"Answers are simulated by a language model's own steps: {(decoders.Length == 0 ? "add one with diptych models add." : $"there is no '{options.Llm.Model}'.")}");
        StepTimes times = StepTimes.Measure(LocalModel.Find(folder.PathOf(model))!, TimeProvider.System, options.Llm.WeightFormat);
        var simulator = new DecoderSimulator(times.Steps, DecoderEngine.MaxRunning, ((long)options.Llm.CacheMb << 20) / times.KeyValueBytesPerToken);
        TimeSpan firstToken = options.Objectives()[Lane.Generate].Target;
        DecodingResult Run(double at) => simulator.Run(Workload.Answers(trace, traces, at, seconds, lengths, times.MaxTokens), seconds, devices, firstToken);
        DecodingResult result = Run(rate);
        (double Factor, IReadOnlyDictionary<Lane, double> Rates)? highest = !findMax ? null : await HighestRate.FindAsync(at =>
        {
            DecodingResult r = Run(at);
            return Task.FromResult<IReadOnlyList<LaneResult>>([new LaneResult(Lane.Generate, r.Offered, r.Offered, 0, r.Attainment, r.FirstP50Ms, r.FirstP99Ms, r.Rate)]);
        }, rate, Steps);
        double? highestRate = highest?.Rates.GetValueOrDefault(Lane.Generate);
        if (json)
        {
            Output.Json(new
            {
                trace,
                rate,
                seconds,
                lengths,
                model = model.Name,
                devices,
                max_rate_factor_at_99 = highest?.Factor,
                lanes = new
                {
                    generate = new
                    {
                        result.Offered,
                        completed = result.Offered,
                        refused = 0,
                        result.Attainment,
                        p50_ms = result.FirstP50Ms,
                        p99_ms = result.FirstP99Ms,
                        between_p50_ms = result.BetweenP50Ms,
                        between_p99_ms = result.BetweenP99Ms,
                        tokens_per_second = result.TokensPerSecond,
                        max_rate_at_99 = highestRate,
                    },
                },
            });
            return ExitCode.Success;
        }
        string Number(double value, string format) => value.ToString(format, CultureInfo.InvariantCulture);
        var table = new Table().Border(TableBorder.Simple).AddColumns("offered", "attainment", "first token p50", "p99", "between tokens p50", "p99", "tokens/s", "highest rate at 99 %");
        table.AddRow(
            $"{result.Offered} ({Number(result.Rate, "0.0")}/s)", Number(100 * result.Attainment, "0.00") + " %", Number(result.FirstP50Ms, "0") + " ms", Number(result.FirstP99Ms, "0") + " ms",
            Number(result.BetweenP50Ms, "0.0") + " ms", Number(result.BetweenP99Ms, "0.0") + " ms", Number(result.TokensPerSecond, "0"), highestRate is { } best ? Number(best, "0.0") + "/s" : "(--find-max)");
        AnsiConsole.Write(table);
        AnsiConsole.MarkupLineInterpolated(CultureInfo.InvariantCulture, $"{model.Name} on {devices} device(s) like this one: {trace} at {rate} x for {seconds} s, lengths {lengths} of the traced");
        return ExitCode.Success;
    }
}
