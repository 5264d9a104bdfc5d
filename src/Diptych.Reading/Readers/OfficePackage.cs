using System.Globalization;
using System.IO.Compression;
using System.Xml;
using Diptych.Core;
using DocumentFormat.OpenXml.Packaging;

namespace Diptych.Reading.Readers;

/// <summary>What the Office formats share: the package, its limits and its properties.</summary>
internal static class OfficePackage
{
    /// <summary>Most bytes that a package may unpack to.</summary>
    public const long MaxUnpackedBytes = 512L << 20;

    /// <summary>Elements within each other in a part; what people write has some dozens.</summary>
    private const int MaxDepth = 1_000;

    /// <summary>The most that deflate can blow up a byte to.</summary>
    private const int MaxDeflateRatio = 1032;

    /// <exception cref="UnreadableException">Not a ZIP package, or one that unpacks to more than <see cref="MaxUnpackedBytes"/>.</exception>
    public static MemoryStream Open(byte[] bytes, CancellationToken cancellation)
    {
        try
        {
            using var zip = new ZipArchive(new MemoryStream(bytes, writable: false), ZipArchiveMode.Read);
            if (zip.Entries.Any(e => e.FullName is "EncryptedPackage" or "EncryptionInfo"))
            {
                throw new UnreadableException("The document is encrypted with a password.");
            }
            // The sizes that the directory declares may lie: where deflate could exceed the limit, the bytes are counted.
            bool suspicious = zip.Entries.Sum(e => Math.Max(e.Length, 0)) > MaxUnpackedBytes || bytes.Length > MaxUnpackedBytes / MaxDeflateRatio;
            if (suspicious)
            {
                Count(zip, cancellation);
            }
            foreach (ZipArchiveEntry entry in zip.Entries.Where(e => e.FullName.EndsWith(".xml", StringComparison.OrdinalIgnoreCase)))
            {
                CheckDepth(entry, cancellation);
            }
        }
        catch (InvalidDataException error)
        {
            throw new UnreadableException("The document is damaged: it is not a whole ZIP package.", error);
        }
        return new MemoryStream(bytes, writable: false);
    }

    /// <summary>Author, subject, description, keywords and date of a package.</summary>
    public static Metadata Properties(OpenXmlPackage package)
    {
        var p = package.PackageProperties;
        return Metadata.Empty
            .With("author", p.Creator)
            .With("subject", p.Subject)
            .With("description", p.Description)
            .With("keywords", p.Keywords?.Split([',', ';']) ?? [])
            .With("date", (p.Modified ?? p.Created)?.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture));
    }

    public static byte[] Bytes(OpenXmlPart part)
    {
        using Stream stream = part.GetStream(FileMode.Open, FileAccess.Read);
        using var copy = new MemoryStream();
        stream.CopyTo(copy);
        return copy.ToArray();
    }

    public static byte[]? Picture(OpenXmlPart owner, string? relationship) =>
        relationship is not null && owner.Parts.FirstOrDefault(p => p.RelationshipId == relationship).OpenXmlPart is ImagePart part ? Bytes(part) : null;

    /// <summary>Runs a reader over the package, and says in one way what is wrong with a damaged one.</summary>
    public static ReadDocument Guard(Func<ReadDocument> read)
    {
        try
        {
            return read();
        }
        catch (Exception error) when (error is OpenXmlPackageException or FileFormatException or System.Xml.XmlException or InvalidDataException or ArgumentException or FormatException or KeyNotFoundException or NullReferenceException or IOException)
        {
            throw new UnreadableException($"The document is damaged: {error.Message}", error);
        }
    }

    /// <summary>The library that reads the parts follows them by recursion.</summary>
    private static void CheckDepth(ZipArchiveEntry entry, CancellationToken cancellation)
    {
        using Stream stream = entry.Open();
        using var xml = XmlReader.Create(stream, new XmlReaderSettings { DtdProcessing = DtdProcessing.Prohibit, XmlResolver = null });
        try
        {
            while (xml.Read())
            {
                if (xml.Depth > MaxDepth)
                {
                    throw new UnreadableException($"The document is nested too deeply: more than {MaxDepth} elements within each other.", null, ReadFailure.Depth);
                }
                cancellation.ThrowIfCancellationRequested();
            }
        }
        catch (XmlException)
        {
            // Whether the part is needed, and what is wrong with it, is for its reader to say.
        }
    }

    private static void Count(ZipArchive zip, CancellationToken cancellation)
    {
        byte[] buffer = new byte[1 << 16];
        long total = 0;
        foreach (ZipArchiveEntry entry in zip.Entries)
        {
            using Stream stream = entry.Open();
            for (int read; (read = stream.Read(buffer)) > 0;)
            {
                cancellation.ThrowIfCancellationRequested();
                total += read;
                if (total > MaxUnpackedBytes)
                {
                    throw new UnreadableException($"The document unpacks to more than {MaxUnpackedBytes >> 20} MB (zip bomb).");
                }
            }
        }
    }
}
