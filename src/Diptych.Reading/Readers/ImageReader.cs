using System.Globalization;
using Diptych.Core;
using MetadataExtractor;
using MetadataExtractor.Formats.Exif;
using MetadataExtractor.Formats.Iptc;
using MetadataExtractor.Formats.Xmp;

namespace Diptych.Reading.Readers;

/// <summary>An image file: itself, and what its EXIF, IPTC and XMP say of title, caption, keywords, date and place.</summary>
internal sealed class ImageReader : IFormatReader
{
    public ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation)
    {
        Metadata metadata = ReadMetadata(file.Bytes);
        string words = string.Join('\n', new[] { metadata.First("title"), metadata.First("caption"), string.Join(", ", metadata["keywords"]), metadata.First("place") }
            .Where(w => !string.IsNullOrEmpty(w)));
        return new ReadDocument(metadata.First("title"), metadata, [new Block(BlockKind.Picture, words, Image: file.Bytes)], 1);
    }

    private static Metadata ReadMetadata(byte[] bytes)
    {
        IReadOnlyList<MetadataExtractor.Directory> directories;
        try
        {
            directories = ImageMetadataReader.ReadMetadata(new MemoryStream(bytes, writable: false));
        }
        catch (Exception error) when (error is ImageProcessingException or IOException or ArgumentException or IndexOutOfRangeException or OverflowException)
        {
            // Pixels may be sound where the metadata is not; the decoder says whether they are.
            return Metadata.Empty;
        }
        var exif = directories.OfType<ExifIfd0Directory>().FirstOrDefault();
        var detail = directories.OfType<ExifSubIfdDirectory>().FirstOrDefault();
        var iptc = directories.OfType<IptcDirectory>().FirstOrDefault();
        var xmp = directories.OfType<XmpDirectory>().SelectMany(d => d.GetXmpProperties()).ToLookup(p => p.Key, p => p.Value);
        string? Xmp(string prefix) => xmp.FirstOrDefault(g => g.Key.StartsWith(prefix, StringComparison.Ordinal) && !g.Key.Contains("xml:lang", StringComparison.Ordinal))?.First();

        Metadata metadata = Metadata.Empty
            .With("title", Xmp("dc:title[1]") ?? iptc?.GetDescription(IptcDirectory.TagObjectName) ?? exif?.GetDescription(ExifDirectoryBase.TagWinTitle))
            .With("caption", Xmp("dc:description[1]") ?? iptc?.GetDescription(IptcDirectory.TagCaption) ?? exif?.GetDescription(ExifDirectoryBase.TagImageDescription))
            .With("keywords", [
                .. iptc?.GetStringArray(IptcDirectory.TagKeywords) ?? [],
                .. xmp.Where(g => g.Key.StartsWith("dc:subject[", StringComparison.Ordinal)).Select(g => g.First()),
                .. exif?.GetDescription(ExifDirectoryBase.TagWinKeywords)?.Split(';') ?? []])
            .With("author", Xmp("dc:creator[1]") ?? iptc?.GetDescription(IptcDirectory.TagByLine) ?? exif?.GetDescription(ExifDirectoryBase.TagArtist))
            .With("camera", exif?.GetDescription(ExifDirectoryBase.TagModel))
            .With("place", Place(iptc) ?? Xmp("photoshop:City"));
        if ((detail?.TryGetDateTime(ExifDirectoryBase.TagDateTimeOriginal, out DateTime taken) ?? false)
            || (exif?.TryGetDateTime(ExifDirectoryBase.TagDateTime, out taken) ?? false))
        {
            metadata = metadata.With("date", taken.ToString("yyyy-MM-ddTHH:mm:ss", CultureInfo.InvariantCulture));
        }
        if (directories.OfType<GpsDirectory>().FirstOrDefault()?.GetGeoLocation() is { } gps)
        {
            metadata = metadata
                .With("latitude", gps.Latitude.ToString("0.######", CultureInfo.InvariantCulture))
                .With("longitude", gps.Longitude.ToString("0.######", CultureInfo.InvariantCulture));
        }
        return metadata;
    }

    private static string? Place(IptcDirectory? iptc)
    {
        string place = string.Join(", ", new[] { IptcDirectory.TagCity, IptcDirectory.TagProvinceOrState, IptcDirectory.TagCountryOrPrimaryLocationName }
            .Select(t => iptc?.GetDescription(t)).Where(v => !string.IsNullOrWhiteSpace(v)));
        return place.Length > 0 ? place : null;
    }
}
