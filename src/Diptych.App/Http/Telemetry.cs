using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;

namespace Diptych.App.Http;

/// <summary>
/// Metrics at /metrics in Prometheus' text; and metrics, traces and logs to a collector where OpenTelemetry's own variable
/// <c>OTEL_EXPORTER_OTLP_ENDPOINT</c> names one.
/// </summary>
internal static class Telemetry
{
    private static readonly ExplicitBucketHistogramConfiguration Seconds = new()
    {
        Boundaries = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60],
    };

    public static void Add(WebApplicationBuilder builder)
    {
        bool collector = Environment.GetEnvironmentVariable("OTEL_EXPORTER_OTLP_ENDPOINT") is { Length: > 0 };
        var telemetry = builder.Services.AddOpenTelemetry().ConfigureResource(r => r.AddService("diptych")).WithMetrics(m =>
        {
            m.AddMeter("Diptych.Inference", "Microsoft.AspNetCore.Hosting", "Microsoft.AspNetCore.Server.Kestrel", "System.Runtime")
                .AddView("diptych.inference.batch.size", new ExplicitBucketHistogramConfiguration { Boundaries = [1, 2, 4, 8, 16, 32, 64] })
                .AddView("diptych.inference.wait", Seconds).AddView("diptych.inference.run", Seconds).AddView("diptych.inference.latency", Seconds)
                .AddPrometheusExporter();
            if (collector)
            {
                m.AddOtlpExporter();
            }
        });
        if (collector)
        {
            telemetry.WithTracing(t => t.AddSource("Diptych.Inference", "Microsoft.AspNetCore").AddOtlpExporter());
        }
    }

    public static void Map(WebApplication app) => app.MapPrometheusScrapingEndpoint();
}
