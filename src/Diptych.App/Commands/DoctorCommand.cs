using System.CommandLine;
using Diptych.Core;
using Diptych.Index.Sqlite;
using Spectre.Console;

namespace Diptych.App.Commands;

internal static class CompletionCommand
{
    private static readonly Argument<string> Shell = new Argument<string>("shell") { Description = "bash, zsh or fish" }.AcceptOnlyFromAmong("bash", "zsh", "fish");

    /// <summary>Prints a script that asks the program itself ([suggest]) what can follow.</summary>
    public static Command Build()
    {
        var command = new Command("completion", "Print a shell completion script, for example: source <(diptych completion bash)") { Shell };
        command.SetAction(parsed => Console.WriteLine(parsed.GetValue(Shell) switch
        {
            "bash" => """
                _diptych() { local IFS=$'\n'; COMPREPLY=($(compgen -W "$(diptych "[suggest:${COMP_POINT}]" "${COMP_LINE}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}")); }
                complete -F _diptych diptych
                """,
            "zsh" => """
                _diptych() { local -a c; c=("${(@f)$(diptych "[suggest:${#BUFFER}]" "${BUFFER}" 2>/dev/null)}"); compadd -a c }
                compdef _diptych diptych
                """,
            _ => "complete -c diptych -f -a '(diptych \"[suggest:\"(commandline -C)\"]\" (commandline) 2>/dev/null)'",
        }));
        return command;
    }
}

internal static class DoctorCommand
{
    public static Command Build()
    {
        var repair = new Option<bool>("--repair") { Description = "Make everything anew that is derived from the documents: word index, vector graphs" };
        var command = new Command("doctor", "Check settings, models and database, and say what is wrong") { repair };
        command.SetAction(async (parsed, cancellation) =>
        {
            var checks = new List<(string What, bool Sound, string Detail)>();
            DiptychOptions options = CommandLine.Options(parsed);
            checks.Add(("settings", true, $"data in {(options.Store is null ? options.Data : "PostgreSQL")}; answers {(options.Llm.Endpoint is null ? "by extracts" : $"by {options.Llm.Model} at {options.Llm.Endpoint}")}"));
            try
            {
                await using Product product = await Product.OpenAsync(options, TimeProvider.System, cancellation);
                var embedding = await product.Embedder.EmbedTextAsync("a photo of a cat", Inference.Lane.Interactive, cancellation);
                checks.Add(("models", embedding.Cross.Length == product.Embedder.CrossSpace.Dimensions, string.Join(", ", product.Inference.Models.Select(m => $"{m.Name}@{m.Revision}"))));
                if (parsed.GetValue(repair))
                {
                    product.Store.Repair();
                    checks.Add(("repair", true, "word index and vector graphs made anew"));
                }
                var faults = product.Store.CheckIntegrity();
                checks.Add(("database", faults.Count == 0, faults.Count == 0
                    ? $"sound, sequence {product.Store.Sequence}"
                    : $"{string.Join("; ", faults)}{Advice(faults, product.Store, options)}"));
                foreach (var c in product.Store.Collections())
                {
                    checks.Add(($"collection {c.Name}", true, $"{c.Documents} documents, {c.Passages} passages, {c.Images} of them images"));
                }
            }
            catch (Exception error) when (error is FileNotFoundException or InvalidRequestException or InvalidOperationException
                or StoreUnavailableException or StoreInUseException or StoreDamagedException or StorageFullException
                or System.Data.Common.DbException)
            {
                checks.Add(("start", false, SqliteFault.Told(error, options.Database).Message));
            }
            if (parsed.GetValue(CommandLine.AsJson))
            {
                Output.Json(new { checks = checks.Select(c => new { c.What, c.Sound, c.Detail }) });
            }
            else
            {
                foreach (var (what, sound, detail) in checks)
                {
                    AnsiConsole.MarkupLine($"{(sound ? "[green]ok  [/]" : "[red]bad [/]")} {what.EscapeMarkup()}: {detail.EscapeMarkup()}");
                }
            }
            return checks.TrueForAll(c => c.Sound) ? ExitCode.Success : ExitCode.Failure;
        });
        return command;
    }

    private static string Advice(IReadOnlyList<string> faults, Index.IDocumentStore store, DiptychOptions options) =>
        store is SqliteStore sqlite && sqlite.IsDamaged(faults) ? $". {SqliteFault.Advice(options.Database)}" : "";
}
