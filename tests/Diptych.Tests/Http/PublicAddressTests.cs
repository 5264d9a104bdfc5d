using System.Net;
using System.Net.Sockets;
using Diptych.App.Jobs;
using Diptych.Engine.Ingestion;
using Xunit;

namespace Diptych.Tests.Http;

public sealed class PublicAddressTests
{
    [Theory]
    [InlineData("8.8.8.8", true)]
    [InlineData("172.32.0.1", true)]
    [InlineData("100.128.0.1", true)]
    [InlineData("2606:4700::1111", true)]
    [InlineData("::ffff:8.8.8.8", true)]
    [InlineData("64:ff9b::8.8.8.8", true)]
    [InlineData("2002:808:808::1", true)]
    [InlineData("0.0.0.0", false)]
    [InlineData("10.1.2.3", false)]
    [InlineData("100.64.0.1", false)]
    [InlineData("127.0.0.2", false)]
    [InlineData("169.254.169.254", false)]
    [InlineData("172.16.0.1", false)]
    [InlineData("192.0.0.1", false)]
    [InlineData("192.168.1.1", false)]
    [InlineData("198.18.0.1", false)]
    [InlineData("198.19.255.255", false)]
    [InlineData("224.0.0.1", false)]
    [InlineData("255.255.255.255", false)]
    [InlineData("::", false)]
    [InlineData("::1", false)]
    [InlineData("::7f00:1", false)]
    [InlineData("::ffff:127.0.0.1", false)]
    [InlineData("::ffff:0:127.0.0.1", false)]
    [InlineData("64:ff9b::127.0.0.1", false)]
    [InlineData("64:ff9b::a9fe:a9fe", false)]
    [InlineData("64:ff9b:1::808:808", false)]
    [InlineData("2002:7f00:1::", false)]
    [InlineData("2002:a00:1::1", false)]
    [InlineData("2001::1", false)]
    [InlineData("2001:db8::1", false)]
    [InlineData("fc00::1", false)]
    [InlineData("fe80::1", false)]
    [InlineData("fec0::1", false)]
    [InlineData("ff02::1", false)]
    public void Only_globally_routable_addresses_are_public(string address, bool isPublic) => Assert.Equal(isPublic, PublicAddress.Is(IPAddress.Parse(address)));

    [Fact]
    public async Task Behind_a_proxy_only_listed_hosts_are_fetched_and_where_hosts_are_listed_no_other_is()
    {
        var proxy = new WebProxy("http://127.0.0.1:9");
        using var unlisted = new UrlSource(allowPrivate: false, [], 1 << 20, TimeSpan.FromSeconds(30), proxy);
        Assert.Contains("Diptych:UrlHosts", await FailureAsync(unlisted, "http://example.org/a.html"), StringComparison.Ordinal);
        using var listed = new UrlSource(allowPrivate: false, ["example.org"], 1 << 20, TimeSpan.FromSeconds(30), proxy);
        Assert.Contains("none of the hosts", await FailureAsync(listed, "http://example.com/a.html"), StringComparison.Ordinal);
        // This one is tried: nobody answers at the proxy's address.
        Assert.Contains("127.0.0.1:9", await FailureAsync(listed, "http://example.org/a.html"), StringComparison.Ordinal);
        using var direct = new UrlSource(allowPrivate: false, [], 1 << 20, TimeSpan.FromSeconds(30), new WebProxy());
        Assert.Contains("not publicly routable", await FailureAsync(direct, "http://127.0.0.1:9/a.html"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Behind_a_proxy_private_hosts_that_are_allowed_must_be_listed_too_and_a_redirect_to_another_host_is_refused()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var asked = new List<string>();
        Task proxying = Task.Run(async () =>
        {
            while (true)
            {
                using TcpClient client = await listener.AcceptTcpClientAsync();
                using var reader = new StreamReader(client.GetStream());
                asked.Add((await reader.ReadLineAsync())!);
                while (await reader.ReadLineAsync() is { Length: > 0 })
                {
                }
                bool first = asked.Count == 1;
                await client.GetStream().WriteAsync(System.Text.Encoding.ASCII.GetBytes(first
                    ? "HTTP/1.1 302 Found\r\nLocation: http://inside.example/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    : "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"));
            }
        }, TestContext.Current.CancellationToken);
        var proxy = new WebProxy(new Uri($"http://{listener.LocalEndpoint}"));
        using var open = new UrlSource(allowPrivate: true, [], 1 << 20, TimeSpan.FromSeconds(30), proxy);
        Assert.Contains("Diptych:UrlHosts", await FailureAsync(open, "http://example.org/a.html"), StringComparison.Ordinal);
        Assert.Empty(asked);
        using var listed = new UrlSource(allowPrivate: true, ["example.org", "münchen.example"], 1 << 20, TimeSpan.FromSeconds(30), proxy);
        string refused = await FailureAsync(listed, "http://example.org/a.html");
        Assert.Contains("inside.example is none of the hosts", refused, StringComparison.Ordinal);
        Assert.Equal("hello"u8.ToArray(), await listed.At("http://münchen.example/").Read(TestContext.Current.CancellationToken));
        Assert.Equal(["GET http://example.org/a.html HTTP/1.1", "GET http://xn--mnchen-3ya.example/ HTTP/1.1"], asked);
        listener.Stop();
        await proxying.ContinueWith(_ => { }, TestContext.Current.CancellationToken, TaskContinuationOptions.None, TaskScheduler.Default);
    }

    [Theory]
    [InlineData("a/README.md", "a/README.md")]
    [InlineData("C:\\Users\\me\\x.txt", "Users/me/x.txt")]
    [InlineData("../../etc/passwd", "etc/passwd")]
    [InlineData("/abs/x.txt", "abs/x.txt")]
    [InlineData("a/./b//c.txt", "a/b/c.txt")]
    [InlineData("..", "unnamed")]
    [InlineData("na\u0007me.txt", "name.txt")]
    public void An_uploads_path_is_relative(string sent, string path) => Assert.Equal(path, UploadNames.Relative(sent));

    private static async Task<string> FailureAsync(UrlSource urls, string url)
    {
        IngestSource source = urls.At(url);
        return (await Assert.ThrowsAsync<HttpRequestException>(() => source.Read(TestContext.Current.CancellationToken))).Message;
    }
}
