using System.Runtime.InteropServices;

namespace Diptych.Index.Sqlite;

/// <summary>Names that outlive a power cut: a file's flush brings its bytes to the disk, and its folder's flush its name.</summary>
internal static partial class Durable
{
    /// <summary>Flushes the names in a folder. Windows does so by itself.</summary>
    public static void FlushFolder(string folder)
    {
        if (OperatingSystem.IsWindows())
        {
            return;
        }
        int descriptor = Open(folder, 0);
        if (descriptor < 0)
        {
            throw new IOException($"{folder} cannot be opened: {Marshal.GetLastPInvokeErrorMessage()}");
        }
        try
        {
            if (Flush(descriptor) != 0)
            {
                throw new IOException($"{folder} cannot be flushed to the disk: {Marshal.GetLastPInvokeErrorMessage()}");
            }
        }
        finally
        {
            _ = Close(descriptor);
        }
    }

    /// <summary>Gives a file a name for good.</summary>
    /// <exception cref="IOException">There is a file of that name, and it may not go.</exception>
    public static void Rename(string file, string name, bool replace)
    {
        File.Move(file, name, replace);
        FlushFolder(Path.GetDirectoryName(Path.GetFullPath(name))!);
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int Flush(int descriptor);

    [LibraryImport("libc", EntryPoint = "close")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int Close(int descriptor);
}
