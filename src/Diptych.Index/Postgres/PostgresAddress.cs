using Diptych.Core;
using Npgsql;

namespace Diptych.Index.Postgres;

/// <summary>The address of a PostgreSQL database, in either of the forms that people have at hand.</summary>
internal static class PostgresAddress
{
    /// <summary>From <c>postgres://user:password@host:port,host:port/database?key=value</c>, or Npgsql's own form as it is.</summary>
    /// <exception cref="InvalidRequestException">The text has neither form.</exception>
    public static string ToConnectionString(string address)
    {
        try
        {
            if (!address.StartsWith("postgres://", StringComparison.Ordinal) && !address.StartsWith("postgresql://", StringComparison.Ordinal))
            {
                return new NpgsqlConnectionStringBuilder(address).ConnectionString;
            }
            string rest = address[(address.IndexOf("//", StringComparison.Ordinal) + 2)..], query = "";
            if (rest.IndexOf('?', StringComparison.Ordinal) is >= 0 and var mark)
            {
                (rest, query) = (rest[..mark], rest[(mark + 1)..]);
            }
            var settings = new NpgsqlConnectionStringBuilder();
            if (rest.LastIndexOf('@') is >= 0 and var at)
            {
                string[] login = rest[..at].Split(':', 2);
                settings.Username = Uri.UnescapeDataString(login[0]);
                settings.Password = login.Length > 1 ? Uri.UnescapeDataString(login[1]) : null;
                rest = rest[(at + 1)..];
            }
            string[] parts = rest.Split('/', 2);
            settings.Host = parts[0].Length > 0 ? parts[0] : "127.0.0.1";
            settings.Database = parts.Length > 1 && parts[1].Length > 0 ? Uri.UnescapeDataString(parts[1]) : "diptych";
            foreach (string pair in query.Split('&', StringSplitOptions.RemoveEmptyEntries))
            {
                string[] sides = pair.Split('=', 2);
                settings[sides[0].Replace("sslmode", "SSL Mode", StringComparison.OrdinalIgnoreCase)] = Uri.UnescapeDataString(sides.Length > 1 ? sides[1] : "");
            }
            return settings.ConnectionString;
        }
        catch (Exception error) when (error is ArgumentException or FormatException or KeyNotFoundException)
        {
            throw new InvalidRequestException("The store's address is not one of PostgreSQL: write postgres://user:password@host:5432/database.", error);
        }
    }
}
