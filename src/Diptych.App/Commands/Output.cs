using System.Globalization;
using System.Text.Json;
using Diptych.Core;
using Diptych.Engine.Answering;
using Diptych.Engine.Ingestion;
using Spectre.Console;

namespace Diptych.App.Commands;

/// <summary>How results look on a terminal, and as JSON.</summary>
internal static class Output
{
    public static void Json(object value) => Console.WriteLine(JsonSerializer.Serialize(value, Http.Json.Options));

    public static void Hits(SearchResult result, bool explain)
    {
        if (result.Hits.Count == 0)
        {
            AnsiConsole.MarkupLine("[grey]Nothing matches.[/]");
            return;
        }
        foreach (Hit hit in result.Hits)
        {
            bool image = hit.Passage.Modality == Modality.Image;
            AnsiConsole.MarkupLine(
                $"[bold]{hit.Rank,2}[/] {(image ? "[fuchsia]image[/]" : "[aqua]text [/]")} [green]{Percent(hit.Confidence)}[/]  {Name(hit.Document).ForTerminal()}[grey]{Place(hit.Passage).ForTerminal()}[/]");
            foreach (ChannelEvidence e in explain ? hit.Evidence : [])
            {
                AnsiConsole.MarkupLine(string.Create(CultureInfo.InvariantCulture, $"   [grey]{e.Channel.ToString().ToLowerInvariant()}: rank {e.Rank}, score {e.Score:0.000}, calibrated {e.Calibrated:0.00}{(e.Plan is null ? "" : $", {e.Plan}")}[/]"));
            }
            if (hit.Snippet is { } snippet)
            {
                string line = snippet.Text.ReplaceLineEndings(" ");
                AnsiConsole.MarkupLine($"   {Marked(line.Length > 160 ? new Snippet(line[..160] + "…", [.. snippet.Highlights.Where(h => h.End <= 160)]) : snippet with { Text = line })}");
            }
        }
    }

    public static void Citations(Answer answer)
    {
        foreach (Citation c in answer.Citations)
        {
            AnsiConsole.MarkupLine($"[grey][[{c.Number}]][/] {Name(c.Document).ForTerminal()}[grey]{Place(c.Passage).ForTerminal()}[/]");
        }
        foreach (string rung in answer.Degraded)
        {
            AnsiConsole.MarkupLine($"[yellow]{rung.ForTerminal()}[/]");
        }
    }

    /// <summary>Foreign text for a terminal: no markup, and none of the control characters with which it could drive the terminal.</summary>
    public static string ForTerminal(this string text) => Printable(text).EscapeMarkup();

    /// <summary>The text without control characters (C0 but for line ends and tabs, DEL, C1) and without marks that turn the writing direction.</summary>
    public static string Printable(string text) => text.AsSpan().IndexOfAnyExcept(Harmless) < 0
        ? text
        : string.Concat(text.Where(c => c is '\n' or '\t' || !(char.IsControl(c) || c is (>= '\u202A' and <= '\u202E') or (>= '\u2066' and <= '\u2069'))));

    private static readonly System.Buffers.SearchValues<char> Harmless = System.Buffers.SearchValues.Create([.. Enumerable.Range(' ', '~' - ' ' + 1).Select(c => (char)c), '\n', '\t']);

    public static string Percent(double share) => $"{share * 100,3:0} %".ToString(CultureInfo.InvariantCulture);

    public static string Name(Document document) => Path.GetFileName(document.Source) is { Length: > 0 } name ? name : document.Source;

    public static string Place(Passage passage) => string.Concat(new[]
    {
        passage.Anchor.Label ?? (passage.Anchor.Page is { } page ? $"page {page}" : null),
        passage.HeadingPath.Length > 0 ? passage.HeadingPath : null,
    }.Where(p => p is not null).Select(p => $" · {p}"));

    private static string Marked(Snippet snippet)
    {
        var marked = new System.Text.StringBuilder();
        int at = 0;
        foreach (TextRange range in snippet.Highlights)
        {
            marked.Append(snippet.Text[at..range.Start].ForTerminal()).Append("[yellow]").Append(snippet.Text[range.Start..range.End].ForTerminal()).Append("[/]");
            at = range.End;
        }
        return marked.Append(snippet.Text[at..].ForTerminal()).ToString();
    }
}

/// <summary>Shows an ingestion as it goes: a bar on a terminal, lines when redirected, events as JSON.</summary>
/// <param name="files">Says what was passed over.</param>
internal sealed class IngestProgress(bool json, FileSources? files = null)
{
    private readonly bool _live = !json && !Console.IsOutputRedirected;

    public async Task<IngestTotals> ShowAsync(Func<Action<IngestEvent, IngestTotals>, Task<IngestTotals>> run)
    {
        IngestTotals totals = _live
            ? await AnsiConsole.Progress().AutoClear(true).HideCompleted(true)
                .Columns(new SpinnerColumn(), new TaskDescriptionColumn(), new ProgressBarColumn(), new PercentageColumn(), new RemainingTimeColumn())
                .StartAsync(context =>
                {
                    ProgressTask task = context.AddTask("Ingesting", maxValue: 1);
                    return run((e, t) =>
                    {
                        Tell(e);
                        task.MaxValue = Math.Max(1, t.Found);
                        task.Value = t.Done;
                        task.Description = $"{t.Done} of {t.Found} files, {Rate(t)} files/s";
                    });
                })
            : await run((e, t) => Tell(e, t));
        if (json)
        {
            Output.Json(new { @event = "end", totals, skipped = files?.Skipped });
        }
        else
        {
            AnsiConsole.MarkupLine(
                $"[bold]{totals.Added}[/] added, [bold]{totals.Replaced}[/] replaced, {totals.Unchanged} unchanged, {totals.Duplicates} duplicates, {totals.Moved} moved, {totals.Pruned} pruned, "
                + $"{(totals.Failed > 0 ? $"[red]{totals.Failed} failed[/]" : "0 failed")}: {totals.Passages} passages, {totals.Images} of them images, in {Seconds(totals)} s ({Rate(totals)} files/s).");
            if (files?.Skipped is { Count: > 0 } skipped)
            {
                string kinds = string.Join(", ", skipped.Where(s => s.Key != "link").OrderByDescending(s => s.Value).ThenBy(s => s.Key, StringComparer.Ordinal).Select(s => $"{s.Value} {s.Key}"));
                string links = skipped.GetValueOrDefault("link") is > 0 and var count ? $"{count} {(count == 1 ? "link" : "links")}: not followed. " : "";
                AnsiConsole.MarkupLine($"[grey]Skipped. {links.ForTerminal()}{(kinds.Length > 0 ? $"{kinds}: no reader." : "").ForTerminal()}[/]");
            }
        }
        return totals;
    }

    private void Tell(IngestEvent e, IngestTotals? totals = null)
    {
        if (json)
        {
            Output.Json(new { @event = "file", e.Source, e.Outcome, e.Reason, document_id = e.Document?.Id, warnings = e.Warnings.Count > 0 ? e.Warnings : null, totals });
        }
        else if (e.Outcome == IngestOutcome.Failed)
        {
            AnsiConsole.MarkupLine($"[red]failed[/] {e.Source.ForTerminal()}: {(e.Reason ?? "").ForTerminal()}");
        }
        else if (totals is { Done: var done, Found: var found } && done % 100 == 0)
        {
            Console.WriteLine($"{done} of {found} files, {Rate(totals)} files/s");
        }
        if (!json)
        {
            foreach (string warning in e.Warnings)
            {
                AnsiConsole.MarkupLine($"[yellow]partly read[/] {e.Source.ForTerminal()}: {warning.ForTerminal()}");
            }
        }
    }

    private static string Seconds(IngestTotals t) => t.Seconds.ToString("0.0", CultureInfo.InvariantCulture);

    private static string Rate(IngestTotals t) => (t.Done / Math.Max(t.Seconds, 0.001)).ToString("0.0", CultureInfo.InvariantCulture);
}
