using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Diptych.Core;
using Diptych.Reading.Images;

namespace Diptych.Reading.Processes;

/// <summary>
/// The process that reads: takes files from standard input, one at a time, and writes what is in them to standard output, until standard
/// input ends. It holds no model and no store, and may be killed at any moment.
/// </summary>
public static class ReaderProgram
{
    /// <summary>Deep enough for what people nest; the runtime takes seconds to end a process whose stack is much deeper.</summary>
    private const int StackBytes = 16 << 20;

    public static int Run() => Run(limits => new InProcessReader(limits).ReadOne);

    /// <param name="open">Gives what reads a file without its attachments: (file, media type, full side, cancellation).</param>
    internal static int Run(Func<ReaderLimits, Func<SourceFile, string, int, CancellationToken, IEnumerable<ReadPart>>> open)
    {
        CultureInfo.DefaultThreadCurrentCulture = CultureInfo.DefaultThreadCurrentUICulture = CultureInfo.InvariantCulture;
        Pipes.Widen();
        using Stream input = new BufferedStream(Console.OpenStandardInput(), 1 << 16), output = new BufferedStream(Console.OpenStandardOutput(), 1 << 16);
        // The streams are the protocol's: no library may write in between.
        Console.SetOut(TextWriter.Null);
        Console.SetError(TextWriter.Null);
        // Ctrl+C and a service's stop go to all processes of a group; this one ends with the one that started it.
        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, s => s.Cancel = true);
        using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, s => s.Cancel = true);
        using Process self = Process.GetCurrentProcess();
        // As the threads that prepare in the server: somebody may wait for a picture, so it is no less than those.
        ThreadNiceness.GiveWay();
        if (!OperatingSystem.IsLinux())
        {
            self.PriorityClass = ProcessPriorityClass.BelowNormal;
        }

        var reader = new FrameReader(input);
        if (reader.Next(int.MaxValue) != FrameKind.Limits)
        {
            return 2;
        }
        ReaderLimits limits = reader.ReadLimits();
        var work = new Work(output, open(limits), new SkiaImageDecoder(limits.Pixels));
        var thread = new Thread(work.Run, StackBytes) { IsBackground = true, Name = "reader" };
        thread.Start();
        while (reader.Next(int.MaxValue) is { } kind)
        {
            work.Give(Request.Read(reader, kind));
        }
        // Whoever asked is gone, and a parser may be in an endless loop.
        self.Kill();
        return 0;
    }

    private sealed record Request(FrameKind Kind, SourceFile File, string MediaType, int FullSide, bool Thumbnail)
    {
        public static Request Read(FrameReader reader, FrameKind kind) => kind switch
        {
            FrameKind.Read => new Request(kind, new SourceFile(reader.Text() ?? "", reader.Bytes() ?? [], reader.Text(), reader.Text()), reader.Text() ?? "", reader.Int(), true),
            FrameKind.Decode => new Request(kind, new SourceFile("", reader.Bytes() ?? []), "", reader.Int(), reader.Byte() != 0),
            _ => throw new FrameException($"A request of kind {kind}."),
        };
    }

    private sealed class Work(Stream output, Func<SourceFile, string, int, CancellationToken, IEnumerable<ReadPart>> read, SkiaImageDecoder images)
    {
        private readonly FrameWriter _writer = new(output);
        private readonly SemaphoreSlim _given = new(0);
        private Request? _next;

        /// <summary>The other side asks again only after an answer has ended.</summary>
        public void Give(Request request)
        {
            Volatile.Write(ref _next, request);
            _given.Release();
        }

        public void Run()
        {
            _writer.Begin(FrameKind.Ready).Send();
            while (true)
            {
                _given.Wait();
                AnswerOrFail(Interlocked.Exchange(ref _next, null)!);
            }
        }

        private void AnswerOrFail(Request request)
        {
            try
            {
                Answer(request);
            }
            catch (OutOfMemoryException)
            {
                Fail(ReadFailure.Memory, "");
            }
            catch (UnreadableException error)
            {
                Fail(error.Failure, error.Message);
            }
            catch (Exception error)
            {
                Fail(ReadFailure.Content, $"The file is damaged ({error.GetType().Name}: {error.Message.Split('\n')[0]})");
            }
        }

        private void Answer(Request request)
        {
            if (request.Kind == FrameKind.Decode)
            {
                PreparedImage image = images.Prepare(request.File.Bytes, request.Thumbnail, request.FullSide);
                PartFrames.WriteImage(_writer.Begin(FrameKind.Decoded), image, request.File.Bytes);
                _writer.Send();
                return;
            }
            foreach (ReadPart part in read(request.File, request.MediaType, request.FullSide, CancellationToken.None))
            {
                _writer.Write(part, request.File.Bytes);
            }
        }

        private void Fail(ReadFailure failure, string message) => _writer.Begin(FrameKind.Failed).Byte((byte)failure).Text(message).Send();
    }
}
