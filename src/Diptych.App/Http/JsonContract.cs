using System.Collections;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;
using System.Text.Unicode;

namespace Diptych.App.Http;

/// <summary>
/// What holds for every body alike: an optional member that is null is one that is absent, a required one is not null, no list holds null,
/// and text is Unicode.
/// </summary>
internal static class JsonContract
{
    public static void Apply(JsonSerializerOptions options)
    {
        options.RespectNullableAnnotations = true;
        options.TypeInfoResolver = (options.TypeInfoResolver ?? new DefaultJsonTypeInfoResolver()).WithAddedModifier(NullIsAbsent);
        options.Converters.Add(new UnicodeElements());
    }

    private static void NullIsAbsent(JsonTypeInfo type)
    {
        if (type.Kind != JsonTypeInfoKind.Object || type.Type.Assembly != typeof(JsonContract).Assembly)
        {
            return;
        }
        object? absent = type.Type.IsAbstract || type.Type.GetConstructor(Type.EmptyTypes) is null ? null : Activator.CreateInstance(type.Type);
        foreach (JsonPropertyInfo member in type.Properties)
        {
            if (member.Set is not { } set)
            {
                continue;
            }
            bool isList = member.PropertyType.IsAssignableTo(typeof(IEnumerable)) && member.PropertyType != typeof(string);
            object? value = member.IsRequired || member.PropertyType.IsValueType || absent is null ? null : member.Get?.Invoke(absent);
            member.IsSetNullable |= value is not null;
            if (isList || value is not null)
            {
                member.Set = (owner, given) => set(owner, (isList ? WithoutNulls(member.Name, given) : given) ?? value);
            }
        }
    }

    private static object? WithoutNulls(string name, object? list) =>
        list is IEnumerable all && all.Cast<object?>().Contains(null) ? throw new JsonException($"'{name}' holds null.") : list;

    /// <summary>JSON that is read later, by whoever knows its form: what it holds as text can be read as text.</summary>
    private sealed class UnicodeElements : JsonConverter<JsonElement>
    {
        public override JsonElement Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
        {
            var element = JsonElement.ParseValue(ref reader);
            ReadOnlySpan<byte> raw = JsonMarshal.GetRawUtf8Value(element);
            return Utf8.IsValid(raw) && !HasHalfOfAPair(raw) ? element : throw new JsonException("A text holds half of a surrogate pair, or bytes that are not UTF-8.");
        }

        public override void Write(Utf8JsonWriter writer, JsonElement value, JsonSerializerOptions options) => value.WriteTo(writer);

        private static bool HasHalfOfAPair(ReadOnlySpan<byte> raw)
        {
            bool high = false;
            for (int at = 0; at < raw.Length; at++)
            {
                int unit = -1;
                if (raw[at] == '\\' && ++at < raw.Length && raw[at] == 'u')
                {
                    unit = int.Parse(raw.Slice(at + 1, 4), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
                    at += 4;
                }
                bool low = unit is >= 0xDC00 and <= 0xDFFF;
                if (high != low)
                {
                    return true;
                }
                high = unit is >= 0xD800 and <= 0xDBFF;
            }
            return high;
        }
    }
}
