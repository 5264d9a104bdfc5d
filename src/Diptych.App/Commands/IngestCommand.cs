using System.CommandLine;
using Diptych.Core;
using Diptych.Engine.Ingestion;

namespace Diptych.App.Commands;

internal static class IngestCommand
{
    private static readonly Argument<string[]> Sources = new("source") { Description = "Files, folders, URLs, or - for standard input", Arity = ArgumentArity.OneOrMore };
    private static readonly Option<string[]> Include = new("--include") { Description = "Globs under a folder, such as **/*.pdf (default: all known formats)" };
    private static readonly Option<string[]> Exclude = new("--exclude") { Description = $"Globs to leave out; {FileSources.IgnoreFile} files do the same" };
    private static readonly Option<bool> Prune = new("--prune") { Description = "Delete documents whose files are gone from the folders" };
    private static readonly Option<string[]> PruneAll = new("--prune-all") { Description = "A folder to prune even where that deletes more than a third of its documents" };
    private static readonly Option<bool> Again = new("--again") { Description = "Read files anew that have not changed, for example after a model was added" };
    private static readonly Option<string?> Language = new Option<string?>("--language") { Description = "What a new collection's words are stemmed in (default: english)" }.AcceptOnlyFromAmong([.. Index.Lexical.Language.Known]);
    private static readonly Option<string> Name = new("--name") { Description = "File name for standard input, which tells its format", DefaultValueFactory = _ => "stdin.txt" };
    private static readonly Option<string[]> Tags = new("--meta", "-m") { Description = "key=value to keep as metadata of standard input and URLs" };

    public static Command Build()
    {
        var command = new Command("ingest", "Read files, folders, URLs or standard input into a collection")
        {
            Sources, CommandLine.Collection, Include, Exclude, Prune, PruneAll, Again, Language, Name, Tags,
        };
        command.SetAction(RunAsync);
        return command;
    }

    private static async Task<int> RunAsync(ParseResult parsed, CancellationToken cancellation)
    {
        DiptychOptions options = CommandLine.Options(parsed);
        string[] given = parsed.GetValue(Sources)!;
        string[] urls = [.. given.Where(IsUrl)], paths = [.. given.Where(s => s != "-" && !IsUrl(s))];
        using var fetcher = options.Urls();
        var metadata = new Metadata((parsed.GetValue(Tags) ?? []).Select(t => t.Split('=', 2)).Select(t => t.Length == 2
            ? KeyValuePair.Create(t[0], (IReadOnlyList<string>)[t[1]])
            : throw new InvalidRequestException($"'{t[0]}' is not key=value.")));
        var files = new FileSources(paths, parsed.GetValue(Include) ?? [], parsed.GetValue(Exclude) ?? []);
        var sources = files.Find().Concat(urls.Select(u => fetcher.At(u) is var source ? source with { Metadata = source.Metadata!.With(metadata) } : source));
        if (given.Contains("-"))
        {
            using var content = new MemoryStream();
            await using Stream input = Console.OpenStandardInput();
            await input.CopyToAsync(content, cancellation);
            string name = parsed.GetValue(Name)!;
            sources = sources.Append(IngestSource.Bytes($"stdin:{name}", name, content.ToArray(), null, metadata));
        }
        await using Product product = await Product.OpenAsync(options, TimeProvider.System, cancellation);
        string[] pruneAll = [.. parsed.GetValue(PruneAll) ?? []];
        var run = new IngestOptions
        {
            Collection = parsed.GetValue(CommandLine.Collection)!,
            Again = parsed.GetValue(Again),
            Language = parsed.GetValue(Language),
            PruneUnder = [.. (parsed.GetValue(Prune) ? paths.Where(p => !File.Exists(p)) : []).Union(pruneAll)],
            PruneAll = pruneAll,
            PruneUnlisted = parsed.GetValue(Include) is null or [] && parsed.GetValue(Exclude) is null or [],
            OwnPaths = options.Store is null or "",
        };
        IngestTotals totals = await new IngestProgress(parsed.GetValue(CommandLine.AsJson), files).ShowAsync(
            report => product.Ingestor.RunAsync(sources, run, report, cancellation));
        foreach (string refused in totals.PruneRefused)
        {
            Console.Error.WriteLine(Output.Printable(refused));
        }
        return totals.Failed > 0 || totals.PruneRefused.Count > 0 ? ExitCode.Partial : ExitCode.Success;
    }

    private static bool IsUrl(string source) =>
        source.StartsWith("http://", StringComparison.OrdinalIgnoreCase) || source.StartsWith("https://", StringComparison.OrdinalIgnoreCase);
}
