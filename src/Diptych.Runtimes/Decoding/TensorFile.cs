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
    I64,
}

/// <summary>Where a tensor lies in its file.</summary>
/// <param name="Shape">Outermost dimension first.</param>
public sealed record StoredTensor(TensorType Type, IReadOnlyList<int> Shape, long Offset, long Bytes)
{
    public int Count => Shape.Aggregate(1, (a, b) => checked(a * b));

    public int Columns => Shape[^1];

    public static long BytesOf(TensorType type, long count) => type switch
    {
        TensorType.F32 => 4 * count,
        TensorType.F16 or TensorType.BF16 => 2 * count,
        TensorType.I64 => 8 * count,
        TensorType.Q8_0 => count / 32 * 34,
        TensorType.Q4_0 => count / 32 * 18,
        _ => count / 32 * 20,
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

    private static void Unpack(TensorType type, ReadOnlySpan<byte> bytes, Span<float> values)
    {
        int size = (int)StoredTensor.BytesOf(type, 32), at = 0;
        for (int b = 0; b < values.Length; b += 32, at += size)
        {
            float scale = (float)BitConverter.ToHalf(bytes[at..]);
            if (type == TensorType.Q8_0)
            {
                for (int i = 0; i < 32; i++)
                {
                    values[b + i] = scale * (sbyte)bytes[at + 2 + i];
                }
                continue;
            }
            float minimum = type == TensorType.Q4_1 ? (float)BitConverter.ToHalf(bytes[(at + 2)..]) : -8 * scale;
            ReadOnlySpan<byte> nibbles = bytes.Slice(at + size - 16, 16);
            for (int i = 0; i < 16; i++)
            {
                values[b + i] = (scale * (nibbles[i] & 15)) + minimum;
                values[b + 16 + i] = (scale * (nibbles[i] >> 4)) + minimum;
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
