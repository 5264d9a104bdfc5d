using System.CommandLine;
using System.Globalization;
using Diptych.App.Http;
using Diptych.Core;
using Spectre.Console;

namespace Diptych.App.Commands;

internal static class DocumentsCommand
{
    private static readonly Argument<long> Id = new("id") { Description = "The document's number, from 'documents list'" };
    private static readonly Option<int> Limit = new("--limit", "-n") { Description = "Documents to list", DefaultValueFactory = _ => 100 };
    private static readonly Option<int> Offset = new("--offset") { Description = "Documents to skip" };
    private static readonly Option<string?> Prefix = new("--prefix") { Description = "Only sources that begin with this" };
    private static readonly Option<string?> Collection = new("--collection", "-c") { Description = "Collection (default: all)" };

    public static Command Build()
    {
        var list = new Command("list", "List documents") { Collection, Prefix, Limit, Offset };
        list.SetAction(ListAsync);
        var show = new Command("show", "Show a document and its passages") { Id };
        show.SetAction(ShowAsync);
        var delete = new Command("delete", "Delete a document") { Id };
        delete.SetAction(DeleteAsync);
        return new Command("documents", "List, show and delete documents") { list, show, delete };
    }

    private static async Task<int> ListAsync(ParseResult parsed, CancellationToken cancellation)
    {
        await using Product product = await Product.OpenAsync(CommandLine.Options(parsed), TimeProvider.System, cancellation);
        var documents = product.Store.Documents(parsed.GetValue(Collection), parsed.GetValue(Prefix), parsed.GetValue(Limit), parsed.GetValue(Offset));
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new DocumentList([.. documents.Select(DocumentResponse.Of)]));
            return ExitCode.Success;
        }
        var table = new Table().Border(TableBorder.Simple).AddColumns("id", "collection", "title", "type", "passages", "source");
        foreach (Document d in documents)
        {
            table.AddRow(
                d.Id.ToString(CultureInfo.InvariantCulture), d.Collection.ForTerminal(), d.Title.ForTerminal(), d.MediaType, d.PassageCount.ToString(CultureInfo.InvariantCulture), d.Source.ForTerminal());
        }
        AnsiConsole.Write(table);
        return ExitCode.Success;
    }

    private static async Task<int> ShowAsync(ParseResult parsed, CancellationToken cancellation)
    {
        await using Product product = await Product.OpenAsync(CommandLine.Options(parsed), TimeProvider.System, cancellation);
        Document document = product.Store.Document(parsed.GetValue(Id)) ?? throw new NotFoundException($"There is no document {parsed.GetValue(Id)}.");
        var passages = product.Store.Passages(document.Id);
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new { document = DocumentResponse.Of(document), passages = passages.Select(PassageResponse.Of) });
            return ExitCode.Success;
        }
        AnsiConsole.MarkupLine($"[bold]{document.Title.ForTerminal()}[/]\n{document.Source.ForTerminal()}\n{document.MediaType}, {document.SizeBytes} bytes, {document.PageCount} pages");
        foreach (var (key, values) in document.Metadata)
        {
            AnsiConsole.MarkupLine($"[grey]{key.ForTerminal()}[/] {string.Join(", ", values).ForTerminal()}");
        }
        foreach (Passage p in passages)
        {
            AnsiConsole.MarkupLine($"\n[grey]{p.Ordinal}{Output.Place(p).ForTerminal()}[/] {(p.Modality == Modality.Image ? $"[fuchsia]image {p.WidthPx} x {p.HeightPx}[/] " : "")}{p.Text.ForTerminal()}");
        }
        return ExitCode.Success;
    }

    private static async Task<int> DeleteAsync(ParseResult parsed, CancellationToken cancellation)
    {
        await using Product product = await Product.OpenAsync(CommandLine.Options(parsed), TimeProvider.System, cancellation);
        long id = parsed.GetValue(Id);
        if (!product.Store.Delete(id))
        {
            throw new NotFoundException($"There is no document {id}.");
        }
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new { deleted = id });
        }
        else
        {
            Console.WriteLine($"Document {id} is deleted.");
        }
        return ExitCode.Success;
    }
}
