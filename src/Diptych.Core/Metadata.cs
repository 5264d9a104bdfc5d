using System.Collections;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Diptych.Core;

/// <summary>
/// What is known about a document besides its content: title, author, keywords, date, place, or anything a caller adds.
/// A key has one or more values; values are text, and compare as numbers where both sides are numbers.
/// Dates are ISO 8601, so that ordinal order is time order.
/// </summary>
[JsonConverter(typeof(MetadataJsonConverter))]
public sealed class Metadata : IEnumerable<KeyValuePair<string, IReadOnlyList<string>>>
{
    private readonly SortedDictionary<string, IReadOnlyList<string>> _values = new(StringComparer.OrdinalIgnoreCase);

    public static Metadata Empty { get; } = new();

    public Metadata()
    {
    }

    public Metadata(IEnumerable<KeyValuePair<string, IReadOnlyList<string>>> values)
    {
        foreach (var (key, list) in values)
        {
            if (list.Count > 0)
            {
                _values[key] = list;
            }
        }
    }

    public int Count => _values.Count;

    public IReadOnlyList<string> this[string key] => _values.TryGetValue(key, out var list) ? list : [];

    public string? First(string key) => this[key] is [var first, ..] ? first : null;

    /// <summary>A copy with the values added; a key that is there already is replaced.</summary>
    public Metadata With(Metadata other) => other.Count == 0 ? this : new Metadata(_values.Concat(other._values));

    /// <summary>A copy with the key set; empty values are left out.</summary>
    public Metadata With(string key, params IEnumerable<string?> values)
    {
        var list = values.Where(v => !string.IsNullOrWhiteSpace(v)).Select(v => v!.Trim()).Distinct(StringComparer.Ordinal).ToArray();
        return list.Length == 0 ? this : new Metadata(_values.Append(new(key, list)));
    }

    public IEnumerator<KeyValuePair<string, IReadOnlyList<string>>> GetEnumerator() => _values.GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}

/// <summary>Reads an object of strings, numbers, booleans or arrays of them; writes single values plain and several as an array.</summary>
public sealed class MetadataJsonConverter : JsonConverter<Metadata>
{
    public override Metadata Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        using var json = JsonDocument.ParseValue(ref reader);
        if (json.RootElement.ValueKind != JsonValueKind.Object)
        {
            throw new JsonException("Metadata must be a JSON object.");
        }
        return new Metadata(json.RootElement.EnumerateObject().Select(p => KeyValuePair.Create(p.Name, Values(p.Value))));
    }

    public override void Write(Utf8JsonWriter writer, Metadata value, JsonSerializerOptions options)
    {
        writer.WriteStartObject();
        foreach (var (key, list) in value)
        {
            writer.WritePropertyName(key);
            if (list.Count == 1)
            {
                writer.WriteStringValue(list[0]);
                continue;
            }
            writer.WriteStartArray();
            foreach (string item in list)
            {
                writer.WriteStringValue(item);
            }
            writer.WriteEndArray();
        }
        writer.WriteEndObject();
    }

    private static IReadOnlyList<string> Values(JsonElement element) => element.ValueKind switch
    {
        JsonValueKind.Array => [.. element.EnumerateArray().SelectMany(Values)],
        JsonValueKind.String => [element.GetString()!],
        JsonValueKind.Number => [element.GetDouble().ToString("R", CultureInfo.InvariantCulture)],
        JsonValueKind.True => ["true"],
        JsonValueKind.False => ["false"],
        JsonValueKind.Null => [],
        _ => throw new JsonException("A metadata value must be a string, number, boolean or an array of those."),
    };
}
