using System.Runtime.CompilerServices;
using Diptych.Core;
using Diptych.Inference;
using Microsoft.Extensions.AI;

namespace Diptych.Runtimes.Remote;

/// <summary>A language model behind another server, as the generate lane drives it: a request waits for its turn as long as the lane's target.</summary>
/// <param name="patience">How long a request waits for its turn before it is refused.</param>
public sealed class RemoteChat(IChatClient inner, RemoteServer server, TimeProvider time, TimeSpan patience) : DelegatingChatClient(inner)
{
    public RemoteServer Server => server;

    public override async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        var updates = new List<ChatResponseUpdate>();
        await foreach (ChatResponseUpdate update in GetStreamingResponseAsync(messages, options, cancellationToken).ConfigureAwait(false))
        {
            updates.Add(update);
        }
        return updates.ToChatResponse();
    }

    /// <exception cref="OverloadedException">Its turn does not come in time, or the circuit is open.</exception>
    public override async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
        IEnumerable<ChatMessage> messages, ChatOptions? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        IReadOnlyList<ChatMessage> asked = [.. messages];
        await server.EnterAsync(RequestTerms.Current.Left(time) ?? patience, cancellationToken).ConfigureAwait(false);
        try
        {
            // As far as the first part of the answer nobody has seen anything, and trying again is safe.
            var (stream, first) = await server.AskAsync(stop => BeginAsync(asked, options, stop), cancellationToken).ConfigureAwait(false);
            await using (stream.ConfigureAwait(false))
            {
                for (bool more = first; more; more = await stream.MoveNextAsync().ConfigureAwait(false))
                {
                    yield return stream.Current;
                }
            }
        }
        finally
        {
            server.Leave();
        }
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            server.Dispose();
        }
        base.Dispose(disposing);
    }

    private async Task<(IAsyncEnumerator<ChatResponseUpdate> Stream, bool First)> BeginAsync(IReadOnlyList<ChatMessage> messages, ChatOptions? options, CancellationToken cancellation)
    {
        IAsyncEnumerator<ChatResponseUpdate> stream = base.GetStreamingResponseAsync(messages, options, cancellation).GetAsyncEnumerator(cancellation);
        try
        {
            return (stream, await stream.MoveNextAsync().ConfigureAwait(false));
        }
        catch
        {
            await stream.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }
}
