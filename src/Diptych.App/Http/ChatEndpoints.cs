using System.Text;
using System.Text.Json;
using Diptych.App.Jobs;
using Diptych.Core;
using Diptych.Runtimes.Chat;
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
        group.MapPost("/responses", ResponseEndpoint.RespondAsync).WithSummary("Answers a conversation (OpenAI's newer dialect)").Produces<OpenAiResponse>();
    }

    /// <summary>The model, or "model:adapter".</summary>
    public static (LocalModel Model, string? Adapter) Model(Product product, string name)
    {
        string[] parts = name.Split(':', 2);
        return product.LanguageModel is { } model && model.Name == parts[0]
            ? (model, parts.Length == 2 ? parts[1] : null)
            : throw new NotFoundException($"There is no language model '{parts[0]}' in this process. {(product.LanguageModel is { } has ? $"Use {has.Name}." : "Add one with: diptych models add DIR")}");
    }

    /// <summary>A string, or parts of text.</summary>
    public static string Words(JsonElement? content) => content switch
    {
        null or { ValueKind: JsonValueKind.Null } => "",
        { ValueKind: JsonValueKind.String } text => text.GetString()!,
        { ValueKind: JsonValueKind.Array } parts => string.Concat(parts.EnumerateArray().Select(part => part.ValueKind == JsonValueKind.Object && part.TryGetProperty("text", out JsonElement text) && text.ValueKind == JsonValueKind.String
            ? text.GetString()
            : throw new InvalidRequestException("A part is {\"type\": \"text\", \"text\": …}, or in a user's turn {\"type\": \"image_url\", \"image_url\": {\"url\": …}}."))),
        _ => throw new InvalidRequestException("content is a string, or a list of parts."),
    };

    /// <summary>The conversation as the model's format knows it: pictures are fetched; calls and what they answered are written out where its template does not.</summary>
    public static async Task<List<ChatTurn>> TurnsAsync(IReadOnlyList<ChatRequestMessage> messages, LocalModel model, string? told, UrlSource urls, CancellationToken cancellation)
    {
        if (messages.Count == 0)
        {
            throw new InvalidRequestException("messages is empty.");
        }
        var turns = new List<ChatTurn>();
        foreach (ChatRequestMessage m in messages)
        {
            turns.Add(m.Role switch
            {
                "system" or "developer" => new ChatTurn("system", Words(m.Content)),
                "user" => await UserAsync(m.Content, urls, cancellation),
                "assistant" when model.TakesAnswers => new ChatTurn("assistant", Words(m.Content), Calls: m.ToolCalls?.Select(c => new ChatCall(c.Id ?? "", c.Function.Name, Arguments(c))).ToList()),
                "tool" when model.TakesAnswers => new ChatTurn("tool", Words(m.Content), AnswersCall: m.ToolCallId),
                "assistant" => new ChatTurn("assistant", m.ToolCalls is { Count: > 0 } calls ? string.Join('\n', calls.Select(c => $"{{\"name\": {JsonSerializer.Serialize(c.Function.Name)}, \"arguments\": {c.Function.Arguments}}}")) : Words(m.Content)),
                "tool" => new ChatTurn("user", $"The function answered: {Words(m.Content)}"),
                _ => throw new InvalidRequestException($"'{m.Role}' is no role: system, user, assistant or tool."),
            });
        }
        if (told is not null)
        {
            bool has = turns[0].Role == "system";
            ChatTurn first = new("system", has ? $"{turns[0].Content}\n\n{told}" : told);
            turns.RemoveRange(0, has ? 1 : 0);
            turns.Insert(0, first);
        }
        return turns;
    }

    private static JsonElement Arguments(ToolCall call)
    {
        try
        {
            return JsonElement.Parse(call.Function.Arguments);
        }
        catch (JsonException)
        {
            throw new InvalidRequestException($"tool_calls: the arguments of '{call.Function.Name}' are no JSON.");
        }
    }

    /// <summary>A turn of words and pictures, in their order.</summary>
    private static async Task<ChatTurn> UserAsync(JsonElement? content, UrlSource urls, CancellationToken cancellation)
    {
        if (content is not { ValueKind: JsonValueKind.Array } parts)
        {
            return new ChatTurn("user", Words(content).Replace(ChatTurn.PictureMark, ' '));
        }
        var text = new StringBuilder();
        var pictures = new List<byte[]>();
        foreach (JsonElement part in parts.EnumerateArray())
        {
            if (part.ValueKind == JsonValueKind.Object && part.TryGetProperty("image_url", out JsonElement image))
            {
                string? url = image.ValueKind == JsonValueKind.String ? image.GetString() : image.ValueKind == JsonValueKind.Object && image.TryGetProperty("url", out JsonElement inner) ? inner.GetString() : null;
                pictures.Add(await urls.PictureAsync(url ?? throw new InvalidRequestException("image_url has no url."), cancellation));
                text.Append(ChatTurn.PictureMark).Append('\n');
            }
            else
            {
                text.Append(Words(JsonSerializer.SerializeToElement(new[] { part })).Replace(ChatTurn.PictureMark, ' '));
            }
        }
        return new ChatTurn("user", text.ToString(), pictures);
    }

    private static async Task<IResult> ChatAsync(ChatRequest body, HttpContext http, Product product, UrlSource urls, TimeProvider time, CancellationToken cancellation)
    {
        var (model, adapter) = Model(product, body.Model);
        Tools? tools = Tools.Of(body);
        Prompt prompt = await model.WriteAsync(await TurnsAsync(body.Messages, model, model.TakesTools ? null : tools?.Words, urls, cancellation), adapter, cancellation, model.TakesTools ? tools?.Definitions : null);
        Sampling[] samplings = body.ToSamplings(model);
        if (tools?.Schema is { } schema)
        {
            samplings = [.. samplings.Select(s => s with { Constraint = model.SchemaConstraint(schema) })];
        }
        string id = $"chatcmpl-{Guid.NewGuid():N}";
        long created = time.GetUtcNow().ToUnixTimeSeconds();
        ChatCompletion Completion(bool chunk, IReadOnlyList<ChatChoice> choices, CompletionUsage? usage) => new(id, chunk ? "chat.completion.chunk" : "chat.completion", created, body.Model, choices, usage);
        if (body.Stream is not true)
        {
            Answer[] answers = await Task.WhenAll(samplings.Select(s => WholeAsync(model, prompt, s, adapter, cancellation)));
            return Results.Ok(Completion(false, [.. answers.Select((a, i) =>
            {
                var (text, calls) = tools?.Read(a.Text) ?? (a.Text, null);
                return new ChatChoice(i, new ChatMessageBody("assistant", text, calls), null, Chances(model, a.Chances), calls is null ? a.Last.Finish : "tool_calls");
            })], Usage([.. answers.Select(a => a.Last)])));
        }
        var held = new StringBuilder[samplings.Length];
        var begun = new bool[samplings.Length];
        await StreamAsync(http, model, prompt, samplings, adapter, body.StreamOptions?.IncludeUsage == true, (index, part) =>
        {
            string? text = part.Text;
            string? finish = part.Finish;
            string? role = begun[index] ? null : "assistant";
            IReadOnlyList<ToolCall>? calls = null;
            if (tools is not null)
            {
                // What may be a call is held back until it is one or cannot be.
                held[index] = (held[index] ?? new StringBuilder()).Append(text);
                string all = held[index].ToString();
                if (finish is null && tools.MayBeCall(all))
                {
                    return null;
                }
                (text, calls) = tools.Read(all);
                finish = calls is null ? finish : "tool_calls";
                held[index].Clear();
            }
            if (string.IsNullOrEmpty(text) && finish is null && role is null && part.Chance is null)
            {
                return null;
            }
            begun[index] = true;
            var delta = new ChatMessageBody(role, text, calls?.Select((c, i) => c with { Index = i }).ToList());
            return Completion(true, [new ChatChoice(index, null, delta, Chances(model, part.Chance is null ? [] : [part.Chance]), finish)], null);
        }, usage => Completion(true, [], usage), cancellation);
        return Results.Empty;
    }

    private static async Task<IResult> CompleteAsync(CompletionRequest body, HttpContext http, Product product, TimeProvider time, CancellationToken cancellation)
    {
        var (model, adapter) = Model(product, body.Model);
        int[] ids = model.Tokenizer.Encode(Words(body.Prompt), specials: true);
        var prompt = new Prompt(model.Tokenizer.Begin is { } begin && (ids.Length == 0 || ids[0] != begin) ? [begin, .. ids] : ids);
        Sampling[] samplings = body.ToSamplings(model);
        string id = $"cmpl-{Guid.NewGuid():N}";
        long created = time.GetUtcNow().ToUnixTimeSeconds();
        TextCompletion Completion(IReadOnlyList<TextChoice> choices, CompletionUsage? usage) => new(id, "text_completion", created, body.Model, choices, usage);
        if (body.Stream is not true)
        {
            Answer[] answers = await Task.WhenAll(samplings.Select(s => WholeAsync(model, prompt, s, adapter, cancellation)));
            return Results.Ok(Completion([.. answers.Select((a, i) => new TextChoice(i, a.Text, TextChances(model, a.Chances), a.Last.Finish))], Usage([.. answers.Select(a => a.Last)])));
        }
        await StreamAsync(http, model, prompt, samplings, adapter, body.StreamOptions?.IncludeUsage == true, (index, part) => part.Text.Length == 0 && part.Finish is null && part.Chance is null
            ? null
            : Completion([new TextChoice(index, part.Text, TextChances(model, part.Chance is null ? [] : [part.Chance]), part.Finish)], null), usage => Completion([], usage), cancellation);
        return Results.Empty;
    }

    public static async Task<Answer> WholeAsync(LocalModel model, Prompt prompt, Sampling sampling, string? adapter, CancellationToken cancellation)
    {
        var text = new StringBuilder();
        var chances = new List<TokenChance>();
        GeneratedText? last = null;
        await foreach (GeneratedText part in model.GenerateAsync(prompt, sampling, cancellation, adapter))
        {
            text.Append(part.Text);
            if (part.Chance is { } chance)
            {
                chances.Add(chance);
            }
            last = part;
        }
        return new Answer(text.ToString(), last!, chances);
    }

    /// <param name="chunk">What is sent for a piece of an answer; null sends nothing.</param>
    private static async Task StreamAsync(
        HttpContext http, LocalModel model, Prompt prompt, Sampling[] samplings, string? adapter, bool usage, Func<int, GeneratedText, object?> chunk, Func<CompletionUsage, object> total, CancellationToken cancellation)
    {
        var parts = System.Threading.Channels.Channel.CreateUnbounded<(int Index, GeneratedText Part)>();
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        Task writers = Task.WhenAll(samplings.Select(async (sampling, index) =>
        {
            try
            {
                await foreach (GeneratedText part in model.GenerateAsync(prompt, sampling, stop.Token, adapter))
                {
                    parts.Writer.TryWrite((index, part));
                }
            }
            catch (Exception error)
            {
                // The reader gets it below, and the other answers end with it.
                parts.Writer.TryComplete(error);
                throw;
            }
        })).ContinueWith(done => parts.Writer.TryComplete(done.Exception?.GetBaseException()), CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default);
        var last = new GeneratedText[samplings.Length];
        try
        {
            await foreach (var (index, part) in parts.Reader.ReadAllAsync(cancellation))
            {
                // The stream begins with the first part, so that what cannot be answered is a problem document like any other.
                last[index] = part;
                if (chunk(index, part) is { } data)
                {
                    await SendAsync(http, JsonSerializer.Serialize(data, Json.Options), cancellation);
                }
            }
        }
        finally
        {
            await stop.CancelAsync();
            await writers;
        }
        if (usage)
        {
            await SendAsync(http, JsonSerializer.Serialize(total(Usage(last)), Json.Options), cancellation);
        }
        await SendAsync(http, "[DONE]", cancellation);
    }

    private static async Task SendAsync(HttpContext http, string data, CancellationToken cancellation)
    {
        if (!http.Response.HasStarted)
        {
            http.Response.ContentType = "text/event-stream";
            http.Response.Headers.CacheControl = "no-cache";
        }
        await http.Response.WriteAsync($"data: {data}\n\n", cancellation);
        await http.Response.Body.FlushAsync(cancellation);
    }

    private static CompletionUsage Usage(IReadOnlyList<GeneratedText> last)
    {
        int written = last.Sum(l => l.CompletionTokens);
        return new CompletionUsage(last[0].PromptTokens, written, last[0].PromptTokens + written, new PromptTokenDetails(last[0].CachedTokens));
    }

    private static ChatChances? Chances(LocalModel model, IReadOnlyList<TokenChance> chances) => chances.Count == 0 ? null : new ChatChances(
        [.. chances.Select(c => Chance(model, c.Token, c.LogProbability, [.. c.Likeliest.Select(l => Chance(model, l.Token, l.LogProbability, null))]))]);

    private static ChatChance Chance(LocalModel model, int token, float logProbability, IReadOnlyList<ChatChance>? top)
    {
        byte[] bytes = model.Tokenizer.Bytes(token).ToArray();
        return new ChatChance(Encoding.UTF8.GetString(bytes), logProbability, [.. bytes.Select(b => (int)b)], top);
    }

    private static TextChances? TextChances(LocalModel model, IReadOnlyList<TokenChance> chances) => chances.Count == 0 ? null : new TextChances(
        [.. chances.Select(c => model.Tokenizer.Decode([c.Token]))], [.. chances.Select(c => c.LogProbability)],
        [.. chances.Select(c => (IReadOnlyDictionary<string, float>)c.Likeliest.GroupBy(l => model.Tokenizer.Decode([l.Token]), StringComparer.Ordinal).ToDictionary(g => g.Key, g => g.First().LogProbability, StringComparer.Ordinal))]);

    /// <summary>An answer as a whole.</summary>
    internal sealed record Answer(string Text, GeneratedText Last, IReadOnlyList<TokenChance> Chances);
}
