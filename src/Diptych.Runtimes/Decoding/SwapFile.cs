using Microsoft.Win32.SafeHandles;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Keys and values of answers that gave way, in a file of the system's temporary folder until their turn comes again. It is made when it is
/// first needed, and gone when the process is.
/// </summary>
internal sealed class SwapFile(KeyValueBlocks memory, long mostBytes, TimeProvider time) : IDisposable
{
    /// <summary>What writing and reading a byte is taken to cost before it was measured: a plain disk's 200 MB a second each.</summary>
    private const double FirstGuess = 1 / 1e8;

    private readonly Stack<int> _free = new();
    private readonly int _pageBytes = (int)memory.Layout.PageBytes;
    private SafeFileHandle? _file;
    private int _used;
    private double _writes = FirstGuess / 2, _reads = FirstGuess / 2;

    /// <summary>Seconds to write so many pages and to read them again, as measured here.</summary>
    public double Expect(int pages) => (double)pages * _pageBytes * (_writes + _reads);

    /// <returns>By group and block where each page is; null where the file is full or cannot be written.</returns>
    public int[][]? Save(SequenceBlocks blocks)
    {
        int pages = blocks.Held;
        if ((long)(_used - _free.Count + pages) * _pageBytes > mostBytes)
        {
            return null;
        }
        long start = time.GetTimestamp();
        int[][] saved = new int[blocks.Groups][];
        try
        {
            _file ??= File.OpenHandle(Path.Combine(Path.GetTempPath(), $"diptych-{Guid.NewGuid():N}.swap"), FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, FileOptions.DeleteOnClose);
            for (int group = 0; group < saved.Length; group++)
            {
                List<int> of = blocks.Of(group);
                saved[group] = new int[of.Count];
                Array.Fill(saved[group], SequenceBlocks.None);
                for (int i = 0; i < of.Count; i++)
                {
                    if (of[i] != SequenceBlocks.None)
                    {
                        saved[group][i] = _free.TryPop(out int place) ? place : _used++;
                        RandomAccess.Write(_file, memory.Bytes(of[i]), (long)saved[group][i] * _pageBytes);
                    }
                }
            }
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // No room on the disk, or no such folder: what was not saved is computed anew.
            Drop(saved);
            return null;
        }
        _writes = Learn(_writes, start, pages);
        return saved;
    }

    /// <summary>Brings back what the sequence has not found elsewhere since.</summary>
    /// <returns>False where there is no page for it, or the file cannot be read; the sequence holds nothing then.</returns>
    public bool Restore(int[][] saved, SequenceBlocks into, Func<bool> makeRoom)
    {
        long start = time.GetTimestamp();
        int pages = 0;
        for (int group = 0; group < saved.Length; group++)
        {
            List<int> of = into.Of(group);
            for (int i = 0; i < saved[group].Length; i++)
            {
                if (i == of.Count)
                {
                    of.Add(SequenceBlocks.None);
                }
                if (of[i] != SequenceBlocks.None || saved[group][i] == SequenceBlocks.None)
                {
                    continue;
                }
                while ((of[i] = memory.Take()) == SequenceBlocks.None)
                {
                    if (!makeRoom())
                    {
                        into.Release();
                        return false;
                    }
                }
                if (!Read(saved[group][i], memory.Bytes(of[i])))
                {
                    into.Release();
                    return false;
                }
                pages++;
            }
        }
        _reads = Learn(_reads, start, pages);
        return true;
    }

    /// <summary>Gives the places in the file back.</summary>
    public void Drop(int[][] saved)
    {
        foreach (int place in saved.Where(group => group is not null).SelectMany(group => group).Where(place => place != SequenceBlocks.None))
        {
            _free.Push(place);
        }
    }

    public void Dispose() => _file?.Dispose();

    private bool Read(int place, Span<byte> into)
    {
        try
        {
            return RandomAccess.Read(_file!, into, (long)place * _pageBytes) == into.Length;
        }
        catch (IOException)
        {
            return false;
        }
    }

    private double Learn(double known, long start, int pages) =>
        pages == 0 ? known : (0.7 * known) + (0.3 * time.GetElapsedTime(start).TotalSeconds / ((double)pages * _pageBytes));
}
