using Diptych.Reading;

namespace Diptych.App;

/// <summary>The processes that read files, and what one file may take of them.</summary>
public sealed class ReaderOptions
{
    /// <summary>Files that are read at a time. Default: one a core.</summary>
    public int Processes { get; set; } = Environment.ProcessorCount;

    /// <summary>Resident memory of a process, in MiB.</summary>
    public int MemoryMb { get; set; } = 1024;

    /// <summary>Processor time for a file.</summary>
    public double CpuSeconds { get; set; } = 60;

    /// <summary>Time for a file.</summary>
    public double Seconds { get; set; } = 120;

    /// <summary>Pixels of a picture, in millions; of one that cannot be shrunk while it is decoded (all but JPEG) half as many.</summary>
    public int MaxMegapixels { get; set; } = 200;

    /// <summary>Characters in a file, in millions.</summary>
    public int MaxMegacharacters { get; set; } = 50;

    /// <summary>Paragraphs, list items and rows in a file.</summary>
    public int MaxBlocks { get; set; } = 2_000_000;

    /// <summary>Pictures in a file.</summary>
    public int MaxImages { get; set; } = 5_000;

    /// <summary>Text, pictures and pixels that come out of a file, in MiB.</summary>
    public int MaxOutputMb { get; set; } = 1024;

    internal ReaderLimits Limits() => new()
    {
        MemoryBytes = (long)MemoryMb << 20,
        CpuTime = TimeSpan.FromSeconds(CpuSeconds),
        Time = TimeSpan.FromSeconds(Seconds),
        Pixels = MaxMegapixels * 1_000_000L,
        Characters = MaxMegacharacters * 1_000_000L,
        Blocks = MaxBlocks,
        Images = MaxImages,
        OutputBytes = (long)MaxOutputMb << 20,
    };

    internal void Validate(Action<bool, string, string> require)
    {
        require(Processes is > 0 and <= 1024, "Readers:Processes", "between 1 and 1024");
        require(MemoryMb >= 128, "Readers:MemoryMb", "128 or above: an empty process takes half of that");
        require(CpuSeconds > 0, "Readers:CpuSeconds", "above 0");
        require(Seconds > 0, "Readers:Seconds", "above 0");
        require(MaxMegapixels is > 0 and <= 500, "Readers:MaxMegapixels", "between 1 and 500");
        require(MaxMegacharacters is > 0 and <= 1000, "Readers:MaxMegacharacters", "between 1 and 1000");
        require(MaxBlocks > 0, "Readers:MaxBlocks", "above 0");
        require(MaxImages > 0, "Readers:MaxImages", "above 0");
        require(MaxOutputMb is > 0 and <= 2000, "Readers:MaxOutputMb", "between 1 and 2000");
    }
}
