using System.Runtime.InteropServices;

namespace Diptych.Index.Hnsw;

/// <summary>
/// Rows of one size in native memory, 64-byte aligned, in chunks that never move: a reader may hold a row's address while the one
/// writer grows the slab. The garbage collector neither scans nor copies it; the finalizer frees it when no reader is left.
/// </summary>
internal sealed unsafe class Slab(int stride)
{
    public const int ChunkRows = 1 << ChunkBits;
    private const int ChunkBits = 14;
    private const int MaxChunks = 1 << (31 - ChunkBits);
    private const nuint HugePage = 2 << 20;

    /// <summary>Room for every chunk there may be; untouched pages of it cost nothing.</summary>
    private readonly byte** _chunks = (byte**)NativeMemory.AllocZeroed(MaxChunks, (nuint)sizeof(byte*));

    /// <summary>Keeps mapped chunks alive; those are not freed one by one.</summary>
    private object? _mapping;
    private int _mapped, _count;

    ~Slab()
    {
        for (int i = _mapped; i < _count; i++)
        {
            NativeMemory.AlignedFree(_chunks[i]);
        }
        NativeMemory.Free(_chunks);
    }

    public int Stride => stride;

    public int Capacity => _count << ChunkBits;

    /// <summary>Bytes of this process's own memory; mapped chunks that nobody wrote to are the file's.</summary>
    public long Bytes => (long)(_count - _mapped) * ChunkRows * stride;

    public byte* this[int row] => _chunks[row >> ChunkBits] + ((nint)(row & (ChunkRows - 1)) * stride);

    /// <summary>Makes room for so many rows; new ones are zero.</summary>
    public void Grow(int rows)
    {
        for (; Capacity < rows; _count++)
        {
            nuint bytes = (nuint)ChunkRows * (nuint)stride;
            byte* chunk = (byte*)NativeMemory.AlignedAlloc(bytes, bytes >= HugePage ? HugePage : 64);
            if (OperatingSystem.IsLinux() && bytes >= HugePage)
            {
                // Random reads over a large table miss the TLB on every row unless its pages are large. Advice: it may be refused.
                _ = MAdvise(chunk, bytes, HugePageAdvice);
            }
            NativeMemory.Clear(chunk, bytes);
            _chunks[_count] = chunk;
        }
    }

    /// <summary>Takes chunks of a mapped file as its first; call on an empty slab.</summary>
    public void Adopt(object mapping, byte* start, int chunks)
    {
        _mapping = mapping;
        for (int i = 0; i < chunks; i++)
        {
            _chunks[i] = start + ((nint)i * ChunkRows * stride);
        }
        (_mapped, _count) = (chunks, chunks);
    }

    /// <summary>One chunk's bytes, to be written to a file.</summary>
    public ReadOnlySpan<byte> Chunk(int index) => new(_chunks[index], ChunkRows * stride);

    private const int HugePageAdvice = 14;

    [DllImport("libc", EntryPoint = "madvise")]
    private static extern int MAdvise(byte* address, nuint length, int advice);
}
