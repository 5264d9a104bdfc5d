using System.Globalization;
using Diptych.Core;

namespace Diptych.Reading.Processes;

/// <summary>
/// Looks at the processes that read, at short intervals, and ends those that take more than they may. It has a thread of its own, since
/// it must run when nothing else gets its turn.
/// </summary>
internal sealed class ReaderWatch : IDisposable
{
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(50);
    private static readonly TimeSpan IdleInterval = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan KeptIdle = TimeSpan.FromSeconds(60);

    private readonly ReaderLimits _limits;
    private readonly TimeProvider _time;
    private readonly Action<TimeSpan> _letGo;
    private readonly object _gate = new();
    private readonly HashSet<Watched> _watched = [];
    private Thread? _thread;
    private bool _ended;

    /// <param name="letGo">Called now and then with how long a process may be without work.</param>
    public ReaderWatch(ReaderLimits limits, TimeProvider time, Action<TimeSpan> letGo) => (_limits, _time, _letGo) = (limits, time, letGo);

    public Watched Begin(ReaderProcess process, TimeSpan cpuTime)
    {
        var watched = new Watched(process, cpuTime, _time);
        lock (_gate)
        {
            _watched.Add(watched);
            if (_thread is null)
            {
                _thread = new Thread(Run, 256 << 10) { IsBackground = true, Name = "reader watch" };
                _thread.Start();
            }
            else if (_watched.Count == 1)
            {
                Monitor.Pulse(_gate);
            }
        }
        return watched;
    }

    public void End(Watched watched)
    {
        lock (_gate)
        {
            _watched.Remove(watched);
        }
    }

    public void Dispose()
    {
        lock (_gate)
        {
            _ended = true;
            Monitor.Pulse(_gate);
        }
    }

    private void Run()
    {
        long lastLetGo = _time.GetTimestamp();
        while (true)
        {
            Watched[] watched;
            lock (_gate)
            {
                Monitor.Wait(_gate, _watched.Count > 0 ? Interval : IdleInterval);
                if (_ended)
                {
                    return;
                }
                watched = [.. _watched];
            }
            foreach (Watched one in watched)
            {
                Look(one);
            }
            if (_time.GetElapsedTime(lastLetGo) > IdleInterval)
            {
                _letGo(KeptIdle);
                lastLetGo = _time.GetTimestamp();
            }
        }
    }

    private void Look(Watched one)
    {
        var (cpu, bytes) = one.Process.Usage();
        one.CpuAtStart ??= cpu;
        string Seconds(TimeSpan limit) => limit.TotalSeconds.ToString("0.#", CultureInfo.InvariantCulture);
        if (bytes > _limits.MemoryBytes)
        {
            one.Process.Kill(ReaderProcess.OverMemory(_limits));
        }
        else if (cpu - one.CpuAtStart > one.CpuTime)
        {
            one.Process.Kill(new UnreadableException($"Reading took more than the {Seconds(one.CpuTime)} s of processor time that it may.", null, ReadFailure.CpuTime));
        }
        else if (one.Waited > _limits.Time)
        {
            one.Process.Kill(new UnreadableException($"Reading took longer than {Seconds(_limits.Time)} s.", null, ReadFailure.Time));
        }
    }

    /// <summary>A process with a file. Its time runs while somebody waits for it.</summary>
    public sealed class Watched(ReaderProcess process, TimeSpan cpuTime, TimeProvider time)
    {
        private readonly Lock _lock = new();
        private TimeSpan _waited;
        private long? _since;

        public ReaderProcess Process => process;

        /// <summary>Processor time that it may take.</summary>
        public TimeSpan CpuTime => cpuTime;

        /// <summary>Processor time that it had taken when it was first looked at.</summary>
        public TimeSpan? CpuAtStart { get; set; }

        public TimeSpan Waited
        {
            get
            {
                lock (_lock)
                {
                    return _waited + (_since is { } since ? time.GetElapsedTime(since) : TimeSpan.Zero);
                }
            }
        }

        public void Wait()
        {
            lock (_lock)
            {
                _since = time.GetTimestamp();
            }
        }

        public void Go()
        {
            lock (_lock)
            {
                _waited += _since is { } since ? time.GetElapsedTime(since) : TimeSpan.Zero;
                _since = null;
            }
        }
    }
}
