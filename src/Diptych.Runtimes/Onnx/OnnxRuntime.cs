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

    public static SessionOptions Options(int intraOpThreads)
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
