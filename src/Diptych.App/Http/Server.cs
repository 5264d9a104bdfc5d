using Diptych.App.Jobs;
using Microsoft.AspNetCore.HostFiltering;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.OpenApi;

namespace Diptych.App.Http;

/// <summary>The server: the API, its OpenAPI document, health, and the web page.</summary>
internal static class Server
{
    /// <summary>Of a body that is no upload: room for some pictures in base64.</summary>
    private const long MaxJsonBytes = 32L << 20;

    /// <summary>Builds the server. The product is opened by the caller, which also closes it.</summary>
    /// <param name="logs">The program's log; null writes errors only.</param>
    public static WebApplication Build(DiptychOptions options, Product product, TimeProvider time, ILoggerFactory? logs = null)
    {
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.WebHost.UseUrls(options.Url);
        builder.WebHost.UseKestrelHttpsConfiguration();
        builder.WebHost.ConfigureKestrel(k => k.Limits.MaxRequestBodySize = Math.Min(options.MaxUploadBytes, MaxJsonBytes));
        if (logs is null)
        {
            builder.Logging.SetMinimumLevel(LogLevel.Error);
        }
        else
        {
            Logs.Join(builder.Logging, logs, options.LogLevel);
        }
        builder.Services.AddSingleton<IHostLifetime, NoSignals>();
        builder.Services.Configure<FormOptions>(f => f.MultipartBodyLengthLimit = options.MaxUploadBytes);
        builder.Services.Configure<HostOptions>(h => h.ShutdownTimeout = TimeSpan.FromSeconds(10));
        builder.Services.ConfigureHttpJsonOptions(j => Json.Configure(j.SerializerOptions));
        builder.Services.AddSingleton(product);
        builder.Services.AddSingleton(time);
        builder.Services.AddSingleton(options);
        builder.Services.AddSingleton(options.Urls());
        builder.Services.AddSingleton<JobSignal>();
        builder.Services.AddSingleton<JobRunner>();
        builder.Services.AddHostedService(s => s.GetRequiredService<JobRunner>());
        builder.Services.AddSingleton<JobService>();
        builder.Services.AddSingleton(s => new Readiness(
            product.Store,
            [.. product.Store.Loops, .. s.GetRequiredService<JobRunner>().Loops],
            options.Data,
            Readiness.FreeBytes,
            (long)options.MinFreeMb << 20,
            time));
        builder.Services.Configure<RouteHandlerOptions>(r => r.ThrowOnBadRequest = true);
        builder.Services.AddProblemDetails();
        Telemetry.Add(builder);
        builder.Services.AddExceptionHandler<Problems>();
        builder.Services.AddOpenApi(o => o.AddDocumentTransformer((document, _, _) =>
        {
            document.Info = new OpenApiInfo { Title = "Diptych", Version = "v1", Description = "Search across text and images, and answers with citations." };
            document.Servers = [];
            return Task.CompletedTask;
        }));
        if (OnlyLoopback(options.Url))
        {
            // A name that an attacker points at this machine (DNS rebinding) is not one of these.
            builder.Services.Configure<HostFilteringOptions>(h => h.AllowedHosts = ["localhost", "127.0.0.1", "[::1]"]);
            builder.Services.AddTransient<IStartupFilter, HostFilter>();
        }

        WebApplication app = builder.Build();
        app.UseExceptionHandler();
        app.UseStatusCodePages(c => c.HttpContext.Response.HasStarted
            ? Task.CompletedTask
            : Problems.WriteAsync(
                c.HttpContext,
                c.HttpContext.Response.StatusCode,
                c.HttpContext.Response.StatusCode == 404 ? "not-found" : "invalid-request",
                $"{c.HttpContext.Request.Method} {c.HttpContext.Request.Path} is not part of this API. See /openapi/v1.json.",
                c.HttpContext.RequestAborted));
        app.Use(RefuseForeignPages);
        app.Use((http, next) => Terms.BeginAsync(http, next, time));
        app.MapOpenApi();
        app.MapGet("/healthz", () => TypedResults.Text("ok")).ExcludeFromDescription();
        app.MapGet("/readyz", (Readiness readiness, CancellationToken cancellation) => readiness.AnswerAsync(cancellation))
            .ExcludeFromDescription();
        Endpoints.Map(app, options);
        OpenAiEndpoints.Map(app);
        InferenceEndpoints.Map(app);
        ChatEndpoints.Map(app);
        FeedbackEndpoints.Map(app);
        Telemetry.Map(app);
        Web.Page.Map(app);
        return app;
    }

    /// <summary>A page of another site may not change anything here, whatever its visitor's browser would send along.</summary>
    private static Task RefuseForeignPages(HttpContext http, RequestDelegate next)
    {
        string? origin = http.Request.Headers.Origin;
        bool changes = !HttpMethods.IsGet(http.Request.Method) && !HttpMethods.IsHead(http.Request.Method);
        return changes && origin is { Length: > 0 } && !(Uri.TryCreate(origin, UriKind.Absolute, out Uri? from) && from.Authority == http.Request.Host.Value)
            ? Problems.WriteAsync(http, 403, "foreign-origin", $"Requests from pages of {origin} are not accepted.", http.RequestAborted)
            : next(http);
    }

    private static bool OnlyLoopback(string urls) => urls.Split(';').All(u => Uri.TryCreate(u, UriKind.Absolute, out Uri? uri) && uri.IsLoopback);

    /// <summary>Signals are the command line's, which stops what it started.</summary>
    private sealed class NoSignals : IHostLifetime
    {
        public Task WaitForStartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
    }

    private sealed class HostFilter : IStartupFilter
    {
        public Action<IApplicationBuilder> Configure(Action<IApplicationBuilder> next) => app =>
        {
            app.UseHostFiltering();
            next(app);
        };
    }
}
