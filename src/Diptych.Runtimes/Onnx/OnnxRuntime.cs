using System.Globalization;
using Diptych.Core;
using Diptych.Inference;
using Microsoft.ML.OnnxRuntime;

namespace Diptych.Runtimes.Onnx;

/// <summary>
/// The process-wide ONNX Runtime environment: one thread pool for all sessions, which does not spin.
/// With one thread a pass runs on the scheduler's own worker, and cores are filled by passes side by side:
/// for small towers that is faster than splitting each pass, and nothing idles at operator barriers.
/// </summary>
internal static class OnnxRuntime
{
    private static readonly Lock Gate = new();
    private static bool _started;

    /// <summary>Opens an ONNX file on a device: "cpu", or "cuda:N" where the runtime's package has that provider.</summary>
    /// <exception cref="InvalidRequestException">The device is none that this build of the runtime knows.</exception>
    /// <exception cref="InvalidDataException">The file is no model that the runtime can run.</exception>
    public static InferenceSession Open(string path, Device device)
    {
        using SessionOptions options = Options(intraOpThreads: 1);
        if (device.Name.StartsWith("cuda", StringComparison.Ordinal))
        {
            try
            {
                options.AppendExecutionProvider_CUDA(device.Name.Split(':') is [_, var id] ? int.Parse(id, CultureInfo.InvariantCulture) : 0);
            }
            catch (Exception error) when (error is OnnxRuntimeException or EntryPointNotFoundException)
            {
                throw new InvalidRequestException($"Device '{device.Name}': this build has no CUDA provider. Build with -p:DiptychCuda=true where the registry has Microsoft.ML.OnnxRuntime.Gpu.", error);
            }
        }
        else if (device.Name != "cpu")
        {
            throw new InvalidRequestException($"Device '{device.Name}' is none: use cpu or cuda:N.");
        }
        try
        {
            return new InferenceSession(path, options);
        }
        catch (OnnxRuntimeException error)
        {
            throw Translate(error) as Exception ?? new InvalidDataException($"{path} is no model that ONNX Runtime can run: {error.Message}", error);
        }
    }

    /// <exception cref="DeviceMemoryException">The device had no memory for it.</exception>
    public static IDisposableReadOnlyCollection<OrtValue> Run(InferenceSession session, IReadOnlyCollection<string> names, IReadOnlyCollection<OrtValue> inputs, IReadOnlyCollection<string> outputs)
    {
        using var run = new RunOptions();
        try
        {
            return session.Run(run, names, inputs, outputs);
        }
        catch (OnnxRuntimeException error)
        {
            if (Translate(error) is { } memory)
            {
                throw memory;
            }
            throw;
        }
    }

    private static DeviceMemoryException? Translate(OnnxRuntimeException error) =>
        error.Message.Contains("allocate memory", StringComparison.OrdinalIgnoreCase) || error.Message.Contains("bad_alloc", StringComparison.Ordinal)
            || error.Message.Contains("bad allocation", StringComparison.Ordinal) || error.Message.Contains("out of memory", StringComparison.OrdinalIgnoreCase)
                ? new DeviceMemoryException(error.Message, error)
                : null;

    private static SessionOptions Options(int intraOpThreads)
    {
        lock (Gate)
        {
            if (!_started)
            {
                using var threads = new OrtThreadingOptions
                {
                    GlobalIntraOpNumThreads = intraOpThreads,
                    GlobalInterOpNumThreads = 1,
                    GlobalSpinControl = false,
                };
                var options = new EnvironmentCreationOptions
                {
                    logId = "diptych",
                    logLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR,
                    threadOptions = threads,
                };
                OrtEnv.CreateInstanceWithOptions(ref options);
                _started = true;
            }
        }
        var session = new SessionOptions { GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL };
        session.DisablePerSessionThreads();
        session.AddSessionConfigEntry("session.intra_op.allow_spinning", "0");
        return session;
    }
}
