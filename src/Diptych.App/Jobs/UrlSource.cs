using System.Net;
using System.Net.Sockets;
using Diptych.App.Http;
using Diptych.Core;
using Diptych.Engine.Ingestion;
using Diptych.Index.Jobs;

namespace Diptych.App.Jobs;

/// <summary>
/// Fetches documents by URL. Unless allowed, an address that is not globally routable is refused after the name was resolved, so that a
/// public name that points inwards is caught too. Behind a proxy names are resolved elsewhere: only hosts that are listed are fetched then.
/// </summary>
public sealed class UrlSource : IDisposable
{
    private const int MaxRedirects = 5;

    /// <summary>A host that sends nothing for this long is given up on.</summary>
    private static readonly TimeSpan Silence = TimeSpan.FromSeconds(30);

    private readonly HttpClient _client;
    private readonly bool _allowPrivate;
    private readonly HashSet<string> _hosts;
    private readonly long _maxBytes;
    private readonly TimeSpan _deadline;
    private readonly IWebProxy _proxy;

    /// <param name="hosts">Where any are listed only these are fetched from, wherever they are.</param>
    /// <param name="proxy">Null takes the environment's (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).</param>
    /// <param name="deadline">For a document, from asking for it to its last byte.</param>
    public UrlSource(bool allowPrivate, IEnumerable<string> hosts, long maxBytes, TimeSpan deadline, IWebProxy? proxy = null)
    {
        (_allowPrivate, _hosts, _maxBytes, _deadline, _proxy) = (
            allowPrivate, new(hosts.Select(Ascii), StringComparer.OrdinalIgnoreCase), maxBytes, deadline, proxy ?? HttpClient.DefaultProxy);
        _client = new HttpClient(new SocketsHttpHandler
        {
            Proxy = _proxy,
            ConnectTimeout = TimeSpan.FromSeconds(15),
            // Followed here, so that each host on the way is checked.
            AllowAutoRedirect = false,
            AutomaticDecompression = DecompressionMethods.All,
            ConnectCallback = ConnectAsync,
        })
        { Timeout = Timeout.InfiniteTimeSpan };
        _client.DefaultRequestHeaders.UserAgent.ParseAdd("Diptych/0.1");
    }

    /// <exception cref="InvalidRequestException">Not an absolute http or https address.</exception>
    public IngestSource At(string url)
    {
        var (source, name, metadata) = Name(url);
        return new IngestSource(source, name, c => BytesAsync(new Uri(source), _deadline, c), KeepOriginal: true, null, metadata);
    }

    /// <summary>What a document is called that is fetched from an address: its source, a file name, and the metadata that it gets.</summary>
    /// <exception cref="InvalidRequestException">Not an absolute http or https address.</exception>
    public static (string Source, string Name, Metadata Metadata) Name(string url)
    {
        if (!Uri.TryCreate(url, UriKind.Absolute, out Uri? uri) || uri.Scheme is not ("http" or "https"))
        {
            throw new InvalidRequestException($"'{url}' is not an http or https address.");
        }
        string name = Path.GetFileName(uri.LocalPath) is { Length: > 0 } file && Path.HasExtension(file) ? file : "page.html";
        return (uri.AbsoluteUri, name, Metadata.Empty.With("url", uri.AbsoluteUri));
    }

    /// <summary>Fetches a document into the spool, never held in memory.</summary>
    public Task<SpooledFile> SpoolAsync(string url, ISpool spool, CancellationToken cancellation) =>
        FetchAsync(new Uri(url), _deadline, (stream, c) => spool.WriteAsync(stream, _maxBytes, c), cancellation);

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
        try
        {
            return await BytesAsync(uri, TimeSpan.FromSeconds(15), cancellation);
        }
        catch (Exception error) when (error is HttpRequestException or UnreadableException)
        {
            throw new InvalidRequestException($"The picture at {uri} cannot be fetched: {error.Message}", error);
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

    /// <summary>A name as addresses have it: one with other letters than ASCII's is known to resolvers in another form.</summary>
    private static string Ascii(string host) => Uri.TryCreate($"http://{host}", UriKind.Absolute, out Uri? uri) ? uri.IdnHost : host;

    private bool IsProxied(Uri uri) => !_proxy.IsBypassed(uri) && _proxy.GetProxy(uri) is { } proxy && proxy != uri;

    private void Check(Uri uri)
    {
        if (_hosts.Count > 0 && !_hosts.Contains(uri.IdnHost))
        {
            throw new HttpRequestException($"{uri.IdnHost} is none of the hosts in Diptych:UrlHosts.");
        }
        if (_hosts.Count == 0 && IsProxied(uri))
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

    private Task<byte[]> BytesAsync(Uri uri, TimeSpan deadline, CancellationToken cancellation) => FetchAsync(
        uri,
        deadline,
        async (stream, c) =>
        {
            using var content = new MemoryStream();
            byte[] buffer = new byte[1 << 16];
            for (int read; (read = await stream.ReadAsync(buffer, c)) > 0;)
            {
                content.Write(buffer, 0, read);
                if (content.Length > _maxBytes)
                {
                    throw new UnreadableException($"The content has more than the limit of {_maxBytes >> 20} MB.");
                }
            }
            return content.ToArray();
        },
        cancellation);

    /// <exception cref="HttpRequestException">It cannot be fetched, or not in time; the message says which.</exception>
    private async Task<T> FetchAsync<T>(Uri uri, TimeSpan deadline, Func<Stream, CancellationToken, Task<T>> read, CancellationToken cancellation)
    {
        using var whole = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        using var silent = CancellationTokenSource.CreateLinkedTokenSource(whole.Token);
        whole.CancelAfter(deadline);
        silent.CancelAfter(Silence);
        try
        {
            using HttpResponseMessage response = await GetAsync(uri, silent.Token);
            response.EnsureSuccessStatusCode();
            await using Stream stream = new HeardStream(await response.Content.ReadAsStreamAsync(silent.Token), () => silent.CancelAfter(Silence));
            return await read(stream, silent.Token);
        }
        catch (OperationCanceledException error) when (!cancellation.IsCancellationRequested)
        {
            throw new HttpRequestException(
                whole.IsCancellationRequested ? $"{uri.IdnHost} took longer than {deadline.TotalSeconds:0} s." : $"{uri.IdnHost} sent nothing for {Silence.TotalSeconds:0} s.", error);
        }
        catch (IOException error) when (!StorageFullException.Is(error))
        {
            throw new HttpRequestException($"{uri.IdnHost} ended the connection: {error.Message}", error);
        }
    }

    /// <summary>Tells of each read that brought something.</summary>
    private sealed class HeardStream(Stream inner, Action heard) : Stream
    {
        public override bool CanRead => true;

        public override bool CanSeek => false;

        public override bool CanWrite => false;

        public override long Length => throw new NotSupportedException();

        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            int read = await inner.ReadAsync(buffer, cancellationToken);
            heard();
            return read;
        }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override void Flush()
        {
        }

        public override ValueTask DisposeAsync() => inner.DisposeAsync();
    }
}
