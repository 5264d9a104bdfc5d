using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Diptych.Runtimes.Chat;

/// <summary>What a name stands for that nothing was set for: nothing when it is written, false when it is asked.</summary>
internal sealed class Undefined
{
    public static readonly Undefined Value = new();
}

/// <summary>What <c>namespace()</c> makes: its members can be set from within loops.</summary>
internal sealed record Namespace(Dictionary<string, object?> Values);

/// <summary>A macro, a method, or a function of the language.</summary>
internal sealed record Function(Func<IReadOnlyList<object?>, IReadOnlyDictionary<string, object?>, object?> Call);

/// <summary>
/// Values as Jinja has them from Python: none, bool, whole numbers, floats, strings, lists, and mappings in the order of their keys.
/// </summary>
internal static class TemplateValues
{
    public static bool IsTrue(object? value) => value switch
    {
        null or Undefined or false or 0L or 0d or "" => false,
        List<object?> list => list.Count > 0,
        Dictionary<string, object?> members => members.Count > 0,
        _ => true,
    };

    /// <summary>As Python writes it.</summary>
    public static string Text(object? value) => value switch
    {
        string text => text,
        Undefined => "",
        null => "None",
        bool flag => flag ? "True" : "False",
        long whole => whole.ToString(CultureInfo.InvariantCulture),
        double number => Float(number),
        List<object?> list => $"[{string.Join(", ", list.Select(Quoted))}]",
        Dictionary<string, object?> members => $"{{{string.Join(", ", members.Select(m => $"{Quoted(m.Key)}: {Quoted(m.Value)}"))}}}",
        _ => throw new TemplateException("The chat template writes a function."),
    };

    /// <summary>As Python's json.dumps writes it, without escaping what is not ASCII.</summary>
    /// <param name="indent">Blanks a level; null for one line.</param>
    public static string Json(object? value, int? indent = null, int level = 0)
    {
        string between = indent is { } blanks ? $",\n{new string(' ', blanks * (level + 1))}" : ", ";
        string begin = indent is { } more ? $"\n{new string(' ', more * (level + 1))}" : "", end = indent is { } less ? $"\n{new string(' ', less * level)}" : "";
        return value switch
        {
            null or Undefined => "null",
            bool flag => flag ? "true" : "false",
            string text => JsonText(text),
            List<object?> { Count: 0 } => "[]",
            List<object?> list => $"[{begin}{string.Join(between, list.Select(v => Json(v, indent, level + 1)))}{end}]",
            Dictionary<string, object?> { Count: 0 } => "{}",
            Dictionary<string, object?> members => $"{{{begin}{string.Join(between, members.Select(m => $"{JsonText(m.Key)}: {Json(m.Value, indent, level + 1)}"))}{end}}}",
            _ => Text(value),
        };
    }

    /// <summary>What JSON stands for.</summary>
    public static object? Of(JsonElement json) => json.ValueKind switch
    {
        JsonValueKind.Object => json.EnumerateObject().GroupBy(m => m.Name, StringComparer.Ordinal).ToDictionary(g => g.Key, g => Of(g.Last().Value), StringComparer.Ordinal),
        JsonValueKind.Array => json.EnumerateArray().Select(Of).ToList(),
        JsonValueKind.String => json.GetString(),
        JsonValueKind.Number => json.TryGetInt64(out long whole) ? (object)whole : json.GetDouble(),
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => null,
    };

    public static List<object?> Items(object? value) => value switch
    {
        List<object?> list => list,
        Dictionary<string, object?> members => [.. members.Keys],
        string text => [.. Characters(text)],
        Undefined => [],
        _ => throw new TemplateException($"The chat template goes through {Text(value)}, which is no list."),
    };

    public static object? Member(object? of, string name) => of switch
    {
        Namespace space => space.Values.GetValueOrDefault(name, Undefined.Value),
        Dictionary<string, object?> members when members.TryGetValue(name, out object? value) => value,
        Undefined => throw new TemplateException($"The chat template asks for '{name}' of what is not there."),
        _ => TemplateFunctions.Method(of, name),
    };

    public static object? Item(object? of, object? index) => (of, index) switch
    {
        (Dictionary<string, object?> members, string key) => members.TryGetValue(key, out object? value) ? value : Undefined.Value,
        (List<object?> list, long at) => (at < 0 ? at + list.Count : at) is var place && place >= 0 && place < list.Count ? list[(int)place] : Undefined.Value,
        (string text, long at) => Characters(text) is var all && (at < 0 ? at + all.Count : at) is var place && place >= 0 && place < all.Count ? all[(int)place] : Undefined.Value,
        (_, string name) => Member(of, name),
        (Undefined, _) => throw new TemplateException($"The chat template asks for {Text(index)} of what is not there."),
        _ => Undefined.Value,
    };

    public static object Slice(object? of, object? from, object? to, object? step)
    {
        List<object?> items = of is Undefined ? throw new TemplateException("The chat template takes a part of what is not there.") : Items(of), taken = [];
        long by = step is long given and not 0 ? given : 1, count = items.Count;
        long At(object? bound, long otherwise) => bound is long at ? Math.Clamp(at < 0 ? at + count : at, by < 0 ? -1 : 0, by < 0 ? count - 1 : count) : otherwise;
        for (long i = At(from, by < 0 ? count - 1 : 0), end = At(to, by < 0 ? -1 : count); by < 0 ? i > end : i < end; i += by)
        {
            taken.Add(items[(int)i]);
        }
        return of is string ? string.Concat(taken) : taken;
    }

    public static bool Compare(string sign, object? a, object? b) => sign switch
    {
        "==" => Same(a, b),
        "!=" => !Same(a, b),
        "in" => Contains(b, a),
        "not in" => !Contains(b, a),
        _ => (a is string text && b is string other ? string.CompareOrdinal(text, other) : Number(a).CompareTo(Number(b))) is var order && sign switch { "<" => order < 0, ">" => order > 0, "<=" => order <= 0, _ => order >= 0 },
    };

    public static object Compute(string sign, object? a, object? b)
    {
        switch (sign, a, b)
        {
            case ("~", _, _):
                return Text(a) + Text(b);
            case ("+", string text, string other):
                return text + other;
            case ("+", List<object?> list, List<object?> other):
                return new List<object?>([.. list, .. other]);
            case ("*", string text, long times):
                return times * text.Length > 1 << 20 ? throw new TemplateException("The chat template repeats a text too often.") : string.Concat(Enumerable.Repeat(text, (int)Math.Max(0, times)));
            case ("/", _, _):
                return Number(b) == 0 ? throw new TemplateException("The chat template divides by zero.") : Number(a) / Number(b);
            case (_, long or bool, long or bool):
                long x = Convert.ToInt64(a, CultureInfo.InvariantCulture), y = Convert.ToInt64(b, CultureInfo.InvariantCulture);
                return sign switch
                {
                    "+" => x + y,
                    "-" => x - y,
                    "*" => x * y,
                    _ when y is 0 or -1 => y == 0 ? throw new TemplateException("The chat template divides by zero.") : sign == "%" ? 0L : -x,
                    "//" => (x / y) - ((x % y != 0 && (x < 0) != (y < 0)) ? 1 : 0),
                    _ => ((x % y) + y) % y,
                };
            default:
                double c = Number(a), d = Number(b);
                return sign switch { "+" => c + d, "-" => c - d, "*" => c * d, "//" => Math.Floor(c / d), _ => c - (d * Math.Floor(c / d)) };
        }
    }

    public static bool Same(object? a, object? b) => (a, b) switch
    {
        (List<object?> x, List<object?> y) => x.Count == y.Count && x.Zip(y).All(p => Same(p.First, p.Second)),
        (Dictionary<string, object?> x, Dictionary<string, object?> y) => x.Count == y.Count && x.All(m => y.TryGetValue(m.Key, out object? other) && Same(m.Value, other)),
        (long or double or bool, long or double or bool) => Number(a) == Number(b),
        _ => Equals(a, b),
    };

    public static double Number(object? value) => value switch
    {
        long whole => whole,
        double number => number,
        bool flag => flag ? 1 : 0,
        _ => throw new TemplateException($"The chat template reckons with {Quoted(value)}, which is no number."),
    };

    private static string JsonText(string text)
    {
        var json = new StringBuilder("\"");
        foreach (char c in text)
        {
            _ = c switch
            {
                '"' or '\\' => json.Append('\\').Append(c),
                '\n' => json.Append("\\n"),
                '\r' => json.Append("\\r"),
                '\t' => json.Append("\\t"),
                '\b' => json.Append("\\b"),
                '\f' => json.Append("\\f"),
                < ' ' => json.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}"),
                _ => json.Append(c),
            };
        }
        return json.Append('"').ToString();
    }

    private static bool Contains(object? whole, object? part) => (whole, part) switch
    {
        (string text, string word) => text.Contains(word, StringComparison.Ordinal),
        (Dictionary<string, object?> members, string key) => members.ContainsKey(key),
        (List<object?> list, _) => list.Exists(item => Same(item, part)),
        (Undefined, _) => false,
        _ => throw new TemplateException($"The chat template looks into {Quoted(whole)}, which holds nothing."),
    };

    private static List<object?> Characters(string text) => [.. text.EnumerateRunes().Select(r => (object?)r.ToString())];

    private static string Float(double number) => number == Math.Floor(number) && Math.Abs(number) < 1e16
        ? number.ToString("0.0", CultureInfo.InvariantCulture)
        : number.ToString("R", CultureInfo.InvariantCulture);

    private static string Quoted(object? value) => value is string text ? $"'{new StringBuilder(text).Replace("\\", "\\\\").Replace("'", "\\'").Replace("\n", "\\n")}'" : Text(value);
}
