using System.CommandLine;
using Diptych.App.Http;
using Diptych.Engine.Answering;

namespace Diptych.App.Commands;

internal static class AskCommand
{
    private static readonly Argument<string[]> Text = new("question") { Description = "The question", Arity = ArgumentArity.OneOrMore };
    private static readonly Option<FileInfo?> Image = new("--image", "-i") { Description = "An image that the question is about" };
    private static readonly Option<double?> MinConfidence = new("--min-confidence") { Description = $"Give no answer below this (default {Answerer.DefaultMinConfidence})" };
    private static readonly Option<bool> Extract = new("--extract") { Description = "Extracts even where a language model is configured" };
    private static readonly Option<string?> Endpoint = new("--llm") { Description = "OpenAI-compatible server that writes the answer (setting Diptych:Llm:Endpoint)" };
    private static readonly Option<string?> Model = new("--model") { Description = "Its model (setting Diptych:Llm:Model)" };

    public static Command Build()
    {
        var command = new Command("ask", "Answer a question from a collection, with citations")
        {
            Text, Image, CommandLine.Collection, CommandLine.Filters, MinConfidence, Extract, Endpoint, Model,
        };
        command.SetAction(RunAsync);
        return command;
    }

    private static async Task<int> RunAsync(ParseResult parsed, CancellationToken cancellation)
    {
        DiptychOptions options = CommandLine.Options(parsed, ("Llm:Endpoint", parsed.GetValue(Endpoint)), ("Llm:Model", parsed.GetValue(Model)));
        bool json = parsed.GetValue(CommandLine.AsJson);
        var question = new Question
        {
            Collection = parsed.GetValue(CommandLine.Collection)!,
            Text = string.Join(' ', parsed.GetValue(Text)!),
            Image = parsed.GetValue(Image) is { } file ? await File.ReadAllBytesAsync(file.FullName, cancellation) : null,
            Filter = CommandLine.ToFilter(parsed.GetValue(CommandLine.Filters)),
            MinConfidence = parsed.GetValue(MinConfidence),
            ExtractOnly = parsed.GetValue(Extract),
        };
        await using Product product = await Product.OpenAsync(options, TimeProvider.System, cancellation);
        return await PrintAsync(product.Answerer, question, json, cancellation);
    }

    public static async Task<int> PrintAsync(Answerer answerer, Question question, bool json, CancellationToken cancellation)
    {
        await foreach (AnswerPart part in answerer.AskAsync(question, cancellation))
        {
            if (part.Final is not { } answer)
            {
                if (!json)
                {
                    Console.Write(part.Delta is null ? "" : Output.Printable(part.Delta));
                }
                continue;
            }
            if (json)
            {
                Output.Json(AnswerResponse.Of(answer));
            }
            else
            {
                Console.WriteLine();
                Output.Citations(answer);
            }
            return answer.Kind == AnswerKind.Abstained ? ExitCode.Partial : ExitCode.Success;
        }
        return ExitCode.Failure;
    }
}
