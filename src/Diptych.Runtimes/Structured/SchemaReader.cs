using System.Globalization;
using System.Text;
using System.Text.Json;
using Diptych.Core;

namespace Diptych.Runtimes.Structured;

/// <summary>
/// Reads a JSON Schema as the pattern of the texts that are valid under it. Members come in the order in which the schema has them. What
/// is recursive, or has no bounds, is taken to a depth. What cannot be held to is refused by name: nothing is silently ignored but
/// annotations.
/// </summary>
internal sealed partial class SchemaReader
{
    private const int DeepestReference = 5, DeepestValue = 5, MostRepetitions = 4096, MostValues = 10_000, DeepestNesting = 200, LongestSchema = 1 << 20;

    private static readonly HashSet<string> Annotations =
        ["title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "deprecated", "readOnly", "writeOnly", "$anchor"];

    private static readonly HashSet<string> Known =
    [
        "type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems",
        "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    ];

    private static readonly Pattern Gap = Pattern.Any(Pattern.Empty, Pattern.Text(" "), Pattern.Of(Pattern.Text("\n"), Pattern.Text(" ").Times(0, 16)));
    private static readonly Pattern Digit = new Pattern.Character(CodePoints.Digits);
    private static readonly Pattern Whole = Pattern.Of(Pattern.Text("-").Optional(), Pattern.Any(Pattern.Text("0"), Pattern.Of(new Pattern.Character(CodePoints.Of(('1', '9'))), Digit.Times(0, 15))));
    private static readonly Pattern Number = Pattern.Of(
        Whole, Pattern.Of(Pattern.Text("."), Digit.Times(1, 16)).Optional(), Pattern.Of(Pattern.Any(Pattern.Text("e"), Pattern.Text("E")), Pattern.Any(Pattern.Text("-"), Pattern.Text("+"), Pattern.Empty), Digit.Times(1, 2)).Optional());

    private static readonly Pattern Boolean = Pattern.Any(Pattern.Text("true"), Pattern.Text("false"));
    private static readonly Pattern Null = Pattern.Text("null");
    private readonly JsonElement _root;
    private readonly Dictionary<string, int> _depths = new(StringComparer.Ordinal);
    private readonly Dictionary<string, JsonElement> _targets = new(StringComparer.Ordinal);
    private int _values, _nesting;

    private SchemaReader(JsonElement root) => _root = root;

    /// <exception cref="InvalidRequestException">It is no schema, or has what cannot be held to.</exception>
    public static Pattern Read(string schema)
    {
        if (schema.Length > LongestSchema)
        {
            throw new InvalidRequestException($"A schema has at most {LongestSchema} characters.");
        }
        try
        {
            using var json = JsonDocument.Parse(schema);
            return new SchemaReader(json.RootElement).Value(json.RootElement) ?? throw new InvalidRequestException("The schema needs itself within itself without end.");
        }
        catch (JsonException error)
        {
            throw new InvalidRequestException($"The schema is no JSON: {error.Message}", error);
        }
        catch (Exception error) when (error is InvalidOperationException or FormatException)
        {
            throw new InvalidRequestException($"The schema has a value of the wrong type: {error.Message}", error);
        }
    }

    /// <summary>Any object: what is asked for where a schema is not given.</summary>
    public const string AnyObject = """{"type": "object"}""";

    /// <returns>Null where it goes deeper than is followed.</returns>
    private Pattern? Value(JsonElement schema)
    {
        // Schemas that refer to each other stand for values whose number grows with the power of their depth.
        if (++_values > MostValues || ++_nesting > DeepestNesting)
        {
            throw new InvalidRequestException("The schema is too large: fewer members that refer to each other, or less nesting, is needed.");
        }
        Pattern? value = Read(schema);
        _nesting--;
        return value;
    }

    private Pattern? Read(JsonElement schema)
    {
        if (schema.ValueKind == JsonValueKind.True)
        {
            return Any(DeepestValue);
        }
        if (schema.ValueKind != JsonValueKind.Object)
        {
            throw Cannot(schema.ValueKind == JsonValueKind.False ? "false (nothing is valid under it)" : "a schema that is no object");
        }
        foreach (JsonProperty keyword in schema.EnumerateObject())
        {
            if (!Known.Contains(keyword.Name) && !Annotations.Contains(keyword.Name))
            {
                throw Cannot($"'{keyword.Name}'");
            }
        }
        if (schema.TryGetProperty("$ref", out JsonElement reference))
        {
            return Reference(reference.GetString()!);
        }
        if (schema.TryGetProperty("const", out JsonElement constant))
        {
            return Pattern.Text(Written(constant));
        }
        if (schema.TryGetProperty("enum", out JsonElement values))
        {
            return Pattern.Any([.. values.EnumerateArray().Select(v => Pattern.Text(Written(v)))]);
        }
        foreach (string either in new[] { "anyOf", "oneOf" })
        {
            if (schema.TryGetProperty(either, out JsonElement choices))
            {
                if (either == "oneOf" && !Apart([.. choices.EnumerateArray()]))
                {
                    throw Cannot("'oneOf' whose choices are not of different types or constants; use 'anyOf'");
                }
                Pattern[] possible = [.. choices.EnumerateArray().Select(Value).OfType<Pattern>()];
                return possible.Length == 0 ? null : Pattern.Any(possible);
            }
        }
        if (schema.TryGetProperty("allOf", out JsonElement all))
        {
            return all.GetArrayLength() == 1 ? Value(all[0]) : throw Cannot("'allOf' of more than one");
        }
        if (!schema.TryGetProperty("type", out JsonElement type))
        {
            return schema.TryGetProperty("properties", out _) ? Object(schema) : schema.TryGetProperty("items", out _) ? Array(schema)
                : schema.EnumerateObject().All(k => Annotations.Contains(k.Name)) ? Any(DeepestValue) : throw Cannot("bounds without 'type'");
        }
        Pattern[] kinds = [.. (type.ValueKind == JsonValueKind.Array ? type.EnumerateArray().Select(t => Kind(t.GetString()!, schema)) : [Kind(type.GetString()!, schema)]).OfType<Pattern>()];
        return kinds.Length == 0 ? null : Pattern.Any(kinds);
    }

    private Pattern? Kind(string type, JsonElement schema) => type switch
    {
        "object" => Object(schema),
        "array" => Array(schema),
        "string" => Text(schema),
        "integer" => Integer(schema),
        "number" => Numeric(schema),
        "boolean" => Boolean,
        "null" => Null,
        _ => throw Cannot($"the type '{type}'"),
    };

    private Pattern? Object(JsonElement schema)
    {
        HashSet<string> required = schema.TryGetProperty("required", out JsonElement list) ? [.. list.EnumerateArray().Select(r => r.GetString()!)] : [];
        var members = new List<(Pattern, bool)>();
        if (schema.TryGetProperty("properties", out JsonElement properties) && properties.EnumerateObject().Any())
        {
            foreach (JsonProperty property in properties.EnumerateObject())
            {
                bool needed = required.Remove(property.Name);
                if (Value(property.Value) is { } value)
                {
                    members.Add((Member(Pattern.Text(Written(property.Name)), value), needed));
                }
                else if (needed)
                {
                    return null;
                }
            }
            return required.Count == 0
                ? Braces("{", new Pattern.Members(members, Separator), "}")
                : throw Cannot($"required member '{required.First()}' that 'properties' does not have");
        }
        if (required.Count > 0)
        {
            throw Cannot($"required member '{required.First()}' that 'properties' does not have");
        }
        if (schema.TryGetProperty("additionalProperties", out JsonElement others) && others.ValueKind != JsonValueKind.True)
        {
            return others.ValueKind == JsonValueKind.False ? Braces("{", Pattern.Empty, "}") : Value(others) is { } value ? Braces("{", Member(Characters(0, null), value).Times(0, null, Separator), "}") : Braces("{", Pattern.Empty, "}");
        }
        return AnyMembers(DeepestValue);
    }

    private Pattern? Array(JsonElement schema)
    {
        int least = Count(schema, "minItems") ?? 0;
        int? most = Count(schema, "maxItems");
        if (schema.TryGetProperty("prefixItems", out JsonElement prefix))
        {
            if (!(schema.TryGetProperty("items", out JsonElement rest) && rest.ValueKind == JsonValueKind.False) || least > prefix.GetArrayLength())
            {
                throw Cannot("'prefixItems' without \"items\": false");
            }
            Pattern?[] each = [.. prefix.EnumerateArray().Select(Value)];
            return each.All(e => e is not null) ? Braces("[", new Pattern.Members([.. each.Select(e => (e!, true))], Separator), "]") : null;
        }
        Pattern? item = schema.TryGetProperty("items", out JsonElement items) ? Value(items) : Any(DeepestValue - 1);
        return item is null ? least == 0 ? Braces("[", Pattern.Empty, "]") : null
            : most < least ? throw Cannot("'maxItems' below 'minItems'") : Braces("[", item.Times(least, most, Separator), "]");
    }

    private static Pattern Text(JsonElement schema)
    {
        int? least = Count(schema, "minLength"), most = Count(schema, "maxLength");
        if (schema.TryGetProperty("pattern", out JsonElement pattern))
        {
            return least is null && most is null
                ? Quoted(RegexReader.ReadSearch(pattern.GetString()!, InString))
                : throw Cannot("'pattern' beside 'minLength' or 'maxLength': write the length into the pattern");
        }
        string? format = schema.TryGetProperty("format", out JsonElement named) ? named.GetString() : null;
        string? form = format switch
        {
            "date" => Date,
            "time" => Time,
            "date-time" => $"({Date})T{Time}",
            "uuid" => "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            "email" => @"[a-zA-Z0-9_+-]{1,32}(\.[a-zA-Z0-9_+-]{1,16}){0,2}@[a-zA-Z0-9]{1,32}(\.[a-zA-Z]{2,12}){1,2}",
            "ipv4" => @"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3}",
            "uri" => @"https?://[a-zA-Z0-9]{1,32}(\.[a-zA-Z0-9]{1,24}){0,3}(/[a-zA-Z0-9_.~-]{1,32}){0,4}",
            "hostname" => @"[a-zA-Z0-9]{1,32}(\.[a-zA-Z0-9]{1,24}){0,3}",
            _ => null,
        };
        return form is not null ? Quoted(RegexReader.ReadSearch($"^({form})$", InString))
            : most < (least ?? 0) ? throw Cannot("'maxLength' below 'minLength'") : Characters(least ?? 0, most);
    }

    private const string Date = @"(19|20)\d\d-(0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(19|20)\d\d-(0[469]|11)-(0[1-9]|[12]\d|30)|(19|20)\d\d-02-(0[1-9]|1\d|2[0-8])";
    private const string Time = @"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)";

    private static int? Count(JsonElement schema, string name) => !schema.TryGetProperty(name, out JsonElement count) ? null
        : count.TryGetInt32(out int value) && value is >= 0 and <= MostRepetitions ? value : throw Cannot($"'{name}' that is not 0 to {MostRepetitions}");

    private Pattern? Reference(string path)
    {
        int depth = _depths.GetValueOrDefault(path);
        if (depth == DeepestReference)
        {
            return null;
        }
        if (!_targets.TryGetValue(path, out JsonElement target))
        {
            _targets.Add(path, target = Target(path));
        }
        _depths[path] = depth + 1;
        Pattern? value = Value(target);
        _depths[path] = depth;
        return value;
    }

    private JsonElement Target(string path)
    {
        JsonElement target = _root;
        foreach (string step in path.StartsWith('#') ? path[1..].Split('/', StringSplitOptions.RemoveEmptyEntries) : throw Cannot($"the reference '{path}' into another document"))
        {
            string name = Uri.UnescapeDataString(step).Replace("~1", "/", StringComparison.Ordinal).Replace("~0", "~", StringComparison.Ordinal);
            target = target.ValueKind == JsonValueKind.Object && target.TryGetProperty(name, out JsonElement next) ? next
                : target.ValueKind == JsonValueKind.Array && int.TryParse(name, CultureInfo.InvariantCulture, out int index) && index >= 0 && index < target.GetArrayLength() ? target[index]
                : throw new InvalidRequestException($"The schema refers to '{path}', which it does not have.");
        }
        return target;
    }

    /// <summary>Whether no value is valid under two of the choices, as far as types and constants tell.</summary>
    private static bool Apart(JsonElement[] choices)
    {
        var seen = new HashSet<string>(StringComparer.Ordinal);
        foreach (JsonElement choice in choices)
        {
            string[] kinds = choice.TryGetProperty("const", out JsonElement constant) ? [constant.GetRawText()]
                : choice.TryGetProperty("type", out JsonElement type) && type.ValueKind == JsonValueKind.String ? [type.GetString() == "integer" ? "number" : type.GetString()!] : [];
            // Objects may differ by a member that is constant in each.
            if (kinds is ["object"] && choice.TryGetProperty("properties", out JsonElement members)
                && members.EnumerateObject().FirstOrDefault(m => m.Value.ValueKind == JsonValueKind.Object && m.Value.TryGetProperty("const", out _)) is { Value.ValueKind: JsonValueKind.Object } tag)
            {
                kinds = [$"{tag.Name}={tag.Value.GetProperty("const").GetRawText()}"];
            }
            if (kinds.Length == 0 || !kinds.All(seen.Add))
            {
                return false;
            }
        }
        return true;
    }

    private static Pattern Any(int depth) => depth == 0
        ? Pattern.Any(Characters(0, null), Number, Boolean, Null)
        : Pattern.Any(Characters(0, null), Number, Boolean, Null, Braces("[", Any(depth - 1).Times(0, null, Separator), "]"), AnyMembers(depth));

    private static Pattern AnyMembers(int depth) => Braces("{", Member(Characters(0, null), Any(depth - 1)).Times(0, null, Separator), "}");

    private static Pattern Separator => Pattern.Of(Pattern.Text(","), Gap);

    private static Pattern Member(Pattern name, Pattern value) => Pattern.Of(name, Pattern.Text(":"), Gap, value);

    private static Pattern Braces(string open, Pattern inner, string close) => Pattern.Of(Pattern.Text(open), Gap, inner, Gap, Pattern.Text(close));

    private static Pattern Quoted(Pattern inner) => Pattern.Of(Pattern.Text("\""), inner, Pattern.Text("\""));

    private static Pattern Characters(int least, int? most) => Quoted(InString(CodePoints.All).Times(least, most));

    /// <summary>A character of a set as a string of JSON has it: quotation marks, backslashes and control characters are written with a backslash.</summary>
    private static Pattern InString(CodePoints set)
    {
        CodePoints plain = set.Intersect(CodePoints.Of((0, 0x1F), ('"', '"'), ('\\', '\\')).Complement());
        List<Pattern> ways = plain.Ranges.Count > 0 ? [new Pattern.Character(plain)] : [];
        foreach (var (character, letter) in new[] { ('"', '"'), ('\\', '\\'), ('\n', 'n'), ('\t', 't'), ('\r', 'r'), ('\b', 'b'), ('\f', 'f') })
        {
            if (set.Ranges.Any(r => r.First <= character && character <= r.Last))
            {
                ways.Add(Pattern.Text($"\\{letter}"));
            }
        }
        return ways.Count > 0 ? Pattern.Any(ways) : throw Cannot("a pattern that asks for control characters");
    }

    /// <summary>A value as JSON has it, members and items without gaps.</summary>
    private static string Written(JsonElement value)
    {
        using var stream = new MemoryStream();
        using (var writer = new Utf8JsonWriter(stream, new JsonWriterOptions { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            value.WriteTo(writer);
        }
        return Encoding.UTF8.GetString(stream.ToArray());
    }

    private static string Written(string name) => JsonSerializer.Serialize(name, Relaxed);

    private static readonly JsonSerializerOptions Relaxed = new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private static InvalidRequestException Cannot(string what) => new($"The schema has {what}, which cannot be held to.");
}
