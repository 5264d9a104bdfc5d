namespace Diptych.Index.Sqlite;

/// <summary>
/// The lock on a database and what lies beside it: whoever has the database open shares it, and a restore holds it alone. It is the
/// system's lock on a file, so that it ends with the process that holds it, however that ends.
/// </summary>
internal sealed class StoreLock : IDisposable
{
    private const int WouldBlock = 11, WouldBlockOnMac = 35, SharingViolation = unchecked((int)0x80070020);

    private readonly FileStream _file;

    private StoreLock(FileStream file) => _file = file;

    public static string FileOf(string database) => database + ".lock";

    /// <returns>Null while another process holds it alone.</returns>
    public static StoreLock? TryShare(string database) => Try(database, FileAccess.Read, FileShare.ReadWrite);

    /// <returns>Null while any other process or store holds it.</returns>
    public static StoreLock? TryAlone(string database) => Try(database, FileAccess.ReadWrite, FileShare.None);

    public void Dispose() => _file.Dispose();

    private static StoreLock? Try(string database, FileAccess access, FileShare share)
    {
        try
        {
            return new StoreLock(new FileStream(FileOf(database), FileMode.OpenOrCreate, access, share, 0));
        }
        catch (IOException error) when (error.HResult is WouldBlock or WouldBlockOnMac or SharingViolation)
        {
            return null;
        }
    }
}
