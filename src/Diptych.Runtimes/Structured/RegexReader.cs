using System.Globalization;
using Diptych.Core;

namespace Diptych.Runtimes.Structured;

/// <summary>
/// Reads a regular expression: literals, classes, groups, alternatives, and greedy or lazy repetitions (which here mean the same).
/// Look-around and references back are no regular languages and are refused.
/// </summary>
internal sealed class RegexReader
{
    private const int MostRepetitions = 4096, DeepestGroup = 100, LongestExpression = 16_384, ToldOfAnExpression = 100;
    private readonly string _text;
    private readonly Func<CodePoints, Pattern> _character;
    private int _at, _depth;

    private RegexReader(string text, Func<CodePoints, Pattern> character) => (_text, _character) = (text, character);

    /// <summary>The whole text is to match.</summary>
    public static Pattern Read(string expression)
    {
        var (pattern, _, _) = Parse(expression, set => new Pattern.Character(set));
        return pattern;
    }

    /// <summary>Some part of the text is to match, unless the expression says where it begins and ends (as JSON Schema has it).</summary>
    /// <param name="character">How one character of a set is written.</param>
    public static Pattern ReadSearch(string expression, Func<CodePoints, Pattern> character)
    {
        var (pattern, begins, ends) = Parse(expression, character);
        Pattern anything = character(CodePoints.All).Times(0);
        return Pattern.Of([.. begins ? Array.Empty<Pattern>() : [anything], pattern, .. ends ? Array.Empty<Pattern>() : [anything]]);
    }

    private static (Pattern Pattern, bool Begins, bool Ends) Parse(string expression, Func<CodePoints, Pattern> character)
    {
        if (expression.Length > LongestExpression)
        {
            throw new InvalidRequestException($"An expression has at most {LongestExpression} characters.");
        }
        bool begins = expression.StartsWith('^'), ends = expression.EndsWith('$') && !EscapedAt(expression, expression.Length - 1);
        string inner = expression[(begins ? 1 : 0)..(ends ? expression.Length - 1 : expression.Length)];
        var reader = new RegexReader(inner, character);
        Pattern pattern = reader.Choice();
        if ((begins || ends) && pattern is Pattern.Choice && TopLevelBar(inner))
        {
            throw reader.Wrong("^ and $ beside alternatives need a group: ^(a|b)$");
        }
        return reader._at == inner.Length ? (pattern, begins, ends) : throw reader.Wrong($"'{inner[reader._at]}' has no beginning");
    }

    private static bool EscapedAt(string text, int at)
    {
        int slashes = 0;
        while (at - 1 - slashes >= 0 && text[at - 1 - slashes] == '\\')
        {
            slashes++;
        }
        return slashes % 2 == 1;
    }

    private static bool TopLevelBar(string text)
    {
        int depth = 0;
        bool inClass = false;
        for (int i = 0; i < text.Length; i++)
        {
            switch (text[i])
            {
                case '\\': i++; break;
                case '[': inClass = true; break;
                case ']': inClass = false; break;
                case '(' when !inClass: depth++; break;
                case ')' when !inClass: depth--; break;
                case '|' when !inClass && depth == 0: return true;
            }
        }
        return false;
    }

    private Pattern Choice()
    {
        if (++_depth > DeepestGroup)
        {
            throw Wrong($"groups are nested more than {DeepestGroup} deep");
        }
        var choices = new List<Pattern> { Sequence() };
        while (_at < _text.Length && _text[_at] == '|')
        {
            _at++;
            choices.Add(Sequence());
        }
        _depth--;
        return Pattern.Any(choices);
    }

    private Pattern Sequence()
    {
        var parts = new List<Pattern>();
        while (_at < _text.Length && _text[_at] is not ('|' or ')'))
        {
            parts.Add(Repeated(Atom()));
        }
        return Pattern.Of(parts);
    }

    private Pattern Repeated(Pattern atom)
    {
        (int Least, int? Most)? times = (_at < _text.Length ? _text[_at] : '\0') switch
        {
            '*' => (0, null),
            '+' => (1, null),
            '?' => (0, 1),
            '{' => Times(),
            _ => null,
        };
        if (times is not { } found)
        {
            return atom;
        }
        _at++;
        if (_at < _text.Length && _text[_at] == '?')
        {
            _at++;
        }
        return atom.Times(found.Least, found.Most);
    }

    private (int Least, int? Most)? Times()
    {
        int close = _text.IndexOf('}', _at);
        string[] parts = close < 0 ? [] : _text[(_at + 1)..close].Split(',');
        if (parts.Length is 0 or > 2 || !int.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out int least))
        {
            throw Wrong("'{' opens no repetition; write \\{ for the sign itself");
        }
        int? most = parts.Length == 1 ? least : parts[1].Length == 0 ? null : int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out int m) ? m : throw Wrong("a repetition's upper bound is no number");
        if (most < least || Math.Max(least, most ?? 0) > MostRepetitions)
        {
            throw Wrong($"a repetition is of 0 to {MostRepetitions}, the lower bound first");
        }
        _at = close;
        return (least, most);
    }

    private Pattern Atom()
    {
        char c = _text[_at++];
        switch (c)
        {
            case '.':
                return _character(CodePoints.NotNewLine);
            case '[':
                return _character(Class());
            case '\\':
                return _character(Escape(inClass: false));
            case '(':
                if (_text.AsSpan(_at).StartsWith("?:"))
                {
                    _at += 2;
                }
                else if (_text.AsSpan(_at).StartsWith("?<") && _at + 2 < _text.Length && _text[_at + 2] is not ('=' or '!') && _text.IndexOf('>', _at) is > 0 and var close)
                {
                    _at = close + 1;
                }
                else if (_at < _text.Length && _text[_at] == '?')
                {
                    throw Wrong("look-around and options in groups cannot be held to");
                }
                Pattern inner = Choice();
                return _at < _text.Length && _text[_at++] == ')' ? inner : throw Wrong("a group is not closed");
            case '^' or '$':
                throw Wrong($"{c} stands at the beginning or the end of the whole expression only");
            case '*' or '+' or '?' or '{':
                throw Wrong($"'{c}' repeats nothing");
            default:
                int rune = c;
                if (char.IsHighSurrogate(c) && _at < _text.Length && char.IsLowSurrogate(_text[_at]))
                {
                    rune = char.ConvertToUtf32(c, _text[_at++]);
                }
                return _character(CodePoints.Of(rune));
        }
    }

    private CodePoints Class()
    {
        bool negated = _at < _text.Length && _text[_at] == '^';
        _at += negated ? 1 : 0;
        var ranges = new List<(int First, int Last)>();
        bool first = true;
        while (_at < _text.Length && (_text[_at] != ']' || first))
        {
            first = false;
            CodePoints low = One();
            if (_at + 1 < _text.Length && _text[_at] == '-' && _text[_at + 1] != ']')
            {
                _at++;
                CodePoints high = One();
                if (low.Ranges is not [var (a, b)] || high.Ranges is not [var (x, y)] || a != b || x != y || x < a)
                {
                    throw Wrong("a range of characters goes from one to a later one");
                }
                low = CodePoints.Of((a, x));
            }
            ranges.AddRange(low.Ranges);
        }
        if (_at++ >= _text.Length)
        {
            throw Wrong("a class is not closed");
        }
        CodePoints set = CodePoints.Of(ranges);
        return negated ? set.Complement() : set;

        CodePoints One()
        {
            char c = _text[_at++];
            if (c == '\\')
            {
                return Escape(inClass: true);
            }
            return char.IsHighSurrogate(c) && _at < _text.Length ? CodePoints.Of(char.ConvertToUtf32(c, _text[_at++])) : CodePoints.Of(c);
        }
    }

    private CodePoints Escape(bool inClass)
    {
        if (_at >= _text.Length)
        {
            throw Wrong("it ends in a backslash");
        }
        char c = _text[_at++];
        return c switch
        {
            'd' => CodePoints.Digits,
            'D' => CodePoints.Digits.Complement(),
            'w' => CodePoints.WordLetters,
            'W' => CodePoints.WordLetters.Complement(),
            's' => CodePoints.Spaces,
            'S' => CodePoints.Spaces.Complement(),
            'n' => CodePoints.Of('\n'),
            'r' => CodePoints.Of('\r'),
            't' => CodePoints.Of('\t'),
            'f' => CodePoints.Of('\f'),
            'v' => CodePoints.Of('\v'),
            '0' => CodePoints.Of('\0'),
            'x' => Hex(2),
            'u' => Hex(4),
            'b' when inClass => CodePoints.Of('\b'),
            _ when char.IsAsciiLetterOrDigit(c) => throw Wrong($"\\{c} cannot be held to"),
            _ => CodePoints.Of(c),
        };
    }

    private CodePoints Hex(int digits)
    {
        if (_at + digits > _text.Length || !int.TryParse(_text.AsSpan(_at, digits), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int value))
        {
            throw Wrong($"\\x and \\u have {digits} hexadecimal digits");
        }
        _at += digits;
        return CodePoints.Of(value);
    }

    private InvalidRequestException Wrong(string why) => new($"The expression '{(_text.Length > ToldOfAnExpression ? _text[..ToldOfAnExpression] + "…" : _text)}' cannot be used: {why}.");
}
