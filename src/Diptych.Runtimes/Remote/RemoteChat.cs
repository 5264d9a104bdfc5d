using System.ClientModel;
using System.Runtime.CompilerServices;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Microsoft.Extensions.AI;
using Polly;
using Polly.CircuitBreaker;

namespace Diptych.Runtimes.Remote;

/// <summary>
/// A language model behind another server (vLLM, llama.cpp, Ollama), as the generate lane drives it: as many requests at a time as its
/// latency allows, a wait bounded by the lane's target, one more try with jitter as long as nothing was shown, and a circuit that opens
/// when it keeps failing.
/// </summary>
public sealed class RemoteChat : DelegatingChatClient
{
    private static readonly TimeSpan RetryDelay = TimeSpan.FromMilliseconds(200);
    private readonly string _name;
    private readonly TimeProvider _time;
    private readonly TimeSpan _patience;
    private readonly ConcurrencyLimit _limit = new();
    private readonly ResiliencePipeline _circuit;
    private readonly Random _jitter;
    private readonly Lock _lock = new();
    private readonly Queue<TaskCompletionSource> _waiting = new();
    private int _inFlight;

    /// <param name="name">For messages.</param>
    /// <param name="patience">How long a request waits for its turn before it is refused: the lane's target.</param>
    public RemoteChat(IChatClient inner, string name, TimeProvider time, TimeSpan patience, int seed = 1)
        : base(inner)
    {
        (_name, _time, _patience, _jitter) = (name, time, patience, new Random(seed));
        _circuit = new ResiliencePipelineBuilder { TimeProvider = time }.AddCircuitBreaker(new CircuitBreakerStrategyOptions
        {
            FailureRatio = 0.5,
            MinimumThroughput = 4,
            SamplingDuration = TimeSpan.FromSeconds(30),
            BreakDuration = TimeSpan.FromSeconds(5),
            ShouldHandle = new PredicateBuilder().Handle<Exception>(IsFailure),
        }).Build();
    }

    /// <summary>Requests at a time that the server is given now.</summary>
    public int Limit => _limit.Limit;

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
        await EnterAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            var (stream, first) = await BeginAsync(asked, options, cancellationToken).ConfigureAwait(false);
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
            Leave();
        }
    }

    /// <summary>Gets as far as the first part of the answer; until then nobody has seen anything, and trying again is safe.</summary>
    private async Task<(IAsyncEnumerator<ChatResponseUpdate> Stream, bool First)> BeginAsync(IReadOnlyList<ChatMessage> messages, ChatOptions? options, CancellationToken cancellation)
    {
        for (int attempt = 0; ; attempt++)
        {
            long start = _time.GetTimestamp();
            IAsyncEnumerator<ChatResponseUpdate>? stream = null;
            try
            {
                bool first = await _circuit.ExecuteAsync(
                    async stop =>
                    {
                        stream = base.GetStreamingResponseAsync(messages, options, cancellation).GetAsyncEnumerator(cancellation);
                        return await stream.MoveNextAsync().ConfigureAwait(false);
                    },
                    cancellation).ConfigureAwait(false);
                _limit.Succeeded(_time.GetElapsedTime(start).TotalSeconds, _inFlight);
                return (stream!, first);
            }
            catch (BrokenCircuitException error)
            {
                throw new OverloadedException($"{_name} failed repeatedly and is given a pause.", error.RetryAfter ?? TimeSpan.FromSeconds(5));
            }
            catch (Exception error) when (IsFailure(error))
            {
                _limit.Failed();
                if (stream is not null)
                {
                    await stream.DisposeAsync().ConfigureAwait(false);
                }
                if (attempt > 0)
                {
                    throw;
                }
                double share;
                lock (_lock)
                {
                    share = 0.5 + _jitter.NextDouble();
                }
                await Task.Delay(RetryDelay * share, _time, cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>What says something of the server's state: not a cancelled request, nor one that it finds wrong.</summary>
    private static bool IsFailure(Exception error) => error switch
    {
        OperationCanceledException { InnerException: not TimeoutException } => false,
        ClientResultException { Status: >= 400 and < 500 and not 408 and not 429 } => false,
        ClientResultException or HttpRequestException or IOException or TimeoutException or AggregateException or OperationCanceledException => true,
        _ => false,
    };

    private async Task EnterAsync(CancellationToken cancellation)
    {
        TaskCompletionSource turn;
        lock (_lock)
        {
            if (_inFlight < _limit.Limit)
            {
                _inFlight++;
                return;
            }
            turn = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            _waiting.Enqueue(turn);
        }
        try
        {
            await turn.Task.WaitAsync(RequestTerms.Current.Left(_time) ?? _patience, _time, cancellation).ConfigureAwait(false);
        }
        catch (Exception error) when (error is TimeoutException or OperationCanceledException)
        {
            if (!turn.TrySetCanceled(CancellationToken.None))
            {
                // The turn came at the same moment: it goes to the next.
                Leave();
            }
            if (error is TimeoutException)
            {
                throw new OverloadedException($"{_name} is busy with {_inFlight} requests.", _patience);
            }
            throw;
        }
    }

    private void Leave()
    {
        lock (_lock)
        {
            _inFlight--;
            while (_inFlight < _limit.Limit && _waiting.TryDequeue(out TaskCompletionSource? next))
            {
                if (next.TrySetResult())
                {
                    _inFlight++;
                }
            }
        }
    }
}
