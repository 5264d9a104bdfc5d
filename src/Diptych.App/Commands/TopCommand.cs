using System.CommandLine;
using System.Globalization;
using Diptych.App.Http;
using Diptych.Inference;
using Diptych.Inference.Memory;
using Spectre.Console;
using Spectre.Console.Rendering;

namespace Diptych.App.Commands;

/// <summary>A running server's lanes, models and memory in the terminal, once a second.</summary>
internal static class TopCommand
{
    private static readonly Option<string?> Url = new("--url") { Description = "The server (setting Diptych:Url)" };
    private static readonly Option<bool> Once = new("--once") { Description = "Print once and stop" };

    public static Command Build()
    {
        var command = new Command("top", "Watch a running server: lanes, models, memory") { Url, Once };
        command.SetAction(async (parsed, cancellation) =>
        {
            DiptychOptions options = CommandLine.Options(parsed, ("Url", parsed.GetValue(Url)));
            using var client = new HttpClient { BaseAddress = new Uri(options.Url), Timeout = TimeSpan.FromSeconds(5) };
            InferenceSnapshot now = await ReadAsync(client, cancellation);
            if (parsed.GetValue(CommandLine.AsJson))
            {
                Output.Json(now);
                return ExitCode.Success;
            }
            if (parsed.GetValue(Once) || Console.IsOutputRedirected)
            {
                AnsiConsole.Write(Show(now, null));
                return ExitCode.Success;
            }
            await AnsiConsole.Live(Show(now, null)).StartAsync(async live =>
            {
                while (true)
                {
                    await Task.Delay(TimeSpan.FromSeconds(1), TimeProvider.System, cancellation);
                    InferenceSnapshot next = await ReadAsync(client, cancellation);
                    live.UpdateTarget(Show(next, now));
                    now = next;
                }
            });
            return ExitCode.Success;
        });
        return command;
    }

    private static async Task<InferenceSnapshot> ReadAsync(HttpClient client, CancellationToken cancellation)
    {
        try
        {
            return (await client.GetFromJsonAsync<InferenceSnapshot>("/v1/inference", Json.Options, cancellation))!;
        }
        catch (HttpRequestException error)
        {
            throw new HttpRequestException($"No server answers at {client.BaseAddress}: {error.Message} Start one with: diptych serve", error);
        }
    }

    private static Rows Show(InferenceSnapshot now, InferenceSnapshot? before)
    {
        var lanes = new Table().Border(TableBorder.Simple).AddColumns("lane", "target", "waiting", "per second", "attained", "refused", "p50", "p99", "wait", "batch", "padding");
        foreach (LaneSnapshot lane in now.Lanes)
        {
            long earlier = before?.Lanes.Single(l => l.Lane == lane.Lane).Completed ?? lane.Completed;
            long ended = Math.Max(1, lane.Completed + lane.Refused + lane.Expired);
            lanes.AddRow(
                lane.Lane.ToString().ToLowerInvariant(), Number(lane.TargetMs, "0 ms"), $"{lane.WaitingUnits}", before is null ? "" : $"{lane.Completed - earlier}",
                Number(100.0 * lane.Attained / ended, "0.0") + " %", $"{lane.Refused + lane.Expired}", Number(lane.P50Ms, "0.0 ms"), Number(lane.P99Ms, "0.0 ms"), Number(lane.MeanWaitMs, "0.0 ms"),
                Number(lane.MeanBatch, "0.0"), Number(100 * lane.Padding, "0.0") + " %");
        }
        var models = new Table().Border(TableBorder.Simple).AddColumns("model", "state", "on", "uses/s", "memory", "load", "prediction error");
        foreach (ModelSnapshot model in now.Models)
        {
            models.AddRow(
                model.Name.EscapeMarkup(), model.State + (model.Pinned ? ", pinned" : ""), string.Join(", ", model.Devices), Number(model.UsesPerSecond, "0.0"), $"{model.Bytes >> 20} MiB",
                Number(model.LoadSeconds, "0.00 s"), Number(100 * model.PredictionError, "0") + " %");
        }
        var devices = new Table().Border(TableBorder.Simple).AddColumns("device", "memory", "of", "weights", "workspace", "caches", "busy");
        foreach (DeviceSnapshot device in now.Devices)
        {
            devices.AddRow(
                device.Name, $"{device.UsedBytes >> 20} MiB", $"{device.BudgetBytes >> 20} MiB", $"{device.Bytes[MemoryKind.Weights] >> 20} MiB", $"{device.Bytes[MemoryKind.Workspace] >> 20} MiB",
                $"{device.Bytes[MemoryKind.Caches] >> 20} MiB", $"{device.Workers - device.IdleWorkers} of {device.Workers}");
        }
        return new Rows(new IRenderable[] { lanes, models, devices });
    }

    private static string Number(double value, string format) => value.ToString(format, CultureInfo.InvariantCulture);
}
