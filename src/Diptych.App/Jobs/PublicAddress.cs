using System.Net;
using System.Net.Sockets;

namespace Diptych.App.Jobs;

/// <summary>
/// Which addresses are globally routable (IANA's special-purpose registries, RFC 6890). An IPv6 address that carries an IPv4 one is judged
/// by that one too, since a gateway on the way would turn it back.
/// </summary>
internal static class PublicAddress
{
    private static readonly IPNetwork[] Special4 = Networks(
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4");

    /// <summary>Within 2000::/3; outside of it nothing is routable but what carries IPv4.</summary>
    private static readonly IPNetwork[] Special6 = Networks("2001::/23", "2001:db8::/32", "3fff::/20");

    private static readonly IPNetwork Global6 = IPNetwork.Parse("2000::/3"), SixToFour = IPNetwork.Parse("2002::/16"), Translated = IPNetwork.Parse("64:ff9b::/96");

    public static bool Is(IPAddress address)
    {
        if (address.IsIPv4MappedToIPv6)
        {
            address = address.MapToIPv4();
        }
        if (address.AddressFamily == AddressFamily.InterNetwork)
        {
            return !Special4.Any(n => n.Contains(address));
        }
        byte[] bytes = address.GetAddressBytes();
        if (SixToFour.Contains(address))
        {
            return Is(new IPAddress(bytes.AsSpan(2, 4)));
        }
        return Translated.Contains(address) ? Is(new IPAddress(bytes.AsSpan(12, 4))) : Global6.Contains(address) && !Special6.Any(n => n.Contains(address));
    }

    private static IPNetwork[] Networks(params string[] networks) => [.. networks.Select(n => IPNetwork.Parse(n))];
}
