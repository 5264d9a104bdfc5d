using System.Runtime.InteropServices;

namespace Diptych.Reading.Processes;

/// <summary>The pipes of a process that reads.</summary>
internal static partial class Pipes
{
    private const int SetPipeSize = 1031;
    private const int Bytes = 1 << 20;

    /// <summary>Makes standard input and output hold a whole picture (Linux), so that neither side is woken for each 64 KiB of it.</summary>
    public static void Widen()
    {
        if (OperatingSystem.IsLinux())
        {
            // Where the system grants no more, what there is serves.
            _ = Control(0, SetPipeSize, Bytes);
            _ = Control(1, SetPipeSize, Bytes);
        }
    }

    [LibraryImport("libc", EntryPoint = "fcntl")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int Control(int file, int command, int argument);
}
