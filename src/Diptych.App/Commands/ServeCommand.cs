using System.CommandLine;
using Diptych.App.Http;
using Diptych.App.Jobs;
using Diptych.Core;
using Spectre.Console;

namespace Diptych.App.Commands;

internal static class ServeCommand
{
    private static readonly Option<string?> Url = new("--url") { Description = "Where to listen (setting Diptych:Url); loopback unless told otherwise" };
    private static readonly Option<string?> Endpoint = new("--llm") { Description = "OpenAI-compatible server that writes answers (setting Diptych:Llm:Endpoint)" };
    private static readonly Option<string?> Model = new("--model") { Description = "Its model (setting Diptych:Llm:Model)" };

    public static Command Build()
    {
        var command = new Command("serve", "Serve the web page and the HTTP API") { Url, Endpoint, Model };
        command.SetAction(async (parsed, cancellation) =>
        {
            DiptychOptions options = CommandLine.Options(
                parsed, ("Url", parsed.GetValue(Url)), ("Llm:Endpoint", parsed.GetValue(Endpoint)), ("Llm:Model", parsed.GetValue(Model)));
            await using Product product = await Product.OpenAsync(options, TimeProvider.System, cancellation);
            product.Store.EnsureCollection("default");
            return await RunAsync(options, product, parsed.GetValue(CommandLine.AsJson), cancellation);
        });
        return command;
    }

    /// <summary>Serves until it is stopped.</summary>
    public static async Task<int> RunAsync(DiptychOptions options, Product product, bool json, CancellationToken cancellation)
    {
        await using WebApplication app = Server.Build(options, product, TimeProvider.System);
        try
        {
            await app.StartAsync(cancellation);
        }
        catch (IOException error)
        {
            throw new InvalidRequestException($"Cannot listen on {options.Url}: {error.GetBaseException().Message}. Choose another address with --url.");
        }
        string url = app.Urls.First();
        if (json)
        {
            Output.Json(new { @event = "listening", url });
        }
        else
        {
            AnsiConsole.MarkupLine($"Listening on [link]{url}[/] (API: {url}/openapi/v1.json). Ctrl+C stops.");
        }
        var stopped = new TaskCompletionSource();
        await using (cancellation.Register(() => stopped.TrySetResult()))
        await using (app.Lifetime.ApplicationStopping.Register(() => stopped.TrySetResult()))
        {
            await stopped.Task;
        }
        await app.StopAsync(CancellationToken.None);
        // The host waits for a while only, and what still works needs the store.
        await (app.Services.GetRequiredService<JobRunner>().ExecuteTask ?? Task.CompletedTask);
        return ExitCode.Success;
    }
}
