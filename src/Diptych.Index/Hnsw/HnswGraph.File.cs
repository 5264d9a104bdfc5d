using System.IO.Hashing;
using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;

namespace Diptych.Index.Hnsw;

/// <summary>The index as a file: whole slabs, mapped as they lie, so that opening reads nothing but checksums.</summary>
internal sealed unsafe partial class HnswGraph<TCodes>
{
    private const int Page = 4096;

    private Slab[] Slabs => [_codes, _links, _upper, _upperRow, _halves, _alive];

    public override void Save(string path, long sequence, ReadOnlySpan<byte> attachment)
    {
        string temporary = $"{path}.{Environment.ProcessId}.part";
        _adding.EnterWriteLock();
        try
        {
            var header = new Header
            {
                Magic = Header.Mark,
                Version = Header.CurrentVersion,
                Codes = (int)Options.Codes,
                Dimensions = Dimensions,
                Links = Options.Links,
                EfConstruction = Options.EfConstruction,
                Seed = Options.Seed,
                Scale = _scale,
                Slots = _slots,
                UpperRows = _upperRows,
                Live = _live,
                Entry = _entry,
                Sequence = sequence,
                AttachmentBytes = attachment.Length,
            };
            using (FileStream file = new(temporary, FileMode.Create, FileAccess.Write, FileShare.None, 1 << 20))
            {
                file.Position = Page;
                var whole = new XxHash3();
                foreach (Slab slab in Slabs)
                {
                    for (int chunk = 0; chunk < slab.Capacity / Slab.ChunkRows; chunk++)
                    {
                        Write(slab.Chunk(chunk));
                    }
                }
                Array.Resize(ref _vacant, (_slots + 63) / 64);
                Write(MemoryMarshal.AsBytes(_vacant.AsSpan()));
                Write(attachment);
                header.Length = file.Position;
                header.Checksum = whole.GetCurrentHashAsUInt64();
                header.HeaderChecksum = header.OwnChecksum();
                file.Position = 0;
                file.Write(MemoryMarshal.AsBytes(new ReadOnlySpan<Header>(in header)));
                file.Flush(flushToDisk: true);

                void Write(ReadOnlySpan<byte> bytes)
                {
                    whole.Append(bytes);
                    file.Write(bytes);
                }
            }
            File.Move(temporary, path, overwrite: true);
        }
        catch
        {
            File.Delete(temporary);
            throw;
        }
        finally
        {
            _adding.ExitWriteLock();
        }
    }

    /// <summary>Fills a new graph from a file whose header was read and holds.</summary>
    internal byte[] Load(string path, in Header header)
    {
        var mapping = new Mapping(path);
        byte* at = mapping.Start + Page;
        long left = mapping.Length - Page;
        int[] rows = [header.Slots, header.Slots, header.UpperRows == 0 ? 0 : header.UpperRows + 1, header.Slots, header.Slots, (header.Slots + 63) / 64];
        long expected = (((header.Slots + 63L) / 64) * 8) + header.AttachmentBytes;
        for (int i = 0; i < Slabs.Length; i++)
        {
            expected += (long)Chunks(rows[i]) * Slab.ChunkRows * Slabs[i].Stride;
        }
        if (expected != left || mapping.Length != header.Length)
        {
            throw new InvalidDataException($"{path} is truncated, or its header is wrong.");
        }
        if (Checksum(at, left) != header.Checksum)
        {
            throw new InvalidDataException($"{path} is damaged: its checksum does not hold.");
        }
        for (int i = 0; i < Slabs.Length; i++)
        {
            Slabs[i].Adopt(mapping, at, Chunks(rows[i]));
            at += (long)Chunks(rows[i]) * Slab.ChunkRows * Slabs[i].Stride;
        }
        _vacant = new ReadOnlySpan<ulong>(at, (header.Slots + 63) / 64).ToArray();
        at += _vacant.Length * sizeof(ulong);
        byte[] attachment = new ReadOnlySpan<byte>(at, header.AttachmentBytes).ToArray();
        (_scale, _upperRows, _live, _entry) = (header.Scale, header.UpperRows, header.Live, header.Entry);
        for (int slot = 0; slot < header.Slots; slot++)
        {
            if (IsSet(_vacant, slot))
            {
                // No search of this process has seen it.
                _vacantCount++;
                Vacate(slot);
            }
        }
        Volatile.Write(ref _slots, header.Slots);
        return attachment;
    }

    private static int Chunks(int rows) => (rows + Slab.ChunkRows - 1) / Slab.ChunkRows;

    private static ulong Checksum(byte* start, long length)
    {
        var hash = new XxHash3();
        for (long done = 0; done < length; done += 1 << 26)
        {
            hash.Append(new ReadOnlySpan<byte>(start + done, (int)Math.Min(1 << 26, length - done)));
        }
        return hash.GetCurrentHashAsUInt64();
    }

    /// <summary>A private mapping: what is written to its pages stays in this process, and the file as it is.</summary>
    private sealed class Mapping
    {
        private readonly MemoryMappedFile _file;
        private readonly MemoryMappedViewAccessor _view;

        public Mapping(string path)
        {
            Length = new FileInfo(path).Length;
            _file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.CopyOnWrite);
            _view = _file.CreateViewAccessor(0, 0, MemoryMappedFileAccess.CopyOnWrite);
            byte* start = null;
            _view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
            Start = start;
        }

        ~Mapping()
        {
            _view.SafeMemoryMappedViewHandle.ReleasePointer();
            _view.Dispose();
            _file.Dispose();
        }

        public byte* Start { get; }

        public long Length { get; }
    }
}

/// <summary>The first page of an index file.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct Header
{
    public const ulong Mark = 0x57534E4854504944; // "DIPTHNSW"
    public const int CurrentVersion = 1;

    // By size, so that no padding lies between.
    public ulong Magic, Seed, Checksum, HeaderChecksum;
    public long Entry, Sequence, Length;
    public int Version, Codes, Dimensions, Links, EfConstruction, Slots, UpperRows, Live, AttachmentBytes;
    public float Scale;

    public readonly ulong OwnChecksum()
    {
        Header bare = this;
        bare.HeaderChecksum = 0;
        return XxHash3.HashToUInt64(MemoryMarshal.AsBytes(new ReadOnlySpan<Header>(in bare)));
    }

    /// <exception cref="InvalidDataException">The file is no index, damaged, or of another version.</exception>
    public static Header Read(string path)
    {
        Header header = default;
        using FileStream file = File.OpenRead(path);
        if (file.ReadAtLeast(MemoryMarshal.AsBytes(new Span<Header>(ref header)), Marshal.SizeOf<Header>(), throwOnEndOfStream: false) < Marshal.SizeOf<Header>()
            || header.Magic != Mark)
        {
            throw new InvalidDataException($"{path} is not an index.");
        }
        if (header.Version != CurrentVersion)
        {
            throw new InvalidDataException($"{path} has the format version {header.Version}; this program reads {CurrentVersion}.");
        }
        return header.HeaderChecksum == header.OwnChecksum() ? header : throw new InvalidDataException($"{path} is damaged in its header.");
    }
}
