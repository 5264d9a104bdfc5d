using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Diptych.Core;

namespace Diptych.App.Http;

/// <summary>
/// Calls of functions. A model whose template takes functions is told of them as it was taught; any other is told in words, and answers with
/// the call as JSON. Where a call is required the answer is held to its schema, so that it always is one.
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

    /// <summary>The functions as they were offered, for a template that writes them itself.</summary>
    public JsonElement Definitions => JsonSerializer.SerializeToElement(_offered, Json.Options);

    /// <summary>Whether what has come so far may be a call.</summary>
    public bool MayBeCall(string text) => _required || text.AsSpan().TrimStart() is [] or ['{', ..]
        || Array.Exists(Marks, mark => text.Contains(mark, StringComparison.Ordinal) || mark.StartsWith(text.Trim(), StringComparison.Ordinal));

    /// <summary>What an answer says and calls.</summary>
    /// <returns>No calls where it is plain text; no text where it is calls alone.</returns>
    public (string? Text, IReadOnlyList<ToolCall>? Calls) Read(string text)
    {
        int begin = Marks.Select(mark => text.IndexOf(mark, StringComparison.Ordinal)).Where(i => i >= 0).DefaultIfEmpty(0).Min();
        string before = text[..begin].Trim(), rest = Marks.Concat(["</tool_call>"]).Aggregate(text[begin..], (left, mark) => left.Replace(mark, " ", StringComparison.Ordinal));
        var calls = new List<ToolCall>();
        byte[] bytes = Encoding.UTF8.GetBytes(rest);
        try
        {
            for (int at = Next(bytes, 0); at < bytes.Length; at = Next(bytes, at))
            {
                var reader = new Utf8JsonReader(bytes.AsSpan(at));
                JsonElement value = JsonElement.ParseValue(ref reader);
                at += (int)reader.BytesConsumed;
                foreach (JsonElement one in value.ValueKind == JsonValueKind.Array ? [.. value.EnumerateArray()] : new[] { value })
                {
                    if (Call(one) is not { } call)
                    {
                        return (text, null);
                    }
                    calls.Add(call);
                }
            }
        }
        catch (JsonException)
        {
            return (text, null);
        }
        return calls.Count == 0 ? (text, null) : (before.Length > 0 ? before : null, calls);
    }

    /// <summary>What models begin a call with, each as its family was taught: Qwen and Hermes, Mistral, Llama 3.</summary>
    private static readonly string[] Marks = ["<tool_call>", "[TOOL_CALLS]", "<|python_tag|>"];

    /// <summary>Past blanks, and what Llama 3 puts between calls.</summary>
    private static int Next(byte[] bytes, int at)
    {
        while (at < bytes.Length && bytes[at] is (byte)' ' or (byte)'\n' or (byte)'\r' or (byte)'\t' or (byte)';')
        {
            at++;
        }
        return at;
    }

    /// <returns>Null where it is no call of a function that is offered.</returns>
    private ToolCall? Call(JsonElement json) =>
        json.ValueKind == JsonValueKind.Object && json.TryGetProperty("name", out JsonElement name) && name.ValueKind == JsonValueKind.String && _offered.Any(t => t.Function.Name == name.GetString())
            && (json.TryGetProperty("arguments", out JsonElement arguments) || json.TryGetProperty("parameters", out arguments)) && arguments.ValueKind == JsonValueKind.Object
            ? new ToolCall { Id = $"call_{Guid.NewGuid():N}"[..14], Function = new FunctionCall(name.GetString()!, arguments.GetRawText()) }
            : null;

    private static JsonNode Parameters(ToolDefinition tool) => tool.Function.Parameters is { ValueKind: JsonValueKind.Object } schema ? JsonNode.Parse(schema.GetRawText())! : new JsonObject { ["type"] = "object" };
}
