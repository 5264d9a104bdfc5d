using System.CommandLine;
using System.Reflection;
using Diptych.App.Http;
using Diptych.App.Jobs;
using Diptych.Core;
using Spectre.Console;

namespace Diptych.App.Commands;

internal static partial class ServeCommand
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
            using ILoggerFactory logs = Logs.Create(options);
            int code;
            try
            {
                await using Product product = await Product.OpenAsync(options, TimeProvider.System, cancellation, logs);
                product.Store.EnsureCollection("default");
                code = await RunAsync(options, product, logs, parsed.GetValue(CommandLine.AsJson), cancellation);
            }
            catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
            {
                // A server that is told to stop before it serves has done all that it was to do.
                code = ExitCode.Success;
            }
            Log.Stopped(logs.CreateLogger(typeof(Server).FullName!));
            return code;
        });
        return command;
    }

    /// <summary>Serves until it is stopped.</summary>
    public static async Task<int> RunAsync(
        DiptychOptions options, Product product, ILoggerFactory logs, bool json, CancellationToken cancellation)
    {
        ILogger log = logs.CreateLogger(typeof(Server).FullName!);
        await using WebApplication app = Server.Build(options, product, TimeProvider.System, logs);
        try
        {
            await app.StartAsync(cancellation);
        }
        catch (Exception error)
        {
            await StopAsync(app);
            throw error is IOException
                ? new InvalidRequestException(
                    $"Cannot listen on {options.Url}: {error.GetBaseException().Message}. Choose another address with --url.")
                : error;
        }
        string url = app.Urls.First();
        Log.Started(
            log,
            Assembly.GetExecutingAssembly().GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion,
            string.Join(", ", app.Urls),
            options.Store is null ? options.Data : "PostgreSQL",
            string.Join(", ", product.Inference.Models.Select(m => m.Name)));
        if (json)
        {
            Output.Json(new { @event = "listening", url });
        }
        else
        {
            AnsiConsole.MarkupLine($"Listening on [link]{url}[/] (API: {url}/openapi/v1.json). Ctrl+C stops.");
        }
        // What waits goes on elsewhere than in whatever told it to.
        var stopped = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        await using (cancellation.Register(() => stopped.TrySetResult()))
        await using (app.Lifetime.ApplicationStopping.Register(() => stopped.TrySetResult()))
        {
            await stopped.Task;
        }
        Log.Stopping(log);
        await StopAsync(app);
        return ExitCode.Success;
    }

    private static async Task StopAsync(WebApplication app)
    {
        await app.StopAsync(CancellationToken.None);
        // The host waits for a while only, and what still works needs the store.
        await (app.Services.GetRequiredService<JobRunner>().ExecuteTask ?? Task.CompletedTask);
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "Diptych {Version} serves at {Addresses}; data in {Data}; models {Models}")]
        public static partial void Started(ILogger log, string? version, string addresses, string data, string models);

        [LoggerMessage(2, LogLevel.Information, "Stopping: requests under way are finished, jobs pause")]
        public static partial void Stopping(ILogger log);

        [LoggerMessage(3, LogLevel.Information, "Stopped")]
        public static partial void Stopped(ILogger log);
    }
}
