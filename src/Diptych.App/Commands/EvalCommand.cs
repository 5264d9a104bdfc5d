using System.CommandLine;
using System.Globalization;
using Diptych.Core;
using Diptych.Engine.Evaluation;
using Spectre.Console;

namespace Diptych.App.Commands;

internal static class EvalCommand
{
    private static readonly Option<DirectoryInfo> Images = new("--images") { Description = "Folder of the photos", Required = true };
    private static readonly Option<FileInfo> Captions = new("--captions") { Description = "file, tab, caption on each line", Required = true };
    private static readonly Option<FileInfo> Corpus = new("--corpus") { Description = "Documents: Cranfield, TREC or JSON lines", Required = true };
    private static readonly Option<FileInfo> Queries = new("--queries") { Description = "Queries: Cranfield, JSON lines or id, tab, text", Required = true };
    private static readonly Option<FileInfo> Qrels = new("--qrels") { Description = "Judgements: TREC or Cranfield", Required = true };
    private static readonly Option<FileInfo> Run = new("--run") { Description = "A TREC run file", Required = true };

    public static Command Build()
    {
        var images = new Command("images", "Text-to-image and image-to-text recall over photos and captions") { Images, Captions };
        images.SetAction(ImagesAsync);
        var text = new Command("text", "nDCG, MRR, recall and MAP of dense, lexical and default search") { Corpus, Queries, Qrels };
        text.SetAction(TextAsync);
        var run = new Command("run", "Score a run file against judgements") { Run, Qrels };
        run.SetAction(ScoreRun);
        return new Command("eval", "Measure retrieval on a test collection, through the product's own ingest and search") { images, text, run };
    }

    private static Task<int> ImagesAsync(ParseResult parsed, CancellationToken cancellation) => WithScratchAsync(parsed, cancellation, async product =>
    {
        var result = await product.Evaluator.ImagesAsync(Existing(parsed.GetValue(Images)!), Existing(parsed.GetValue(Captions)!), cancellation);
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new
            {
                images = result.Images,
                captions = result.Captions,
                text_to_image = Means(result.TextToImage),
                image_to_text = Means(result.ImageToText),
                intervals = new { text_to_image = Intervals(result.TextToImage), image_to_text = Intervals(result.ImageToText) },
            });
            return;
        }
        Print($"{result.Images} images, {result.Captions} captions", ("text to image", result.TextToImage), ("image to text", result.ImageToText));
    });

    private static Task<int> TextAsync(ParseResult parsed, CancellationToken cancellation) => WithScratchAsync(parsed, cancellation, async product =>
    {
        var result = await product.Evaluator.TextAsync(
            Existing(parsed.GetValue(Corpus)!), Existing(parsed.GetValue(Queries)!), Existing(parsed.GetValue(Qrels)!), cancellation);
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new
            {
                queries = result.Queries,
                dense = Means(result.Dense),
                lexical = Means(result.Lexical),
                @default = Means(result.Default),
                intervals = new { dense = Intervals(result.Dense), lexical = Intervals(result.Lexical), @default = Intervals(result.Default) },
            });
            return;
        }
        Print($"{result.Queries} queries", ("dense", result.Dense), ("lexical", result.Lexical), ("default", result.Default));
    });

    private static int ScoreRun(ParseResult parsed)
    {
        Measures measures = Measures.OfRankings(TestCollections.Run(Existing(parsed.GetValue(Run)!)), TestCollections.Qrels(Existing(parsed.GetValue(Qrels)!)));
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new { queries = measures.Queries, run = Means(measures), intervals = Intervals(measures) });
        }
        else
        {
            Print($"{measures.Queries} queries", ("run", measures));
        }
        return ExitCode.Success;
    }

    /// <summary>An evaluation has a store of its own, which is gone afterwards.</summary>
    private static async Task<int> WithScratchAsync(ParseResult parsed, CancellationToken cancellation, Func<Product, Task> work)
    {
        DiptychOptions options = CommandLine.Options(parsed);
        options.Store = null;
        options.Data = Directory.CreateTempSubdirectory("diptych-eval-").FullName;
        try
        {
            await using Product product = await Product.OpenAsync(options, TimeProvider.System, cancellation);
            await work(product);
        }
        finally
        {
            Directory.Delete(options.Data, recursive: true);
        }
        return ExitCode.Success;
    }

    private static string Existing(FileSystemInfo path) => path.Exists ? path.FullName : throw new NotFoundException($"{path.FullName} does not exist.");

    private static Dictionary<string, double> Means(Measures m) => m.Values.ToDictionary(v => v.Key, v => v.Value.Mean);

    private static Dictionary<string, double[]> Intervals(Measures m) => m.Values.ToDictionary(v => v.Key, v => new[] { v.Value.Low, v.Value.High });

    private static void Print(string caption, params (string Name, Measures Measures)[] rows)
    {
        Table table = new Table().Border(TableBorder.Simple).AddColumn(caption).AddColumns([.. rows[0].Measures.Values.Keys]);
        foreach (var (name, measures) in rows)
        {
            table.AddRow([name, .. measures.Values.Values.Select(v => string.Create(CultureInfo.InvariantCulture, $"{v.Mean:0.000} ({v.Low:0.000}-{v.High:0.000})"))]);
        }
        AnsiConsole.Write(table);
        Console.WriteLine("In brackets: bootstrap 95% intervals over the queries.");
    }
}
