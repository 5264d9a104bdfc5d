using System.CommandLine;
using System.Globalization;
using Diptych.App.Http;
using Diptych.Core;
using Diptych.Engine.Tuning;
using Spectre.Console;

namespace Diptych.App.Commands;

/// <summary><c>diptych tune</c>: learns from feedback; and <c>diptych feedback</c>: gives it.</summary>
internal static class TuneCommand
{
    public static Command Build()
    {
        var use = new Option<int?>("--use") { Description = "Use this version of what was learnt; 0 for none" };
        var list = new Option<bool>("--list") { Description = "List what was learnt" };
        var command = new Command("tune", "Learn from feedback on hits; taken up only where held-back feedback says that it is better") { CommandLine.Collection, use, list };
        command.SetAction(async (parsed, cancellation) =>
        {
            string collection = parsed.GetValue(CommandLine.Collection)!;
            bool json = parsed.GetValue(CommandLine.AsJson);
            await using Product product = await Product.OpenAsync(CommandLine.Options(parsed), TimeProvider.System, cancellation);
            if (!product.Store.CollectionExists(collection))
            {
                throw new NotFoundException($"There is no collection '{collection}'.");
            }
            if (parsed.GetValue(use) is { } version)
            {
                product.Store.ActivateTuning(collection, version);
            }
            if (parsed.GetValue(use) is not null || parsed.GetValue(list))
            {
                List(product.Store.Tunings(collection), json);
                return ExitCode.Success;
            }
            int before = product.Store.ActiveTuning(collection)?.Version ?? 0;
            TuningReport report = json
                ? await product.Tuner.TuneAsync(collection, null, cancellation)
                : await AnsiConsole.Status().StartAsync("reading feedback", status => product.Tuner.TuneAsync(collection, doing => status.Status(doing.EscapeMarkup()), cancellation));
            if (json)
            {
                Output.Json(report);
            }
            else
            {
                AnsiConsole.MarkupLine(string.Create(CultureInfo.InvariantCulture, $"Learnt from {report.Queries} queries; {report.HeldBack} held back judge: nDCG@10 {report.Before:0.000} before, {report.After:0.000} after."));
                AnsiConsole.MarkupLine(report.Version is { } taken ? $"Taken up as version {taken}. [grey]Back to before: diptych tune --use {before}[/]" : "Not better, so nothing changed.");
            }
            return ExitCode.Success;
        });
        return command;
    }

    public static Command BuildFeedback()
    {
        var query = new Argument<string>("query") { Description = "What was asked" };
        var passages = new Option<long[]>("--passage", "-p") { Description = "The hit's passage (its id is in search --json)", Required = true };
        var down = new Option<bool>("--down") { Description = "It did not help" };
        var command = new Command("feedback", "Say of hits whether they helped; tune learns from it") { query, passages, down, CommandLine.Collection };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using Product product = await Product.OpenAsync(CommandLine.Options(parsed), TimeProvider.System, cancellation);
            var request = new FeedbackRequest
            {
                Collection = parsed.GetValue(CommandLine.Collection)!,
                Query = parsed.GetValue(query)!,
                PassageIds = parsed.GetValue(passages)!,
                Signal = parsed.GetValue(down) ? FeedbackSignal.Down : FeedbackSignal.Up,
            };
            product.Store.AddFeedback(request.Collection, FeedbackEndpoints.Read(request, product.Store, TimeProvider.System.GetUtcNow()));
            int judged = product.Store.Feedback(request.Collection).Where(f => f.Positive).Select(f => f.Query.ToUpperInvariant()).Distinct(StringComparer.Ordinal).Count();
            if (parsed.GetValue(CommandLine.AsJson))
            {
                Output.Json(new { queries = judged });
            }
            else
            {
                AnsiConsole.MarkupLine($"Kept. {judged} queries have a hit that helped{(judged >= Tuner.LeastQueries ? "; learn from them: [aqua]diptych tune[/]" : $"; from {Tuner.LeastQueries} on there is something to learn")}.");
            }
            return ExitCode.Success;
        });
        return command;
    }

    private static void List(IReadOnlyList<Index.Tuning> tunings, bool json)
    {
        if (json)
        {
            Output.Json(tunings.Select(TuningResponse.Of));
            return;
        }
        if (tunings.Count == 0)
        {
            AnsiConsole.MarkupLine("[grey]Nothing was learnt yet.[/]");
        }
        foreach (Index.Tuning t in tunings)
        {
            AnsiConsole.MarkupLine(string.Create(CultureInfo.InvariantCulture, $"{(t.IsActive ? "[green]*[/]" : " ")} {t.Version,3}  {t.CreatedAt:yyyy-MM-dd HH:mm}  nDCG@10 {t.Before:0.000} to {t.After:0.000}"));
        }
    }
}
