using System.Text;
using System.Text.RegularExpressions;
using Diptych.Core;

namespace Diptych.Reading.Readers;

/// <summary>
/// Cross-reference streams declare how many bytes each of their fields has (PDF 32000-1, section 7.5.8.2). The library takes as much of
/// its stack, whatever the number, so a number that cannot be is found before.
/// </summary>
internal static partial class PdfCrossReferences
{
    private const int MaxFieldBytes = 8;

    /// <summary>A dictionary of this many bytes is searched around the mark of a cross-reference stream.</summary>
    private const int DictionaryBytes = 4096;

    /// <exception cref="UnreadableException">A field is wider than a number can be.</exception>
    public static void Check(byte[] pdf)
    {
        for (int at = 0, next; (next = pdf.AsSpan(at).IndexOf("/XRef"u8)) >= 0;)
        {
            int mark = at + next, from = Math.Max(0, mark - DictionaryBytes), to = Math.Min(pdf.Length, mark + DictionaryBytes);
            at = mark + 1;
            ReadOnlySpan<byte> before = pdf.AsSpan(from, mark - from), after = pdf.AsSpan(mark, to - mark);
            int start = before.LastIndexOf("obj"u8), end = after.IndexOf("stream"u8);
            string dictionary = Encoding.Latin1.GetString(before[Math.Max(start, 0)..]) + Encoding.Latin1.GetString(end < 0 ? after : after[..end]);
            if (Widths().Match(dictionary) is { Success: true } widths
                && widths.Groups[1].Captures.Any(width => !int.TryParse(width.ValueSpan, out int bytes) || bytes > MaxFieldBytes))
            {
                throw new UnreadableException("The PDF has no readable cross-reference table.");
            }
        }
    }

    [GeneratedRegex(@"/W\s*\[(?:\s*(\d+))+", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Widths();
}
