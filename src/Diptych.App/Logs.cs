using Diptych.Inference;
using Microsoft.Extensions.Logging.Console;
using OpenTelemetry.Logs;
using OpenTelemetry.Resources;

namespace Diptych.App;

/// <summary>
/// The program's log, on standard error, a category for each component: at Information what the program does and what fails, never what
/// users' documents, questions and names of files say.
/// </summary>
internal static class Logs
{
    /// <param name="least">The least that is written; null takes the setting.</param>
    public static ILoggerFactory Create(DiptychOptions options, LogLevel? least = null) => LoggerFactory.Create(logging =>
    {
        Filter(logging, least ?? options.LogLevel);
        logging.AddSimpleConsole(c =>
        {
            (c.SingleLine, c.ColorBehavior) = (true, LoggerColorBehavior.Disabled);
            (c.UseUtcTimestamp, c.TimestampFormat) = (true, "yyyy-MM-ddTHH:mm:ss.fffZ ");
        });
        logging.AddJsonConsole(c => (c.UseUtcTimestamp, c.TimestampFormat) = (true, "yyyy-MM-ddTHH:mm:ss.fffZ"));
        logging.Services.Configure<ConsoleLoggerOptions>(c =>
        {
            c.LogToStandardErrorThreshold = LogLevel.Trace;
            c.FormatterName = options.LogFormat == "json" ? ConsoleFormatterNames.Json : ConsoleFormatterNames.Simple;
        });
        if (Environment.GetEnvironmentVariable("OTEL_EXPORTER_OTLP_ENDPOINT") is { Length: > 0 })
        {
            logging.AddOpenTelemetry(l => l.SetResourceBuilder(ResourceBuilder.CreateDefault().AddService("diptych")).AddOtlpExporter());
        }
    });

    /// <summary>Lets the web server write to the program's log.</summary>
    public static void Join(ILoggingBuilder logging, ILoggerFactory logs, LogLevel least)
    {
        logging.ClearProviders();
        Filter(logging, least);
        logging.AddProvider(new Joined(logs));
    }

    /// <summary>Writes what becomes of models.</summary>
    public static void Write(ILogger<InferenceService> log, ModelEvent what)
    {
        switch (what.Kind)
        {
            case ModelEventKind.Loaded:
                ModelLog.Loaded(log, what.Model, what.Device, what.Bytes >> 20, what.Took.TotalSeconds);
                break;
            case ModelEventKind.Evicted:
                ModelLog.Evicted(log, what.Model, what.Device, what.Bytes >> 20);
                break;
            default:
                ModelLog.Failed(log, what.Error, what.Model);
                break;
        }
    }

    private static void Filter(ILoggingBuilder logging, LogLevel least)
    {
        logging.SetMinimumLevel(least);
        // The web server tells of each request at Information, with its address.
        LogLevel others = least > LogLevel.Warning ? least : LogLevel.Warning;
        logging.AddFilter((category, level) =>
            level >= (category?.StartsWith("Diptych.", StringComparison.Ordinal) == true ? least : others));
    }

    /// <summary>Hands on to a log that others own.</summary>
    private sealed class Joined(ILoggerFactory logs) : ILoggerProvider
    {
        public ILogger CreateLogger(string categoryName) => logs.CreateLogger(categoryName);

        public void Dispose()
        {
        }
    }
}

/// <summary>What is logged of models.</summary>
internal static partial class ModelLog
{
    [LoggerMessage(1, LogLevel.Information, "{Model} was loaded onto {Device}: {Megabytes} MB in {Seconds:0.00} s")]
    public static partial void Loaded(ILogger log, string model, string device, long megabytes, double seconds);

    [LoggerMessage(2, LogLevel.Information, "{Model} left {Device}, which gives back {Megabytes} MB")]
    public static partial void Evicted(ILogger log, string model, string device, long megabytes);

    [LoggerMessage(3, LogLevel.Error, "{Model} could not be loaded")]
    public static partial void Failed(ILogger log, Exception? error, string model);
}
