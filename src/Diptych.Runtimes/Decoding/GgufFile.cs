using System.Text;

namespace Diptych.Runtimes.Decoding;

/// <summary>A GGUF file (versions 2 and 3): metadata, and tensors that may be quantized in blocks.</summary>
public sealed class GgufFile : TensorFile
{
    private const int MaxEntries = 1 << 22;

    /// <summary>Bytes that an entry of the metadata takes at least: a key's length, a type, a value.</summary>
    private const int LeastEntry = 13;

    /// <summary>Bytes that a tensor's description takes at least: a name's length, dimensions, one of them, a type, an offset.</summary>
    private const int LeastTensor = 32;

    private const long MostAlignment = 1 << 20;
    private readonly Dictionary<string, object> _metadata = new(StringComparer.Ordinal);
    private string _reading = "the header";
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
            _reading = "the number of tensors";
            long tensors = Count(LeastTensor);
            _reading = "the number of metadata entries";
            long entries = Count(LeastEntry);
            for (long i = 0; i < entries; i++)
            {
                _reading = $"key {i + 1} of {entries} of the metadata";
                string key = Text();
                _reading = $"'{key}'";
                if (!_metadata.TryAdd(key, Value(UInt32())))
                {
                    throw new InvalidDataException($"{path}: '{key}' stands twice in the metadata.");
                }
            }
            Tensors = ReadTensors(tensors);
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

    /// <summary>Names of all metadata, in no order.</summary>
    public IReadOnlyCollection<string> Keys => _metadata.Keys;

    /// <summary>A value as a message says it.</summary>
    internal string Show(string key) => _metadata.GetValueOrDefault(key) switch
    {
        object[] list => $"a list of {list.Length}",
        string text => $"'{(text.Length > 40 ? text[..40] : text)}'",
        { } value => Convert.ToString(value, System.Globalization.CultureInfo.InvariantCulture)!,
        null => "absent",
    };

    public IReadOnlyList<object>? List(string key) => _metadata.GetValueOrDefault(key) as object[];

    private Dictionary<string, StoredTensor> ReadTensors(long count)
    {
        var found = new List<(string Name, TensorType Type, int[] Shape, ulong Offset)>();
        for (long i = 0; i < count; i++)
        {
            _reading = $"the name of tensor {i + 1} of {count}";
            string name = Text();
            _reading = $"the description of '{name}'";
            uint dimensions = UInt32();
            if (dimensions is 0 or > 4)
            {
                throw new InvalidDataException($"{Path}: '{name}' has {dimensions} dimensions.");
            }
            int[] shape = new int[dimensions];
            for (int d = shape.Length - 1; d >= 0; d--)
            {
                ulong size = UInt64();
                shape[d] = size is > 0 and <= int.MaxValue ? (int)size : throw new InvalidDataException($"{Path}: '{name}' has a dimension of {size}.");
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
            found.Add((name, type, shape, UInt64()));
        }
        long alignment = Alignment(), data = (_at + alignment - 1) / alignment * alignment;
        var tensors = new Dictionary<string, StoredTensor>(StringComparer.Ordinal);
        foreach (var (name, type, shape, offset) in found)
        {
            double elements = shape.Aggregate(1.0, (a, b) => a * b);
            long bytes = elements <= int.MaxValue ? StoredTensor.BytesOf(type, (long)elements) : long.MaxValue;
            if (shape[^1] % StoredTensor.BlockOf(type) != 0 || bytes > Length - data || offset > (ulong)(Length - data - bytes))
            {
                throw new InvalidDataException($"{Path}: '{name}' [{string.Join(", ", shape)}] does not lie within the file as its header says.");
            }
            if (!tensors.TryAdd(name, new StoredTensor(type, shape, data + (long)offset, bytes)))
            {
                throw new InvalidDataException($"{Path}: there are two tensors '{name}'.");
            }
        }
        return tensors;
    }

    private long Alignment()
    {
        const string Key = "general.alignment";
        if (!_metadata.ContainsKey(Key))
        {
            return 32;
        }
        return Number(Key) is { } bytes and >= 1 and <= MostAlignment && bytes == Math.Floor(bytes) && long.IsPow2((long)bytes)
            ? (long)bytes : throw new InvalidDataException($"{Path}: {Key} is {Show(Key)}, and must be a power of two up to {MostAlignment}.");
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
        9 => Values(UInt32()),
        10 => UInt64(),
        11 => BitConverter.ToInt64(Take(8)),
        12 => BitConverter.ToDouble(Take(8)),
        _ => throw new InvalidDataException($"{Path}: {_reading} is of type {type}, which is not read."),
    };

    private object[] Values(uint type)
    {
        long count = type switch
        {
            0 or 1 or 7 => Count(1),
            2 or 3 => Count(2),
            4 or 5 or 6 => Count(4),
            8 or 10 or 11 or 12 => Count(8),
            9 => throw new InvalidDataException($"{Path}: {_reading} is a list of lists, which is not read."),
            _ => throw new InvalidDataException($"{Path}: {_reading} is a list of type {type}, which is not read."),
        };
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
        return length <= (ulong)(Length - _at) ? Encoding.UTF8.GetString(Take((long)length))
            : throw new InvalidDataException($"{Path}: {_reading} has a text of {length} bytes, which runs past the file's end.");
    }

    /// <param name="least">Bytes that each takes at least: no more are taken for true than the file has room for.</param>
    private long Count(int least)
    {
        ulong count = UInt64();
        return count <= MaxEntries && count <= (ulong)((Length - _at) / least) ? (long)count
            : throw new InvalidDataException($"{Path}: {_reading} counts {count} entries, which the file has no room for.");
    }

    private uint UInt32() => BitConverter.ToUInt32(Take(4));

    private ulong UInt64() => BitConverter.ToUInt64(Take(8));

    private ReadOnlySpan<byte> Take(long length)
    {
        if (length > Length - _at)
        {
            throw new InvalidDataException($"{Path} ends within {_reading}.");
        }
        ReadOnlySpan<byte> bytes = Bytes(_at, length);
        _at += length;
        return bytes;
    }
}
