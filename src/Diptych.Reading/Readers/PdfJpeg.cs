using System.IO.Compression;
using UglyToad.PdfPig.Content;
using UglyToad.PdfPig.Tokens;

namespace Diptych.Reading.Readers;

/// <summary>
/// Takes the JPEG file out of a PDF image as it is. The library gives it when nothing is wrapped around it; here the
/// wrappings that writers use are undone: ASCII85, hexadecimal, Flate (PDF 32000-1, section 7.4).
/// </summary>
internal static class PdfJpeg
{
    private static readonly byte[] Start = [0xFF, 0xD8];

    /// <returns>Null when the image is no JPEG.</returns>
    /// <exception cref="Diptych.Core.UnreadableException">It unpacks to more than it may.</exception>
    public static byte[]? Of(IPdfImage image, PdfFilters filters)
    {
        byte[] bytes = image.RawBytes.ToArray();
        foreach (string filter in Filters(image))
        {
            bytes = filter switch
            {
                "ASCII85Decode" or "A85" => Ascii85(bytes),
                "ASCIIHexDecode" or "AHx" => Hex(bytes),
                "FlateDecode" or "Fl" => Inflate(bytes, filters),
                _ => bytes,
            };
            if (filter is "DCTDecode" or "DCT")
            {
                break;
            }
        }
        return bytes.AsSpan().StartsWith(Start) ? bytes : null;
    }

    private static IEnumerable<string> Filters(IPdfImage image)
    {
        if (!image.ImageDictionary.TryGet(NameToken.Filter, out IToken? token) && !image.ImageDictionary.TryGet(NameToken.F, out token))
        {
            return [];
        }
        return token is ArrayToken array ? array.Data.OfType<NameToken>().Select(n => n.Data) : token is NameToken name ? [name.Data] : [];
    }

    private static byte[] Ascii85(byte[] text)
    {
        var bytes = new List<byte>(text.Length * 4 / 5);
        long group = 0;
        int digits = 0;
        foreach (byte c in text)
        {
            if (c == '~')
            {
                break;
            }
            if (c == 'z' && digits == 0)
            {
                bytes.AddRange([0, 0, 0, 0]);
            }
            else if (c is >= (byte)'!' and <= (byte)'u')
            {
                group = (group * 85) + c - '!';
                if (++digits == 5)
                {
                    bytes.AddRange([(byte)(group >> 24), (byte)(group >> 16), (byte)(group >> 8), (byte)group]);
                    (group, digits) = (0, 0);
                }
            }
        }
        if (digits > 1)
        {
            for (int i = digits; i < 5; i++)
            {
                group = (group * 85) + 84;
            }
            for (int i = 0; i < digits - 1; i++)
            {
                bytes.Add((byte)(group >> (24 - (8 * i))));
            }
        }
        return [.. bytes];
    }

    private static byte[] Hex(byte[] text)
    {
        string digits = new([.. text.TakeWhile(c => c != '>').Select(c => (char)c).Where(char.IsAsciiHexDigit)]);
        return Convert.FromHexString(digits.Length % 2 == 0 ? digits : digits + "0");
    }

    private static byte[] Inflate(byte[] bytes, PdfFilters filters)
    {
        filters.CheckInflated(bytes);
        using var zlib = new ZLibStream(new MemoryStream(bytes), CompressionMode.Decompress);
        using var plain = new MemoryStream();
        byte[] buffer = new byte[1 << 16];
        // Pixels that are deflated and no JPEG may be large; a JPEG begins with its mark.
        for (int read; (read = zlib.Read(buffer)) > 0;)
        {
            plain.Write(buffer, 0, read);
            if (plain.Length == read && !buffer.AsSpan(0, read).StartsWith(Start))
            {
                return bytes;
            }
        }
        return plain.ToArray();
    }
}
