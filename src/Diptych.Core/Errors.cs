namespace Diptych.Core;

/// <summary>The file of a document has other content by now than was ingested; the message says which.</summary>
public sealed class SourceChangedException(string message) : Exception(message);

/// <summary>What is asked for would overwrite something, and the request says that nothing may be.</summary>
public sealed class ConflictException(string message) : Exception(message);

/// <summary>There is no room left for what is to be stored; the message says where.</summary>
public sealed class StorageFullException(string message, Exception? cause = null) : Exception(message, cause)
{
    private const int NoSpace = 28, QuotaExceeded = 122, WindowsDiskFull = unchecked((int)0x80070070);

    /// <summary>Whether an error says that a disk, or a user's share of it, is full.</summary>
    public static bool Is(Exception error) => error is IOException { HResult: NoSpace or QuotaExceeded or WindowsDiskFull };
}

/// <summary>The request cannot be carried out as it stands; the message tells its sender what to change.</summary>
public sealed class InvalidRequestException(string message, Exception? cause = null) : Exception(message, cause);

/// <summary>What was asked for does not exist.</summary>
public sealed class NotFoundException(string message) : Exception(message);

/// <summary>Another server, which runs a model for this one, failed or cannot be reached.</summary>
public sealed class RemoteFailureException(string message, Exception cause) : Exception(message, cause);

/// <summary>The database does not answer, and did not after repeated tries: trying again later may help.</summary>
public sealed class StoreUnavailableException(string message, Exception cause) : Exception(message, cause);

/// <summary>A database's files are in use where they may not be, or are being replaced; the message says by what.</summary>
public sealed class StoreInUseException(string message) : Exception(message);

/// <summary>A database is damaged; the message says what to do.</summary>
public sealed class StoreDamagedException(string message, Exception cause) : Exception(message, cause);

/// <summary>The queue ahead is too long for the request's deadline.</summary>
public sealed class OverloadedException(string message, TimeSpan retryAfter) : Exception(message)
{
    /// <summary>When the present queue will have drained, by the cost model.</summary>
    public TimeSpan RetryAfter { get; } = retryAfter;
}
