using System.Runtime.ExceptionServices;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Threads that share the parts of one job after another, a few microseconds each. Whoever is free takes the next part, so that nobody waits
/// for a thread that has not begun; between jobs threads look for the next one for a moment before they sleep. The caller is one of them.
/// </summary>
internal sealed class CoreTeam : IDisposable
{
    /// <summary>More parts than threads: what a thread holds that loses its core is small, and the others take the rest.</summary>
    private const int PartsPerThread = 4;

    private const int LooksBeforeSleep = 2000;

    /// <summary>A thread that has lost its core holds its part for milliseconds: whoever sleeps leaves it one to go on with.</summary>
    private const int LooksForTheLast = 60;

    private readonly Thread[] _threads;
    private readonly int _parts;
    private readonly object _sleep = new(), _end = new();
    private Action<int, int>? _job;
    private Exception? _fault;
    private volatile int _next, _left, _asleep;
    private volatile bool _callerSleeps, _stopping;

    public CoreTeam(int size)
    {
        Size = size;
        _next = _parts = size * PartsPerThread;
        _threads = [.. Enumerable.Range(1, size - 1).Select(i => new Thread(Work) { IsBackground = true, Name = $"decode {i}" })];
        foreach (Thread thread in _threads)
        {
            thread.Start();
        }
    }

    public int Size { get; }

    /// <summary>Runs job(part, parts) for each part, and returns when all have ended; what a part throws is thrown then.</summary>
    public void Run(Action<int, int> job)
    {
        if (Size == 1)
        {
            job(0, 1);
            return;
        }
        (_job, _fault, _left) = (job, null, _parts);
        Interlocked.Exchange(ref _next, 0);
        if (_asleep > 0)
        {
            lock (_sleep)
            {
                Monitor.PulseAll(_sleep);
            }
        }
        Take();
        for (int look = 0; _left > 0 && look < LooksForTheLast; look++)
        {
            Thread.SpinWait(20);
        }
        if (_left > 0)
        {
            SleepUntilAllHaveEnded();
        }
        if (_fault is { } fault)
        {
            ExceptionDispatchInfo.Throw(fault);
        }
    }

    public void Dispose()
    {
        lock (_sleep)
        {
            _stopping = true;
            Monitor.PulseAll(_sleep);
        }
        foreach (Thread thread in _threads)
        {
            thread.Join();
        }
    }

    private void SleepUntilAllHaveEnded()
    {
        lock (_end)
        {
            _callerSleeps = true;
            Interlocked.MemoryBarrier();
            while (_left > 0)
            {
                Monitor.Wait(_end);
            }
            _callerSleeps = false;
        }
    }

    private void Work()
    {
        while (!_stopping)
        {
            for (int look = 0; _next >= _parts && look < LooksBeforeSleep && !_stopping; look++)
            {
                Thread.SpinWait(20);
            }
            if (_next >= _parts)
            {
                Sleep();
            }
            Take();
        }
    }

    private void Sleep()
    {
        lock (_sleep)
        {
            Interlocked.Increment(ref _asleep);
            while (_next >= _parts && !_stopping)
            {
                Monitor.Wait(_sleep);
            }
            Interlocked.Decrement(ref _asleep);
        }
    }

    /// <summary>Takes parts while there are any. Their number is the same for all jobs, so that one taken late is one of the job that runs.</summary>
    private void Take()
    {
        while (_next < _parts && Interlocked.Increment(ref _next) - 1 is var part && part < _parts)
        {
            try
            {
                _job!(part, _parts);
            }
            catch (Exception error)
            {
                Interlocked.CompareExchange(ref _fault, error, null);
            }
            if (Interlocked.Decrement(ref _left) == 0 && _callerSleeps)
            {
                lock (_end)
                {
                    Monitor.Pulse(_end);
                }
            }
        }
    }
}
