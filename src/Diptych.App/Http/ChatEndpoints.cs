using System.ComponentModel;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Diptych.Core;
using Diptych.Runtimes.Decoding;

namespace Diptych.App.Http;

/// <summary>The language model in this process, in OpenAI's dialect: chat and completions, whole or as server-sent events.</summary>
internal static class ChatEndpoints
{
    public static void Map(IEndpointRouteBuilder app)
    {
        RouteGroupBuilder group = app.MapGroup("/v1").WithTags("OpenAI").ProducesProblem(400).ProducesProblem(404).ProducesProblem(429);
        group.MapPost("/chat/completions", ChatAsync).WithSummary("Answers a conversation (OpenAI's dialect)").Produces<ChatCompletion>();
        group.MapPost("/completions", CompleteAsync).WithSummary("Goes on with a text (OpenAI's dialect)").Produces<TextCompletion>();
    }

    private static async Task<IResult> ChatAsync(ChatRequest body, HttpContext http, Product product, TimeProvider time, CancellationToken cancellation)
    {
        var (model, adapter) = Model(product, body.Model);
        if (body.Messages.Count == 0)
        {
            throw new InvalidRequestException("messages is empty.");
        }
        int[] prompt = model.Write(body.Messages.Select(m => new ChatTurn(m.Role is "system" or "user" or "assistant" or "developer"
            ? m.Role == "developer" ? "system" : m.Role
            : throw new InvalidRequestException($"'{m.Role}' is no role: system, user or assistant."), Words(m.Content))));
        string id = $"chatcmpl-{Guid.NewGuid():N}";
        long created = time.GetUtcNow().ToUnixTimeSeconds();
        Sampling sampling = body.ToSampling();
        if (!body.Stream)
        {
            var (text, last) = await WholeAsync(model, prompt, sampling, adapter, cancellation);
            return Results.Ok(new ChatCompletion(id, "chat.completion", created, body.Model, [new ChatChoice(0, new ChatMessageBody("assistant", text), null, last.Finish)], Usage(last)));
        }
        await StreamAsync(http, model, prompt, sampling, adapter, body.StreamOptions?.IncludeUsage == true, (text, finish, usage, first) => new ChatCompletion(
            id, "chat.completion.chunk", created, body.Model,
            usage is not null ? [] : [new ChatChoice(0, null, new ChatMessageBody(first ? "assistant" : null, text), finish)], usage), cancellation);
        return Results.Empty;
    }

    private static async Task<IResult> CompleteAsync(CompletionRequest body, HttpContext http, Product product, TimeProvider time, CancellationToken cancellation)
    {
        var (model, adapter) = Model(product, body.Model);
        int[] prompt = model.Tokenizer.Encode(Words(body.Prompt), specials: true);
        string id = $"cmpl-{Guid.NewGuid():N}";
        long created = time.GetUtcNow().ToUnixTimeSeconds();
        if (!body.Stream)
        {
            var (text, last) = await WholeAsync(model, prompt, body.ToSampling(), adapter, cancellation);
            return Results.Ok(new TextCompletion(id, "text_completion", created, body.Model, [new TextChoice(0, text, last.Finish)], Usage(last)));
        }
        await StreamAsync(http, model, prompt, body.ToSampling(), adapter, body.StreamOptions?.IncludeUsage == true, (text, finish, usage, _) => new TextCompletion(
            id, "text_completion", created, body.Model, usage is not null ? [] : [new TextChoice(0, text ?? "", finish)], usage), cancellation);
        return Results.Empty;
    }

    /// <summary>The model, or "model:adapter".</summary>
    private static (LocalModel Model, LoraAdapter? Adapter) Model(Product product, string name)
    {
        string[] parts = name.Split(':', 2);
        return product.LanguageModel is { } model && model.Name == parts[0]
            ? (model, parts.Length == 2 ? model.Adapter(parts[1]) : null)
            : throw new NotFoundException($"There is no language model '{parts[0]}' in this process. {(product.LanguageModel is { } has ? $"Use {has.Name}." : "Add one with: diptych models add DIR")}");
    }

    private static async Task<(string Text, GeneratedText Last)> WholeAsync(LocalModel model, int[] prompt, Sampling sampling, LoraAdapter? adapter, CancellationToken cancellation)
    {
        var text = new StringBuilder();
        GeneratedText? last = null;
        await foreach (GeneratedText part in model.GenerateAsync(prompt, sampling, cancellation, adapter))
        {
            text.Append(part.Text);
            last = part;
        }
        return (text.ToString(), last!);
    }

    private static async Task StreamAsync(
        HttpContext http, LocalModel model, int[] prompt, Sampling sampling, LoraAdapter? adapter, bool usage, Func<string?, string?, CompletionUsage?, bool, object> chunk, CancellationToken cancellation)
    {
        bool first = true;
        GeneratedText? last = null;
        async Task SendAsync(string data)
        {
            await http.Response.WriteAsync($"data: {data}\n\n", cancellation);
            await http.Response.Body.FlushAsync(cancellation);
        }
        await foreach (GeneratedText part in model.GenerateAsync(prompt, sampling, cancellation, adapter))
        {
            if (first)
            {
                // The stream begins with the first part, so that what cannot be answered is a problem document like any other.
                http.Response.ContentType = "text/event-stream";
                http.Response.Headers.CacheControl = "no-cache";
            }
            last = part;
            if (part.Text.Length > 0 || part.Finish is not null || first)
            {
                await SendAsync(JsonSerializer.Serialize(chunk(part.Text, part.Finish, null, first), Json.Options));
            }
            first = false;
        }
        if (usage)
        {
            await SendAsync(JsonSerializer.Serialize(chunk(null, null, Usage(last!), false), Json.Options));
        }
        await SendAsync("[DONE]");
    }

    private static CompletionUsage Usage(GeneratedText last) => new(
        last.PromptTokens, last.CompletionTokens, last.PromptTokens + last.CompletionTokens, new PromptTokenDetails(last.CachedTokens));

    /// <summary>A string, or parts of text.</summary>
    private static string Words(JsonElement content) => content.ValueKind switch
    {
        JsonValueKind.String => content.GetString()!,
        JsonValueKind.Array => string.Concat(content.EnumerateArray().Select(part => part.ValueKind == JsonValueKind.Object && part.TryGetProperty("text", out JsonElement text) && text.ValueKind == JsonValueKind.String
            ? text.GetString()
            : throw new InvalidRequestException("This model reads text only: a part is {\"type\": \"text\", \"text\": …}."))),
        _ => throw new InvalidRequestException("content is a string, or a list of parts."),
    };
}

/// <summary>What chat and completions share.</summary>
public abstract record GenerationRequest
{
    public required string Model { get; init; }

    public bool Stream { get; init; }

    public StreamOptions? StreamOptions { get; init; }

    public float? Temperature { get; init; }

    public float? TopP { get; init; }

    [Description("Of the likeliest so many tokens; 0 for all.")]
    public int? TopK { get; init; }

    [Description("Of tokens at least this share of the likeliest's probability.")]
    public float? MinP { get; init; }

    public float? RepetitionPenalty { get; init; }

    public float? FrequencyPenalty { get; init; }

    public float? PresencePenalty { get; init; }

    public int? Seed { get; init; }

    public int? MaxTokens { get; init; }

    public int? MaxCompletionTokens { get; init; }

    [Description("A string, or up to four.")]
    public JsonElement? Stop { get; init; }

    public IReadOnlyDictionary<string, float>? LogitBias { get; init; }

    internal Sampling ToSampling()
    {
        if (Temperature is < 0 or > 2 || TopP is <= 0 or > 1 || MaxTokens is < 1 || MaxCompletionTokens is < 1)
        {
            throw new InvalidRequestException("temperature is 0 to 2, top_p above 0 and at most 1, max_tokens at least 1.");
        }
        return new Sampling
        {
            Temperature = Temperature ?? 0.7f,
            TopP = TopP ?? 1,
            TopK = TopK ?? 0,
            MinP = MinP ?? 0,
            RepetitionPenalty = RepetitionPenalty ?? 1,
            FrequencyPenalty = FrequencyPenalty ?? 0,
            PresencePenalty = PresencePenalty ?? 0,
            Seed = Seed,
            MaxTokens = MaxCompletionTokens ?? MaxTokens ?? 1024,
            Stop = Stop switch
            {
                null or { ValueKind: JsonValueKind.Null } => [],
                { ValueKind: JsonValueKind.String } one => [one.GetString()!],
                { ValueKind: JsonValueKind.Array } several when several.GetArrayLength() <= 4 && several.EnumerateArray().All(s => s.ValueKind == JsonValueKind.String && s.GetString()!.Length > 0) => [.. several.EnumerateArray().Select(s => s.GetString()!)],
                _ => throw new InvalidRequestException("stop is a string, or up to four."),
            },
            Bias = LogitBias?.ToDictionary(
                b => int.TryParse(b.Key, System.Globalization.CultureInfo.InvariantCulture, out int id) ? id : throw new InvalidRequestException($"logit_bias: '{b.Key}' is no token id."), b => b.Value),
        };
    }
}

/// <summary>The body of POST /v1/chat/completions.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record ChatRequest : GenerationRequest
{
    public required IReadOnlyList<ChatRequestMessage> Messages { get; init; }
}

/// <summary>The body of POST /v1/completions.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record CompletionRequest : GenerationRequest
{
    public required JsonElement Prompt { get; init; }
}

/// <summary>Whether a stream ends with what it used.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record StreamOptions(bool IncludeUsage = false);

/// <summary>A turn as it is sent.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record ChatRequestMessage
{
    public required string Role { get; init; }

    public required JsonElement Content { get; init; }
}

/// <summary>A turn as it is answered.</summary>
public sealed record ChatMessageBody(string? Role, string? Content);

/// <summary>The answer to POST /v1/chat/completions, or a piece of it.</summary>
public sealed record ChatCompletion(string Id, string Object, long Created, string Model, IReadOnlyList<ChatChoice> Choices, CompletionUsage? Usage);

/// <summary>One answer: whole in the message, or a piece in the delta.</summary>
public sealed record ChatChoice(int Index, ChatMessageBody? Message, ChatMessageBody? Delta, string? FinishReason);

/// <summary>The answer to POST /v1/completions, or a piece of it.</summary>
public sealed record TextCompletion(string Id, string Object, long Created, string Model, IReadOnlyList<TextChoice> Choices, CompletionUsage? Usage);

/// <summary>One text.</summary>
public sealed record TextChoice(int Index, string Text, string? FinishReason);

/// <summary>Tokens that were read and written.</summary>
public sealed record CompletionUsage(int PromptTokens, int CompletionTokens, int TotalTokens, PromptTokenDetails PromptTokensDetails);

/// <summary>Of the prompt's tokens, those that were known already.</summary>
public sealed record PromptTokenDetails(int CachedTokens);
