using System.Text;

namespace Diptych.Runtimes.Decoding;

/// <summary>A turn of a conversation.</summary>
/// <param name="Role">system, user or assistant.</param>
/// <param name="Content">With <see cref="PictureMark"/> where a picture stands.</param>
/// <param name="Pictures">Encoded image files, one for each mark.</param>
public sealed record ChatTurn(string Role, string Content, IReadOnlyList<byte[]>? Pictures = null)
{
    /// <summary>Unicode's own sign for an object in a text.</summary>
    public const char PictureMark = '\uFFFC';
}

/// <summary>How a model wants a conversation written, told by its own template.</summary>
public sealed record ChatFormat(string Begin, string BeforeRole, string AfterRole, string AfterTurn, string? DefaultSystem)
{
    /// <summary>ChatML, with SmolLM2's own system message.</summary>
    public static ChatFormat SmolLm { get; } = new("", "<|im_start|>", "\n", "<|im_end|>\n", "You are a helpful AI assistant named SmolLM, trained by Hugging Face");

    public static ChatFormat ChatMl { get; } = SmolLm with { DefaultSystem = null };

    public static ChatFormat Llama3 { get; } = new("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", null);

    public static ChatFormat Llama4 { get; } = new("<|begin_of_text|>", "<|header_start|>", "<|header_end|>\n\n", "<|eot|>", null);

    /// <returns>Null for a template of no known family.</returns>
    public static ChatFormat? Of(string? template) => template switch
    {
        null => null,
        _ when template.Contains("trained by Hugging Face", StringComparison.Ordinal) => SmolLm,
        _ when template.Contains("You are Qwen, created by Alibaba Cloud", StringComparison.Ordinal) => ChatMl with { DefaultSystem = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." },
        _ when template.Contains("<|im_start|>", StringComparison.Ordinal) => ChatMl,
        _ when template.Contains("<|header_start|>", StringComparison.Ordinal) => Llama4,
        _ when template.Contains("<|start_header_id|>", StringComparison.Ordinal) => Llama3,
        _ => null,
    };

    /// <summary>The conversation, and the beginning of the answer.</summary>
    public string Write(IReadOnlyList<ChatTurn> turns)
    {
        var text = new StringBuilder(Begin);
        // Captioners were trained on the bare turn.
        if (DefaultSystem is not null && (turns.Count == 0 || turns[0].Role != "system") && !turns.Any(t => t.Pictures is { Count: > 0 }))
        {
            Turn(text, new ChatTurn("system", DefaultSystem));
        }
        foreach (ChatTurn turn in turns)
        {
            Turn(text, turn);
        }
        return text.Append(BeforeRole).Append("assistant").Append(AfterRole).ToString();
    }

    private void Turn(StringBuilder text, ChatTurn turn) => text.Append(BeforeRole).Append(turn.Role).Append(AfterRole).Append(turn.Content).Append(AfterTurn);
}
