namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Threads that share the parts of one job after another, a few microseconds each: between jobs they look for the next one for a moment
/// before they sleep. The caller is one of them.
/// </summary>
internal sealed class CoreTeam : IDisposable
{
    private const int LooksBeforeSleep = 2000;
    private readonly Thread[] _threads;
    private readonly SemaphoreSlim _wake = new(0);
    private Action<int, int>? _job;
    private int _parts;
    private volatile int _round, _left, _asleep;
    private volatile bool _stopping;

    public CoreTeam(int size)
    {
        Size = size;
        _threads = [.. Enumerable.Range(1, size - 1).Select(i => new Thread(() => Work(i)) { IsBackground = true, Name = $"decode {i}" })];
        foreach (Thread thread in _threads)
        {
            thread.Start();
        }
    }

    public int Size { get; }

    /// <summary>Runs job(part, parts) for each part, and returns when all have ended.</summary>
    public void Run(Action<int, int> job)
    {
        if (Size == 1)
        {
            job(0, 1);
            return;
        }
        (_job, _parts, _left) = (job, Size, Size - 1);
        Interlocked.Increment(ref _round);
        int asleep = _asleep;
        if (asleep > 0)
        {
            _wake.Release(asleep);
        }
        job(0, Size);
        var spin = default(SpinWait);
        while (_left > 0)
        {
            spin.SpinOnce(sleep1Threshold: -1);
        }
    }

    public void Dispose()
    {
        _stopping = true;
        if (_threads.Length > 0)
        {
            _wake.Release(_threads.Length);
        }
        foreach (Thread thread in _threads)
        {
            thread.Join();
        }
        _wake.Dispose();
    }

    private void Work(int part)
    {
        int seen = 0;
        while (true)
        {
            for (int look = 0; _round == seen && !_stopping; look++)
            {
                if (look < LooksBeforeSleep)
                {
                    Thread.SpinWait(20);
                    continue;
                }
                Interlocked.Increment(ref _asleep);
                if (_round == seen && !_stopping)
                {
                    _wake.Wait();
                }
                Interlocked.Decrement(ref _asleep);
            }
            if (_stopping)
            {
                return;
            }
            seen = _round;
            _job!(part, _parts);
            Interlocked.Decrement(ref _left);
        }
    }
}
