using System.Text.Json;
using System.Text.Json.Nodes;
using Diptych.Core;

namespace Diptych.App.Http;

/// <summary>
/// Calls of functions: the model is told of them in words, and answers with the call as JSON. Where a call is required the answer is held
/// to its schema, so that it always is one.
/// </summary>
internal sealed class Tools
{
    private readonly IReadOnlyList<ToolDefinition> _offered;
    private readonly bool _required;

    private Tools(IReadOnlyList<ToolDefinition> offered, bool required) => (_offered, _required) = (offered, required);

    /// <returns>Null where no function may be called.</returns>
    /// <exception cref="InvalidRequestException">The choice is none that is known, or names a function that is not offered.</exception>
    public static Tools? Of(ChatRequest body)
    {
        if (body.Tools is not { Count: > 0 } tools)
        {
            return null;
        }
        if (tools.FirstOrDefault(t => t.Type != "function") is { } other)
        {
            throw new InvalidRequestException($"tools: '{other.Type}' is no type that is known; function is.");
        }
        switch (body.ToolChoice)
        {
            case null or { ValueKind: JsonValueKind.Null }:
                return new Tools(tools, false);
            case { ValueKind: JsonValueKind.String } word:
                return word.GetString() switch
                {
                    "none" => null,
                    "auto" => new Tools(tools, false),
                    "required" => new Tools(tools, true),
                    var unknown => throw new InvalidRequestException($"tool_choice: '{unknown}' is none of none, auto, required."),
                };
            case { ValueKind: JsonValueKind.Object } named when named.TryGetProperty("function", out JsonElement function) && function.TryGetProperty("name", out JsonElement name):
                return new Tools([tools.FirstOrDefault(t => t.Function.Name == name.GetString()) ?? throw new InvalidRequestException($"tool_choice: no function '{name.GetString()}' is among the tools.")], true);
            default:
                throw new InvalidRequestException("tool_choice is none, auto, required, or {\"type\": \"function\", \"function\": {\"name\": …}}.");
        }
    }

    /// <summary>The schema that the answer is held to; null where it may be plain text.</summary>
    public string? Schema => !_required ? null : new JsonObject
    {
        ["anyOf"] = new JsonArray([.. _offered.Select(t => new JsonObject
        {
            ["type"] = "object",
            ["properties"] = new JsonObject { ["name"] = new JsonObject { ["const"] = t.Function.Name }, ["arguments"] = Parameters(t) },
            ["required"] = new JsonArray("name", "arguments"),
        })]),
    }.ToJsonString();

    /// <summary>What the model is told.</summary>
    public string Words => "You can call these functions. To call one, answer with nothing but JSON: {\"name\": the function, \"arguments\": {…}}.\n"
        + string.Join('\n', _offered.Select(t => JsonSerializer.Serialize(new { name = t.Function.Name, description = t.Function.Description, parameters = Parameters(t) }, Json.Options)));

    /// <summary>Whether what has come so far may be a call.</summary>
    public bool MayBeCall(string text) => _required || text.AsSpan().TrimStart() is [] or ['{', ..];

    /// <returns>Null where the answer is plain text.</returns>
    public ToolCall? Read(string text)
    {
        try
        {
            using var json = JsonDocument.Parse(text);
            return json.RootElement.ValueKind == JsonValueKind.Object && json.RootElement.TryGetProperty("name", out JsonElement name) && name.ValueKind == JsonValueKind.String
                && _offered.Any(t => t.Function.Name == name.GetString()) && json.RootElement.TryGetProperty("arguments", out JsonElement arguments) && arguments.ValueKind == JsonValueKind.Object
                ? new ToolCall { Id = $"call_{Guid.NewGuid():N}", Function = new FunctionCall(name.GetString()!, arguments.GetRawText()) }
                : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }

    private static JsonNode Parameters(ToolDefinition tool) => tool.Function.Parameters is { ValueKind: JsonValueKind.Object } schema ? JsonNode.Parse(schema.GetRawText())! : new JsonObject { ["type"] = "object" };
}
