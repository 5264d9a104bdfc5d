using System.CommandLine;
using System.Globalization;
using Diptych.Inference;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Store;
using Spectre.Console;

namespace Diptych.App.Commands;

/// <summary>The models in use, and those that were added.</summary>
internal static class ModelsCommand
{
    private static readonly Argument<string> Source = new("source") { Description = "A folder, a GGUF file, or hf:owner/name[@revision]" };
    private static readonly Argument<string> Name = new("name") { Description = "The model's name, as 'models list' shows it" };
    private static readonly Argument<string> NameOrFolder = new("model") { Description = "A model's name as 'models list' shows it, or a folder" };
    private static readonly Option<string?> Adapter = new("--adapter") { Description = "Folder of an adapter (PEFT) to run the folder's model with, and whose cases are run" };
    private static readonly Option<string?> As = new("--name") { Description = "Name to keep it under (default: the folder's or the hub's)" };

    public static Command Build()
    {
        var list = new Command("list", "List the models in use, and those that were added");
        list.SetAction(ListAsync);
        var add = new Command("add", "Add a model from a folder, a file or a hub: a decoder of Llama's family, which writes; CLIP, SigLIP or a model of sentence-transformers, which embed; a cross-encoder, which reranks; or PP-OCR, which reads the text in pictures") { Source, As };
        add.SetAction(AddAsync);
        var remove = new Command("remove", "Remove a model that was added") { Name };
        remove.SetAction(parsed =>
        {
            CommandLine.Options(parsed).Models().Remove(parsed.GetValue(Name)!);
            Say(parsed, new { removed = parsed.GetValue(Name) }, $"Removed {parsed.GetValue(Name)}.");
            return ExitCode.Success;
        });
        var verify = new Command("verify", "Compare a model's files with what they were when it was added, and say what each way to keep a decoder's weights costs in perplexity; a folder with cases.safetensors is run against them") { NameOrFolder, Adapter };
        verify.SetAction(parsed =>
        {
            if (Directory.Exists(parsed.GetValue(NameOrFolder)))
            {
                return VerifyCases(parsed);
            }
            ModelFolder models = CommandLine.Options(parsed).Models();
            string name = parsed.GetValue(NameOrFolder)!;
            IReadOnlyList<string> faults = models.Verify(name);
            // What each way to keep its weights costs is told of a sound decoder.
            IReadOnlyList<FormatCost> costs = faults.Count == 0 && models.List().Single(m => m.Name == name) is { Kind: ModelKind.Decoder } decoder ? Perplexity.Measure(LocalModel.Find(models.PathOf(decoder))!) : [];
            Say(parsed, new { passed = faults.Count == 0, faults, perplexity = costs }, faults.Count > 0 ? string.Join(Environment.NewLine, faults) : string.Join(Environment.NewLine, costs.Select(Line).Prepend("Sound.")));
            return faults.Count == 0 ? ExitCode.Success : ExitCode.Failure;
        });
        return new Command("models", "The models in use, and those to add") { list, add, remove, verify, PlanCommand.Build() };
    }

    private static async Task<int> ListAsync(ParseResult parsed, CancellationToken cancellation)
    {
        DiptychOptions options = CommandLine.Options(parsed);
        await using Product product = await Product.OpenAsync(options, TimeProvider.System, cancellation);
        var models = new[] { product.Embedder.TextSpace, product.Embedder.CrossSpace }.Select(s => product.Inference.Describe(s.Model)).ToList();
        IReadOnlyList<InstalledModel> added = options.Models().List();
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new { models = models.Select(m => new { m.Name, m.Revision, m.Input, m.Outputs, m.WeightBytes }), added, product.Broken });
            return ExitCode.Success;
        }
        var table = new Table().Border(TableBorder.Simple).AddColumns("model", "revision", "for", "size");
        foreach (ModelDescription m in models)
        {
            table.AddRow(m.Name, m.Revision, $"{m.Input.ToString().ToLowerInvariant()} to {string.Join(", ", m.Outputs.Select(o => $"{o.Key} [{o.Value}]"))}".EscapeMarkup(), Megabytes(m.WeightBytes));
        }
        foreach (InstalledModel m in added.Where(m => !product.Broken.ContainsKey(m.Name)))
        {
            table.AddRow(m.Name, m.Source.EscapeMarkup(), m.Kind switch { ModelKind.Decoder => "writes answers", ModelKind.Adapter => "changes a decoder", ModelKind.DualEncoder => "embeds texts and pictures", ModelKind.TextEncoder => "embeds texts", ModelKind.Reranker => "scores texts for a question", _ => "reads the text in pictures" }, Megabytes(m.Bytes));
        }
        foreach (var (name, reason) in product.Broken)
        {
            table.AddRow(name.EscapeMarkup(), "", $"broken: {reason}".EscapeMarkup(), "");
        }
        AnsiConsole.Write(table);
        return ExitCode.Success;
    }

    private static int VerifyCases(ParseResult parsed)
    {
        IReadOnlyList<VerifiedCase> cases = ModelCases.Run(parsed.GetValue(NameOrFolder)!, parsed.GetValue(Adapter));
        bool passed = cases.All(c => c.Passed);
        Say(parsed, new { passed, cases }, passed
            ? $"Passed: {string.Join(", ", cases.Select(c => string.Create(CultureInfo.InvariantCulture, $"{c.Name} (largest error {c.MaxAbsError:0.0e+0})")))}."
            : cases.First(c => !c.Passed) is var first ? string.Create(CultureInfo.InvariantCulture, $"Failed: {first.Name}: {first.Detail ?? $"largest error {first.MaxAbsError}"}.") : "");
        return passed ? ExitCode.Success : ExitCode.Failure;
    }

    private static async Task<int> AddAsync(ParseResult parsed, CancellationToken cancellation)
    {
        DiptychOptions options = CommandLine.Options(parsed);
        string source = parsed.GetValue(Source)!;
        InstalledModel added = HubModel.Parse(source) is { } model
            ? await DownloadAsync(parsed, options, model, cancellation)
            : options.Models().Add(source, parsed.GetValue(As), cancellation);
        Say(parsed, added, $"Added {added.Name} ({Megabytes(added.Bytes)}): {For(added)}");
        return ExitCode.Success;
    }

    private static async Task<InstalledModel> DownloadAsync(ParseResult parsed, DiptychOptions options, HubModel model, CancellationToken cancellation)
    {
        using var client = new HttpClient { Timeout = Timeout.InfiniteTimeSpan };
        client.DefaultRequestHeaders.UserAgent.ParseAdd("diptych");
        if (Environment.GetEnvironmentVariable("HF_TOKEN") is { Length: > 0 } token)
        {
            client.DefaultRequestHeaders.Authorization = new("Bearer", token);
        }
        var hub = new Hub(client, new Uri(options.Hub), TimeProvider.System);
        if (parsed.GetValue(CommandLine.AsJson) || Console.IsErrorRedirected)
        {
            return await options.Models().AddAsync(hub, model, parsed.GetValue(As), null, cancellation);
        }
        return await AnsiConsole.Progress().StartAsync(context =>
        {
            var tasks = new Dictionary<string, ProgressTask>(StringComparer.Ordinal);
            var progress = new Progress<DownloadProgress>(p =>
            {
                lock (tasks)
                {
                    if (!tasks.TryGetValue(p.File, out ProgressTask? task))
                    {
                        tasks.Add(p.File, task = context.AddTask(p.File.EscapeMarkup(), maxValue: Math.Max(1, p.Total)));
                    }
                    task.Value = p.Done;
                }
            });
            return options.Models().AddAsync(hub, model, parsed.GetValue(As), progress, cancellation);
        });
    }

    private static string For(InstalledModel model) => model.Kind switch
    {
        ModelKind.Decoder => $"serve answers chat with it, and ask --model {model.Name} writes with it.",
        ModelKind.DualEncoder => $"serve embeds texts and pictures with it: POST /v1/embeddings, model {model.Name}.",
        ModelKind.TextEncoder => $"serve embeds texts with it: POST /v1/embeddings, model {model.Name}.",
        ModelKind.Reranker => "serve orders documents with it: POST /v1/rerank.",
        ModelKind.Adapter => $"chat asks for it as model MODEL:{model.Name}.",
        _ => "it reads the text in pictures from the next ingest on. What is ingested already is read with: ingest --again",
    };

    private static string Line(FormatCost cost) => string.Create(CultureInfo.InvariantCulture,
        $"  {cost.Format switch { WeightFormat.F32 => "single precision", WeightFormat.AsStored => "as stored", WeightFormat.Int8 => "int8", _ => "int4" },-16}  {cost.Bytes / 1e6,8:0} MB  perplexity {cost.Value,7:0.00}{(cost.Change == 0 ? "" : $"  ({Math.Round(100 * cost.Change, 2):+0.00;-0.00;+0.00} %)")}");

    private static void Say(ParseResult parsed, object json, string words)
    {
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(json);
        }
        else
        {
            Console.WriteLine(words);
        }
    }

    private static string Megabytes(long bytes) => (bytes / 1e6).ToString("0.0 MB", CultureInfo.InvariantCulture);
}
