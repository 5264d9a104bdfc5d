using Xunit;

namespace Diptych.SystemTests;

/// <summary>The server as a fixture of tests.</summary>
public sealed partial class PostgresServer : IAsyncLifetime;
