using System.Globalization;
using System.IO.Compression;
using Diptych.Core;
using UglyToad.PdfPig.Filters;
using UglyToad.PdfPig.Tokens;

namespace Diptych.Reading.Readers;

/// <summary>The library's filters, within bounds.</summary>
internal sealed class PdfFilters : IFilterProvider
{
    /// <summary>Most bytes that a stream may unpack to: the pixels of some 85 megapixels.</summary>
    public const long MaxUnpackedBytes = 256L << 20;

    /// <summary>A larger stream is not unpacked to its end only to say how large it is.</summary>
    private const long MaxCountedBytes = 2L << 30;

    /// <summary>The most that deflate can blow up a byte to.</summary>
    private const long MaxDeflateRatio = 1032;

    /// <summary>What the last stream was refused for; the library leaves out a picture whose filter throws, without a word.</summary>
    public UnreadableException? Refusal { get; set; }

    public IReadOnlyList<IFilter> GetFilters(DictionaryToken dictionary) => Bounded(DefaultFilterProvider.Instance.GetFilters(dictionary));

    public IReadOnlyList<IFilter> GetNamedFilters(IReadOnlyList<NameToken> names) => Bounded(DefaultFilterProvider.Instance.GetNamedFilters(names));

    public IReadOnlyList<IFilter> GetAllFilters() => Bounded(DefaultFilterProvider.Instance.GetAllFilters());

    /// <exception cref="UnreadableException">The stream unpacks to more than <see cref="MaxUnpackedBytes"/>.</exception>
    public void CheckInflated(ReadOnlyMemory<byte> deflated)
    {
        if (deflated.Length * MaxDeflateRatio <= MaxUnpackedBytes)
        {
            return;
        }
        long bytes = CountInflated(deflated);
        if (bytes > MaxUnpackedBytes)
        {
            string size = (bytes >> 20).ToString("N0", CultureInfo.InvariantCulture), limit = (MaxUnpackedBytes >> 20).ToString(CultureInfo.InvariantCulture);
            Refusal = new UnreadableException($"It unpacks to {(bytes >= MaxCountedBytes ? "more than " : "")}{size} MB, above the limit of {limit} MB.");
            throw Refusal;
        }
    }

    private static long CountInflated(ReadOnlyMemory<byte> deflated)
    {
        byte[] buffer = new byte[1 << 16];
        long bytes = 0;
        try
        {
            using var zlib = new ZLibStream(new MemoryStream(deflated.ToArray(), writable: false), CompressionMode.Decompress);
            for (int read; bytes < MaxCountedBytes && (read = zlib.Read(buffer)) > 0;)
            {
                bytes += read;
            }
        }
        catch (InvalidDataException)
        {
            // What can be unpacked of it comes before the damage.
        }
        return bytes;
    }

    private IReadOnlyList<IFilter> Bounded(IReadOnlyList<IFilter> filters) =>
        filters.Any(f => f is FlateFilter) ? [.. filters.Select(f => f is FlateFilter ? new BoundedFlate(f, this) : f)] : filters;

    private sealed class BoundedFlate(IFilter flate, PdfFilters filters) : IFilter
    {
        public bool IsSupported => flate.IsSupported;

        public Memory<byte> Decode(Memory<byte> input, DictionaryToken streamDictionary, IFilterProvider filterProvider, int filterIndex)
        {
            filters.CheckInflated(input);
            return flate.Decode(input, streamDictionary, filterProvider, filterIndex);
        }
    }
}
