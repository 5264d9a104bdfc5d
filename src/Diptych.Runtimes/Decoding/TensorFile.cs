using System.IO.MemoryMappedFiles;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;

namespace Diptych.Runtimes.Decoding;

/// <summary>How a tensor's numbers are stored.</summary>
public enum TensorType
{
    F32,
    F16,
    BF16,

    /// <summary>Blocks of 32: a 16-bit scale and 32 signed bytes.</summary>
    Q8_0,

    /// <summary>Blocks of 32: a 16-bit scale and 32 nibbles around 8.</summary>
    Q4_0,

    /// <summary>Blocks of 32: a 16-bit scale, a 16-bit minimum and 32 nibbles.</summary>
    Q4_1,

    /// <summary>Blocks of 256: a 16-bit scale and minimum, six bits of both for each 32, and nibbles.</summary>
    Q4_K,

    /// <summary>Blocks of 256: six bits each, a signed byte of scale for each 16, and a 16-bit scale.</summary>
    Q6_K,
    I64,
}

/// <summary>Where a tensor lies in its file.</summary>
/// <param name="Shape">Outermost dimension first.</param>
public sealed record StoredTensor(TensorType Type, IReadOnlyList<int> Shape, long Offset, long Bytes)
{
    public int Count => Shape.Aggregate(1, (a, b) => checked(a * b));

    public int Columns => Shape[^1];

    /// <summary>Numbers that are stored together: a row is a whole number of these.</summary>
    public static int BlockOf(TensorType type) => type switch
    {
        TensorType.Q4_K or TensorType.Q6_K => 256,
        TensorType.Q8_0 or TensorType.Q4_0 or TensorType.Q4_1 => 32,
        _ => 1,
    };

    public static long BytesOf(TensorType type, long count) => type switch
    {
        TensorType.F32 => 4 * count,
        TensorType.F16 or TensorType.BF16 => 2 * count,
        TensorType.I64 => 8 * count,
        TensorType.Q8_0 => count / 32 * 34,
        TensorType.Q4_0 => count / 32 * 18,
        TensorType.Q4_1 => count / 32 * 20,
        TensorType.Q4_K => count / 256 * 144,
        _ => count / 256 * 210,
    };
}

/// <summary>A file of tensors, mapped into memory. Every offset was checked against the file's length when it was opened.</summary>
public abstract class TensorFile : IDisposable
{
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly unsafe byte* _start;

    protected unsafe TensorFile(string path)
    {
        Path = path;
        Length = new FileInfo(path).Length;
        if (Length < 16)
        {
            throw new InvalidDataException($"{path} is too short to hold tensors.");
        }
        _file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
        _view = _file.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        byte* start = null;
        _view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
        _start = start + _view.PointerOffset;
    }

    public string Path { get; }

    public long Length { get; }

    public abstract IReadOnlyDictionary<string, StoredTensor> Tensors { get; }

    public unsafe ReadOnlySpan<byte> Bytes(StoredTensor tensor) => Bytes(tensor.Offset, tensor.Bytes);

    /// <summary>A tensor's numbers in single precision.</summary>
    public float[] Floats(StoredTensor tensor)
    {
        float[] values = new float[tensor.Count];
        ReadOnlySpan<byte> bytes = Bytes(tensor);
        switch (tensor.Type)
        {
            case TensorType.F32:
                MemoryMarshal.Cast<byte, float>(bytes).CopyTo(values);
                break;
            case TensorType.F16:
                TensorPrimitives.ConvertToSingle(MemoryMarshal.Cast<byte, Half>(bytes), values);
                break;
            case TensorType.BF16:
                ReadOnlySpan<ushort> upper = MemoryMarshal.Cast<byte, ushort>(bytes);
                for (int i = 0; i < values.Length; i++)
                {
                    values[i] = BitConverter.Int32BitsToSingle(upper[i] << 16);
                }
                break;
            case TensorType.I64:
                TensorPrimitives.ConvertTruncating<long, float>(MemoryMarshal.Cast<byte, long>(bytes), values);
                break;
            case TensorType.Q6_K:
                Sixes(bytes, values);
                break;
            default:
                Unpack(tensor.Type, bytes, values);
                break;
        }
        return values;
    }

    public void Dispose()
    {
        _view.SafeMemoryMappedViewHandle.ReleasePointer();
        _view.Dispose();
        _file.Dispose();
        GC.SuppressFinalize(this);
    }

    protected unsafe ReadOnlySpan<byte> Bytes(long offset, long length) => offset < 0 || length < 0 || offset > Length - length || length > int.MaxValue
        ? throw new InvalidDataException($"{Path}: {length} bytes at {offset} lie outside the file of {Length}.")
        : new ReadOnlySpan<byte>(_start + offset, (int)length);

    /// <summary>The 32 nibbles of a block, one a byte, in their order.</summary>
    /// <param name="index">Of the block of 32, from the tensor's first.</param>
    /// <returns>A number is its nibble by the scale, plus the minimum.</returns>
    internal static (float Scale, float Minimum) Nibbles(TensorType type, ReadOnlySpan<byte> bytes, long index, Span<byte> nibbles)
    {
        if (type == TensorType.Q4_K)
        {
            int size = (int)StoredTensor.BytesOf(type, 256), part = (int)(index % 8);
            ReadOnlySpan<byte> block = bytes.Slice((int)(index / 8) * size, size), sixes = block.Slice(4, 12), pairs = block.Slice(16 + (part / 2 * 32), 32);
            for (int i = 0; i < 32; i++)
            {
                nibbles[i] = (byte)(part % 2 == 0 ? pairs[i] & 15 : pairs[i] >> 4);
            }
            int scale = part < 4 ? sixes[part] & 63 : (sixes[part + 4] & 15) | (sixes[part - 4] >> 6 << 4);
            int minimum = part < 4 ? sixes[part + 4] & 63 : (sixes[part + 4] >> 4) | (sixes[part] >> 6 << 4);
            return ((float)BitConverter.ToHalf(block) * scale, -(float)BitConverter.ToHalf(block[2..]) * minimum);
        }
        int length = (int)StoredTensor.BytesOf(type, 32);
        ReadOnlySpan<byte> from = bytes.Slice((int)index * length, length);
        for (int i = 0; i < 16; i++)
        {
            nibbles[i] = (byte)(from[length - 16 + i] & 15);
            nibbles[16 + i] = (byte)(from[length - 16 + i] >> 4);
        }
        float step = (float)BitConverter.ToHalf(from);
        return (step, type == TensorType.Q4_1 ? (float)BitConverter.ToHalf(from[2..]) : -8 * step);
    }

    private static void Unpack(TensorType type, ReadOnlySpan<byte> bytes, Span<float> values)
    {
        Span<byte> nibbles = stackalloc byte[32];
        for (int b = 0; b < values.Length / 32; b++)
        {
            Span<float> to = values.Slice(b * 32, 32);
            if (type == TensorType.Q8_0)
            {
                float step = (float)BitConverter.ToHalf(bytes[(b * 34)..]);
                for (int i = 0; i < 32; i++)
                {
                    to[i] = step * (sbyte)bytes[(b * 34) + 2 + i];
                }
                continue;
            }
            var (scale, minimum) = Nibbles(type, bytes, b, nibbles);
            for (int i = 0; i < 32; i++)
            {
                to[i] = (scale * nibbles[i]) + minimum;
            }
        }
    }

    private static void Sixes(ReadOnlySpan<byte> bytes, Span<float> values)
    {
        for (int b = 0; b < values.Length / 256; b++)
        {
            ReadOnlySpan<byte> block = bytes.Slice(b * 210, 210);
            float scale = (float)BitConverter.ToHalf(block[208..]);
            for (int i = 0; i < 256; i++)
            {
                // Two halves of 128: 64 bytes of low nibbles, the second 64 numbers in their upper halves, and 32 bytes of four times two bits.
                int half = i / 128, within = i % 128, low = block[(half * 64) + (within % 64)];
                int number = (within < 64 ? low & 15 : low >> 4) | ((block[128 + (half * 32) + (within % 32)] >> (within / 32 * 2) & 3) << 4);
                values[(b * 256) + i] = scale * (sbyte)block[192 + (i / 16)] * (number - 32);
            }
        }
    }
}

/// <summary>A safetensors file: a length, a JSON header, the tensors.</summary>
public sealed class SafeTensorsFile : TensorFile
{
    private const long MaxHeader = 100 << 20;

    /// <exception cref="InvalidDataException">The header is no such JSON, or points outside the file.</exception>
    public SafeTensorsFile(string path)
        : base(path)
    {
        var tensors = new Dictionary<string, StoredTensor>(StringComparer.Ordinal);
        try
        {
            long length = BitConverter.ToInt64(Bytes(0, 8));
            if (length is <= 0 or > MaxHeader)
            {
                throw new InvalidDataException($"{path}: a header of {length} bytes cannot be.");
            }
            using var json = JsonDocument.Parse(Encoding.UTF8.GetString(Bytes(8, length)));
            foreach (JsonProperty entry in json.RootElement.EnumerateObject().Where(e => e.Name != "__metadata__"))
            {
                tensors.Add(entry.Name, Read(entry, 8 + length));
            }
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or KeyNotFoundException or FormatException or OverflowException or ArgumentException)
        {
            Dispose();
            throw new InvalidDataException($"{path} is no safetensors file: {error.Message}", error);
        }
        catch
        {
            Dispose();
            throw;
        }
        Tensors = tensors;
    }

    public override IReadOnlyDictionary<string, StoredTensor> Tensors { get; }

    private StoredTensor Read(JsonProperty entry, long data)
    {
        TensorType type = entry.Value.GetProperty("dtype").GetString() switch
        {
            "F32" => TensorType.F32,
            "F16" => TensorType.F16,
            "BF16" => TensorType.BF16,
            "I64" => TensorType.I64,
            var other => throw new InvalidDataException($"{Path}: '{entry.Name}' is stored as {other}, which is not read."),
        };
        int[] shape = [.. entry.Value.GetProperty("shape").EnumerateArray().Select(d => d.GetInt32())];
        long from = entry.Value.GetProperty("data_offsets")[0].GetInt64(), to = entry.Value.GetProperty("data_offsets")[1].GetInt64();
        long count = shape.Aggregate(1L, (a, b) => b < 0 ? throw new InvalidDataException($"{Path}: '{entry.Name}' has a negative dimension.") : checked(a * b));
        if (from < 0 || to < from || to - from != StoredTensor.BytesOf(type, count) || to > Length - data || count > int.MaxValue)
        {
            throw new InvalidDataException($"{Path}: '{entry.Name}' [{string.Join(", ", shape)}] does not lie within the file as its header says.");
        }
        return new StoredTensor(type, shape, data + from, to - from);
    }
}
