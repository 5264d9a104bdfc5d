using System.Net;
using System.Net.Sockets;
using Npgsql;

namespace Diptych.SystemTests;

/// <summary>PostgreSQL 17 with pgvector, the real server: Debian trixie's packages in a folder, started through chroot on a loopback port.</summary>
public sealed partial class PostgresServer : IAsyncDisposable
{
    private const string Binaries = "/usr/lib/postgresql/17/bin";
    private static readonly string Root = Path.Combine(Path.GetTempPath(), "diptych-postgres-17");
    private readonly List<string> _started = [];
    private int _databases;

    public int Port { get; } = FreePort();

    public async ValueTask InitializeAsync()
    {
        if (!File.Exists(Path.Combine(Root, "complete")))
        {
            await Host.DebianAsync("debootstrap", "/usr/sbin/debootstrap");
            if (Directory.Exists(Root))
            {
                Directory.Delete(Root, recursive: true);
            }
            var made = await Host.RunAsync("debootstrap", ["--variant=minbase", "--include=postgresql-17,postgresql-17-pgvector", "trixie", Root, "http://deb.debian.org/debian"]);
            Require(made.ExitCode == 0, made.Output + made.Error);
            await File.WriteAllTextAsync(Path.Combine(Root, "complete"), "");
        }
        await AsPostgresAsync($"{Binaries}/initdb -D {Folder(Port)} -A trust -E UTF8 --locale=C.UTF-8");
        await StartAsync(Port);
    }

    /// <summary>A database of its own, empty.</summary>
    /// <returns>Its address.</returns>
    public async Task<string> DatabaseAsync()
    {
        string name = $"test{Interlocked.Increment(ref _databases)}";
        await using var source = NpgsqlDataSource.Create($"Host=127.0.0.1;Port={Port};Username=postgres;Database=postgres;Pooling=false");
        await using NpgsqlCommand create = source.CreateCommand($"CREATE DATABASE {name}");
        await create.ExecuteNonQueryAsync();
        return $"postgres://postgres@127.0.0.1:{Port}/{name}";
    }

    /// <summary>Starts a streaming replica.</summary>
    /// <returns>Its port.</returns>
    public async Task<int> ReplicaAsync()
    {
        int port = FreePort();
        await AsPostgresAsync($"{Binaries}/pg_basebackup -h 127.0.0.1 -p {Port} -U postgres -D {Folder(port)} -R -X stream -c fast");
        await StartAsync(port);
        return port;
    }

    public Task StartAsync(int port)
    {
        _started.Add(Folder(port));
        return AsPostgresAsync(
            $"{Binaries}/pg_ctl -w -D {Folder(port)} -l {Folder(port)}.log -o '-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=/tmp -c dynamic_shared_memory_type=sysv' start");
    }

    /// <summary>Stops it as a crash would.</summary>
    public Task StopAsync(int port) => AsPostgresAsync($"{Binaries}/pg_ctl -w -D {Folder(port)} -m immediate stop");

    public async ValueTask DisposeAsync()
    {
        foreach (string folder in _started.Distinct(StringComparer.Ordinal))
        {
            await Host.RunAsync("chroot", [Root, "su", "postgres", "-s", "/bin/sh", "-c", $"{Binaries}/pg_ctl -w -D {folder} -m immediate stop"]);
            Directory.Delete(Root + folder, recursive: true);
        }
    }

    /// <summary>Runs psql's own commands, with files seen from the server's folder.</summary>
    public Task PsqlAsync(string database, string commands) => AsPostgresAsync($"{Binaries}/psql -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p {Port} -U postgres -d {database} -c \"{commands}\"");

    private static void Require(bool holds, string message)
    {
        if (!holds)
        {
            throw new InvalidOperationException(message);
        }
    }

    private static string Folder(int port) => $"/tmp/cluster-{port}";

    private static async Task AsPostgresAsync(string command)
    {
        // A server that stays behind would keep a pipe open: what it prints goes to a file.
        var done = await Host.RunAsync("chroot", [Root, "su", "postgres", "-s", "/bin/sh", "-c", $"{command} > /tmp/last.log 2>&1"]);
        Require(done.ExitCode == 0, $"{command}: {await File.ReadAllTextAsync(Root + "/tmp/last.log")}");
    }

    private static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }
}
