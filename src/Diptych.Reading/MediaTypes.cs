using System.Text;
using Diptych.Core;

namespace Diptych.Reading;

/// <summary>Tells what a file is: by its first bytes where they are telling, else by its name.</summary>
public static class MediaTypes
{
    public const string Pdf = "application/pdf";
    public const string Html = "text/html";
    public const string Markdown = "text/markdown";
    public const string Plain = "text/plain";
    public const string Csv = "text/csv";
    public const string Json = "application/json";
    public const string JsonLines = "application/jsonl";
    public const string Email = "message/rfc822";
    public const string Docx = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
    public const string Pptx = "application/vnd.openxmlformats-officedocument.presentationml.presentation";
    public const string Xlsx = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";

    private static readonly Dictionary<string, string> ByExtension = new(StringComparer.OrdinalIgnoreCase)
    {
        [".pdf"] = Pdf,
        [".html"] = Html,
        [".htm"] = Html,
        [".xhtml"] = Html,
        [".md"] = Markdown,
        [".markdown"] = Markdown,
        [".txt"] = Plain,
        [".text"] = Plain,
        [".log"] = Plain,
        [".rst"] = Plain,
        [".org"] = Plain,
        [".tex"] = Plain,
        [".csv"] = Csv,
        [".tsv"] = "text/tab-separated-values",
        [".json"] = Json,
        [".jsonl"] = JsonLines,
        [".ndjson"] = JsonLines,
        [".eml"] = Email,
        [".docx"] = Docx,
        [".pptx"] = Pptx,
        [".xlsx"] = Xlsx,
        [".jpg"] = "image/jpeg",
        [".jpeg"] = "image/jpeg",
        [".png"] = "image/png",
        [".webp"] = "image/webp",
        [".gif"] = "image/gif",
        [".bmp"] = "image/bmp",
        [".tif"] = "image/tiff",
        [".tiff"] = "image/tiff",
        [".cs"] = Plain,
        [".py"] = Plain,
        [".js"] = Plain,
        [".ts"] = Plain,
        [".java"] = Plain,
        [".go"] = Plain,
        [".rs"] = Plain,
        [".c"] = Plain,
        [".h"] = Plain,
        [".cpp"] = Plain,
        [".sql"] = Plain,
        [".sh"] = Plain,
        [".yaml"] = Plain,
        [".yml"] = Plain,
        [".toml"] = Plain,
        [".ini"] = Plain,
        [".xml"] = Plain,
    };

    /// <summary>Whether files of this name are ingested from a folder.</summary>
    public static bool IsKnown(string name) => ByExtension.ContainsKey(Path.GetExtension(name));

    public static bool IsImage(string mediaType) => mediaType.StartsWith("image/", StringComparison.Ordinal);

    /// <exception cref="UnreadableException">Empty, of an unknown format, or something else than its name says.</exception>
    public static string Detect(string name, ReadOnlySpan<byte> bytes, string? declared = null)
    {
        if (bytes.IsEmpty)
        {
            throw new UnreadableException("The file is empty (0 bytes).");
        }
        string? byName = ByExtension.GetValueOrDefault(Path.GetExtension(name)) ?? (declared is not null && ByExtension.ContainsValue(declared) ? declared : null);
        string? byContent = Sniff(bytes);
        if (byContent == "application/zip" && byName is Docx or Pptx or Xlsx)
        {
            return byName;
        }
        if (byContent is not null && (byName is null || Family(byName) == Family(byContent)))
        {
            return byContent is "application/zip" or OldOffice ? throw new UnreadableException($"{Kind(byContent)} files are not supported.") : byContent;
        }
        if (byContent is not null)
        {
            throw new UnreadableException(
                byContent == OldOffice && byName is Docx or Pptx or Xlsx
                    ? "The document is encrypted with a password."
                    : $"The name says {Kind(byName!)}, the content is {Kind(byContent)}: rename the file.");
        }
        if (byName is null)
        {
            return LooksLikeText(bytes) ? Plain : throw new UnreadableException("The format is not known.");
        }
        return Family(byName) == "text"
            ? byName
            : throw new UnreadableException($"The name says {Kind(byName)}, the content is not: the file is damaged or has the wrong extension.");
    }

    private const string OldOffice = "application/x-ole-storage";

    private static string? Sniff(ReadOnlySpan<byte> b) => b switch
    {
        _ when b[..Math.Min(b.Length, 1024)].IndexOf("%PDF-"u8) >= 0 => Pdf,
        _ when b.StartsWith((ReadOnlySpan<byte>)[0xFF, 0xD8, 0xFF]) => "image/jpeg",
        _ when b.StartsWith("\x89PNG"u8) || b.StartsWith((ReadOnlySpan<byte>)[0x89, (byte)'P', (byte)'N', (byte)'G']) => "image/png",
        _ when b.StartsWith("GIF8"u8) => "image/gif",
        _ when b.StartsWith("RIFF"u8) && b.Length > 12 && b[8..12].SequenceEqual("WEBP"u8) => "image/webp",
        _ when b.StartsWith("II*\0"u8) || b.StartsWith("MM\0*"u8) => "image/tiff",
        _ when b.StartsWith("BM"u8) && b.Length > 26 && b[14] is 12 or 40 or 56 or 108 or 124 => "image/bmp",
        _ when b.StartsWith("PK\x03\x04"u8) || b.StartsWith("PK\x05\x06"u8) => "application/zip",
        _ when b.StartsWith((ReadOnlySpan<byte>)[0xD0, 0xCF, 0x11, 0xE0]) => OldOffice,
        _ => null,
    };

    private static string Family(string mediaType) => mediaType switch
    {
        Pdf => "pdf",
        Docx or Pptx or Xlsx or "application/zip" or OldOffice => "package",
        _ when IsImage(mediaType) => "image",
        _ => "text",
    };

    private static string Kind(string mediaType) => mediaType switch
    {
        Pdf => "PDF",
        Docx => "DOCX",
        Pptx => "PPTX",
        Xlsx => "XLSX",
        "application/zip" => "ZIP",
        OldOffice => "old or encrypted Office",
        _ => mediaType[(mediaType.IndexOf('/') + 1)..].ToUpperInvariant(),
    };

    private static bool LooksLikeText(ReadOnlySpan<byte> bytes) => bytes[..Math.Min(bytes.Length, 4096)].IndexOf((byte)0) < 0;
}

/// <summary>Text in whatever encoding it came.</summary>
internal static class TextEncoding
{
    private static readonly UTF8Encoding Strict = new(false, throwOnInvalidBytes: true);

    /// <summary>By byte order mark; else UTF-8 where valid; else Windows-1252, in which every byte is a character.</summary>
    /// <exception cref="UnreadableException">The content is binary.</exception>
    public static string Decode(ReadOnlySpan<byte> bytes)
    {
        string text = bytes switch
        {
            [0xFF, 0xFE, ..] => Encoding.Unicode.GetString(bytes[2..]),
            [0xFE, 0xFF, ..] => Encoding.BigEndianUnicode.GetString(bytes[2..]),
            [0xEF, 0xBB, 0xBF, ..] => Encoding.UTF8.GetString(bytes[3..]),
            _ => Utf8OrLatin(bytes),
        };
        int controls = text.AsSpan(0, Math.Min(text.Length, 8192)).Count('\0');
        return controls == 0 ? text : throw new UnreadableException("The content is binary, not text.");
    }

    private static string Utf8OrLatin(ReadOnlySpan<byte> bytes)
    {
        try
        {
            return Strict.GetString(bytes);
        }
        catch (DecoderFallbackException)
        {
            return CodePagesEncodingProvider.Instance.GetEncoding(1252)!.GetString(bytes);
        }
    }
}
