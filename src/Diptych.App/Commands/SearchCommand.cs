using System.CommandLine;
using Diptych.App.Http;
using Diptych.Core;

namespace Diptych.App.Commands;

internal static class SearchCommand
{
    private static readonly Argument<string[]> Text = new("text") { Description = "What to look for", Arity = ArgumentArity.ZeroOrMore };
    private static readonly Option<FileInfo[]> Image = new("--image", "-i") { Description = "Look for what is like this image; with text, for both" };
    private static readonly Option<string[]> Not = new("--not") { Description = "Push away from this" };
    private static readonly Option<int> Limit = new("--limit", "-n") { Description = "Hits", DefaultValueFactory = _ => 10 };
    private static readonly Option<int> Offset = new("--offset") { Description = "Hits to skip" };
    private static readonly Option<Modality?> Only = new("--only") { Description = "text or image" };
    private static readonly Option<bool> Group = new("--group") { Description = "At most one hit a document" };
    private static readonly Option<double?> Mmr = new("--mmr") { Description = "Diversify: 1 relevance alone, 0 novelty alone" };
    private static readonly Option<double> MinConfidence = new("--min-confidence") { Description = "Leave out hits below this (0 to 1)" };
    private static readonly Option<Fusion> FusionOption = new("--fusion") { Description = "ReciprocalRank or Weighted" };
    private static readonly Option<bool> Explain = new("--explain") { Description = "Show which channel found each hit, at which rank and score" };

    public static Command Build()
    {
        var command = new Command("search", "Find text and images by text, images or both")
        {
            Text, Image, Not, CommandLine.Collection, CommandLine.Filters, Limit, Offset, Only, Group, Mmr, MinConfidence, FusionOption, Explain,
        };
        command.SetAction(RunAsync);
        return command;
    }

    private static async Task<int> RunAsync(ParseResult parsed, CancellationToken cancellation)
    {
        string text = string.Join(' ', parsed.GetValue(Text)!);
        var parts = new List<QueryPart>();
        if (text.Length > 0)
        {
            parts.Add(new QueryPart { Text = text });
        }
        foreach (FileInfo file in parsed.GetValue(Image) ?? [])
        {
            parts.Add(new QueryPart { Image = await File.ReadAllBytesAsync(file.FullName, cancellation) });
        }
        parts.AddRange((parsed.GetValue(Not) ?? []).Select(n => new QueryPart { Text = n, Weight = -0.5 }));
        if (parts.Count == 0)
        {
            throw new InvalidRequestException("Say what to look for: diptych search \"a cat\", or --image photo.jpg.");
        }
        var query = new Query
        {
            Collection = parsed.GetValue(CommandLine.Collection)!,
            Parts = parts,
            Filter = CommandLine.ToFilter(parsed.GetValue(CommandLine.Filters)),
            Limit = parsed.GetValue(Limit),
            Offset = parsed.GetValue(Offset),
            Modality = parsed.GetValue(Only),
            GroupByDocument = parsed.GetValue(Group),
            MmrLambda = parsed.GetValue(Mmr),
            MinConfidence = parsed.GetValue(MinConfidence),
            Fusion = parsed.GetValue(FusionOption),
        };
        await using Product product = await Product.OpenAsync(CommandLine.Options(parsed), TimeProvider.System, cancellation);
        SearchResult result = await product.Searcher.SearchAsync(query, cancellation);
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new SearchResponse([.. result.Hits.Select(HitResponse.Of)], result.Total, result.Confidence, []));
        }
        else
        {
            Output.Hits(result, parsed.GetValue(Explain));
        }
        return result.Hits.Count > 0 ? ExitCode.Success : ExitCode.Partial;
    }
}
