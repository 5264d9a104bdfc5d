using System.Net;
using System.Net.Sockets;
using Diptych.Core;
using Diptych.Engine.Ingestion;

namespace Diptych.App.Http;

/// <summary>
/// Fetches documents by URL. Unless allowed, an address that is not globally routable is refused after the name was resolved, so that a
/// public name that points inwards is caught too. Behind a proxy names are resolved elsewhere: only hosts that are listed are fetched then.
/// </summary>
public sealed class UrlSource : IDisposable
{
    private const int MaxRedirects = 5;

    private readonly HttpClient _client;
    private readonly bool _allowPrivate;
    private readonly HashSet<string> _hosts;
    private readonly long _maxBytes;
    private readonly IWebProxy _proxy;

    /// <param name="hosts">Where any are listed only these are fetched from, wherever they are.</param>
    /// <param name="proxy">Null takes the environment's (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).</param>
    public UrlSource(bool allowPrivate, IEnumerable<string> hosts, long maxBytes, IWebProxy? proxy = null)
    {
        (_allowPrivate, _hosts, _maxBytes, _proxy) = (allowPrivate, new(hosts, StringComparer.OrdinalIgnoreCase), maxBytes, proxy ?? HttpClient.DefaultProxy);
        _client = new HttpClient(new SocketsHttpHandler
        {
            Proxy = _proxy,
            ConnectTimeout = TimeSpan.FromSeconds(15),
            // Followed here, so that each host on the way is checked.
            AllowAutoRedirect = false,
            AutomaticDecompression = DecompressionMethods.All,
            ConnectCallback = ConnectAsync,
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

    private async ValueTask<Stream> ConnectAsync(SocketsHttpConnectionContext context, CancellationToken cancellation)
    {
        string host = context.DnsEndPoint.Host;
        IPAddress[] addresses = await Dns.GetHostAddressesAsync(host, cancellation);
        bool isProxy = IsProxied(context.InitialRequestMessage.RequestUri!);
        if (!_allowPrivate && !isProxy && !_hosts.Contains(host) && !addresses.All(PublicAddress.Is))
        {
            throw new HttpRequestException($"{host} is on this machine, a private network or otherwise not publicly routable; set Diptych:AllowPrivateUrls, or list it in Diptych:UrlHosts, to allow that.");
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
    }

    private bool IsProxied(Uri uri) => !_proxy.IsBypassed(uri) && _proxy.GetProxy(uri) is { } proxy && proxy != uri;

    private void Check(Uri uri)
    {
        if (_hosts.Count > 0 && !_hosts.Contains(uri.IdnHost))
        {
            throw new HttpRequestException($"{uri.IdnHost} is none of the hosts in Diptych:UrlHosts.");
        }
        if (_hosts.Count == 0 && !_allowPrivate && IsProxied(uri))
        {
            throw new HttpRequestException($"{uri.IdnHost} would be fetched through a proxy, which may reach what this machine must not: list the host in Diptych:UrlHosts to allow that.");
        }
    }

    private async Task<HttpResponseMessage> GetAsync(Uri uri, CancellationToken cancellation)
    {
        for (int redirects = 0; ; redirects++)
        {
            Check(uri);
            HttpResponseMessage response = await _client.GetAsync(uri, HttpCompletionOption.ResponseHeadersRead, cancellation);
            if ((int)response.StatusCode is not (301 or 302 or 303 or 307 or 308) || response.Headers.Location is not { } location)
            {
                return response;
            }
            response.Dispose();
            Uri next = new(uri, location);
            if (redirects == MaxRedirects || next.Scheme is not ("http" or "https") || (uri.Scheme == "https" && next.Scheme == "http"))
            {
                throw new HttpRequestException(redirects == MaxRedirects ? $"{uri.IdnHost} redirects more than {MaxRedirects} times." : $"{uri.IdnHost} redirects to {next}, which is not followed.");
            }
            uri = next;
        }
    }

    private async Task<byte[]> FetchAsync(Uri uri, CancellationToken cancellation)
    {
        using HttpResponseMessage response = await GetAsync(uri, cancellation);
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
