using System.ComponentModel;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;
using Diptych.Core;
using Diptych.Runtimes.Decoding;

namespace Diptych.App.Http;

/// <summary>What chat and completions share.</summary>
public abstract record GenerationRequest
{
    private const int MostAnswers = 8;

    public required string Model { get; init; }

    public bool? Stream { get; init; }

    public StreamOptions? StreamOptions { get; init; }

    [Description("Answers to the same prompt, 1 to 8.")]
    public int? N { get; init; }

    public float? Temperature { get; init; }

    public float? TopP { get; init; }

    [Description("Of the likeliest so many tokens; 0 for all.")]
    public int? TopK { get; init; }

    [Description("Of tokens at least this share of the likeliest's probability.")]
    public float? MinP { get; init; }

    public float? RepetitionPenalty { get; init; }

    public float? FrequencyPenalty { get; init; }

    public float? PresencePenalty { get; init; }

    public long? Seed { get; init; }

    public int? MaxTokens { get; init; }

    public int? MaxCompletionTokens { get; init; }

    [Description("A string, or up to four.")]
    public JsonElement? Stop { get; init; }

    public IReadOnlyDictionary<string, float>? LogitBias { get; init; }

    [Description("{\"type\": \"json_object\"}, or {\"type\": \"json_schema\", \"json_schema\": {\"name\": …, \"schema\": {…}}}.")]
    public ResponseFormat? ResponseFormat { get; init; }

    [Description("A regular expression that the whole answer matches.")]
    public string? GuidedRegex { get; init; }

    [Description("Whether what follows the same words earlier in the text is tried as what comes next; never changes an answer.")]
    public bool? Speculative { get; init; }

    /// <summary>Tokens to tell with each token; null tells no probabilities.</summary>
    internal abstract int? Chances { get; }

    /// <exception cref="InvalidRequestException">A value lies outside what it may be.</exception>
    internal Sampling[] ToSamplings(LocalModel model)
    {
        if (Temperature is < 0 or > 2 || TopP is <= 0 or > 1 || MaxTokens is < 1 || MaxCompletionTokens is < 1 || N is < 1 or > MostAnswers || Chances is < 0 or > 20)
        {
            throw new InvalidRequestException($"temperature is 0 to 2, top_p above 0 and at most 1, max_tokens at least 1, n 1 to {MostAnswers}, and at most 20 likeliest tokens are told.");
        }
        if (ResponseFormat is not null && GuidedRegex is not null)
        {
            throw new InvalidRequestException("An answer is held to response_format or to guided_regex, not to both.");
        }
        int? seed = Seed is null or (>= int.MinValue and <= int.MaxValue) ? (int?)Seed : unchecked((int)(Seed ^ (Seed >> 32)));
        var one = new Sampling
        {
            Temperature = Temperature ?? 0.7f,
            TopP = TopP ?? 1,
            TopK = TopK ?? 0,
            MinP = MinP ?? 0,
            RepetitionPenalty = RepetitionPenalty ?? 1,
            FrequencyPenalty = FrequencyPenalty ?? 0,
            PresencePenalty = PresencePenalty ?? 0,
            Seed = seed,
            MaxTokens = MaxCompletionTokens ?? MaxTokens ?? 1024,
            Stop = Stop switch
            {
                null or { ValueKind: JsonValueKind.Null } => [],
                { ValueKind: JsonValueKind.String } text when text.GetString()!.Length == 0 => [],
                { ValueKind: JsonValueKind.String } text => [text.GetString()!],
                { ValueKind: JsonValueKind.Array } several when several.GetArrayLength() <= 4 && several.EnumerateArray().All(s => s.ValueKind == JsonValueKind.String && s.GetString()!.Length > 0) => [.. several.EnumerateArray().Select(s => s.GetString()!)],
                _ => throw new InvalidRequestException("stop is a string, or up to four."),
            },
            Bias = LogitBias?.ToDictionary(
                b => int.TryParse(b.Key, CultureInfo.InvariantCulture, out int id) ? id : throw new InvalidRequestException($"logit_bias: '{b.Key}' is no token id."), b => b.Value),
            Constraint = GuidedRegex is { } expression ? model.RegexConstraint(expression) : ResponseFormat?.Form() is { } schema ? model.SchemaConstraint(schema) : null,
            LogProbabilities = Chances,
            LooksBack = Speculative ?? true,
        };
        return [.. Enumerable.Range(0, N ?? 1).Select(i => one with { Seed = unchecked(seed + i) })];
    }
}

/// <summary>The form that an answer must have.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record ResponseFormat
{
    [Description("text, json_object or json_schema.")]
    public required string Type { get; init; }

    public SchemaFormat? JsonSchema { get; init; }

    [Description("The schema, where it stands beside the type: as POST /v1/responses has it.")]
    public JsonElement? Schema { get; init; }

    /// <returns>Null for any text.</returns>
    /// <exception cref="InvalidRequestException">The type is not known, or the schema is missing.</exception>
    internal string? Form() => Type switch
    {
        "text" => null,
        "json_object" => """{"type": "object"}""",
        "json_schema" => (JsonSchema?.Schema ?? Schema)?.GetRawText() ?? throw new InvalidRequestException("response_format: json_schema.schema is missing."),
        _ => throw new InvalidRequestException($"response_format: '{Type}' is none of text, json_object, json_schema."),
    };
}

/// <summary>A schema with its name.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record SchemaFormat
{
    public string? Name { get; init; }

    public JsonElement? Schema { get; init; }
}

/// <summary>The body of POST /v1/chat/completions.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record ChatRequest : GenerationRequest
{
    public required IReadOnlyList<ChatRequestMessage> Messages { get; init; }

    public bool? Logprobs { get; init; }

    public int? TopLogprobs { get; init; }

    [Description("Functions that the model may call.")]
    public IReadOnlyList<ToolDefinition>? Tools { get; init; }

    [Description("none, auto, required, or {\"type\": \"function\", \"function\": {\"name\": …}}.")]
    public JsonElement? ToolChoice { get; init; }

    internal override int? Chances => Logprobs == true ? TopLogprobs ?? 0 : null;
}

/// <summary>The body of POST /v1/completions.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record CompletionRequest : GenerationRequest
{
    public required JsonElement Prompt { get; init; }

    public int? Logprobs { get; init; }

    internal override int? Chances => Logprobs;
}

/// <summary>Whether a stream ends with what it used.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record StreamOptions(bool IncludeUsage = false);

/// <summary>A turn as it is sent.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record ChatRequestMessage
{
    public required string Role { get; init; }

    public JsonElement? Content { get; init; }

    public IReadOnlyList<ToolCall>? ToolCalls { get; init; }

    [Description("In a tool's turn: the id of the call that it answers.")]
    public string? ToolCallId { get; init; }
}

/// <summary>A function that may be called.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record ToolDefinition
{
    public string Type { get; init; } = "function";

    public required FunctionDefinition Function { get; init; }
}

/// <summary>A function's name, what it is for, and the schema of its arguments.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record FunctionDefinition
{
    public required string Name { get; init; }

    public string? Description { get; init; }

    public JsonElement? Parameters { get; init; }
}

/// <summary>A call of a function.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record ToolCall
{
    public int? Index { get; init; }

    public string? Id { get; init; }

    public string Type { get; init; } = "function";

    public required FunctionCall Function { get; init; }
}

/// <summary>The function's name, and its arguments as a text of JSON.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record FunctionCall(string Name, string Arguments);

/// <summary>A turn as it is answered.</summary>
public sealed record ChatMessageBody(string? Role, string? Content, IReadOnlyList<ToolCall>? ToolCalls = null);

/// <summary>The answer to POST /v1/chat/completions, or a piece of it.</summary>
public sealed record ChatCompletion(string Id, string Object, long Created, string Model, IReadOnlyList<ChatChoice> Choices, CompletionUsage? Usage);

/// <summary>One answer: whole in the message, or a piece in the delta.</summary>
public sealed record ChatChoice(int Index, ChatMessageBody? Message, ChatMessageBody? Delta, ChatChances? Logprobs, string? FinishReason);

/// <summary>How likely the answer's tokens were.</summary>
public sealed record ChatChances(IReadOnlyList<ChatChance> Content);

/// <summary>How likely one token was, and which were likeliest there.</summary>
public sealed record ChatChance(string Token, float Logprob, IReadOnlyList<int> Bytes, IReadOnlyList<ChatChance>? TopLogprobs);

/// <summary>The answer to POST /v1/completions, or a piece of it.</summary>
public sealed record TextCompletion(string Id, string Object, long Created, string Model, IReadOnlyList<TextChoice> Choices, CompletionUsage? Usage);

/// <summary>One text.</summary>
public sealed record TextChoice(int Index, string Text, TextChances? Logprobs, string? FinishReason);

/// <summary>How likely the text's tokens were.</summary>
public sealed record TextChances(IReadOnlyList<string> Tokens, IReadOnlyList<float> TokenLogprobs, IReadOnlyList<IReadOnlyDictionary<string, float>> TopLogprobs);

/// <summary>Tokens that were read and written.</summary>
public sealed record CompletionUsage(int PromptTokens, int CompletionTokens, int TotalTokens, PromptTokenDetails PromptTokensDetails);

/// <summary>Of the prompt's tokens, those that were known already.</summary>
public sealed record PromptTokenDetails(int CachedTokens);
