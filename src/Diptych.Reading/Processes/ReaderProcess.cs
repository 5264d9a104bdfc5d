using System.Diagnostics;
using System.Globalization;
using System.Text;
using Diptych.Core;

namespace Diptych.Reading.Processes;

/// <summary>One process that reads, seen from the one that started it. It reads one file at a time, for one thread.</summary>
internal sealed class ReaderProcess : IDisposable
{
    /// <summary>Share of the memory that managed objects may take; the rest is for the runtime and for native libraries.</summary>
    private const double ManagedShare = 0.85;

    private const int MaxErrorBytes = 4096;
    private static readonly TimeSpan EndsWithin = TimeSpan.FromSeconds(10);

    private readonly Process _process;
    private readonly Thread _errors;
    private readonly StringBuilder _error = new();
    private readonly Lock _gate = new();
    private UnreadableException? _stopped;
    private bool _killed;
    private bool _ready;

    private ReaderProcess(Process process, ReaderLimits limits)
    {
        _process = process;
        Writer = new FrameWriter(process.StandardInput.BaseStream);
        Reader = new FrameReader(new BufferedStream(process.StandardOutput.BaseStream, 1 << 16));
        // A pipe that nobody empties would stop the process.
        _errors = new Thread(ReadErrors, 256 << 10) { IsBackground = true, Name = "reader errors" };
        _errors.Start();
        Limits = limits;
    }

    public FrameWriter Writer { get; }

    public FrameReader Reader { get; }

    public ReaderLimits Limits { get; }

    /// <summary>Files that it has read.</summary>
    public int Files { get; set; }

    /// <summary>Most resident memory that was seen, in bytes.</summary>
    public long PeakBytes { get; private set; }

    /// <summary>Since when nobody uses it.</summary>
    public long IdleSince { get; set; }

    public bool HasEnded
    {
        get
        {
            lock (_gate)
            {
                return _killed || _process.HasExited;
            }
        }
    }

    /// <exception cref="InvalidOperationException">The executable cannot be started.</exception>
    public static ReaderProcess Start(ReaderCommand command, ReaderLimits limits)
    {
        var start = new ProcessStartInfo(command.File, command.Arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = Path.GetTempPath(),
        };
        // Settings may hold keys of other services, which foreign files have no business near.
        foreach (string key in start.Environment.Keys.Where(k => k.StartsWith("DIPTYCH", StringComparison.OrdinalIgnoreCase)).ToArray())
        {
            start.Environment.Remove(key);
        }
        start.Environment["DOTNET_GCHeapHardLimit"] = ((long)(limits.MemoryBytes * ManagedShare)).ToString("X", CultureInfo.InvariantCulture);
        start.Environment["DOTNET_gcServer"] = "0";
        start.Environment["DOTNET_gcConcurrent"] = "0";
        start.Environment["DOTNET_TieredPGO"] = "0";
        // Neither a socket for debuggers nor a dump, which would hold the file, is left in the temporary folder.
        start.Environment["DOTNET_EnableDiagnostics"] = "0";
        start.Environment["DOTNET_DbgEnableMiniDump"] = "0";
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception error)
        {
            throw new InvalidOperationException($"The process that reads files cannot be started ({command.File}: {error.Message}).", error);
        }
        var started = new ReaderProcess(process, limits);
        try
        {
            started.Writer.Write(limits);
        }
        catch (IOException)
        {
            // It has ended already: whoever uses it is told why.
        }
        return started;
    }

    /// <summary>Waits until it can read.</summary>
    public void WaitUntilReady()
    {
        if (!_ready)
        {
            _ready = Reader.Next(0) == FrameKind.Ready ? true : throw new EndOfStreamException();
        }
    }

    /// <summary>Processor time that it has taken, and its resident memory in bytes.</summary>
    public (TimeSpan Cpu, long Bytes) Usage()
    {
        lock (_gate)
        {
            if (_killed || _process.HasExited)
            {
                return default;
            }
            try
            {
                _process.Refresh();
                long bytes = _process.WorkingSet64;
                PeakBytes = Math.Max(PeakBytes, bytes);
                return (_process.TotalProcessorTime, bytes);
            }
            catch (Exception error) when (error is InvalidOperationException or System.ComponentModel.Win32Exception)
            {
                // It ended between the question and the answer.
                return default;
            }
        }
    }

    /// <summary>Ends the process and what it may have started. Whoever waits for it is told the reason.</summary>
    public void Kill(UnreadableException? reason)
    {
        lock (_gate)
        {
            if (_killed)
            {
                return;
            }
            _killed = true;
            _stopped = reason;
            if (!_process.HasExited)
            {
                try
                {
                    _process.Kill(entireProcessTree: true);
                }
                catch (Exception error) when (error is InvalidOperationException or System.ComponentModel.Win32Exception or AggregateException)
                {
                    // It ended by itself, or is about to.
                }
            }
        }
    }

    /// <summary>Why it ended, once its output has.</summary>
    public UnreadableException WhyEnded()
    {
        lock (_gate)
        {
            if (_stopped is not null)
            {
                return _stopped;
            }
        }
        if (!_process.WaitForExit(EndsWithin))
        {
            Kill(null);
        }
        _errors.Join(EndsWithin);
        string error;
        lock (_error)
        {
            error = _error.ToString();
        }
        return error.Contains("Stack overflow", StringComparison.Ordinal) ? new UnreadableException("The file is nested too deeply to be read.", null, ReadFailure.Depth)
            : error.Contains("Out of memory", StringComparison.OrdinalIgnoreCase) ? OverMemory(Limits)
            : new UnreadableException($"The reader ended while it read the file (exit code {_process.ExitCode}).", null, ReadFailure.Crash);
    }

    public static UnreadableException OverMemory(ReaderLimits limits) =>
        new($"Reading took more than the {limits.MemoryBytes >> 20} MB of memory that it may.", null, ReadFailure.Memory);

    public void Dispose()
    {
        Kill(null);
        _process.WaitForExit(EndsWithin);
        _errors.Join(EndsWithin);
        _process.Dispose();
    }

    private void ReadErrors()
    {
        byte[] buffer = new byte[1024];
        try
        {
            using Stream stream = _process.StandardError.BaseStream;
            for (int read; (read = stream.Read(buffer)) > 0;)
            {
                lock (_error)
                {
                    if (_error.Length < MaxErrorBytes)
                    {
                        _error.Append(Encoding.UTF8.GetString(buffer, 0, read));
                    }
                }
            }
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException)
        {
            // The process is gone, and its output with it.
        }
    }
}
