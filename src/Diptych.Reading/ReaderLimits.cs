using System.Globalization;
using Diptych.Core;

namespace Diptych.Reading;

/// <summary>What reading one file may take, and what may come out of it.</summary>
public sealed record ReaderLimits
{
    internal const long DefaultPixels = 200_000_000;

    /// <summary>Resident memory of the process that reads, in bytes.</summary>
    public long MemoryBytes { get; init; } = 1L << 30;

    /// <summary>Processor time for one file.</summary>
    public TimeSpan CpuTime { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Time for one file, without what the receiver takes for the parts it is given.</summary>
    public TimeSpan Time { get; init; } = TimeSpan.FromSeconds(120);

    /// <summary>Pixels of one picture; of one that cannot be shrunk while it is decoded half as many.</summary>
    public long Pixels { get; init; } = DefaultPixels;

    /// <summary>Characters of text in one file.</summary>
    public long Characters { get; init; } = 50_000_000;

    /// <summary>Blocks in one file.</summary>
    public int Blocks { get; init; } = 2_000_000;

    /// <summary>Pictures in one file.</summary>
    public int Images { get; init; } = 5_000;

    /// <summary>Bytes that one file's text, pictures and pixels have together.</summary>
    public long OutputBytes { get; init; } = 1 << 30;
}

/// <summary>Counts what comes out of a file, and refuses what is beyond the limits.</summary>
internal sealed class OutputMeter(ReaderLimits limits)
{
    private const string Bytes = "bytes of text and pictures";
    private long _characters;
    private long _bytes;
    private int _blocks;
    private int _images;

    /// <summary>Bytes that may still come out.</summary>
    public long BytesLeft => limits.OutputBytes - _bytes;

    /// <exception cref="UnreadableException">With this part it is too much.</exception>
    public void Count(ReadPart part)
    {
        switch (part)
        {
            case ReadPart.Content { Block: var block }:
                _blocks++;
                _characters += block.Text.Length;
                _images += block.Image is null ? 0 : 1;
                _bytes += (2L * block.Text.Length) + (block.Image?.LongLength ?? 0)
                    + (block.Prepared is { } p ? p.Pixels.LongLength + p.Thumbnail.LongLength + (p.Full?.Pixels.LongLength ?? 0) : 0);
                break;
            case ReadPart.Attached { Attachment: var attachment }:
                _bytes += attachment.Bytes.LongLength;
                break;
        }
        Refuse(_characters, limits.Characters, "characters");
        Refuse(_blocks, limits.Blocks, "paragraphs or rows");
        Refuse(_images, limits.Images, "pictures");
        Refuse(_bytes, limits.OutputBytes, Bytes);
    }

    /// <summary>Text that is still being put together.</summary>
    /// <exception cref="UnreadableException">It is too much already.</exception>
    public static void CheckCharacters(long count, ReaderLimits limits) => Refuse(count, limits.Characters, "characters");

    public static UnreadableException TooManyBytes(ReaderLimits limits) => Beyond(limits.OutputBytes, Bytes);

    private static void Refuse(long count, long limit, string what)
    {
        if (count > limit)
        {
            throw Beyond(limit, what);
        }
    }

    private static UnreadableException Beyond(long limit, string what) =>
        new(string.Create(CultureInfo.InvariantCulture, $"More than {limit:N0} {what} came out of the file."), null, ReadFailure.Output);
}
