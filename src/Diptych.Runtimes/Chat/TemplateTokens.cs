using System.Globalization;
using System.Text;

namespace Diptych.Runtimes.Chat;

internal enum TokenKind
{
    /// <summary>Text between tags.</summary>
    Text,

    /// <summary>{{</summary>
    BeginValue,

    /// <summary>{%</summary>
    BeginStatement,

    /// <summary>}} or %}</summary>
    End,
    Name,
    Number,
    String,
    Sign,
}

/// <param name="Value">What it stands for: text, name, sign, or number.</param>
internal readonly record struct TemplateToken(TokenKind Kind, object Value, int Line)
{
    public bool Is(TokenKind kind, string value) => Kind == kind && value.Equals(Value as string, StringComparison.Ordinal);
}

/// <summary>Cuts a template into tokens. The line break after a statement is dropped, and so are blanks before one that begins its line.</summary>
internal static class TemplateTokens
{
    /// <summary>Of one tag: what is chained is worked out one within the other.</summary>
    private const int MostTokens = 1000;

    private static readonly string[] Signs = ["**", "//", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ",", ".", ":", "|", "=", "<", ">", "+", "-", "*", "/", "%", "~"];

    /// <exception cref="InvalidDataException">A tag is not closed, or holds what is no token.</exception>
    public static List<TemplateToken> Cut(string source)
    {
        source = source.ReplaceLineEndings("\n");
        source = source.EndsWith('\n') ? source[..^1] : source;
        var tokens = new List<TemplateToken>();
        int at = 0, line = 1;
        bool trim = false, statement = false;
        while (at < source.Length)
        {
            int tag = NextTag(source, at);
            string text = source[at..(tag < 0 ? source.Length : tag)];
            line += text.AsSpan().Count('\n');
            if (trim)
            {
                text = text.TrimStart();
            }
            else if (statement && text.StartsWith('\n'))
            {
                text = text[1..];
            }
            if (tag < 0)
            {
                Add(text);
                return tokens;
            }
            char kind = source[tag + 1];
            at = tag + 2;
            if (at < source.Length && source[at] == '-')
            {
                text = text.TrimEnd();
                at++;
            }
            else if (at < source.Length && source[at] == '+')
            {
                at++;
            }
            else if (kind != '{' && LineBegins(source, tag))
            {
                text = text.TrimEnd(' ', '\t');
            }
            Add(text);
            statement = kind != '{';
            if (kind == '#')
            {
                int end = source.IndexOf("#}", at, StringComparison.Ordinal);
                if (end < 0)
                {
                    throw Wrong("a comment is not closed", line);
                }
                line += source.AsSpan(at, end - at).Count('\n');
                trim = source[end - 1] == '-';
                at = end + 2;
                continue;
            }
            tokens.Add(new TemplateToken(kind == '{' ? TokenKind.BeginValue : TokenKind.BeginStatement, "", line));
            (at, char mark) = Tag(source, at, kind == '{' ? "}}" : "%}", tokens, ref line);
            (trim, statement) = (mark == '-', statement && mark != '+');
        }
        return tokens;

        void Add(string text)
        {
            if (text.Length > 0)
            {
                tokens.Add(new TemplateToken(TokenKind.Text, text, line));
            }
        }
    }

    private static object Number(string number, int line) => long.TryParse(number, CultureInfo.InvariantCulture, out long whole) ? whole
        : double.TryParse(number, NumberStyles.Float, CultureInfo.InvariantCulture, out double real) && double.IsFinite(real) ? (object)real : throw Wrong($"{number} is no number", line);

    public static InvalidDataException Wrong(string what, int line) => new($"The chat template cannot be read: {what} (line {line.ToString(CultureInfo.InvariantCulture)}).");

    private static int NextTag(string source, int from)
    {
        for (int i = source.IndexOf('{', from); i >= 0 && i + 1 < source.Length; i = source.IndexOf('{', i + 1))
        {
            if (source[i + 1] is '{' or '%' or '#')
            {
                return i;
            }
        }
        return -1;
    }

    /// <summary>Whether there is nothing but blanks between the line's beginning and a place in it.</summary>
    private static bool LineBegins(string source, int at)
    {
        int before = at - 1;
        while (before >= 0 && source[before] is ' ' or '\t')
        {
            before--;
        }
        return before < 0 || source[before] == '\n';
    }

    /// <returns>Where the tag ends, and the sign before its end that says how blanks behind it are taken.</returns>
    private static (int At, char Mark) Tag(string source, int at, string end, List<TemplateToken> tokens, ref int line)
    {
        int depth = 0, begin = tokens.Count;
        while (at < source.Length)
        {
            if (tokens.Count - begin > MostTokens)
            {
                throw Wrong("a tag is too long", line);
            }
            char c = source[at];
            if (char.IsWhiteSpace(c))
            {
                line += c == '\n' ? 1 : 0;
                at++;
                continue;
            }
            bool marked = c is '-' or '+' && string.CompareOrdinal(source, at + 1, end, 0, 2) == 0;
            if (depth == 0 && (marked || string.CompareOrdinal(source, at, end, 0, 2) == 0))
            {
                tokens.Add(new TemplateToken(TokenKind.End, end, line));
                return (at + (marked ? 3 : 2), c);
            }
            if (c is '\'' or '"')
            {
                tokens.Add(new TemplateToken(TokenKind.String, Quoted(source, ref at, line), line));
                continue;
            }
            int start = at;
            if (char.IsAsciiDigit(c))
            {
                while (at < source.Length && (char.IsAsciiDigit(source[at]) || (source[at] == '.' && at + 1 < source.Length && char.IsAsciiDigit(source[at + 1]))))
                {
                    at++;
                }
                if (at + 1 < source.Length && source[at] is 'e' or 'E' && (char.IsAsciiDigit(source[at + 1]) || source[at + 1] is '-' or '+'))
                {
                    for (at += 2; at < source.Length && char.IsAsciiDigit(source[at]); at++)
                    {
                    }
                }
                string number = source[start..at];
                tokens.Add(new TemplateToken(TokenKind.Number, Number(number, line), line));
                continue;
            }
            if (char.IsLetter(c) || c == '_')
            {
                while (at < source.Length && (char.IsLetterOrDigit(source[at]) || source[at] == '_'))
                {
                    at++;
                }
                tokens.Add(new TemplateToken(TokenKind.Name, source[start..at], line));
                continue;
            }
            string sign = Array.Find(Signs, s => string.CompareOrdinal(source, start, s, 0, s.Length) == 0) ?? throw Wrong($"'{c}' is not known", line);
            depth += sign is "{" or "[" or "(" ? 1 : sign is "}" or "]" or ")" ? -1 : 0;
            tokens.Add(new TemplateToken(TokenKind.Sign, sign, line));
            at += sign.Length;
        }
        throw Wrong($"{(end == "}}" ? "{{" : "{%")} is not closed", line);
    }

    private static string Quoted(string source, ref int at, int line)
    {
        char quote = source[at++];
        var text = new StringBuilder();
        while (at < source.Length && source[at] != quote)
        {
            if (source[at] == '\\' && at + 1 < source.Length)
            {
                char escaped = source[at + 1];
                at += 2;
                if (escaped == 'u' && at + 4 <= source.Length && int.TryParse(source.AsSpan(at, 4), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out int code))
                {
                    text.Append((char)code);
                    at += 4;
                    continue;
                }
                text.Append(escaped switch { 'n' => "\n", 't' => "\t", 'r' => "\r", '\\' or '\'' or '"' => escaped.ToString(), _ => $"\\{escaped}" });
                continue;
            }
            text.Append(source[at++]);
        }
        return at++ < source.Length ? text.ToString() : throw Wrong("a string is not closed", line);
    }
}
