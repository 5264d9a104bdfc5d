using System.Globalization;
using System.Text.Json;

namespace Diptych.Runtimes.Structured;

/// <summary>Numbers between bounds, as patterns of digits.</summary>
internal sealed partial class SchemaReader
{
    private static Pattern Integer(JsonElement schema)
    {
        long? least = Bound(schema, "minimum", 0, up: true), above = Bound(schema, "exclusiveMinimum", 1, up: false), most = Bound(schema, "maximum", 0, up: false), below = Bound(schema, "exclusiveMaximum", -1, up: true);
        long? from = least is null ? above : above is null ? least : Math.Max(least.Value, above.Value), to = most is null ? below : below is null ? most : Math.Min(most.Value, below.Value);
        return from is null && to is null ? Whole
            : from > to ? throw Cannot("bounds between which there is no integer") : Between(from ?? -Far, to ?? Far);
    }

    private static Pattern Numeric(JsonElement schema)
    {
        if (new[] { "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum" }.All(b => !schema.TryGetProperty(b, out _)))
        {
            return Number;
        }
        // Between whole bounds: a whole number, and a fraction on those that have room above them (below, when negative).
        long from = Bound(schema, "minimum", 0, up: true) ?? Bound(schema, "exclusiveMinimum", 1, up: false) ?? -Far, to = Bound(schema, "maximum", 0, up: false) ?? Bound(schema, "exclusiveMaximum", -1, up: true) ?? Far;
        if (from > to)
        {
            throw Cannot("bounds between which there is no whole number");
        }
        Pattern fraction = Pattern.Of(Pattern.Text("."), Digit.Times(1, 6)).Optional();
        var parts = new List<Pattern> { Between(from, to) };
        if (to > 0 && to > from)
        {
            parts.Add(Pattern.Of(Between(Math.Max(from, 0), to - 1), fraction));
        }
        if (from < 0 && to > from)
        {
            parts.Add(Pattern.Of(Pattern.Text("-"), Between(Math.Max(0, -to), -from - 1), fraction));
        }
        return Pattern.Any(parts);
    }

    private const long Far = 999_999_999_999_999;

    /// <summary>The whole numbers from one to another, both among them.</summary>
    private static Pattern Between(long from, long to)
    {
        var parts = new List<Pattern>();
        if (from < 0)
        {
            parts.Add(Pattern.Of(Pattern.Text("-"), Natural(Math.Max(1, -Math.Min(to, -1)), -from)));
        }
        if (to >= 0)
        {
            parts.Add(Natural(Math.Max(0, from), to));
        }
        return Pattern.Any(parts);
    }

    private static Pattern Natural(long from, long to)
    {
        var parts = new List<Pattern>();
        for (int digits = from.ToString(CultureInfo.InvariantCulture).Length; digits <= to.ToString(CultureInfo.InvariantCulture).Length; digits++)
        {
            long first = digits == 1 ? 0 : (long)Math.Pow(10, digits - 1), last = (long)Math.Pow(10, digits) - 1;
            Same(Math.Max(from, first).ToString(CultureInfo.InvariantCulture), Math.Min(to, last).ToString(CultureInfo.InvariantCulture), "", parts);
        }
        return Pattern.Any(parts);
    }

    /// <summary>Numbers of one length: the common beginning, then what lies between the first digits that differ.</summary>
    private static void Same(string from, string to, string before, List<Pattern> parts)
    {
        if (from.Length == 0 || (from.All(c => c == '0') && to.All(c => c == '9')))
        {
            parts.Add(Pattern.Of(Pattern.Text(before), Digit.Times(from.Length, from.Length)));
            return;
        }
        char low = from[0], high = to[0];
        if (low == high)
        {
            Same(from[1..], to[1..], before + low, parts);
            return;
        }
        Same(from[1..], new string('9', from.Length - 1), before + low, parts);
        if (high - low > 1)
        {
            parts.Add(Pattern.Of(Pattern.Text(before), new Pattern.Character(CodePoints.Of((low + 1, high - 1))), Digit.Times(from.Length - 1, from.Length - 1)));
        }
        Same(new string('0', to.Length - 1), to[1..], before + high, parts);
    }

    private static long? Bound(JsonElement schema, string name, long shift, bool up)
    {
        if (!schema.TryGetProperty(name, out JsonElement bound))
        {
            return null;
        }
        double value = bound.GetDouble();
        return Math.Abs(value) <= Far ? (long)(up ? Math.Ceiling(value) : Math.Floor(value)) + shift : throw Cannot($"'{name}' beyond {Far}");
    }
}
