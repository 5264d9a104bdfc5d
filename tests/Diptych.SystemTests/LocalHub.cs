using System.Collections.Concurrent;
using System.Net;
using System.Security.Cryptography;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Diptych.SystemTests;

/// <summary>Answers as Hugging Face's hub does: a listing with sizes and digests, files by range, and a connection that breaks.</summary>
internal sealed class LocalHub(WebApplication app) : IAsyncDisposable
{
    private int _resumed;

    public string Url => app.Urls.First();

    public bool Damage { get; set; }

    /// <summary>Bytes after which an answer breaks off; 0 for never.</summary>
    public int CutAfter { get; set; }

    public int Resumed => _resumed;

    /// <summary>Files that were fetched.</summary>
    public ConcurrentBag<string> Asked { get; } = [];

    public static async Task<LocalHub> StartAsync(string folder)
    {
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        WebApplication app = builder.Build();
        app.Urls.Add("http://127.0.0.1:0");
        var hub = new LocalHub(app);
        app.MapGet("/api/models/{owner}/{name}/revision/{revision}", (string owner, string name) => owner == "nobody" ? Results.NotFound() : Results.Json(new
        {
            sha = "abc123",
            siblings = Directory.GetFiles(folder, "*", SearchOption.AllDirectories).Select(f => new { rfilename = Path.GetRelativePath(folder, f), size = new FileInfo(f).Length, lfs = new { sha256 = Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(f))) } })
                .Append(new { rfilename = "../outside.txt", size = 1L, lfs = new { sha256 = "" } }),
        }));
        app.MapGet("/{owner}/{name}/resolve/{revision}/{**file}", async (string file, HttpContext http) =>
        {
            hub.Asked.Add(file);
            byte[] bytes = await File.ReadAllBytesAsync(Path.Combine(folder, file));
            if (hub.Damage)
            {
                bytes[^1] ^= 1;
            }
            int from = 0;
            if (http.Request.GetTypedHeaders().Range is { } range)
            {
                from = (int)range.Ranges.Single().From!.Value;
                http.Response.StatusCode = (int)HttpStatusCode.PartialContent;
                Interlocked.Increment(ref hub._resumed);
            }
            http.Response.ContentLength = bytes.Length - from;
            int length = hub.CutAfter > 0 ? Math.Min(hub.CutAfter, bytes.Length - from) : bytes.Length - from;
            await http.Response.Body.WriteAsync(bytes.AsMemory(from, length));
            if (length < bytes.Length - from)
            {
                await http.Response.Body.FlushAsync();
                http.Abort();
            }
        });
        await app.StartAsync();
        return hub;
    }

    public ValueTask DisposeAsync() => app.DisposeAsync();
}
