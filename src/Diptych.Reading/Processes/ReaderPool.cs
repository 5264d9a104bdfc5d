using Diptych.Core;

namespace Diptych.Reading.Processes;

/// <summary>
/// Reads files and decodes pictures in processes of their own, which are watched: one that takes too much, never ends or breaks costs its
/// file and nothing else. They are started as they are needed, used again, and let go after a while without work.
/// </summary>
public sealed class ReaderPool : IDocumentReader, IImageDecoder, IDisposable
{
    /// <summary>Files after which a process is replaced: native libraries may leak.</summary>
    private const int MaxFiles = 1_000;

    /// <summary>A process that was larger than this is not used again, since a heap seldom shrinks.</summary>
    private const long MaxKeptBytes = 320 << 20;

    /// <summary>Processor time for a picture with its metadata, after which the picture alone is tried.</summary>
    private static readonly TimeSpan ImageCpuTime = TimeSpan.FromSeconds(10);

    /// <summary>A frame's own fields, beside what the limits count.</summary>
    private const int FrameBytes = 1 << 20;

    private readonly ReaderCommand _command;
    private readonly ReaderLimits _limits;
    private readonly TimeProvider _time;
    private readonly SemaphoreSlim _files;
    private readonly SemaphoreSlim _pictures;
    private readonly Lock _gate = new();
    private readonly Stack<ReaderProcess> _idle = new();
    private readonly ReaderWatch _watch;
    private bool _disposed;

    /// <param name="processes">Files that are read at a time; as many pictures that somebody waits for are decoded beside them.</param>
    public ReaderPool(ReaderCommand command, ReaderLimits limits, TimeProvider time, int processes)
    {
        (_command, _limits, _time) = (command, limits, time);
        _files = new SemaphoreSlim(processes, processes);
        _pictures = new SemaphoreSlim(processes, processes);
        _watch = new ReaderWatch(limits, time, LetGo);
    }

    /// <summary>Starts a process ahead of the first file.</summary>
    public void Warm() => ThreadPool.UnsafeQueueUserWorkItem(static pool => pool.StartAhead(), this, preferLocal: false);

    public IEnumerable<ReadPart> Read(SourceFile file, string mediaType, int fullSide, CancellationToken cancellation) =>
        Attachments.Read((f, type) => MediaTypes.IsImage(type) ? ReadImage(f, type, fullSide, cancellation) : ReadOne(f, type, fullSide, cancellation), file, mediaType, cancellation);

    public PreparedImage Prepare(byte[] file, bool thumbnail = true, int fullSide = 0, CancellationToken cancellation = default) =>
        Prepare(_pictures, file, thumbnail, fullSide, cancellation);

    private PreparedImage Prepare(SemaphoreSlim places, byte[] file, bool thumbnail, int fullSide, CancellationToken cancellation)
    {
        using Lease lease = Rent(places, cancellation);
        lease.Send(w => w.Begin(FrameKind.Decode).Bytes(file).Int(fullSide).Byte(thumbnail ? (byte)1 : (byte)0).Send());
        return lease.Receive(_limits.OutputBytes, (kind, reader) =>
        {
            PreparedImage image = kind == FrameKind.Decoded ? PartFrames.ReadImage(reader, file) : throw new FrameException($"An answer of kind {kind}.");
            lease.Complete();
            return image;
        });
    }

    public void Dispose()
    {
        lock (_gate)
        {
            _disposed = true;
        }
        _watch.Dispose();
        foreach (ReaderProcess process in TakeIdle(_ => true))
        {
            process.Dispose();
        }
    }

    private IEnumerable<ReadPart> ReadOne(SourceFile file, string mediaType, int fullSide, CancellationToken cancellation, TimeSpan? cpuTime = null)
    {
        using Lease lease = Rent(_files, cancellation, cpuTime);
        lease.Send(w => w.Begin(FrameKind.Read).Text(file.Name).Bytes(file.Bytes).Text(file.Directory).Text(file.Root).Text(mediaType).Int(fullSide).Send());
        var meter = new OutputMeter(_limits);
        while (true)
        {
            ReadPart part = lease.Receive(meter.BytesLeft, (kind, reader) => reader.Part(kind, file.Bytes) ?? throw new FrameException($"An answer of kind {kind}."));
            meter.Count(part);
            if (part is ReadPart.End)
            {
                lease.Complete();
                yield return part;
                yield break;
            }
            yield return part;
        }
    }

    /// <summary>Pixels may be sound where the metadata ends its reader.</summary>
    private IReadOnlyList<ReadPart> ReadImage(SourceFile file, string mediaType, int fullSide, CancellationToken cancellation)
    {
        try
        {
            return [.. ReadOne(file, mediaType, fullSide, cancellation, ImageCpuTime)];
        }
        catch (UnreadableException error) when (error.Failure != ReadFailure.Content)
        {
            PreparedImage image = Prepare(_files, file.Bytes, thumbnail: true, fullSide, cancellation);
            return
            [
                new ReadPart.Content(new Block(BlockKind.Picture, "", Image: file.Bytes) { Prepared = image }),
                new ReadPart.Warning($"Title, caption and date of the picture could not be read. {error.Message}"),
                new ReadPart.End(null, Metadata.Empty, 1),
            ];
        }
    }

    private Lease Rent(SemaphoreSlim places, CancellationToken cancellation, TimeSpan? cpuTime = null)
    {
        places.Wait(cancellation);
        try
        {
            ReaderProcess? process = null;
            lock (_gate)
            {
                ObjectDisposedException.ThrowIf(_disposed, this);
                _idle.TryPop(out process);
            }
            if (process is { HasEnded: true })
            {
                process.Dispose();
                process = null;
            }
            return new Lease(this, places, process ?? ReaderProcess.Start(_command, _limits), cancellation, cpuTime);
        }
        catch
        {
            places.Release();
            throw;
        }
    }

    private void Return(ReaderProcess process, bool sound)
    {
        process.Files++;
        process.IdleSince = _time.GetTimestamp();
        lock (_gate)
        {
            if (sound && !_disposed && process.Files < MaxFiles && process.PeakBytes <= MaxKeptBytes)
            {
                _idle.Push(process);
                return;
            }
        }
        process.Dispose();
        // The next file need not wait for what this one broke.
        Warm();
    }

    private void StartAhead()
    {
        lock (_gate)
        {
            if (_disposed || _idle.Count > 0)
            {
                return;
            }
        }
        try
        {
            ReaderProcess process = ReaderProcess.Start(_command, _limits);
            process.IdleSince = _time.GetTimestamp();
            lock (_gate)
            {
                if (!_disposed)
                {
                    _idle.Push(process);
                    return;
                }
            }
            process.Dispose();
        }
        catch (InvalidOperationException)
        {
            // Whoever needs a process next is told.
        }
    }

    /// <summary>Ends processes without work, but for the one that a next file would wait for.</summary>
    private void LetGo(TimeSpan idle)
    {
        bool kept = false;
        foreach (ReaderProcess process in TakeIdle(p => _time.GetElapsedTime(p.IdleSince) > idle && (kept || !(kept = true))))
        {
            process.Dispose();
        }
    }

    private List<ReaderProcess> TakeIdle(Func<ReaderProcess, bool> match)
    {
        lock (_gate)
        {
            var taken = _idle.Where(match).ToList();
            var left = _idle.Where(p => !taken.Contains(p)).Reverse().ToList();
            _idle.Clear();
            left.ForEach(_idle.Push);
            return taken;
        }
    }

    /// <summary>A process for the time of one file. What is not completed ends with its process.</summary>
    private sealed class Lease : IDisposable
    {
        private readonly ReaderPool _pool;
        private readonly SemaphoreSlim _place;
        private readonly ReaderProcess _process;
        private readonly ReaderWatch.Watched _watched;
        private readonly CancellationToken _cancellation;
        private readonly CancellationTokenRegistration _registration;
        private bool _completed;

        public Lease(ReaderPool pool, SemaphoreSlim place, ReaderProcess process, CancellationToken cancellation, TimeSpan? cpuTime)
        {
            (_pool, _place, _process, _cancellation) = (pool, place, process, cancellation);
            _watched = pool._watch.Begin(process, cpuTime is { } own && own < pool._limits.CpuTime ? own : pool._limits.CpuTime);
            _registration = cancellation.UnsafeRegister(static p => ((ReaderProcess)p!).Kill(null), process);
        }

        public void Complete() => _completed = true;

        public void Send(Action<FrameWriter> write) => Wait(() =>
        {
            write(_process.Writer);
            return true;
        });

        public T Receive<T>(long maxBytes, Func<FrameKind, FrameReader, T> read) => Wait(() =>
        {
            _process.WaitUntilReady();
            FrameKind kind = _process.Reader.Next(maxBytes + FrameBytes) ?? throw new EndOfStreamException();
            if (kind != FrameKind.Failed)
            {
                return read(kind, _process.Reader);
            }
            var failure = (ReadFailure)_process.Reader.Byte();
            string message = _process.Reader.Text() ?? "";
            _completed = failure != ReadFailure.Memory;
            throw failure == ReadFailure.Memory ? ReaderProcess.OverMemory(_process.Limits) : new UnreadableException(message, null, failure);
        });

        public void Dispose()
        {
            _registration.Dispose();
            _pool._watch.End(_watched);
            _pool.Return(_process, _completed);
            _place.Release();
        }

        /// <summary>Does what may wait for the process, while its time runs.</summary>
        private T Wait<T>(Func<T> work)
        {
            try
            {
                _watched.Wait();
                return work();
            }
            catch (Exception error) when (error is IOException or FrameException or ObjectDisposedException)
            {
                _cancellation.ThrowIfCancellationRequested();
                if (error is FrameException { IsTooLong: true })
                {
                    throw OutputMeter.TooManyBytes(_process.Limits);
                }
                throw error is FrameException
                    ? new UnreadableException($"The reader gave an answer that cannot be: {error.Message}", error, ReadFailure.Crash)
                    : _process.WhyEnded();
            }
            finally
            {
                _watched.Go();
            }
        }
    }
}
