using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text.Json;
using Xunit;

namespace Diptych.Tests;

/// <summary>
/// Reference data: what the repository holds itself (tests/golden, samples), else beside it. A test that needs what is beside it skips
/// where that is absent, and fails where CI has said with DIPTYCH_SHARED that it is there.
/// </summary>
internal static class Shared
{
    public static string Repository { get; } = FindRepository();

    public static string Root { get; } = Path.GetFullPath(Environment.GetEnvironmentVariable("DIPTYCH_SHARED") ?? Path.Combine(Repository, "..", "shared"));

    public static string Starter { get; } = Path.Combine(Repository, "models", "starter");

    public static string Samples { get; } = Path.Combine(Repository, "samples");

    public static string Require(params string[] parts)
    {
        string own = parts[0] == "samples" ? Path.Combine([Samples, "photos", .. parts[1..]]) : Path.Combine([Repository, "tests", .. parts]);
        if (Path.Exists(own))
        {
            return own;
        }
        string path = Path.Combine([Root, .. parts]);
        if (!Path.Exists(path))
        {
            if (Environment.GetEnvironmentVariable("CI") == "true" && Directory.Exists(Root))
            {
                Assert.Fail($"{path} is missing: set DIPTYCH_SHARED.");
            }
            Assert.Skip($"{path} is not here; set DIPTYCH_SHARED to run this test.");
        }
        return path;
    }

    private static string FindRepository()
    {
        string? directory = AppContext.BaseDirectory;
        while (directory is not null && !File.Exists(Path.Combine(directory, "Diptych.slnx")))
        {
            directory = Path.GetDirectoryName(directory);
        }
        return directory ?? throw new InvalidOperationException("The tests run from within the repository.");
    }
}

/// <summary>Reads tensors of a safetensors file (F32 and F16) as floats.</summary>
internal sealed class SafeTensors
{
    private readonly byte[] _data;
    private readonly JsonDocument _header;
    private readonly int _start;

    public SafeTensors(string path)
    {
        _data = File.ReadAllBytes(path);
        int length = (int)BinaryPrimitives.ReadInt64LittleEndian(_data);
        _header = JsonDocument.Parse(_data.AsMemory(8, length));
        _start = 8 + length;
    }

    public float[] this[string name]
    {
        get
        {
            JsonElement entry = _header.RootElement.GetProperty(name);
            int from = _start + entry.GetProperty("data_offsets")[0].GetInt32(), to = _start + entry.GetProperty("data_offsets")[1].GetInt32();
            ReadOnlySpan<byte> bytes = _data.AsSpan(from, to - from);
            return entry.GetProperty("dtype").GetString() == "F16"
                ? [.. MemoryMarshal.Cast<byte, Half>(bytes).ToArray().Select(h => (float)h)]
                : MemoryMarshal.Cast<byte, float>(bytes).ToArray();
        }
    }
}
