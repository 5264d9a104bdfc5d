using System.ComponentModel;
using System.Text.Json;
using System.Text.Json.Serialization;
using Diptych.App.Jobs;
using Diptych.Core;
using Diptych.Runtimes.Decoding;

namespace Diptych.App.Http;

/// <summary>POST /v1/responses: OpenAI's newer dialect over the same model. Nothing is kept between requests.</summary>
internal static class ResponseEndpoint
{
    public static async Task<IResult> RespondAsync(ResponseRequest body, HttpContext http, Product product, UrlSource urls, TimeProvider time, CancellationToken cancellation)
    {
        var (model, adapter) = ChatEndpoints.Model(product, body.Model);
        if (body.PreviousResponseId is not null)
        {
            throw new InvalidRequestException("previous_response_id: responses are not kept; send the conversation as input.");
        }
        Prompt prompt = await model.WriteAsync(await ChatEndpoints.TurnsAsync(Messages(body.Input), model, body.Instructions, urls, cancellation), adapter, cancellation);
        if (body.Temperature is < 0 or > 2 || body.TopP is <= 0 or > 1 || body.MaxOutputTokens is < 1)
        {
            throw new InvalidRequestException("temperature is 0 to 2, top_p above 0 and at most 1, max_output_tokens at least 1.");
        }
        var sampling = new Sampling
        {
            Temperature = body.Temperature ?? 0.7f,
            TopP = body.TopP ?? 1,
            MaxTokens = body.MaxOutputTokens ?? 1024,
            Constraint = body.Text?.Format?.Form() is { } schema ? model.SchemaConstraint(schema) : null,
        };
        string id = $"resp_{Guid.NewGuid():N}", item = $"msg_{Guid.NewGuid():N}";
        long created = time.GetUtcNow().ToUnixTimeSeconds();
        OpenAiResponse Response(string? text, GeneratedText? last) => new(
            id, "response", created, last is null ? "in_progress" : last.Finish == "length" ? "incomplete" : "completed", body.Model,
            text is null ? [] : [new ResponseItem("message", item, "assistant", last is null ? "in_progress" : "completed", [new ResponseText("output_text", text, [])])],
            last?.Finish == "length" ? new IncompleteDetails("max_output_tokens") : null,
            last is null ? null : new ResponseUsage(last.PromptTokens, last.CompletionTokens, last.PromptTokens + last.CompletionTokens, new ResponseInputDetails(last.CachedTokens), new ResponseOutputDetails(0)));
        if (body.Stream is not true)
        {
            ChatEndpoints.Answer answer = await ChatEndpoints.WholeAsync(model, prompt, sampling, adapter, cancellation);
            return Results.Ok(Response(answer.Text, answer.Last));
        }
        ServerSentEvents? events = null;
        int number = 0;
        Task SendAsync(string type, object data) => events!.SendAsync(type, new Dictionary<string, object>(
            JsonSerializer.SerializeToElement(data, Json.Options).EnumerateObject().Select(p => new KeyValuePair<string, object>(p.Name, p.Value)), StringComparer.Ordinal)
        { ["type"] = type, ["sequence_number"] = number++ }, cancellation);
        string text = "";
        GeneratedText? last = null;
        await foreach (GeneratedText part in model.GenerateAsync(prompt, sampling, cancellation, adapter))
        {
            if (events is null)
            {
                events = new ServerSentEvents(http.Response);
                await SendAsync("response.created", new { response = Response(null, null) });
                await SendAsync("response.in_progress", new { response = Response(null, null) });
                await SendAsync("response.output_item.added", new { output_index = 0, item = new ResponseItem("message", item, "assistant", "in_progress", []) });
                await SendAsync("response.content_part.added", new { item_id = item, output_index = 0, content_index = 0, part = new ResponseText("output_text", "", []) });
            }
            last = part;
            text += part.Text;
            if (part.Text.Length > 0)
            {
                await SendAsync("response.output_text.delta", new { item_id = item, output_index = 0, content_index = 0, delta = part.Text });
            }
        }
        OpenAiResponse whole = Response(text, last);
        await SendAsync("response.output_text.done", new { item_id = item, output_index = 0, content_index = 0, text });
        await SendAsync("response.content_part.done", new { item_id = item, output_index = 0, content_index = 0, part = whole.Output[0].Content[0] });
        await SendAsync("response.output_item.done", new { output_index = 0, item = whole.Output[0] });
        await SendAsync(whole.Status == "incomplete" ? "response.incomplete" : "response.completed", new { response = whole });
        return Results.Empty;
    }

    /// <summary>A text, or items with a role and a content.</summary>
    private static IReadOnlyList<ChatRequestMessage> Messages(JsonElement input) => input.ValueKind switch
    {
        JsonValueKind.String => [new ChatRequestMessage { Role = "user", Content = input }],
        JsonValueKind.Array => [.. input.EnumerateArray().Select(item => item.ValueKind == JsonValueKind.Object && item.TryGetProperty("role", out JsonElement role) && item.TryGetProperty("content", out JsonElement content)
            ? new ChatRequestMessage { Role = role.GetString()!, Content = content }
            : throw new InvalidRequestException("input: an item is {\"role\": …, \"content\": …}."))],
        _ => throw new InvalidRequestException("input is a string, or a list of items."),
    };
}

/// <summary>The body of POST /v1/responses.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record ResponseRequest
{
    public required string Model { get; init; }

    [Description("A string, or a list of {\"role\": …, \"content\": …}.")]
    public required JsonElement Input { get; init; }

    public string? Instructions { get; init; }

    public float? Temperature { get; init; }

    public float? TopP { get; init; }

    public int? MaxOutputTokens { get; init; }

    public bool? Stream { get; init; }

    public ResponseTextOptions? Text { get; init; }

    public string? PreviousResponseId { get; init; }
}

/// <summary>The form of the text.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Skip)]
public sealed record ResponseTextOptions(ResponseFormat? Format);

/// <summary>The answer to POST /v1/responses.</summary>
public sealed record OpenAiResponse(
    string Id, string Object, long CreatedAt, string Status, string Model, IReadOnlyList<ResponseItem> Output, IncompleteDetails? IncompleteDetails, ResponseUsage? Usage);

/// <summary>A message of the answer.</summary>
public sealed record ResponseItem(string Type, string Id, string Role, string Status, IReadOnlyList<ResponseText> Content);

/// <summary>A text of a message.</summary>
public sealed record ResponseText(string Type, string Text, IReadOnlyList<object> Annotations);

/// <summary>Why an answer is not whole.</summary>
public sealed record IncompleteDetails(string Reason);

/// <summary>Tokens that were read and written.</summary>
public sealed record ResponseUsage(int InputTokens, int OutputTokens, int TotalTokens, ResponseInputDetails InputTokensDetails, ResponseOutputDetails OutputTokensDetails);

/// <summary>Of the tokens that were read, those that were known already.</summary>
public sealed record ResponseInputDetails(int CachedTokens);

/// <summary>Of the tokens that were written, those that were not shown: none.</summary>
public sealed record ResponseOutputDetails(int ReasoningTokens);
