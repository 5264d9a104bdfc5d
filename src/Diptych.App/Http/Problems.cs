using System.Globalization;
using System.Text.Json;
using Diptych.Core;
using Diptych.Index.Sqlite;
using Microsoft.AspNetCore.Diagnostics;
using Microsoft.AspNetCore.Mvc;

namespace Diptych.App.Http;

/// <summary>
/// Errors as RFC 9457 problem documents with a stable type. The same document carries OpenAI's <c>error</c> object, so that its
/// clients read the message too.
/// </summary>
internal sealed partial class Problems(DiptychOptions options, ILogger<Problems> log) : IExceptionHandler
{
    public async ValueTask<bool> TryHandleAsync(HttpContext http, Exception exception, CancellationToken cancellation)
    {
        if (exception is OperationCanceledException && http.RequestAborted.IsCancellationRequested)
        {
            return true;
        }
        exception = SqliteFault.Told(exception, options.Database);
        (int status, string type, string detail) = exception switch
        {
            InvalidRequestException or UnreadableException => (400, "invalid-request", exception.Message),
            SourceChangedException => (409, "source-changed", exception.Message),
            ConflictException => (409, "conflict", exception.Message),
            NotFoundException => (404, "not-found", exception.Message),
            OverloadedException => (429, "overloaded", exception.Message),
            RemoteFailureException => (502, "remote-failed", exception.Message),
            StoreDamagedException => (500, "store-damaged", exception.Message),
            StorageFullException => (507, "storage-full", exception.Message),
            StoreUnavailableException => (503, "store-unavailable", exception.Message),
            BadHttpRequestException { InnerException: JsonException json } => (400, "invalid-json", Told(json)),
            BadHttpRequestException bad => (bad.StatusCode, bad.StatusCode == 413 ? "too-large" : "invalid-request", bad.Message),
            _ => (500, "internal", "The server failed to carry this out; its log says why."),
        };
        if (status == 500)
        {
            LogFailed(exception, http.Request.Method, http.GetEndpoint()?.DisplayName ?? "an unknown address");
        }
        if (exception is StoreUnavailableException or StorageFullException)
        {
            http.Response.Headers.RetryAfter = exception is StorageFullException ? "30" : "5";
        }
        if (exception is OverloadedException overloaded)
        {
            http.Response.Headers.RetryAfter = ((int)Math.Ceiling(overloaded.RetryAfter.TotalSeconds)).ToString(CultureInfo.InvariantCulture);
        }
        await WriteAsync(http, status, type, detail, cancellation);
        return true;
    }

    /// <summary>What is wrong with a body, without the names of this program's types.</summary>
    private static string Told(JsonException error)
    {
        string message = error.Message;
        return message.Contains("could not be mapped", StringComparison.Ordinal) ? $"The body has '{error.Path}', which is no member of this request."
            : message.Contains("missing required", StringComparison.Ordinal) ? $"The body lacks what is required: {message[(message.LastIndexOf(':') + 1)..].Trim().TrimEnd('.')}."
            : message.Contains("System.", StringComparison.Ordinal) || message.Contains("Diptych.", StringComparison.Ordinal) ? $"The value of '{error.Path}' is not one that this member takes."
            : message;
    }

    [LoggerMessage(1, LogLevel.Error, "{Method} of {Endpoint} failed")]
    private partial void LogFailed(Exception error, string method, string endpoint);

    public static Task WriteAsync(HttpContext http, int status, string type, string detail, CancellationToken cancellation)
    {
        http.Response.StatusCode = status;
        var problem = new ProblemDetails
        {
            Status = status,
            Type = $"urn:diptych:problem:{type}",
            Title = type.Replace('-', ' '),
            Detail = detail,
            Extensions = { ["error"] = new { message = detail, type = type.Replace('-', '_'), code = type.Replace('-', '_') } },
        };
        return http.Response.WriteAsJsonAsync(problem, options: null, contentType: "application/problem+json", cancellation);
    }
}

/// <summary>Writes server-sent events (WHATWG HTML, section 9.2).</summary>
internal sealed class ServerSentEvents
{
    private readonly HttpResponse _response;

    public ServerSentEvents(HttpResponse response)
    {
        _response = response;
        response.ContentType = "text/event-stream";
        response.Headers.CacheControl = "no-cache";
    }

    public async Task SendAsync(string name, object data, CancellationToken cancellation)
    {
        await _response.WriteAsync($"event: {name}\ndata: {JsonSerializer.Serialize(data, Json.Options)}\n\n", cancellation);
        await _response.Body.FlushAsync(cancellation);
    }
}
