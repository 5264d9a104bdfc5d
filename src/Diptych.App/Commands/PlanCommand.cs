using System.CommandLine;
using System.Globalization;
using Diptych.Core;
using Diptych.Runtimes.Decoding;
using Spectre.Console;

namespace Diptych.App.Commands;

/// <summary>What a decoder would need, before it is bought or fetched.</summary>
internal static class PlanCommand
{
    private static readonly Argument<string> Model = new("model") { Description = "llama-4-scout, llama-4-maverick, a GGUF file, or a folder with config.json" };
    private static readonly Option<string> Memory = new("--memory") { Description = "Memory of the device, such as 80GB", DefaultValueFactory = _ => "80GB" };
    private static readonly Option<string> Context = new("--context") { Description = "Tokens of a sequence, such as 128k or 1M", DefaultValueFactory = _ => "8k" };
    private static readonly Option<int> Concurrency = new("--concurrency") { Description = "Sequences at a time", DefaultValueFactory = _ => 1 };
    private static readonly Option<double> Bits = new("--bits") { Description = "Bits of a weight, scales included", DefaultValueFactory = _ => 4.5 };
    private static readonly Option<string?> Bandwidth = new("--bandwidth") { Description = "Bytes that the device reads a second, such as 3.35TB" };

    public static Command Build()
    {
        var command = new Command("plan", "Say what a decoder needs, from its shapes alone, and what fits") { Model, Memory, Context, Concurrency, Bits, Bandwidth };
        command.SetAction(parsed =>
        {
            string model = parsed.GetValue(Model)!;
            DecoderConfig config = Config(model);
            long memory = (long)Amount(parsed.GetValue(Memory)!, 1000), context = (long)Amount(parsed.GetValue(Context)!, 1000);
            int sequences = parsed.GetValue(Concurrency);
            if (sequences < 1 || context < 1 || parsed.GetValue(Bits) is < 1 or > 32)
            {
                throw new InvalidRequestException("--concurrency and --context are at least 1, --bits 1 to 32.");
            }
            DecoderPlan plan = DecoderPlan.Of(config, parsed.GetValue(Bits), 2, memory, context, sequences, parsed.GetValue(Bandwidth) is { } b ? Amount(b, 1000) : 0);
            if (parsed.GetValue(CommandLine.AsJson))
            {
                Output.Json(new { model, memory_bytes = memory, context, concurrency = sequences, plan });
                return ExitCode.Success;
            }
            var table = new Table().Border(TableBorder.Simple).HideHeaders().AddColumns("", "");
            table.AddRow("parameters", $"{Giga(plan.Parameters)} billion, {Giga(plan.ActiveParameters)} billion for one token");
            table.AddRow("weights", Size(plan.WeightBytes));
            table.AddRow("keys and values", $"{Number(plan.KeyValueBytesPerToken / 1024.0)} KiB a token{(plan.WindowBytes > 0 ? $", and a window of at most {Size(plan.WindowBytes)} a sequence" : "")}: {Size(plan.SequenceBytes)} a sequence of {context:n0}");
            table.AddRow("workspace", Size(plan.WorkspaceBytes));
            table.AddRow("together", $"{Size(plan.TotalBytes)} for {sequences}: {(plan.Fits ? "fits" : "does not fit")} in {Size(memory)}");
            table.AddRow("what fits", $"{plan.SequencesThatFit} sequences of {context:n0}; {sequences} of {plan.ContextThatFits:n0} tokens");
            if (plan.TokensPerTile > 0)
            {
                table.AddRow("pictures", $"{plan.TokensPerTile} tokens a tile, {17 * plan.TokensPerTile:n0} for a picture of 16 tiles and the whole once more");
            }
            if (plan.SecondsPerToken is { } seconds)
            {
                table.AddRow("time per token", $"at least {Number(1000 * seconds)} ms, by bandwidth alone");
            }
            AnsiConsole.Write(table);
            return ExitCode.Success;
        });
        return command;
    }

    private static DecoderConfig Config(string model)
    {
        switch (model)
        {
            case "llama-4-scout":
                return DecoderPlan.Scout;
            case "llama-4-maverick":
                return DecoderPlan.Maverick;
        }
        if (File.Exists(model))
        {
            using var file = new GgufFile(model);
            return DecoderConfig.FromGguf(file);
        }
        string config = Path.Combine(model, "config.json");
        return File.Exists(config) ? DecoderConfig.FromJson(config) : throw new NotFoundException($"'{model}' is neither llama-4-scout, llama-4-maverick, a GGUF file nor a folder with config.json.");
    }

    /// <summary>A number with k, M, G or T, and perhaps B and /s behind it.</summary>
    private static double Amount(string text, double step)
    {
        string plain = text.Replace("/s", "", StringComparison.OrdinalIgnoreCase).TrimEnd('b', 'B', 'i');
        int power = plain.Length == 0 ? -1 : "kMGT".IndexOf(char.ToUpperInvariant(plain[^1]) is 'K' ? 'k' : char.ToUpperInvariant(plain[^1]), StringComparison.Ordinal);
        return double.TryParse(power >= 0 ? plain[..^1] : plain, CultureInfo.InvariantCulture, out double value) && value > 0
            ? value * Math.Pow(step, power + 1)
            : throw new InvalidRequestException($"'{text}' is no amount. Write 80GB, 128k or 1M.");
    }

    private static string Size(long bytes) => bytes >= 1_000_000_000 ? $"{Number(bytes / 1e9)} GB" : $"{Number(bytes / 1e6)} MB";

    private static string Giga(long count) => Number(count / 1e9);

    private static string Number(double value) => value.ToString(value >= 100 ? "0" : value >= 1 ? "0.0" : "0.000", CultureInfo.InvariantCulture);
}
