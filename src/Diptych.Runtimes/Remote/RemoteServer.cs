using System.ClientModel;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Polly;
using Polly.CircuitBreaker;

namespace Diptych.Runtimes.Remote;

/// <summary>
/// Another server (vLLM, llama.cpp, Ollama) as the lanes drive it: as many requests at a time as its latency allows, one more try with
/// jitter where that is safe, and a circuit that opens when it keeps failing. While it is open the server is asked whether it is well
/// again, so that no request has to find out.
/// </summary>
public sealed partial class RemoteServer : IDisposable
{
    private static readonly TimeSpan RetryDelay = TimeSpan.FromMilliseconds(200), ProbeEvery = TimeSpan.FromSeconds(1), Pause = TimeSpan.FromSeconds(5);
    private readonly TimeProvider _time;
    private readonly Func<CancellationToken, Task<bool>>? _isWell;
    private readonly ConcurrencyLimit _limit = new();
    private readonly ResiliencePipeline _circuit;
    private readonly CircuitBreakerManualControl _control = new();
    private readonly CircuitBreakerStateProvider _state = new();
    private readonly CancellationTokenSource _closing = new();
    private readonly Random _jitter;
    private readonly ILogger _log;
    private readonly Lock _lock = new();
    private readonly Queue<TaskCompletionSource> _waiting = new();
    private int _inFlight;
    private long _requests, _failures, _hedged;

    /// <param name="name">For messages.</param>
    /// <param name="isWell">Asks the server, at no cost, whether it would answer; null leaves that to a request.</param>
    public RemoteServer(
        string name, TimeProvider time, Func<CancellationToken, Task<bool>>? isWell = null, int seed = 1, ILogger<RemoteServer>? log = null)
    {
        (Name, _time, _isWell, _jitter, _log) = (name, time, isWell, new Random(seed), log ?? NullLogger<RemoteServer>.Instance);
        _circuit = new ResiliencePipelineBuilder { TimeProvider = time }.AddCircuitBreaker(new CircuitBreakerStrategyOptions
        {
            FailureRatio = 0.5,
            MinimumThroughput = 4,
            SamplingDuration = TimeSpan.FromSeconds(30),
            BreakDuration = Pause,
            ShouldHandle = new PredicateBuilder().Handle<Exception>(IsFailure),
            ManualControl = _control,
            StateProvider = _state,
            OnClosed = _ =>
            {
                Log.Closed(_log, Name);
                return ValueTask.CompletedTask;
            },
            OnOpened = opened =>
            {
                Log.Opened(_log, Name, opened.Outcome.Exception?.GetType().Name);
                if (_isWell is not null)
                {
                    // Beside the requests: nobody waits for it.
                    _ = ProbeAsync();
                }
                return ValueTask.CompletedTask;
            },
        }).Build();
    }

    public string Name { get; }

    /// <summary>Requests at a time that the server is given now.</summary>
    public int Limit => _limit.Limit;

    public RemoteSnapshot Snapshot()
    {
        lock (_lock)
        {
            return new RemoteSnapshot(Name, _state.CircuitState is not (CircuitState.Open or CircuitState.Isolated), _limit.Limit, _inFlight, _requests, _failures, Interlocked.Read(ref _hedged));
        }
    }

    /// <summary>Waits for a turn, which <see cref="Leave"/> ends.</summary>
    /// <exception cref="OverloadedException">It does not come in time.</exception>
    public async Task EnterAsync(TimeSpan patience, CancellationToken cancellation)
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
            await turn.Task.WaitAsync(patience, _time, cancellation).ConfigureAwait(false);
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
                throw new OverloadedException($"{Name} is busy with {_inFlight} requests.", patience);
            }
            throw;
        }
    }

    /// <summary>A turn at once, or none.</summary>
    public bool TryEnter()
    {
        lock (_lock)
        {
            if (_inFlight >= _limit.Limit)
            {
                return false;
            }
            _inFlight++;
            return true;
        }
    }

    public void Leave()
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

    /// <summary>Makes a request that may be made twice.</summary>
    /// <exception cref="OverloadedException">The circuit is open.</exception>
    public async Task<T> AskAsync<T>(Func<CancellationToken, Task<T>> request, CancellationToken cancellation)
    {
        for (int attempt = 0; ; attempt++)
        {
            long start = _time.GetTimestamp();
            Interlocked.Increment(ref _requests);
            try
            {
                T answer = await _circuit.ExecuteAsync(async _ => await request(cancellation).ConfigureAwait(false), cancellation).ConfigureAwait(false);
                _limit.Succeeded(_time.GetElapsedTime(start).TotalSeconds, _inFlight);
                return answer;
            }
            catch (BrokenCircuitException error)
            {
                throw new OverloadedException($"{Name} failed repeatedly and is given a pause.", error.RetryAfter ?? Pause);
            }
            catch (ClientResultException refusal) when (!IsFailure(refusal))
            {
                throw Told(refusal);
            }
            catch (Exception error) when (IsFailure(error))
            {
                _limit.Failed();
                Interlocked.Increment(ref _failures);
                if (attempt > 0)
                {
                    throw new RemoteFailureException($"{Name} failed: {error.GetBaseException().Message.Split('\n')[0]}", error);
                }
                Log.AskedAgain(_log, Name, error.GetType().Name);
                double share;
                lock (_lock)
                {
                    share = 0.5 + _jitter.NextDouble();
                }
                await Task.Delay(RetryDelay * share, _time, cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>What it finds wrong with a request is the client's to mend; that it does not know us, or the model, is the operator's.</summary>
    private Exception Told(ClientResultException refusal)
    {
        string said = $"{Name} refused the request: {refusal.Message.Split('\n')[0]}";
        return refusal.Status is 400 or 413 or 422 ? new InvalidRequestException(said, refusal) : new RemoteFailureException(said, refusal);
    }

    internal void CountHedge() => Interlocked.Increment(ref _hedged);

    public void Dispose()
    {
        _closing.Cancel();
        _closing.Dispose();
    }

    /// <summary>What says something of the server's state: not a cancelled request, nor one that it finds wrong.</summary>
    private static bool IsFailure(Exception error) => error switch
    {
        OperationCanceledException { InnerException: not TimeoutException } => false,
        ClientResultException { Status: >= 400 and < 500 and not 408 and not 429 } => false,
        ClientResultException or HttpRequestException or IOException or TimeoutException or AggregateException or OperationCanceledException => true,
        _ => false,
    };

    /// <summary>Asks until the server is well, and closes the circuit then.</summary>
    private async Task ProbeAsync()
    {
        CancellationToken closing = _closing.Token;
        try
        {
            while (_state.CircuitState != CircuitState.Closed)
            {
                await Task.Delay(ProbeEvery, _time, closing).ConfigureAwait(false);
                if (await _isWell!(closing).ConfigureAwait(false))
                {
                    await _control.CloseAsync(closing).ConfigureAwait(false);
                }
            }
        }
        catch (OperationCanceledException) when (closing.IsCancellationRequested)
        {
        }
        catch (Exception error)
        {
            // The circuit lets a request try by itself after its pause.
            Log.ProbingFailed(_log, error, Name);
        }
    }

    private static partial class Log
    {
        // What another server says of a request may quote it, and is the request's answer: the log has the kind of error only.
        [LoggerMessage(1, LogLevel.Warning, "{Server} failed ({Error}) and is asked once more")]
        public static partial void AskedAgain(ILogger log, string server, string error);

        [LoggerMessage(2, LogLevel.Warning, "{Server} keeps failing ({Error}) and is given a pause")]
        public static partial void Opened(ILogger log, string server, string? error);

        [LoggerMessage(3, LogLevel.Information, "{Server} is well again")]
        public static partial void Closed(ILogger log, string server);

        [LoggerMessage(4, LogLevel.Error, "Asking whether {Server} is well failed")]
        public static partial void ProbingFailed(ILogger log, Exception error, string server);
    }
}
