using System.CommandLine;
using System.Globalization;
using Diptych.Core;
using Diptych.Index.Sqlite;
using Spectre.Console;

namespace Diptych.App.Commands;

/// <summary>Exit codes of every command; docs/cli.md lists them.</summary>
internal static class ExitCode
{
    public const int Success = 0;

    /// <summary>The command failed.</summary>
    public const int Failure = 1;

    /// <summary>The command line or a setting is wrong.</summary>
    public const int Usage = 2;

    /// <summary>It ran, but some files could not be ingested; a search or question found nothing.</summary>
    public const int Partial = 3;

    /// <summary>Stopped by Ctrl+C.</summary>
    public const int Cancelled = 130;
}

/// <summary>The commands, their options, and what they share: settings, errors, exit codes.</summary>
internal static class CommandLine
{
    public static readonly Option<string?> Data = new("--data") { Description = "Folder of the database (setting Diptych:Data)", Recursive = true };
    public static readonly Option<string?> Store = new("--store") { Description = "postgres:// address of a database that holds everything (setting Diptych:Store; default: SQLite in --data)", Recursive = true };
    public static readonly Option<FileInfo?> Config = new("--config") { Description = "Settings file (default: diptych.json, where there is one)", Recursive = true };
    public static readonly Option<bool> AsJson = new("--json") { Description = "Print JSON", Recursive = true };
    public static readonly Option<string> Collection = new("--collection", "-c") { Description = "Collection", DefaultValueFactory = _ => "default" };
    public static readonly Option<string[]> Filters = new("--filter", "-f")
    {
        Description = "field=value, field!=value, field>=value, field^=prefix, has:field; all must hold",
    };

    public static RootCommand Root()
    {
        var root = new RootCommand("Diptych: search across text and images, and answers with citations, on your own machine.")
        {
            Data, Store, Config, AsJson,
        };
        root.Subcommands.Add(DemoCommand.Build());
        root.Subcommands.Add(ServeCommand.Build());
        root.Subcommands.Add(IngestCommand.Build());
        root.Subcommands.Add(SearchCommand.Build());
        root.Subcommands.Add(AskCommand.Build());
        root.Subcommands.Add(DocumentsCommand.Build());
        root.Subcommands.Add(BackupCommand.Build());
        root.Subcommands.Add(RestoreCommand.Build());
        root.Subcommands.Add(ModelsCommand.Build());
        root.Subcommands.Add(TuneCommand.BuildFeedback());
        root.Subcommands.Add(TuneCommand.Build());
        root.Subcommands.Add(EvalCommand.Build());
        root.Subcommands.Add(BenchCommand.Build());
        root.Subcommands.Add(TopCommand.Build());
        root.Subcommands.Add(DoctorCommand.Build());
        root.Subcommands.Add(CompletionCommand.Build());
        return root;
    }

    /// <summary>Runs the command line as the program does: one culture everywhere, and lines that stay whole in a pipe.</summary>
    public static Task<int> StartAsync(string[] args)
    {
        CultureInfo.DefaultThreadCurrentCulture = CultureInfo.InvariantCulture;
        CultureInfo.DefaultThreadCurrentUICulture = CultureInfo.InvariantCulture;
        CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
        if (Console.IsOutputRedirected)
        {
            // A pipe has no width.
            AnsiConsole.Profile.Width = 4096;
        }
        return RunAsync(args);
    }

    /// <summary>Runs the command line; every foreseeable failure is one sentence on standard error.</summary>
    public static async Task<int> RunAsync(string[] args)
    {
        ParseResult parsed = Root().Parse(args);
        if (parsed.Errors.Count > 0 && parsed.Action is System.CommandLine.Invocation.ParseErrorAction)
        {
            await parsed.InvokeAsync();
            return ExitCode.Usage;
        }
        using var termination = new Termination(TimeProvider.System);
        try
        {
            var invocation = new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null };
            return await parsed.InvokeAsync(invocation, termination.Token);
        }
        catch (OperationCanceledException)
        {
            await Console.Error.WriteLineAsync("Stopped. What was committed stays.");
            return ExitCode.Cancelled;
        }
        catch (Exception error) when (error is InvalidRequestException or FormatException)
        {
            await Console.Error.WriteLineAsync(Output.Printable(error.Message));
            return ExitCode.Usage;
        }
        catch (Exception error) when (error is NotFoundException or UnreadableException or OverloadedException or ConflictException
            or StoreUnavailableException or StoreInUseException or StoreDamagedException or StorageFullException or SourceChangedException
            or RemoteFailureException or InvalidDataException or IOException or UnauthorizedAccessException
            or HttpRequestException or System.Data.Common.DbException or InvalidOperationException)
        {
            Exception told = error is System.Data.Common.DbException ? SqliteFault.Told(error, Options(parsed).Database) : error;
            await Console.Error.WriteLineAsync(Output.Printable(told.Message));
            return ExitCode.Failure;
        }
    }

    /// <summary>Settings in the platform's order: file, environment, flags.</summary>
    public static DiptychOptions Options(ParseResult parsed, params IEnumerable<(string Key, string? Value)> flags)
    {
        FileInfo? file = parsed.GetValue(Config);
        if (file is { Exists: false })
        {
            throw new InvalidRequestException($"The settings file {file.FullName} does not exist.");
        }
        IConfiguration configuration = new ConfigurationBuilder()
            .AddJsonFile(file?.FullName ?? Path.GetFullPath("diptych.json"), optional: true)
            .AddEnvironmentVariables()
            .AddInMemoryCollection(flags.Append((Key: "Data", Value: parsed.GetValue(Data))).Append((Key: "Store", Value: parsed.GetValue(Store))).Where(f => f.Value is not null)
                .Select(f => KeyValuePair.Create($"{DiptychOptions.Section}:{f.Key}", f.Value)))
            .Build();
        var options = new DiptychOptions();
        try
        {
            configuration.GetSection(DiptychOptions.Section).Bind(options, b => b.ErrorOnUnknownConfiguration = true);
        }
        catch (InvalidOperationException error)
        {
            throw new InvalidRequestException($"A setting cannot be used: {error.Message} {error.InnerException?.Message}".Trim());
        }
        return options.Validate();
    }

    public static Filter? ToFilter(string[]? filters) => filters switch
    {
        null or [] => null,
        [var one] => Filter.Parse(one),
        _ => new Filter.And([.. filters.Select(Filter.Parse)]),
    };
}
