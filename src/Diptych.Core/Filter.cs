using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Diptych.Core;

/// <summary>
/// A predicate over a passage and its document. Fields are metadata keys, or one of <c>source</c>, <c>title</c>,
/// <c>media_type</c>, <c>modality</c>, <c>page</c>, <c>document</c>. A field with several values matches when one of them does.
/// </summary>
[JsonConverter(typeof(FilterJsonConverter))]
public abstract record Filter
{
    public abstract bool Matches(Document document, Passage passage);

    public sealed record And(IReadOnlyList<Filter> Parts) : Filter
    {
        public override bool Matches(Document document, Passage passage) => Parts.All(p => p.Matches(document, passage));
    }

    public sealed record Or(IReadOnlyList<Filter> Parts) : Filter
    {
        public override bool Matches(Document document, Passage passage) => Parts.Any(p => p.Matches(document, passage));
    }

    public sealed record Not(Filter Part) : Filter
    {
        public override bool Matches(Document document, Passage passage) => !Part.Matches(document, passage);
    }

    /// <summary>A test of one field: it holds when one of the field's values passes.</summary>
    public abstract record OnField(string Field) : Filter
    {
        public abstract bool Passes(string value);

        public override bool Matches(Document document, Passage passage) => FieldValues(Field, document, passage).Any(Passes);
    }

    /// <summary>The field has one of the values (one value: equality). Text is compared without regard to case.</summary>
    public sealed record In(string Field, IReadOnlyList<string> Values) : OnField(Field)
    {
        public override bool Passes(string value) => Values.Any(v => Compare(value, v) == 0);
    }

    /// <summary>The field lies between the bounds; a bound that is null is open.</summary>
    public sealed record Range(string Field, string? Gt, string? Gte, string? Lt, string? Lte) : OnField(Field)
    {
        public override bool Passes(string value) =>
            (Gt is null || Compare(value, Gt) > 0) && (Gte is null || Compare(value, Gte) >= 0)
            && (Lt is null || Compare(value, Lt) < 0) && (Lte is null || Compare(value, Lte) <= 0);
    }

    public sealed record Prefix(string Field, string Value) : OnField(Field)
    {
        public override bool Passes(string value) => value.StartsWith(Value, StringComparison.OrdinalIgnoreCase);
    }

    public sealed record Exists(string Field) : OnField(Field)
    {
        public override bool Passes(string value) => true;
    }

    /// <summary>
    /// Reads the command line's form: <c>year&gt;=2000</c>, <c>tag=cat</c>, <c>tag=cat,dog</c>, <c>source^=notes/</c>,
    /// <c>place!=Paris</c>, <c>has:date</c>.
    /// </summary>
    /// <exception cref="FormatException">The text has none of these forms.</exception>
    public static Filter Parse(string text)
    {
        if (text.StartsWith("has:", StringComparison.Ordinal))
        {
            return new Exists(text[4..].Trim());
        }
        foreach (string op in (ReadOnlySpan<string>)[">=", "<=", "!=", "^=", ">", "<", "="])
        {
            int at = text.IndexOf(op, StringComparison.Ordinal);
            if (at <= 0)
            {
                continue;
            }
            string field = text[..at].Trim(), value = text[(at + op.Length)..].Trim();
            return op switch
            {
                ">=" => new Range(field, null, value, null, null),
                "<=" => new Range(field, null, null, null, value),
                ">" => new Range(field, value, null, null, null),
                "<" => new Range(field, null, null, value, null),
                "^=" => new Prefix(field, value),
                "!=" => new Not(new In(field, value.Split(','))),
                _ => new In(field, value.Split(',')),
            };
        }
        throw new FormatException($"'{text}' is not a filter. Write field=value, field!=value, field>=value, field^=prefix or has:field.");
    }

    private static IEnumerable<string> FieldValues(string field, Document document, Passage passage) => field switch
    {
        "source" => [document.Source],
        "title" => [document.Title],
        "media_type" => [document.MediaType],
        "document" => [document.Id.ToString(CultureInfo.InvariantCulture)],
        "modality" => [passage.Modality == Modality.Text ? "text" : "image"],
        "page" => passage.Anchor.Page is { } page ? [page.ToString(CultureInfo.InvariantCulture)] : [],
        _ => document.Metadata[field],
    };

    private static int Compare(string left, string right) =>
        double.TryParse(left, NumberStyles.Float, CultureInfo.InvariantCulture, out double a)
        && double.TryParse(right, NumberStyles.Float, CultureInfo.InvariantCulture, out double b)
            ? a.CompareTo(b)
            : string.Compare(left, right, StringComparison.OrdinalIgnoreCase);
}

/// <summary>
/// The JSON form: <c>{"and":[…]}</c>, <c>{"or":[…]}</c>, <c>{"not":{…}}</c>, or <c>{"field":"year", …}</c> with one of
/// <c>eq</c>, <c>in</c>, <c>gt/gte/lt/lte</c>, <c>prefix</c>, <c>exists</c>.
/// </summary>
public sealed class FilterJsonConverter : JsonConverter<Filter>
{
    private const int MaximumDepth = 16;

    public override bool HandleNull => false;

    public override Filter Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        using var json = JsonDocument.ParseValue(ref reader);
        return Parse(json.RootElement, 0);
    }

    public override void Write(Utf8JsonWriter writer, Filter value, JsonSerializerOptions options)
    {
        writer.WriteStartObject();
        switch (value)
        {
            case Filter.And and:
                WriteParts(writer, "and", and.Parts, options);
                break;
            case Filter.Or or:
                WriteParts(writer, "or", or.Parts, options);
                break;
            case Filter.Not not:
                writer.WritePropertyName("not");
                Write(writer, not.Part, options);
                break;
            case Filter.In set:
                writer.WriteString("field", set.Field);
                writer.WritePropertyName("in");
                JsonSerializer.Serialize(writer, set.Values, options);
                break;
            case Filter.Range range:
                writer.WriteString("field", range.Field);
                foreach (var (name, bound) in (ReadOnlySpan<(string, string?)>)[("gt", range.Gt), ("gte", range.Gte), ("lt", range.Lt), ("lte", range.Lte)])
                {
                    if (bound is not null)
                    {
                        writer.WriteString(name, bound);
                    }
                }
                break;
            case Filter.Prefix prefix:
                writer.WriteString("field", prefix.Field);
                writer.WriteString("prefix", prefix.Value);
                break;
            case Filter.Exists exists:
                writer.WriteString("field", exists.Field);
                writer.WriteBoolean("exists", true);
                break;
        }
        writer.WriteEndObject();
    }

    private void WriteParts(Utf8JsonWriter writer, string name, IReadOnlyList<Filter> parts, JsonSerializerOptions options)
    {
        writer.WriteStartArray(name);
        foreach (Filter part in parts)
        {
            Write(writer, part, options);
        }
        writer.WriteEndArray();
    }

    private static Filter Parse(JsonElement json, int depth)
    {
        if (json.ValueKind != JsonValueKind.Object || depth > MaximumDepth)
        {
            throw new JsonException($"A filter is an object nested at most {MaximumDepth} deep.");
        }
        if (json.TryGetProperty("and", out JsonElement and))
        {
            return new Filter.And(Parts(and, depth));
        }
        if (json.TryGetProperty("or", out JsonElement or))
        {
            return new Filter.Or(Parts(or, depth));
        }
        if (json.TryGetProperty("not", out JsonElement not))
        {
            return new Filter.Not(Parse(not, depth + 1));
        }
        if (!json.TryGetProperty("field", out JsonElement field) || field.ValueKind != JsonValueKind.String)
        {
            throw new JsonException("A filter has 'and', 'or', 'not' or 'field'.");
        }
        string name = field.GetString()!;
        if (Value(json, "eq") is { } eq)
        {
            return new Filter.In(name, [eq]);
        }
        if (json.TryGetProperty("in", out JsonElement set) && set.ValueKind == JsonValueKind.Array)
        {
            return new Filter.In(name, [.. set.EnumerateArray().Select(Text)]);
        }
        if (Value(json, "prefix") is { } prefix)
        {
            return new Filter.Prefix(name, prefix);
        }
        if (json.TryGetProperty("exists", out JsonElement exists))
        {
            return exists.ValueKind == JsonValueKind.False ? new Filter.Not(new Filter.Exists(name)) : new Filter.Exists(name);
        }
        var range = new Filter.Range(name, Value(json, "gt"), Value(json, "gte"), Value(json, "lt"), Value(json, "lte"));
        return range is { Gt: null, Gte: null, Lt: null, Lte: null }
            ? throw new JsonException($"The filter on '{name}' needs one of eq, in, gt, gte, lt, lte, prefix, exists.")
            : range;
    }

    private static IReadOnlyList<Filter> Parts(JsonElement json, int depth) => json.ValueKind == JsonValueKind.Array
        ? [.. json.EnumerateArray().Select(p => Parse(p, depth + 1))]
        : throw new JsonException("'and' and 'or' take an array of filters.");

    private static string? Value(JsonElement json, string name) => json.TryGetProperty(name, out JsonElement value) ? Text(value) : null;

    private static string Text(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.String => value.GetString()!,
        JsonValueKind.Number => value.GetDouble().ToString("R", CultureInfo.InvariantCulture),
        JsonValueKind.True => "true",
        JsonValueKind.False => "false",
        _ => throw new JsonException("A filter compares with a string, a number or a boolean."),
    };
}
