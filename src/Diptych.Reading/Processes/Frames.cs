using System.Buffers;
using System.Buffers.Binary;
using System.Text;

namespace Diptych.Reading.Processes;

/// <summary>What a frame between the two processes holds.</summary>
internal enum FrameKind : byte
{
    /// <summary>The reader's first word: it is ready.</summary>
    Ready = 1,

    /// <summary>To the reader, first: what may come out of a file.</summary>
    Limits,

    /// <summary>To the reader: a file to read.</summary>
    Read,

    /// <summary>To the reader: a picture to decode.</summary>
    Decode,
    Content,
    Attached,
    Warning,
    End,
    Decoded,

    /// <summary>The file cannot be read: nothing follows.</summary>
    Failed,
}

/// <summary>The other side sent what it may not send.</summary>
internal sealed class FrameException(string message, bool isTooLong = false) : Exception(message)
{
    public bool IsTooLong => isTooLong;
}

/// <summary>Writes frames: a kind, a length in bytes (32 bits, little-endian), and fields one after the other.</summary>
internal sealed class FrameWriter(Stream stream)
{
    private const int HeaderBytes = 5;

    /// <summary>Larger fields are written from where they are.</summary>
    private const int CopiedBytes = 4096;

    private readonly ArrayBufferWriter<byte> _small = new(1 << 12);
    private readonly List<(int At, byte[] Bytes)> _large = [];

    public FrameWriter Begin(FrameKind kind)
    {
        _small.ResetWrittenCount();
        _large.Clear();
        _small.GetSpan(HeaderBytes)[0] = (byte)kind;
        _small.Advance(HeaderBytes);
        return this;
    }

    public FrameWriter Byte(byte value)
    {
        _small.GetSpan(1)[0] = value;
        _small.Advance(1);
        return this;
    }

    public FrameWriter Int(int value)
    {
        BinaryPrimitives.WriteInt32LittleEndian(_small.GetSpan(sizeof(int)), value);
        _small.Advance(sizeof(int));
        return this;
    }

    public FrameWriter Number(double value)
    {
        BinaryPrimitives.WriteDoubleLittleEndian(_small.GetSpan(sizeof(double)), value);
        _small.Advance(sizeof(double));
        return this;
    }

    public FrameWriter Text(string? value)
    {
        if (value is null)
        {
            return Int(-1);
        }
        int bytes = Encoding.UTF8.GetByteCount(value);
        Int(bytes);
        _small.Advance(Encoding.UTF8.GetBytes(value, _small.GetSpan(bytes)));
        return this;
    }

    public FrameWriter Bytes(byte[]? value)
    {
        Int(value?.Length ?? -1);
        if (value is { Length: > CopiedBytes })
        {
            _large.Add((_small.WrittenCount, value));
        }
        else
        {
            _small.Write(value);
        }
        return this;
    }

    /// <summary>Writes the frame out.</summary>
    /// <param name="flush">False leaves it in the stream's buffer until a later frame goes out.</param>
    /// <exception cref="IOException">Nobody reads any more.</exception>
    public void Send(bool flush = true)
    {
        long length = _small.WrittenCount - HeaderBytes + _large.Sum(l => l.Bytes.LongLength);
        if (length > int.MaxValue)
        {
            throw new FrameException("A part of the file is larger than 2 GiB.");
        }
        // The header lies at the beginning of what was written: its length is known only now.
        Span<byte> small = System.Runtime.InteropServices.MemoryMarshal.AsMemory(_small.WrittenMemory).Span;
        BinaryPrimitives.WriteInt32LittleEndian(small[1..], (int)length);
        int from = 0;
        foreach (var (at, bytes) in _large)
        {
            stream.Write(small[from..at]);
            stream.Write(bytes);
            from = at;
        }
        stream.Write(small[from..]);
        if (flush)
        {
            stream.Flush();
        }
    }
}

/// <summary>Reads frames, and takes nothing on trust: no field is longer than its frame, and no frame longer than what may come.</summary>
internal sealed class FrameReader(Stream stream)
{
    private int _left;

    /// <returns>Null at the end of the stream.</returns>
    /// <exception cref="FrameException">It is longer than <paramref name="maxBytes"/>.</exception>
    public FrameKind? Next(long maxBytes)
    {
        Span<byte> header = stackalloc byte[5];
        if (_left > 0)
        {
            throw new FrameException("A frame has more in it than its fields.");
        }
        if (stream.ReadAtLeast(header, header.Length, throwOnEndOfStream: false) < header.Length)
        {
            return null;
        }
        if (!Enum.IsDefined((FrameKind)header[0]))
        {
            throw new FrameException($"A frame of kind {header[0]}.");
        }
        _left = BinaryPrimitives.ReadInt32LittleEndian(header[1..]);
        return _left >= 0 && _left <= maxBytes ? (FrameKind)header[0] : throw new FrameException($"A frame of {_left} bytes.", isTooLong: _left > maxBytes);
    }

    public byte Byte()
    {
        Span<byte> bytes = stackalloc byte[1];
        Fill(bytes);
        return bytes[0];
    }

    public int Int()
    {
        Span<byte> bytes = stackalloc byte[sizeof(int)];
        Fill(bytes);
        return BinaryPrimitives.ReadInt32LittleEndian(bytes);
    }

    public double Number()
    {
        Span<byte> bytes = stackalloc byte[sizeof(double)];
        Fill(bytes);
        return BinaryPrimitives.ReadDoubleLittleEndian(bytes);
    }

    public string? Text()
    {
        if (Length() is not { } length)
        {
            return null;
        }
        byte[] bytes = ArrayPool<byte>.Shared.Rent(length);
        try
        {
            Fill(bytes.AsSpan(0, length));
            return Encoding.UTF8.GetString(bytes, 0, length);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(bytes);
        }
    }

    public byte[]? Bytes()
    {
        if (Length() is not { } length)
        {
            return null;
        }
        byte[] bytes = GC.AllocateUninitializedArray<byte>(length);
        Fill(bytes);
        return bytes;
    }

    private int? Length()
    {
        int length = Int();
        return length == -1 ? null : length >= 0 && length <= _left ? length : throw new FrameException($"A field of {length} bytes in {_left}.");
    }

    private void Fill(Span<byte> bytes)
    {
        if (bytes.Length > _left)
        {
            throw new FrameException("A frame ends within a field.");
        }
        _left -= bytes.Length;
        stream.ReadExactly(bytes);
    }
}
