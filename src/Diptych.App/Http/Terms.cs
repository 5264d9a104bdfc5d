using System.Globalization;
using Diptych.Core;
using Diptych.Inference;

namespace Diptych.App.Http;

/// <summary>Reads what a request asks of the scheduler from its headers.</summary>
internal static class Terms
{
    /// <summary>Milliseconds after which the answer is useless to the client.</summary>
    public const string TimeoutHeader = "X-Request-Timeout-Ms";

    /// <summary>Who asks, where a gateway in front knows it. Without it, the key that authorizes the request stands for who asks.</summary>
    public const string TenantHeader = "X-Tenant";

    /// <summary>interactive, generate or bulk.</summary>
    public const string LaneHeader = "X-Lane";

    private const int MaxTenantLength = 128;

    public static Task BeginAsync(HttpContext http, RequestDelegate next, TimeProvider time)
    {
        IHeaderDictionary headers = http.Request.Headers;
        new RequestTerms { Tenant = Tenant(headers), Lane = LaneOf(headers), DueAt = DueAt(headers, time) }.Begin();
        return next(http);
    }

    private static string Tenant(IHeaderDictionary headers)
    {
        string tenant = headers[TenantHeader].ToString();
        if (tenant.Length > MaxTenantLength)
        {
            throw new InvalidRequestException($"{TenantHeader} has at most {MaxTenantLength} characters.");
        }
        string authorization = headers.Authorization.ToString();
        // The key itself is a secret, and is not kept.
        return tenant.Length > 0 ? tenant
            : authorization.Length > 0 ? Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(System.Text.Encoding.UTF8.GetBytes(authorization)).AsSpan(0, 8))
            : "";
    }

    private static Lane? LaneOf(IHeaderDictionary headers) => headers[LaneHeader].ToString() switch
    {
        "" => null,
        "interactive" => Lane.Interactive,
        "generate" => Lane.Generate,
        "bulk" => Lane.Bulk,
        var other => throw new InvalidRequestException($"{LaneHeader} is interactive, generate or bulk, not '{other}'."),
    };

    private static long? DueAt(IHeaderDictionary headers, TimeProvider time)
    {
        string text = headers[TimeoutHeader].ToString();
        if (text.Length == 0)
        {
            return null;
        }
        return double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double milliseconds) && milliseconds is > 0 and <= 86_400_000
            ? time.GetTimestamp() + (long)(milliseconds / 1000 * time.TimestampFrequency)
            : throw new InvalidRequestException($"{TimeoutHeader} is a number of milliseconds, above 0 and at most a day.");
    }
}
