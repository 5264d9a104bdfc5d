using System.Net;
using System.Net.Sockets;
using Diptych.Core;
using Diptych.Engine.Ingestion;

namespace Diptych.App.Http;

/// <summary>
/// Fetches documents by URL. Unless allowed, an address on this machine or a private network is refused after the name was
/// resolved, so that a public name that points inwards is caught too.
/// </summary>
public sealed class UrlSource : IDisposable
{
    private readonly HttpClient _client;
    private readonly long _maxBytes;

    public UrlSource(bool allowPrivate, long maxBytes)
    {
        _maxBytes = maxBytes;
        _client = new HttpClient(new SocketsHttpHandler
        {
            ConnectTimeout = TimeSpan.FromSeconds(15),
            MaxAutomaticRedirections = 5,
            AutomaticDecompression = DecompressionMethods.All,
            ConnectCallback = async (context, cancellation) =>
            {
                IPAddress[] addresses = await Dns.GetHostAddressesAsync(context.DnsEndPoint.Host, cancellation);
                if (!allowPrivate && addresses.Any(IsPrivate))
                {
                    throw new HttpRequestException($"{context.DnsEndPoint.Host} is on this machine or a private network; set Diptych:AllowPrivateUrls to allow that.");
                }
                var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
                try
                {
                    await socket.ConnectAsync(addresses, context.DnsEndPoint.Port, cancellation);
                    return new NetworkStream(socket, ownsSocket: true);
                }
                catch
                {
                    socket.Dispose();
                    throw;
                }
            },
        })
        { Timeout = TimeSpan.FromMinutes(5) };
        _client.DefaultRequestHeaders.UserAgent.ParseAdd("Diptych/0.1");
    }

    /// <exception cref="InvalidRequestException">Not an absolute http or https address.</exception>
    public IngestSource At(string url)
    {
        if (!Uri.TryCreate(url, UriKind.Absolute, out Uri? uri) || uri.Scheme is not ("http" or "https"))
        {
            throw new InvalidRequestException($"'{url}' is not an http or https address.");
        }
        string name = Path.GetFileName(uri.LocalPath) is { Length: > 0 } file && Path.HasExtension(file) ? file : "page.html";
        return new IngestSource(uri.AbsoluteUri, name, c => FetchAsync(uri, c), KeepOriginal: true, null, Metadata.Empty.With("url", uri.AbsoluteUri));
    }

    /// <summary>Fetches a picture: a data URL, or an http or https address within fifteen seconds.</summary>
    /// <exception cref="InvalidRequestException">It is neither, or cannot be fetched.</exception>
    public async Task<byte[]> PictureAsync(string url, CancellationToken cancellation)
    {
        if (url.StartsWith("data:", StringComparison.OrdinalIgnoreCase))
        {
            return Endpoints.Base64(url);
        }
        if (!Uri.TryCreate(url, UriKind.Absolute, out Uri? uri) || uri.Scheme is not ("http" or "https"))
        {
            throw new InvalidRequestException("A picture's url is a data: URL, or an http or https address.");
        }
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(TimeSpan.FromSeconds(15));
        try
        {
            return await FetchAsync(uri, limit.Token);
        }
        catch (Exception error) when (error is HttpRequestException or UnreadableException || (error is OperationCanceledException && !cancellation.IsCancellationRequested))
        {
            throw new InvalidRequestException($"The picture at {uri} cannot be fetched: {(error is OperationCanceledException ? "it takes longer than fifteen seconds" : error.Message)}", error);
        }
    }

    public void Dispose() => _client.Dispose();

    internal static bool IsPrivate(IPAddress address)
    {
        byte[] b = (address.IsIPv4MappedToIPv6 ? address.MapToIPv4() : address).GetAddressBytes();
        return IPAddress.IsLoopback(address) || address.IsIPv6LinkLocal || address.IsIPv6UniqueLocal || address.Equals(IPAddress.IPv6Any)
            || (b.Length == 4 && (b[0] is 0 or 10 or 127 || (b[0] == 172 && b[1] is >= 16 and <= 31) || (b[0] == 192 && b[1] == 168)
                || (b[0] == 169 && b[1] == 254) || (b[0] == 100 && b[1] is >= 64 and <= 127) || b[0] >= 224));
    }

    private async Task<byte[]> FetchAsync(Uri uri, CancellationToken cancellation)
    {
        using HttpResponseMessage response = await _client.GetAsync(uri, HttpCompletionOption.ResponseHeadersRead, cancellation);
        response.EnsureSuccessStatusCode();
        await using Stream stream = await response.Content.ReadAsStreamAsync(cancellation);
        using var content = new MemoryStream();
        byte[] buffer = new byte[1 << 16];
        for (int read; (read = await stream.ReadAsync(buffer, cancellation)) > 0;)
        {
            content.Write(buffer, 0, read);
            if (content.Length > _maxBytes)
            {
                throw new UnreadableException($"The content has more than the limit of {_maxBytes >> 20} MB.");
            }
        }
        return content.ToArray();
    }
}
