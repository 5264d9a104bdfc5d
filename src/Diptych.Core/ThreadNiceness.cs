using System.Runtime.InteropServices;

namespace Diptych.Core;

/// <summary>Heavy threads give way to those that take requests in and refuse them (Linux, where niceness is a thread's own).</summary>
public static partial class ThreadNiceness
{
    private const int Niceness = 5;

    /// <summary>Makes this thread, and those that it starts, give way.</summary>
    public static void GiveWay()
    {
        if (OperatingSystem.IsLinux())
        {
            _ = SetPriority(0, 0, Niceness);
        }
    }

    [LibraryImport("libc", EntryPoint = "setpriority")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int SetPriority(int which, int who, int priority);
}
