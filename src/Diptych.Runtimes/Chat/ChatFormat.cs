using System.Globalization;
using System.Text.Json;
using Diptych.Core;
using Diptych.Runtimes.Decoding;

namespace Diptych.Runtimes.Chat;

/// <summary>A call of a function that the assistant made.</summary>
/// <param name="Arguments">A JSON object.</param>
public sealed record ChatCall(string Id, string Name, JsonElement Arguments);

/// <summary>A turn of a conversation.</summary>
/// <param name="Role">system, user, assistant or tool.</param>
/// <param name="Content">With <see cref="PictureMark"/> where a picture stands.</param>
/// <param name="Pictures">Encoded image files, one for each mark.</param>
/// <param name="Calls">What the assistant called in this turn.</param>
/// <param name="AnswersCall">The id of the call that a tool's turn answers.</param>
public sealed record ChatTurn(string Role, string Content, IReadOnlyList<byte[]>? Pictures = null, IReadOnlyList<ChatCall>? Calls = null, string? AnswersCall = null)
{
    /// <summary>Unicode's own sign for an object in a text.</summary>
    public const char PictureMark = '\uFFFC';
}

/// <summary>How a model wants a conversation written: by its own template.</summary>
public sealed class ChatFormat
{
    private const string ChatMlTemplate = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}";
    private const string Llama3Template = "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}";
    private const string Llama4Template = "{{ bos_token }}{% for m in messages %}{{ '<|header_start|>' + m.role + '<|header_end|>\n\n' + m.content + '<|eot|>' }}{% endfor %}{{ '<|header_start|>assistant<|header_end|>\n\n' }}";

    private readonly Template _template;
    private readonly string _begin, _end;
    private readonly TimeProvider _time;

    /// <param name="template">A template in Jinja's language.</param>
    /// <param name="begin">The token that begins a text; empty for none.</param>
    /// <param name="end">The token that ends one; empty for none.</param>
    /// <exception cref="InvalidDataException">It is no template that can be read; the message says why.</exception>
    public ChatFormat(string template, string begin, string end, TimeProvider time)
    {
        (_template, _begin, _end, _time) = (Template.Parse(template), begin, end, time);
        // A template that knows of tools asks whether there are any.
        TakesTools = template.Contains("tools", StringComparison.Ordinal);
        TakesAnswers = template.Contains("tool_calls", StringComparison.Ordinal);
    }

    /// <summary>Bare turns: what captioners were trained on.</summary>
    public static ChatFormat ChatMl { get; } = new(ChatMlTemplate, "", "", TimeProvider.System);

    /// <summary>Whether functions that can be called are written as the model was taught.</summary>
    public bool TakesTools { get; }

    /// <summary>Whether calls and what they answered are.</summary>
    public bool TakesAnswers { get; }

    /// <summary>The format of a GGUF file.</summary>
    /// <returns>Null where the file names none.</returns>
    /// <exception cref="InvalidDataException">Its template cannot be read.</exception>
    public static ChatFormat? Of(GgufFile file, BytePairTokenizer tokenizer, TimeProvider time)
    {
        string Token(string name) => file.Number(name) is { } id && id < tokenizer.Count ? System.Text.Encoding.UTF8.GetString(tokenizer.Bytes((int)id)) : "";
        return file.String("tokenizer.chat_template") is { } template ? new ChatFormat(template, Token("tokenizer.ggml.bos_token_id"), Token("tokenizer.ggml.eos_token_id"), time) : null;
    }

    /// <summary>The format of a folder in Hugging Face's layout; without a template, that of the tokenizer's family.</summary>
    /// <returns>Null where that is not known either.</returns>
    /// <exception cref="InvalidDataException">Its template, or its tokenizer_config.json, cannot be read.</exception>
    public static ChatFormat? Of(string directory, BytePairTokenizer tokenizer, TimeProvider time)
    {
        string path = Path.Combine(directory, "chat_template.jinja"), settings = Path.Combine(directory, "tokenizer_config.json");
        string? template = File.Exists(path) ? File.ReadAllText(path) : null;
        string begin = new[] { "<|begin_of_text|>", "<s>" }.FirstOrDefault(tokenizer.Specials.ContainsKey) ?? "", end = "";
        if (File.Exists(settings))
        {
            try
            {
                using var json = JsonDocument.Parse(File.ReadAllBytes(settings));
                begin = Token(json.RootElement, "bos_token") ?? begin;
                end = Token(json.RootElement, "eos_token") ?? "";
                template ??= json.RootElement.TryGetProperty("chat_template", out JsonElement named) ? Chosen(named) : null;
            }
            catch (Exception error) when (error is JsonException or InvalidOperationException or KeyNotFoundException)
            {
                throw new InvalidDataException($"{settings} cannot be read: {error.Message}", error);
            }
        }
        template ??= tokenizer.Specials.ContainsKey("<|header_start|>") ? Llama4Template : tokenizer.Specials.ContainsKey("<|start_header_id|>") ? Llama3Template : null;
        return template is null ? null : new ChatFormat(template, begin, end, time);
    }

    /// <summary>The conversation, and the beginning of the answer.</summary>
    /// <param name="tools">Functions that may be called, as OpenAI's dialect defines them; null for none.</param>
    /// <exception cref="InvalidRequestException">The template does not take such a conversation; the message says why.</exception>
    public string Write(IReadOnlyList<ChatTurn> turns, JsonElement? tools = null)
    {
        var values = new Dictionary<string, object?>(StringComparer.Ordinal)
        {
            ["messages"] = turns.Select(object? (t) => Message(t)).ToList(),
            ["add_generation_prompt"] = true,
            ["bos_token"] = _begin,
            ["eos_token"] = _end,
            ["strftime_now"] = new Function((given, _) => Now(given is [string form, ..] ? form : "")),
        };
        if (tools is { } offered)
        {
            values["tools"] = TemplateValues.Of(offered);
        }
        try
        {
            return _template.Render(values);
        }
        catch (TemplateException error)
        {
            throw new InvalidRequestException($"The model's chat template does not take this conversation: {error.Message}", error);
        }
    }

    private static Dictionary<string, object?> Message(ChatTurn turn)
    {
        var message = new Dictionary<string, object?>(StringComparer.Ordinal) { ["role"] = turn.Role, ["content"] = turn.Content };
        if (turn.Calls is { Count: > 0 } calls)
        {
            message["tool_calls"] = calls.Select(object? (c) => new Dictionary<string, object?>(StringComparer.Ordinal)
            {
                ["id"] = c.Id,
                ["type"] = "function",
                ["function"] = new Dictionary<string, object?>(StringComparer.Ordinal) { ["name"] = c.Name, ["arguments"] = TemplateValues.Of(c.Arguments) },
            }).ToList();
        }
        if (turn.AnswersCall is { } id)
        {
            message["tool_call_id"] = id;
        }
        return message;
    }

    private static string? Token(JsonElement settings, string name) => !settings.TryGetProperty(name, out JsonElement token) ? null
        : token.ValueKind == JsonValueKind.String ? token.GetString() : token.ValueKind == JsonValueKind.Object && token.TryGetProperty("content", out JsonElement content) ? content.GetString() : null;

    /// <summary>A template, or of several by name the default one.</summary>
    private static string? Chosen(JsonElement template) => template.ValueKind switch
    {
        JsonValueKind.String => template.GetString(),
        JsonValueKind.Array => template.EnumerateArray().FirstOrDefault(t => t.GetProperty("name").GetString() == "default") is { ValueKind: JsonValueKind.Object } chosen ? chosen.GetProperty("template").GetString() : null,
        _ => null,
    };

    /// <summary>The time as C's strftime writes it, as far as templates ask for it.</summary>
    private string Now(string form)
    {
        DateTimeOffset now = _time.GetLocalNow();
        var text = new System.Text.StringBuilder();
        for (int i = 0; i < form.Length; i++)
        {
            if (form[i] != '%' || i + 1 == form.Length)
            {
                text.Append(form[i]);
                continue;
            }
            string? net = form[++i] switch { 'd' => "dd", 'm' => "MM", 'Y' => "yyyy", 'y' => "yy", 'b' => "MMM", 'B' => "MMMM", 'a' => "ddd", 'A' => "dddd", 'H' => "HH", 'M' => "mm", 'S' => "ss", _ => null };
            text.Append(net is null ? $"%{form[i]}" : now.ToString(net, CultureInfo.InvariantCulture));
        }
        return text.ToString();
    }
}
