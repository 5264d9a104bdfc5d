using System.Text;

namespace Diptych.Runtimes.Decoding;

/// <summary>A GGUF file (versions 2 and 3): metadata, and tensors that may be quantized in blocks.</summary>
public sealed class GgufFile : TensorFile
{
    private const int MaxEntries = 1 << 22;
    private readonly Dictionary<string, object> _metadata = new(StringComparer.Ordinal);
    private long _at;

    /// <exception cref="InvalidDataException">It is no GGUF file, or lies about its own sizes.</exception>
    public GgufFile(string path)
        : base(path)
    {
        try
        {
            if (!Take(4).SequenceEqual("GGUF"u8) || UInt32() is not (2 or 3))
            {
                throw new InvalidDataException($"{path} is no GGUF file of version 2 or 3.");
            }
            long tensors = Count(), entries = Count();
            for (long i = 0; i < entries; i++)
            {
                string key = Text();
                _metadata[key] = Value(UInt32());
            }
            Tensors = ReadTensors(tensors);
        }
        catch (OverflowException error)
        {
            Dispose();
            throw new InvalidDataException($"{path}: a size in it overflows.", error);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public override IReadOnlyDictionary<string, StoredTensor> Tensors { get; }

    public string? String(string key) => _metadata.GetValueOrDefault(key) as string;

    public bool? Flag(string key) => _metadata.GetValueOrDefault(key) as bool?;

    public double? Number(string key) => _metadata.GetValueOrDefault(key) is { } value and not (string or object[] or bool) ? Convert.ToDouble(value, System.Globalization.CultureInfo.InvariantCulture) : null;

    public IReadOnlyList<object>? List(string key) => _metadata.GetValueOrDefault(key) as object[];

    private Dictionary<string, StoredTensor> ReadTensors(long count)
    {
        var found = new List<(string Name, TensorType Type, int[] Shape, long Offset)>();
        for (long i = 0; i < count; i++)
        {
            string name = Text();
            uint dimensions = UInt32();
            if (dimensions is 0 or > 4)
            {
                throw new InvalidDataException($"{Path}: '{name}' has {dimensions} dimensions.");
            }
            int[] shape = new int[dimensions];
            for (int d = shape.Length - 1; d >= 0; d--)
            {
                shape[d] = checked((int)UInt64());
            }
            TensorType type = UInt32() switch
            {
                0 => TensorType.F32,
                1 => TensorType.F16,
                2 => TensorType.Q4_0,
                3 => TensorType.Q4_1,
                8 => TensorType.Q8_0,
                12 => TensorType.Q4_K,
                14 => TensorType.Q6_K,
                30 => TensorType.BF16,
                var other => throw new InvalidDataException($"{Path}: '{name}' has the type {other}, which is not read. F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are."),
            };
            found.Add((name, type, shape, checked((long)UInt64())));
        }
        long alignment = (long)(Number("general.alignment") ?? 32), data = (_at + alignment - 1) / alignment * alignment;
        var tensors = new Dictionary<string, StoredTensor>(StringComparer.Ordinal);
        foreach (var (name, type, shape, offset) in found)
        {
            long elements = shape.Aggregate(1L, (a, b) => checked(a * b)), bytes = StoredTensor.BytesOf(type, elements);
            if (elements > int.MaxValue || offset < 0 || offset > Length - data - bytes || shape[^1] % StoredTensor.BlockOf(type) != 0 || !tensors.TryAdd(name, new StoredTensor(type, shape, data + offset, bytes)))
            {
                throw new InvalidDataException($"{Path}: '{name}' [{string.Join(", ", shape)}] does not lie within the file as its header says.");
            }
        }
        return tensors;
    }

    private object Value(uint type) => type switch
    {
        0 => Take(1)[0],
        1 => (sbyte)Take(1)[0],
        2 => BitConverter.ToUInt16(Take(2)),
        3 => BitConverter.ToInt16(Take(2)),
        4 => UInt32(),
        5 => BitConverter.ToInt32(Take(4)),
        6 => BitConverter.ToSingle(Take(4)),
        7 => Take(1)[0] != 0,
        8 => Text(),
        9 => Values(UInt32(), Count()),
        10 => UInt64(),
        11 => BitConverter.ToInt64(Take(8)),
        12 => BitConverter.ToDouble(Take(8)),
        _ => throw new InvalidDataException($"{Path}: metadata of type {type} is not read."),
    };

    private object[] Values(uint type, long count)
    {
        if (type == 9)
        {
            throw new InvalidDataException($"{Path}: lists of lists are not read.");
        }
        object[] values = new object[count];
        for (long i = 0; i < count; i++)
        {
            values[i] = Value(type);
        }
        return values;
    }

    private string Text()
    {
        ulong length = UInt64();
        return length <= int.MaxValue ? Encoding.UTF8.GetString(Take((long)length)) : throw new InvalidDataException($"{Path}: a text of {length} bytes cannot be.");
    }

    private long Count()
    {
        ulong count = UInt64();
        return count <= MaxEntries ? (long)count : throw new InvalidDataException($"{Path}: {count} entries cannot be.");
    }

    private uint UInt32() => BitConverter.ToUInt32(Take(4));

    private ulong UInt64() => BitConverter.ToUInt64(Take(8));

    private ReadOnlySpan<byte> Take(long length)
    {
        ReadOnlySpan<byte> bytes = Bytes(_at, length);
        _at += length;
        return bytes;
    }
}
