namespace Diptych.Core;

/// <summary>The request cannot be carried out as it stands; the message tells its sender what to change.</summary>
public sealed class InvalidRequestException(string message) : Exception(message);

/// <summary>What was asked for does not exist.</summary>
public sealed class NotFoundException(string message) : Exception(message);

/// <summary>The queue ahead is too long for the request's deadline.</summary>
public sealed class OverloadedException(string message, TimeSpan retryAfter) : Exception(message)
{
    /// <summary>When the present queue will have drained, by the cost model.</summary>
    public TimeSpan RetryAfter { get; } = retryAfter;
}
