using System.Runtime.InteropServices;

namespace Diptych.Inference.Memory;

/// <summary>The heap of native libraries, which keeps what was freed in case it is needed again.</summary>
internal static partial class NativeHeap
{
    private static bool _absent = !OperatingSystem.IsLinux();

    /// <summary>Returns freed pages to the system, so that a model which left has left (glibc; elsewhere the library's own way is taken).</summary>
    public static void GiveBack()
    {
        if (!_absent)
        {
            try
            {
                _ = Trim(0);
            }
            catch (EntryPointNotFoundException)
            {
                _absent = true;
            }
        }
    }

    [LibraryImport("libc", EntryPoint = "malloc_trim")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int Trim(nuint keep);
}
