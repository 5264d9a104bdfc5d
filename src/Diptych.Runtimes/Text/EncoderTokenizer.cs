using System.Text.Json;
using System.Text.RegularExpressions;
using Diptych.Inference;
using Diptych.Runtimes.Decoding;

namespace Diptych.Runtimes.Text;

/// <summary>A tokenizer of a text model, which takes pairs of texts too.</summary>
public interface IEncoderTokenizer : ITokenizer
{
    /// <summary>A pair of texts; where both are too long the longer is cut first. Ids of the second text's type are their complement.</summary>
    int[] EncodePair(string first, string second);
}

/// <summary>
/// A tokenizer.json of Hugging Face's tokenizers library whose model is unigram (XLM-RoBERTa, E5, BGE-M3, SigLIP) or byte pair encoding
/// (RoBERTa, ModernBERT, SigLIP 2): what is done to the text, the model, and what stands around it.
/// </summary>
internal sealed class EncoderTokenizer : IEncoderTokenizer
{
    private const char SpaceMark = '\u2581';
    private readonly Func<string, string> _normalize;
    private readonly Action<string, List<int>, bool> _model;
    private readonly Regex? _special;
    private readonly Dictionary<string, int> _specials;
    private readonly Frame[] _single, _pair;
    private readonly int? _padding;

    private EncoderTokenizer(JsonElement root, string path, int maxTokens, int? padding)
    {
        (MaxTokens, _padding) = (maxTokens, padding);
        _normalize = TextNormalizer.Read(Member(root, "normalizer"));
        _specials = root.GetProperty("added_tokens").EnumerateArray().Where(t => t.GetProperty("content").GetString()!.Length > 0).ToDictionary(t => t.GetProperty("content").GetString()!, t => t.GetProperty("id").GetInt32(), StringComparer.Ordinal);
        _special = _specials.Count == 0 ? null : new Regex(string.Join('|', _specials.Keys.OrderByDescending(s => s.Length).Select(Regex.Escape)), RegexOptions.CultureInvariant, TimeSpan.FromSeconds(10));
        (_single, _pair) = Frames(Member(root, "post_processor"));
        JsonElement model = root.GetProperty("model");
        string type = model.TryGetProperty("type", out JsonElement named) ? named.GetString()! : model.TryGetProperty("merges", out _) ? "BPE" : "Unigram";
        if (type == "BPE")
        {
            // What is done to the text before is done there. SigLIP 2 takes Gemma's tokenizer as it is, but was trained on lower case.
            _normalize = padding is null ? text => text : text => text.ToLowerInvariant();
            var pairs = BytePairTokenizer.FromJson(path);
            bool spaced = Member(root, "pre_tokenizer") is { ValueKind: JsonValueKind.Object } bytes_ && bytes_.TryGetProperty("add_prefix_space", out JsonElement adds) && adds.ValueKind == JsonValueKind.True && bytes_.GetProperty("type").GetString() == "ByteLevel";
            _model = (text, ids, first) => pairs.EncodePlain(spaced && !char.IsWhiteSpace(text[0]) ? $" {text}" : text, ids, first);
            return;
        }
        if (type != "Unigram")
        {
            throw new InvalidDataException($"{path} is a tokenizer of the kind {type}; WordPiece, Unigram and BPE are read.");
        }
        var unigram = new UnigramModel(
            [.. model.GetProperty("vocab").EnumerateArray().Select(t => (t[0].GetString()!, t[1].GetDouble()))],
            model.TryGetProperty("unk_id", out JsonElement unknown) && unknown.ValueKind == JsonValueKind.Number ? unknown.GetInt32() : -1,
            model.TryGetProperty("byte_fallback", out JsonElement bytes) && bytes.ValueKind == JsonValueKind.True);
        JsonElement cut = Member(root, "pre_tokenizer");
        JsonElement[] cuts = cut.ValueKind != JsonValueKind.Object ? [] : cut.GetProperty("type").GetString() == "Sequence" ? [.. cut.GetProperty("pretokenizers").EnumerateArray()] : [cut];
        if (cuts.FirstOrDefault(c => c.GetProperty("type").GetString() is not ("Metaspace" or "WhitespaceSplit")) is { ValueKind: JsonValueKind.Object } other)
        {
            throw new InvalidDataException($"{path}: texts of unigram models cut by {other.GetProperty("type").GetString()} are not read; Metaspace and WhitespaceSplit are.");
        }
        bool words = cuts.Any(c => c.GetProperty("type").GetString() == "WhitespaceSplit");
        JsonElement marks = cuts.FirstOrDefault(c => c.GetProperty("type").GetString() == "Metaspace");
        SpacePrefix prefix = SpacePrefixes.Of(marks);
        bool splits = marks.ValueKind == JsonValueKind.Object && !(marks.TryGetProperty("split", out JsonElement split) && split.ValueKind == JsonValueKind.False);
        _model = (text, ids, first) =>
        {
            foreach (string word in words ? text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries) : [text])
            {
                string marked = marks.ValueKind == JsonValueKind.Object ? word.Replace(' ', SpaceMark) : word;
                if (prefix.Applies(first) && !marked.StartsWith(SpaceMark))
                {
                    marked = SpaceMark + marked;
                }
                foreach (string piece in splits ? Pieces(marked) : [marked])
                {
                    unigram.Encode(piece, ids);
                }
            }
        };
    }

    public int MaxTokens { get; }

    /// <summary>Reads the tokenizer of a folder: its tokenizer.json of any kind that is read, or BERT's vocab.txt.</summary>
    /// <param name="siglip">Whether texts are brought into the form that SigLIP was trained on: filled up to the length, since the last place is what is looked at, and for SigLIP 2 in lower case.</param>
    /// <exception cref="InvalidDataException">There is none that is read; the message says why.</exception>
    public static IEncoderTokenizer Open(string directory, int maxTokens, bool siglip = false)
    {
        string path = Path.Combine(directory, "tokenizer.json");
        if (!File.Exists(path))
        {
            return WordPieceTokenizer.Open(directory, maxTokens);
        }
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            JsonElement root = json.RootElement, model = root.GetProperty("model");
            if (model.TryGetProperty("type", out JsonElement type) ? type.GetString() == "WordPiece" : !model.TryGetProperty("merges", out _) && model.GetProperty("vocab").ValueKind == JsonValueKind.Object)
            {
                return WordPieceTokenizer.Open(directory, maxTokens);
            }
            JsonElement padding = Member(root, "padding");
            int pad = padding.ValueKind == JsonValueKind.Object && padding.TryGetProperty("pad_id", out JsonElement id) ? id.GetInt32()
                : root.GetProperty("added_tokens").EnumerateArray().FirstOrDefault(t => t.GetProperty("content").GetString() == "<pad>") is { ValueKind: JsonValueKind.Object } named ? named.GetProperty("id").GetInt32() : 1;
            return new EncoderTokenizer(root.Clone(), path, maxTokens, siglip ? pad : null);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or KeyNotFoundException or FormatException or ArgumentException)
        {
            throw new InvalidDataException($"{path} is no tokenizer that is read: {error.Message}", error);
        }
        catch (InvalidDataException error) when (!error.Message.StartsWith(directory, StringComparison.Ordinal))
        {
            throw new InvalidDataException($"{path}: {error.Message}", error);
        }
    }

    public int[] Encode(string text)
    {
        List<int> ids = Plain(text), whole = [];
        int room = Math.Max(0, MaxTokens - _single.Count(f => f.Sequence < 0));
        ids.RemoveRange(Math.Min(ids.Count, room), Math.Max(0, ids.Count - room));
        foreach (Frame frame in _single)
        {
            whole.AddRange(frame.Sequence < 0 ? [frame.Id] : ids);
        }
        if (_padding is { } padding)
        {
            whole.AddRange(Enumerable.Repeat(padding, Math.Max(0, MaxTokens - whole.Count)));
        }
        return [.. whole];
    }

    public int[] EncodePair(string first, string second)
    {
        List<int> a = Plain(first), b = Plain(second), whole = [];
        int room = Math.Max(2, MaxTokens - _pair.Count(f => f.Sequence < 0)), shorter = Math.Min(Math.Min(a.Count, b.Count), room / 2);
        var (shorterOne, longerOne) = a.Count <= b.Count ? (a, b) : (b, a);
        int longer = Math.Min(longerOne.Count, room - Math.Min(shorter, shorterOne.Count));
        shorter = Math.Min(shorterOne.Count, room - longer);
        shorterOne.RemoveRange(shorter, shorterOne.Count - shorter);
        longerOne.RemoveRange(longer, longerOne.Count - longer);
        foreach (Frame frame in _pair)
        {
            IEnumerable<int> ids = frame.Sequence switch { < 0 => [frame.Id], 0 => a, _ => b };
            whole.AddRange(frame.Type == 0 ? ids : ids.Select(id => ~id));
        }
        return [.. whole];
    }

    public int Count(string text) => Plain(text).Count;

    /// <summary>Ids of a text alone: special tokens that stand in it are taken as such, and what lies between is normalized and cut.</summary>
    private List<int> Plain(string text)
    {
        var ids = new List<int>(text.Length / 3);
        int at = 0;
        foreach (Match special in _special?.Matches(text) ?? Enumerable.Empty<Match>())
        {
            Between(text[at..special.Index], at == 0);
            ids.Add(_specials[special.Value]);
            at = special.Index + special.Length;
        }
        Between(text[at..], at == 0);
        return ids;

        void Between(string part, bool first)
        {
            if (_normalize(part) is { Length: > 0 } normal)
            {
                _model(normal, ids, first);
            }
        }
    }

    /// <summary>Each piece begins with a mark: a mark goes with what follows it.</summary>
    private static IEnumerable<string> Pieces(string marked)
    {
        int start = 0;
        for (int i = 1; i < marked.Length; i++)
        {
            if (marked[i] == SpaceMark)
            {
                yield return marked[start..i];
                start = i;
            }
        }
        yield return marked[start..];
    }

    private static JsonElement Member(JsonElement json, string name) => json.TryGetProperty(name, out JsonElement member) ? member : default;

    private static (Frame[] Single, Frame[] Pair) Frames(JsonElement json)
    {
        string type = json.ValueKind == JsonValueKind.Object ? json.GetProperty("type").GetString()! : "";
        switch (type)
        {
            case "Sequence":
                return Frames(json.GetProperty("processors").EnumerateArray().FirstOrDefault(p => p.GetProperty("type").GetString() != "ByteLevel"));
            case "TemplateProcessing":
                JsonElement tokens = json.GetProperty("special_tokens");
                Frame[] Read(string name) =>
                [
                    .. json.GetProperty(name).EnumerateArray().SelectMany(part => part.TryGetProperty("SpecialToken", out JsonElement special)
                        ? tokens.GetProperty(special.GetProperty("id").GetString()!).GetProperty("ids").EnumerateArray().Select(id => new Frame(-1, id.GetInt32(), special.GetProperty("type_id").GetInt32()))
                        : [part.GetProperty("Sequence") is var sequence && sequence.GetProperty("id").GetString() == "A" ? new Frame(0, 0, sequence.GetProperty("type_id").GetInt32()) : new Frame(1, 0, sequence.GetProperty("type_id").GetInt32())]),
                ];
                return (Read("single"), Read("pair"));
            case "RobertaProcessing" or "BertProcessing":
                int begin = json.GetProperty("cls")[1].GetInt32(), end = json.GetProperty("sep")[1].GetInt32(), second = type[0] == 'B' ? 1 : 0;
                Frame[] single = [new(-1, begin, 0), new(0, 0, 0), new(-1, end, 0)];
                return (single, [.. single, .. second == 0 ? [new Frame(-1, end, 0)] : Array.Empty<Frame>(), new(1, 0, second), new(-1, end, second)]);
            default:
                return ([new(0, 0, 0)], [new(0, 0, 0), new(1, 0, 1)]);
        }
    }

    /// <param name="Sequence">Which text stands here; -1 for a token.</param>
    private readonly record struct Frame(int Sequence, int Id, int Type);
}

/// <summary>Where a text that does not begin with a space is given one.</summary>
internal enum SpacePrefix
{
    Never,

    /// <summary>Before a text's first words, and not before those behind a special token.</summary>
    First,
    Always,
}

internal static class SpacePrefixes
{
    public static bool Applies(this SpacePrefix prefix, bool first) => prefix == SpacePrefix.Always || (prefix == SpacePrefix.First && first);

    /// <param name="metaspace">The pre-tokenizer Metaspace, or nothing.</param>
    public static SpacePrefix Of(JsonElement metaspace) => metaspace.ValueKind != JsonValueKind.Object ? SpacePrefix.Never
        : metaspace.TryGetProperty("prepend_scheme", out JsonElement scheme) ? scheme.GetString() switch { "first" => SpacePrefix.First, "never" => SpacePrefix.Never, _ => SpacePrefix.Always }
        : metaspace.TryGetProperty("add_prefix_space", out JsonElement adds) && adds.ValueKind == JsonValueKind.False ? SpacePrefix.Never : SpacePrefix.Always;
}
