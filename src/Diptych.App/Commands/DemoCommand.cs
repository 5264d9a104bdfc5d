using System.CommandLine;
using Diptych.Core;
using Diptych.Engine.Answering;
using Diptych.Engine.Ingestion;
using Spectre.Console;

namespace Diptych.App.Commands;

internal static class DemoCommand
{
    private static readonly Option<string?> Url = new("--url") { Description = "Where to listen (setting Diptych:Url)" };
    private static readonly Option<bool> NoServer = new("--no-server") { Description = "Stop after the queries" };

    public static Command Build()
    {
        var command = new Command("demo", "Ingest the samples, show what can be asked, and serve the page") { Url, NoServer };
        command.SetAction(RunAsync);
        return command;
    }

    private static async Task<int> RunAsync(ParseResult parsed, CancellationToken cancellation)
    {
        DiptychOptions options = CommandLine.Options(parsed, ("Url", parsed.GetValue(Url)));
        using ILoggerFactory logs = Logs.Create(options, LogLevel.Warning);
        string samples = Path.Combine(AppContext.BaseDirectory, "samples");
        await using Product product = await Product.OpenAsync(options, TimeProvider.System, cancellation, logs);

        AnsiConsole.MarkupLine($"[bold]1. Ingest[/] {samples.ForTerminal()}");
        IngestTotals totals = await new IngestProgress(json: false).ShowAsync(report => product.Ingestor.RunAsync(
            FileSources.Find([samples], [], []), new IngestOptions { Collection = "samples", PruneUnder = [samples] }, report, cancellation));

        await ShowAsync(product, "2. A text finds photos and text", "a pink flower", null, cancellation);
        await ShowAsync(product, "3. A photo finds photos and text", null, Path.Combine(samples, "photos", "coffee.png"), cancellation);

        foreach (string question in new[] { "How hot should the water be for brewing coffee?", "Who wrote the constitution of Atlantis?" })
        {
            AnsiConsole.MarkupLine($"\n[bold]4. A question[/] diptych ask -c samples \"{question}\"");
            await AskCommand.PrintAsync(product.Answerer, new Question { Collection = "samples", Text = question }, json: false, cancellation);
        }
        Console.WriteLine();
        if (parsed.GetValue(NoServer))
        {
            return totals.Failed > 0 ? ExitCode.Partial : ExitCode.Success;
        }
        return await ServeCommand.RunAsync(options, product, logs, parsed.GetValue(CommandLine.AsJson), cancellation);
    }

    private static async Task ShowAsync(Product product, string title, string? text, string? image, CancellationToken cancellation)
    {
        string shown = text is not null ? $"\"{text}\"" : $"--image {image}";
        AnsiConsole.MarkupLine($"\n[bold]{title}[/] diptych search -c samples {shown.ForTerminal()}");
        var part = new QueryPart { Text = text, Image = image is null ? null : await File.ReadAllBytesAsync(image, cancellation) };
        Output.Hits(await product.Searcher.SearchAsync(new Query { Collection = "samples", Parts = [part], Limit = 5, MinConfidence = 0.2 }, cancellation), explain: false);
    }
}
