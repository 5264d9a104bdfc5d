using System.Globalization;
using System.Text.RegularExpressions;

namespace Diptych.Runtimes.Chat;

/// <summary>The filters, tests, methods and functions that chat templates use.</summary>
internal static partial class TemplateFunctions
{
    private const int MostItems = 100_000;

    private static readonly HashSet<string> Filters = new(StringComparer.Ordinal)
    {
        "trim", "tojson", "length", "count", "default", "d", "join", "map", "select", "reject", "selectattr", "rejectattr", "upper", "lower", "capitalize", "title", "first", "last",
        "list", "string", "int", "float", "replace", "safe", "items", "dictsort", "unique", "sort", "reverse", "indent", "round", "abs", "escape", "e", "min", "max", "sum",
    };

    private static readonly HashSet<string> Tests = new(StringComparer.Ordinal)
    {
        "defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false", "odd", "even", "callable", "lower", "upper",
        "equalto", "eq", "ne", "gt", "ge", "lt", "le", "in", "divisibleby",
    };

    public static bool IsFilter(string name) => Filters.Contains(name);

    public static bool IsTest(string name) => Tests.Contains(name);

    /// <summary>What every template may call.</summary>
    public static object? Global(string name) => name switch
    {
        "range" => new Function((values, _) => Range(values)),
        "namespace" => new Function((_, named) => new Namespace(new Dictionary<string, object?>(named, StringComparer.Ordinal))),
        "dict" => new Function((_, named) => new Dictionary<string, object?>(named, StringComparer.Ordinal)),
        "raise_exception" => new Function((values, _) => throw new TemplateException(values.Count > 0 ? TemplateValues.Text(values[0]) : "The chat template raised an error.")),
        _ => Undefined.Value,
    };

    public static Dictionary<string, object?> Loop(List<object?> items, int index) => new(StringComparer.Ordinal)
    {
        ["index"] = index + 1L,
        ["index0"] = (long)index,
        ["revindex"] = (long)(items.Count - index),
        ["revindex0"] = items.Count - index - 1L,
        ["first"] = index == 0,
        ["last"] = index == items.Count - 1,
        ["length"] = (long)items.Count,
        ["previtem"] = index > 0 ? items[index - 1] : Undefined.Value,
        ["nextitem"] = index + 1 < items.Count ? items[index + 1] : Undefined.Value,
        ["cycle"] = new Function((values, _) => values[index % values.Count]),
    };

    public static object? Filter(string name, object? of, IReadOnlyList<object?> values, IReadOnlyDictionary<string, object?> named)
    {
        object? At(int place, string key) => place < values.Count ? values[place] : named.GetValueOrDefault(key, Undefined.Value);
        string Words() => TemplateValues.Text(of);
        List<object?> Items() => TemplateValues.Items(of);
        switch (name)
        {
            case "trim":
                return Stripped(Words(), At(0, "chars") as string);
            case "tojson":
                return TemplateValues.Json(of, At(0, "indent") is long indent ? (int)Math.Clamp(indent, 0, 16) : null);
            case "length" or "count":
                return of is string text ? text.EnumerateRunes().Count() : (long)Items().Count;
            case "default" or "d":
                return of is Undefined || (TemplateValues.IsTrue(At(1, "boolean")) && !TemplateValues.IsTrue(of)) ? At(0, "default_value") is var otherwise and not Undefined ? otherwise : "" : of;
            case "join":
                string between = At(0, "d") is string given ? given : "";
                return string.Join(between, Items().Select(item => TemplateValues.Text(named.TryGetValue("attribute", out object? member) ? Part(item, member) : item)));
            case "map":
                return named.TryGetValue("attribute", out object? attribute) ? Items().ConvertAll(item => Part(item, attribute) is var part && part is Undefined ? named.GetValueOrDefault("default", Undefined.Value) : part)
                    : values is [string filter, ..] && IsFilter(filter) ? Items().ConvertAll(item => Filter(filter, item, [.. values.Skip(1)], named))
                    : throw new TemplateException("The chat template maps by what is no filter.");
            case "select" or "reject":
                return Items().FindAll(item => (values.Count == 0 ? TemplateValues.IsTrue(item) : Tested(values, 0, item)) == (name == "select"));
            case "selectattr" or "rejectattr":
                return Items().FindAll(item => (values.Count < 2 ? TemplateValues.IsTrue(Part(item, At(0, ""))) : Tested(values, 1, Part(item, values[0]))) == (name == "selectattr"));
            case "upper":
                return Words().ToUpperInvariant();
            case "lower":
                return Words().ToLowerInvariant();
            case "capitalize":
                return Capitalized(Words());
            case "title":
                return Titled(Words());
            case "first":
                return Items() is [var first, ..] ? first : Undefined.Value;
            case "last":
                return Items() is [.., var last] ? last : Undefined.Value;
            case "list":
                return new List<object?>(Items());
            case "string" or "safe":
                return Words();
            case "int":
                return double.TryParse(Words(), NumberStyles.Float, CultureInfo.InvariantCulture, out double whole) && Math.Abs(whole) < 9e18 ? (long)whole : At(0, "default") is long none ? none : 0L;
            case "float":
                return double.TryParse(Words(), NumberStyles.Float, CultureInfo.InvariantCulture, out double number) ? number : 0d;
            case "replace":
                return Words().Replace(Required(At(0, "old")), TemplateValues.Text(At(1, "new")), StringComparison.Ordinal);
            case "items":
                return of is Undefined ? new List<object?>() : Pairs(of);
            case "dictsort":
                return Pairs(of).OrderBy(pair => (string)((List<object?>)pair!)[0]!, StringComparer.OrdinalIgnoreCase).ToList();
            case "unique":
                var seen = new List<object?>();
                Items().ForEach(item => seen.AddRange(seen.Exists(s => TemplateValues.Same(s, item)) ? [] : [item]));
                return seen;
            case "sort":
                List<object?> sorted = [.. Items()];
                sorted.Sort((a, b) => TemplateValues.Compare("<", a, b) ? -1 : TemplateValues.Compare("<", b, a) ? 1 : 0);
                if (TemplateValues.IsTrue(At(0, "reverse")))
                {
                    sorted.Reverse();
                }
                return sorted;
            case "reverse":
                return of is string forward ? TemplateValues.Slice(forward, null, null, -1L) : Enumerable.Reverse(Items()).ToList();
            case "indent":
                string blanks = new(' ', At(0, "width") is long width ? (int)Math.Clamp(width, 0, 64) : 4);
                return (TemplateValues.IsTrue(At(1, "first")) ? blanks : "") + Words().Replace("\n", $"\n{blanks}", StringComparison.Ordinal);
            case "round":
                return Math.Round(TemplateValues.Number(of), At(0, "precision") is long digits ? (int)Math.Clamp(digits, 0, 15) : 0, MidpointRounding.ToEven);
            case "abs":
                return of is long signed ? (object)Math.Abs(signed) : Math.Abs(TemplateValues.Number(of));
            case "escape" or "e":
                return System.Net.WebUtility.HtmlEncode(Words());
            case "min" or "max":
                return Items().Count == 0 ? Undefined.Value : Items().Aggregate((a, b) => TemplateValues.Compare(name == "min" ? "<=" : ">=", a, b) ? a : b);
            default:
                return Items().Aggregate((object)0L, (a, b) => TemplateValues.Compute("+", a, b));
        }
    }

    public static bool Test(string name, object? of, IReadOnlyList<object?> values) => name switch
    {
        "defined" => of is not Undefined,
        "undefined" => of is Undefined,
        "none" => of is null,
        "string" => of is string,
        "mapping" => of is Dictionary<string, object?>,
        "iterable" or "sequence" => of is string or List<object?> or Dictionary<string, object?>,
        "number" => of is long or double or bool,
        "integer" => of is long,
        "float" => of is double,
        "boolean" => of is bool,
        "true" => of is true,
        "false" => of is false,
        "odd" => TemplateValues.Number(of) % 2 != 0,
        "even" => TemplateValues.Number(of) % 2 == 0,
        "callable" => of is Function,
        "lower" => of is string text && text == text.ToLowerInvariant(),
        "upper" => of is string text && text == text.ToUpperInvariant(),
        _ when values.Count == 0 => throw new TemplateException($"The chat template's test '{name}' has nothing to compare with."),
        "equalto" or "eq" => TemplateValues.Same(of, values[0]),
        "ne" => !TemplateValues.Same(of, values[0]),
        "in" => TemplateValues.Compare("in", of, values[0]),
        "divisibleby" => TemplateValues.Number(of) % TemplateValues.Number(values[0]) == 0,
        _ => TemplateValues.Compare(name switch { "gt" => ">", "ge" => ">=", "lt" => "<", _ => "<=" }, of, values[0]),
    };

    /// <summary>A method of a text, a mapping or a list; undefined where it has none of this name.</summary>
    public static object? Method(object? of, string name)
    {
        Function Of(Func<IReadOnlyList<object?>, object?> call) => new((values, _) => call(values));
        string Argument(IReadOnlyList<object?> values, int place = 0) => Required(place < values.Count ? values[place] : null);
        return (of, name) switch
        {
            (string text, "strip") => Of(v => Stripped(text, v is [string chars, ..] ? chars : null)),
            (string text, "lstrip") => Of(v => v is [string chars, ..] ? text.TrimStart([.. chars]) : text.TrimStart()),
            (string text, "rstrip") => Of(v => v is [string chars, ..] ? text.TrimEnd([.. chars]) : text.TrimEnd()),
            (string text, "split") => Of(v => Split(text, v is [string sep, ..] ? sep : null, v is [_, long most, ..] and [_, not -1L, ..] ? (int)Math.Clamp(most, 0, MostItems) : int.MaxValue - 1)),
            (string text, "splitlines") => Of(_ => text.Split('\n').Select(object? (l) => l).ToList()),
            (string text, "startswith") => Of(v => Any(v, start => text.StartsWith(start, StringComparison.Ordinal))),
            (string text, "endswith") => Of(v => Any(v, end => text.EndsWith(end, StringComparison.Ordinal))),
            (string text, "upper") => Of(_ => text.ToUpperInvariant()),
            (string text, "lower") => Of(_ => text.ToLowerInvariant()),
            (string text, "title") => Of(_ => Titled(text)),
            (string text, "capitalize") => Of(_ => Capitalized(text)),
            (string text, "replace") => Of(v => text.Replace(Argument(v), TemplateValues.Text(v.Count > 1 ? v[1] : ""), StringComparison.Ordinal)),
            (string text, "find") => Of(v => (long)text.IndexOf(Argument(v), StringComparison.Ordinal)),
            (string text, "count") => Of(v => text.Split(Argument(v)).Length - 1L),
            (string text, "join") => Of(v => string.Join(text, TemplateValues.Items(v.Count > 0 ? v[0] : Undefined.Value).Select(TemplateValues.Text))),
            (string text, "isdigit") => Of(_ => text.Length > 0 && text.All(char.IsDigit)),
            (Dictionary<string, object?> members, "items") => Of(_ => Pairs(members)),
            (Dictionary<string, object?> members, "keys") => Of(_ => members.Keys.Select(object? (k) => k).ToList()),
            (Dictionary<string, object?> members, "values") => Of(_ => members.Values.ToList()),
            (Dictionary<string, object?> members, "get") => Of(v => members.TryGetValue(Argument(v), out object? value) ? value : v.Count > 1 ? v[1] : null),
            _ => Undefined.Value,
        };
    }

    private static object Range(IReadOnlyList<object?> values)
    {
        long[] bounds = [.. values.Select(v => (long)TemplateValues.Number(v))];
        long from = bounds.Length > 1 ? bounds[0] : 0, to = bounds.Length > 1 ? bounds[1] : bounds.Length > 0 ? bounds[0] : 0, step = bounds.Length > 2 ? bounds[2] : 1;
        if (step == 0 || Math.Abs((double)(to - from) / step) > MostItems)
        {
            throw new TemplateException("The chat template's range is too long.");
        }
        var items = new List<object?>();
        for (long i = from; step > 0 ? i < to : i > to; i += step)
        {
            items.Add(i);
        }
        return items;
    }

    /// <summary>A member by its name, or by names with dots.</summary>
    private static object? Part(object? item, object? name) => name is long index ? TemplateValues.Item(item, index)
        : Required(name).Split('.').Aggregate(item, (of, member) => of is Dictionary<string, object?> members ? members.GetValueOrDefault(member, Undefined.Value) : Undefined.Value);

    /// <param name="at">Where the test's name stands; what it compares with follows.</param>
    private static bool Tested(IReadOnlyList<object?> values, int at, object? item) => Required(values[at]) is var test && (IsTest(test) || test is "==" or "!=")
        ? Test(test switch { "==" => "eq", "!=" => "ne", _ => test }, item, [.. values.Skip(at + 1)])
        : throw new TemplateException($"The chat template selects by '{test}', which is no test.");

    private static bool Any(IReadOnlyList<object?> values, Func<string, bool> holds) => values switch
    {
        [string one, ..] => holds(one),
        [List<object?> several, ..] => several.OfType<string>().Any(holds),
        _ => throw new TemplateException("The chat template compares a text with what is none."),
    };

    private static List<object?> Pairs(object? of) => of is Dictionary<string, object?> members
        ? [.. members.Select(m => (object?)new List<object?> { m.Key, m.Value })]
        : throw new TemplateException($"The chat template asks for the items of {TemplateValues.Text(of)}, which is no mapping.");

    private static List<object?> Split(string text, string? separator, int most) => separator is { Length: > 0 }
        ? [.. text.Split(separator, most + 1)]
        : [.. Blanks().Split(text.Trim(), most + 1).Where(w => w.Length > 0)];

    private static string Stripped(string text, string? chars) => chars is null ? text.Trim() : text.Trim([.. chars]);

    private static string Capitalized(string text) => text.Length == 0 ? text : char.ToUpperInvariant(text[0]) + text[1..].ToLowerInvariant();

    private static string Titled(string text) => Words().Replace(text, word => Capitalized(word.Value));

    private static string Required(object? value) => value as string ?? throw new TemplateException("The chat template gives something else where a text is needed.");

    [GeneratedRegex(@"\s+", RegexOptions.NonBacktracking)]
    private static partial Regex Blanks();

    [GeneratedRegex(@"\p{L}+", RegexOptions.NonBacktracking)]
    private static partial Regex Words();
}
