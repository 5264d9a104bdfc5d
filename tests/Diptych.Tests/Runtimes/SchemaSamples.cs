using System.Text.Json;
using System.Text.Json.Nodes;

namespace Diptych.Tests.Runtimes;

/// <summary>Schemas as people write them, by a seed: records of every type, nested, with choices, references and bounds.</summary>
internal static class SchemaSamples
{
    private static readonly string[] Names = ["name", "age", "city", "tags", "price", "kind", "when", "items", "note", "active", "id", "größe", "a \"b\"", "score"];

    public static string Of(int seed)
    {
        var random = new Random(seed);
        JsonObject schema = Record(random, 2);
        if (seed % 5 == 0)
        {
            // A tree: its children are of its own kind.
            schema["definitions"] = new JsonObject
            {
                ["node"] = new JsonObject
                {
                    ["type"] = "object",
                    ["properties"] = new JsonObject
                    {
                        ["label"] = new JsonObject { ["type"] = "string", ["maxLength"] = 12 },
                        ["children"] = new JsonObject { ["type"] = "array", ["maxItems"] = 2, ["items"] = new JsonObject { ["$ref"] = "#/definitions/node" } },
                    },
                    ["required"] = new JsonArray("label"),
                    ["additionalProperties"] = false,
                },
            };
            ((JsonObject)schema["properties"]!)["tree"] = new JsonObject { ["$ref"] = "#/definitions/node" };
        }
        return schema.ToJsonString(new JsonSerializerOptions { WriteIndented = seed % 2 == 0 });
    }

    private static JsonObject Record(Random random, int depth)
    {
        string[] names = [.. Names.OrderBy(_ => random.Next()).Take(random.Next(1, 6))];
        var properties = new JsonObject();
        foreach (string name in names)
        {
            properties[name] = Value(random, depth);
        }
        return new JsonObject
        {
            ["type"] = "object",
            ["properties"] = properties,
            ["required"] = new JsonArray([.. names.Where(_ => random.Next(3) > 0).Select(n => (JsonNode)n)]),
            ["additionalProperties"] = false,
        };
    }

    private static JsonObject Value(Random random, int depth) => random.Next(depth > 0 ? 14 : 11) switch
    {
        0 => new JsonObject { ["type"] = "string" },
        1 => new JsonObject { ["type"] = "string", ["minLength"] = random.Next(3), ["maxLength"] = 3 + random.Next(30) },
        2 => new JsonObject { ["type"] = "string", ["pattern"] = random.Next(3) switch { 0 => "^[A-Z]{3}-\\d{2,4}$", 1 => "^(red|green|\"blue\")$", _ => "^[^0-9]{2,8}$" } },
        3 => new JsonObject { ["type"] = "string", ["format"] = random.Next(4) switch { 0 => "date", 1 => "date-time", 2 => "uuid", _ => "ipv4" } },
        4 => new JsonObject { ["type"] = "integer" },
        5 => new JsonObject { ["type"] = "integer", ["minimum"] = random.Next(-120, 40), ["maximum"] = 40 + random.Next(5000) },
        6 => new JsonObject { ["type"] = "number", ["minimum"] = random.Next(-3, 3), ["maximum"] = 3 + random.Next(100) },
        7 => new JsonObject { ["type"] = "boolean" },
        8 => new JsonObject { ["enum"] = new JsonArray("yes", "no", 3, true, null, "ça va") },
        9 => new JsonObject { ["type"] = "number" },
        10 => new JsonObject { ["anyOf"] = new JsonArray(new JsonObject { ["type"] = "string", ["maxLength"] = 10 }, new JsonObject { ["type"] = "null" }, new JsonObject { ["type"] = "integer", ["minimum"] = 5 }) },
        11 => new JsonObject { ["type"] = "array", ["items"] = Value(random, depth - 1), ["minItems"] = random.Next(2), ["maxItems"] = 1 + random.Next(4) },
        12 => Record(random, depth - 1),
        _ => new JsonObject { ["type"] = "array", ["items"] = Record(random, depth - 1), ["maxItems"] = 3 },
    };
}
