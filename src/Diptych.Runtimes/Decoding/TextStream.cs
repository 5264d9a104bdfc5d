using System.Text;

namespace Diptych.Runtimes.Decoding;

/// <summary>Turns tokens into text as they come: characters whose bytes are not all there, and what may be the beginning of a stop text, wait.</summary>
internal sealed class TextStream(IReadOnlyList<string> stops)
{
    private readonly System.Text.Decoder _utf8 = Encoding.UTF8.GetDecoder();
    private readonly StringBuilder _held = new();

    /// <summary>True once a stop text has come: nothing follows.</summary>
    public bool Stopped { get; private set; }

    /// <returns>What can be shown now.</returns>
    public string Add(ReadOnlySpan<byte> bytes)
    {
        char[] characters = new char[bytes.Length + 4];
        _held.Append(characters, 0, _utf8.GetChars(bytes, characters, flush: false));
        string text = _held.ToString();
        int end = stops.Select(s => text.IndexOf(s, StringComparison.Ordinal)).Where(i => i >= 0).DefaultIfEmpty(-1).Min();
        if (end >= 0)
        {
            Stopped = true;
            _held.Clear();
            return text[..end];
        }
        int hold = stops.Select(s => Overlap(text, s)).DefaultIfEmpty(0).Max();
        _held.Remove(0, text.Length - hold);
        return text[..^hold];
    }

    /// <returns>What was held back.</returns>
    public string End()
    {
        char[] rest = new char[4];
        string text = _held.Append(rest, 0, _utf8.GetChars([], rest, flush: true)).ToString();
        _held.Clear();
        return text;
    }

    /// <summary>The longest end of the text that the stop text begins with.</summary>
    private static int Overlap(string text, string stop)
    {
        for (int length = Math.Min(text.Length, stop.Length - 1); length > 0; length--)
        {
            if (text.EndsWith(stop[..length], StringComparison.Ordinal))
            {
                return length;
            }
        }
        return 0;
    }
}
