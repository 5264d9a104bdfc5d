using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Diptych.Runtimes.Text;

namespace Diptych.Runtimes.Decoding;

/// <summary>
/// Byte pair encoding (Sennrich et al. 2016): the text is cut by a pattern, and within each piece the neighbours whose union comes first in
/// the vocabulary's order are joined until none is left. It begins with bytes, as Llama 3, Llama 4 and GPT-2's descendants have it; or with
/// characters, and bytes only where there is no token for one, as SentencePiece has it in Llama 2, Mistral and Gemma.
/// </summary>
public sealed partial class BytePairTokenizer
{
    /// <summary>Llama 3's cut.</summary>
    public const string Llama3 = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>Llama 4's cut.</summary>
    public const string Llama4 = @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>Qwen 2's and 3's: Llama 3's with single digits.</summary>
    public const string Qwen = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>SmolLM2's: single digits, then GPT-2's cut.</summary>
    public const string SmolLm = @"\p{Nd}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[\p{Nl}\p{No}]+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{Nd})|\s+(?!\S)|\s+";

    private readonly Dictionary<string, int> _ids;
    private readonly Dictionary<(int, int), (int Rank, int Id)> _merges;
    private readonly byte[][] _bytes;
    private readonly int[] _byteIds = new int[256];
    private readonly Regex _cut;
    private readonly Regex? _special;
    private readonly Dictionary<string, int> _specials;
    private readonly SpacePrefix? _characters;

    /// <param name="characters">For tokens of characters: where a text is given a space to begin with; null for tokens of bytes.</param>
    private BytePairTokenizer(byte[][] bytes, Dictionary<(int, int), (int, int)> merges, string cut, Dictionary<string, int> specials, SpacePrefix? characters = null, int[]? byteIds = null)
    {
        _bytes = bytes;
        _characters = characters;
        _merges = merges;
        _specials = specials;
        _ids = [];
        HashSet<int> apart = [.. specials.Values, .. byteIds ?? []];
        for (int id = 0; id < bytes.Length; id++)
        {
            if (bytes[id].Length > 0 && !apart.Contains(id))
            {
                _ids.TryAdd(Latin(bytes[id]), id);
            }
        }
        for (int b = 0; b < 256; b++)
        {
            _byteIds[b] = byteIds is null ? _ids.GetValueOrDefault(((char)b).ToString(), -1) : byteIds[b];
        }
        _cut = new Regex(cut, RegexOptions.CultureInvariant | RegexOptions.Compiled, TimeSpan.FromSeconds(10));
        _special = specials.Count == 0 ? null : new Regex(
            string.Join('|', specials.Keys.OrderByDescending(s => s.Length).Select(Regex.Escape)), RegexOptions.CultureInvariant, TimeSpan.FromSeconds(10));
    }

    public int Count => _bytes.Length;

    /// <summary>The token that texts begin with; null where they begin with none.</summary>
    public int? Begin { get; private init; }

    /// <summary>What is done to a text before it is cut.</summary>
    private Func<string, string>? Normalize { get; init; }

    /// <summary>Ids of markers such as <c>&lt;|im_end|&gt;</c>.</summary>
    public IReadOnlyDictionary<string, int> Specials => _specials;

    /// <summary>
    /// Reads a tiktoken file, Llama 3 and 4's tokenizer.model: a token in base64 and its rank on each line. The markers, which are not in
    /// it, and how text is cut are those of the family, told by the number of tokens.
    /// </summary>
    /// <exception cref="InvalidDataException">A line is none, or the number is no family's.</exception>
    public static BytePairTokenizer FromTiktoken(string path)
    {
        var bytes = new List<byte[]>();
        foreach (string line in File.ReadLines(path).Where(l => l.Length > 0))
        {
            string[] parts = line.Split(' ');
            if (parts.Length != 2 || !int.TryParse(parts[1], CultureInfo.InvariantCulture, out int rank) || rank != bytes.Count)
            {
                throw new InvalidDataException($"{path}: '{line}' is no token with its rank {bytes.Count}.");
            }
            try
            {
                bytes.Add(Convert.FromBase64String(parts[0]));
            }
            catch (FormatException error)
            {
                throw new InvalidDataException($"{path}: '{parts[0]}' is no base64.", error);
            }
        }
        var ids = bytes.Select((b, i) => (Key: Latin(b), i)).ToDictionary(p => p.Key, p => p.i, StringComparer.Ordinal);
        var merges = new Dictionary<(int, int), (int, int)>();
        for (int id = 0; id < bytes.Count; id++)
        {
            string whole = Latin(bytes[id]);
            for (int at = 1; at < whole.Length; at++)
            {
                // Any two tokens side by side join at the rank of their union.
                if (ids.TryGetValue(whole[..at], out int left) && ids.TryGetValue(whole[at..], out int right))
                {
                    merges.TryAdd((left, right), (id, id));
                }
            }
        }
        var (cut, markers, markerCount) = bytes.Count switch
        {
            Llama3Tokens => (Llama3, Llama3Markers, 256),
            Llama4Tokens => (Llama4, Llama4Markers, 1135),
            _ => throw new InvalidDataException($"{path} has {bytes.Count} tokens; Llama 3 has {Llama3Tokens}, and Llama 4 {Llama4Tokens}."),
        };
        var all = markers.ToDictionary(m => m.Name, m => bytes.Count + m.At, StringComparer.Ordinal);
        // Numbers that no text of ours has stand for the markers that Meta reserved.
        return new BytePairTokenizer([.. Enumerable.Range(0, bytes.Count + markerCount).Select(i => i < bytes.Count ? bytes[i] : SpecialBytes(all, i))], merges, cut, all) { Begin = all["<|begin_of_text|>"] };
    }

    private const int Llama3Tokens = 128_000, Llama4Tokens = 200_000;

    private static readonly (string Name, int At)[] Llama3Markers =
    [
        ("<|begin_of_text|>", 0), ("<|end_of_text|>", 1), ("<|finetune_right_pad_id|>", 4), ("<|start_header_id|>", 6), ("<|end_header_id|>", 7), ("<|eom_id|>", 8), ("<|eot_id|>", 9),
        ("<|python_tag|>", 10),
    ];

    private static readonly (string Name, int At)[] Llama4Markers =
    [
        ("<|begin_of_text|>", 0), ("<|end_of_text|>", 1), ("<|fim_prefix|>", 2), ("<|fim_middle|>", 3), ("<|fim_suffix|>", 4), ("<|header_start|>", 5), ("<|header_end|>", 6), ("<|eom|>", 7),
        ("<|eot|>", 8), ("<|step|>", 9), ("<|image_start|>", 80), ("<|image_end|>", 81), ("<|tile_x_separator|>", 84), ("<|tile_y_separator|>", 85), ("<|image|>", 90), ("<|patch|>", 92),
    ];

    /// <summary>Reads the tokenizer that a GGUF file carries.</summary>
    /// <exception cref="InvalidDataException">It is of a kind that is not read.</exception>
    public static BytePairTokenizer FromGguf(GgufFile file)
    {
        bool pieces = file.String("tokenizer.ggml.model") == "llama";
        string[] tokens = Texts(file, "tokenizer.ggml.tokens");
        int? begin = (file.Flag("tokenizer.ggml.add_bos_token") ?? pieces) ? Id(file, "tokenizer.ggml.bos_token_id", tokens.Length) : null;
        _ = Id(file, "tokenizer.ggml.eos_token_id", tokens.Length);
        if (pieces)
        {
            float[] scores = Numbers(file, "tokenizer.ggml.scores", tokens.Length) ?? throw new InvalidDataException($"{file.Path} lacks tokenizer.ggml.scores.");
            float[] kinds = Numbers(file, "tokenizer.ggml.token_type", tokens.Length) ?? throw new InvalidDataException($"{file.Path} lacks tokenizer.ggml.token_type.");
            return OfScores(tokens, scores, [.. kinds.Select(k => (int)k)], file.Flag("tokenizer.ggml.add_space_prefix") ?? true, begin);
        }
        if (file.String("tokenizer.ggml.model") != "gpt2")
        {
            throw new InvalidDataException($"{file.Path}: tokenizers of kind '{file.String("tokenizer.ggml.model")}' are not read; byte-level ones (gpt2) and SentencePiece's byte pairs (llama) are.");
        }
        float[]? types = Numbers(file, "tokenizer.ggml.token_type", tokens.Length);
        string cut = file.String("tokenizer.ggml.pre") switch
        {
            "smollm" => SmolLm,
            "llama-bpe" or "llama3" => Llama3,
            "llama4" => Llama4,
            "qwen2" => Qwen,
            var other => throw new InvalidDataException($"{file.Path}: the cut '{other}' is not known."),
        };
        return Of(tokens, Texts(file, "tokenizer.ggml.merges"), cut, i => types?[i] is 3 or 4, begin);
    }

    /// <summary>Of a token or a merge: every way to cut one is looked at.</summary>
    private const int MostCharacters = 4096;

    private static string[] Texts(GgufFile file, string key) => file.List(key) is { } list && list.All(t => t is string { Length: <= MostCharacters }) ? [.. list.Cast<string>()]
        : throw new InvalidDataException($"{file.Path}: {key} is {file.Show(key)}, and must be a list of texts of up to {MostCharacters} characters.");

    /// <returns>Null where the file has none.</returns>
    private static float[]? Numbers(GgufFile file, string key, int count) => !file.Keys.Contains(key) ? null
        : file.List(key) is { } list && list.Count == count && list.All(n => n is not (string or bool)) ? [.. list.Select(n => Convert.ToSingle(n, CultureInfo.InvariantCulture))]
        : throw new InvalidDataException($"{file.Path}: {key} is {file.Show(key)}, and must be a list of {count} numbers, one a token.");

    /// <returns>Null where the file has none.</returns>
    private static int? Id(GgufFile file, string key, int count) => !file.Keys.Contains(key) ? null
        : file.Number(key) is { } id && id >= 0 && id < count && id == Math.Floor(id) ? (int)id
        : throw new InvalidDataException($"{file.Path}: {key} is {file.Show(key)}, which is none of its {count} tokens.");

    /// <summary>Reads a tokenizer.json whose model is byte pair encoding.</summary>
    /// <exception cref="InvalidDataException">It is of a kind that is not read.</exception>
    public static BytePairTokenizer FromJson(string path)
    {
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            JsonElement model = json.RootElement.GetProperty("model");
            var vocabulary = model.GetProperty("vocab").EnumerateObject().ToDictionary(e => e.Name, e => e.Value.GetInt32(), StringComparer.Ordinal);
            var added = json.RootElement.GetProperty("added_tokens").EnumerateArray().ToDictionary(e => e.GetProperty("content").GetString()!, e => e.GetProperty("id").GetInt32(), StringComparer.Ordinal);
            string[] tokens = new string[vocabulary.Values.Concat(added.Values).Max() + 1];
            Array.Fill(tokens, "");
            foreach (var (text, id) in vocabulary.Concat(added))
            {
                tokens[id] = text;
            }
            string[] merges = [.. model.GetProperty("merges").EnumerateArray().Select(m => m.ValueKind == JsonValueKind.String ? m.GetString()! : $"{m[0].GetString()} {m[1].GetString()}")];
            HashSet<int> markers = [.. added.Values];
            JsonElement cuts = json.RootElement.TryGetProperty("pre_tokenizer", out JsonElement before) ? before : default;
            int? begin = BeginOf(json.RootElement);
            Func<string, string>? normalize = json.RootElement.TryGetProperty("normalizer", out JsonElement normalizer) && normalizer.ValueKind == JsonValueKind.Object ? TextNormalizer.Read(normalizer.Clone()) : null;
            return cuts.ValueKind == JsonValueKind.Object && cuts.GetRawText().Contains("ByteLevel", StringComparison.Ordinal)
                ? Of(tokens, merges, CutOf(cuts), markers.Contains, begin, normalize)
                : OfPieces(tokens, PairsOf(tokens, merges), markers.Contains, cuts.ValueKind == JsonValueKind.Object && cuts.GetProperty("type").GetString() == "Metaspace" ? SpacePrefixes.Of(cuts) : SpacePrefix.Never, begin, normalize);
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or ArgumentException)
        {
            throw new InvalidDataException($"{path} is no tokenizer that is read: {error.Message}", error);
        }
    }

    /// <param name="specials">Whether markers in the text are tokens; false takes them as text.</param>
    public int[] Encode(string text, bool specials = false)
    {
        var ids = new List<int>(text.Length / 3);
        int at = 0;
        if (specials && _special is not null)
        {
            foreach (Match marker in _special.Matches(text))
            {
                EncodePlain(text[at..marker.Index], ids, at == 0);
                ids.Add(_specials[marker.Value]);
                at = marker.Index + marker.Length;
            }
        }
        EncodePlain(text[at..], ids, at == 0);
        return [.. ids];
    }

    /// <summary>A token's bytes; none for an id that only pads a model's vocabulary.</summary>
    public ReadOnlySpan<byte> Bytes(int id) => id < _bytes.Length ? _bytes[id] : [];

    public string Decode(IEnumerable<int> ids) => Encoding.UTF8.GetString([.. ids.SelectMany(i => _bytes[i])]);

    /// <param name="first">Whether the text begins here, and not behind a marker.</param>
    internal void EncodePlain(string text, List<int> ids, bool first)
    {
        if (text.Length == 0)
        {
            return;
        }
        text = Normalize?.Invoke(text) ?? text;
        if (_characters is { } prefix && text.Length > 0)
        {
            text = text.Replace(SpaceMark, ' ');
            text = prefix.Applies(first) && text[0] != ' ' ? $" {text}" : text;
        }
        var (shape, starts) = Shape(text);
        foreach (Match piece in _cut.Matches(shape))
        {
            byte[] bytes = Encoding.UTF8.GetBytes(text[starts[piece.Index]..starts[piece.Index + piece.Length]]);
            if (_characters is null && _ids.TryGetValue(Latin(bytes), out int whole))
            {
                ids.Add(whole);
                continue;
            }
            Join(_characters is null ? [.. bytes.Select(b => _byteIds[b])] : Characters(bytes), ids);
        }
    }

    /// <summary>
    /// The text with one character for each code point: .NET's patterns see characters beyond the first plane as halves of no class, so
    /// each of those is stood for by one of its class.
    /// </summary>
    internal static (string Shape, int[] Starts) Shape(string text)
    {
        var shape = new StringBuilder(text.Length);
        int[] starts = new int[text.Length + 1];
        for (int at = 0; at < text.Length; at++)
        {
            starts[shape.Length] = at;
            if (char.IsHighSurrogate(text[at]) && at + 1 < text.Length && char.IsLowSurrogate(text[at + 1]))
            {
                shape.Append(CharUnicodeInfo.GetUnicodeCategory(text, at) switch
                {
                    UnicodeCategory.UppercaseLetter => 'A',
                    UnicodeCategory.LowercaseLetter => 'a',
                    UnicodeCategory.TitlecaseLetter => '\u01C5',
                    UnicodeCategory.ModifierLetter => '\u02B0',
                    UnicodeCategory.OtherLetter => '\u00AA',
                    UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark => '\u0301',
                    UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber => '0',
                    _ => '\u263A',
                });
                at++;
            }
            else
            {
                shape.Append(text[at]);
            }
        }
        starts[shape.Length] = text.Length;
        return (shape.ToString(), starts);
    }

    /// <summary>Joins neighbours, the pair of the lowest rank first, of equals the leftmost.</summary>
    private void Join(List<int> parts, List<int> ids)
    {
        int[] next = [.. Enumerable.Range(1, parts.Count)], last = [.. Enumerable.Range(-1, parts.Count)];
        var pairs = new PriorityQueue<(int At, int Left, int Right, int Union), (int Rank, int At)>();
        for (int i = 0; i + 1 < parts.Count; i++)
        {
            Offer(i);
        }
        while (pairs.TryDequeue(out var pair, out _))
        {
            int right = next[pair.At];
            // What was joined since is not what was offered.
            if (right >= parts.Count || parts[pair.At] != pair.Left || parts[right] != pair.Right)
            {
                continue;
            }
            (parts[pair.At], parts[right]) = (pair.Union, -1);
            next[pair.At] = next[right];
            if (next[right] < parts.Count)
            {
                last[next[right]] = pair.At;
                Offer(pair.At);
            }
            if (last[pair.At] >= 0)
            {
                Offer(last[pair.At]);
            }
        }
        ids.AddRange(parts.Where(p => p >= 0));

        void Offer(int at)
        {
            if (_merges.TryGetValue((parts[at], parts[next[at]]), out var merge))
            {
                pairs.Enqueue((at, parts[at], parts[next[at]], merge.Id), (merge.Rank, at));
            }
        }
    }

    private static BytePairTokenizer Of(string[] tokens, string[] merges, string cut, Func<int, bool> isSpecial, int? begin, Func<string, string>? normalize = null)
    {
        var specials = new Dictionary<string, int>(StringComparer.Ordinal);
        byte[][] bytes = new byte[tokens.Length][];
        for (int id = 0; id < tokens.Length; id++)
        {
            if (isSpecial(id))
            {
                specials.TryAdd(tokens[id], id);
            }
            bytes[id] = isSpecial(id) ? Encoding.UTF8.GetBytes(tokens[id]) : [.. tokens[id].Select(c => CharBytes.TryGetValue(c, out byte b) ? b : (byte)'?')];
        }
        return new BytePairTokenizer(bytes, PairsOf(tokens, merges), cut, specials) { Begin = begin, Normalize = normalize };
    }

    private static Dictionary<(int, int), (int, int)> PairsOf(string[] tokens, string[] merges)
    {
        var ids = new Dictionary<string, int>(StringComparer.Ordinal);
        for (int id = 0; id < tokens.Length; id++)
        {
            ids.TryAdd(tokens[id], id);
        }
        var pairs = new Dictionary<(int, int), (int, int)>();
        for (int rank = 0; rank < merges.Length; rank++)
        {
            string[] parts = merges[rank].Split(' ');
            if (parts.Length == 2 && ids.TryGetValue(parts[0], out int left) && ids.TryGetValue(parts[1], out int right) && ids.TryGetValue(parts[0] + parts[1], out int union))
            {
                pairs.TryAdd((left, right), (rank, union));
            }
        }
        return pairs;
    }

    private static byte[] SpecialBytes(Dictionary<string, int> specials, int id) => Encoding.UTF8.GetBytes(specials.FirstOrDefault(s => s.Value == id).Key ?? "");

    /// <summary>Bytes as characters of the same number: a key that compares fast.</summary>
    private static string Latin(byte[] bytes) => Encoding.Latin1.GetString(bytes);

    /// <summary>GPT-2 writes bytes as printable characters: those that are, as themselves, the others from 256 on.</summary>
    private static readonly Dictionary<char, byte> CharBytes = MakeCharBytes();

    private static Dictionary<char, byte> MakeCharBytes()
    {
        var map = new Dictionary<char, byte>();
        int next = 256;
        for (int b = 0; b < 256; b++)
        {
            bool printable = b is >= '!' and <= '~' or >= 0xA1 and <= 0xAC or >= 0xAE and <= 0xFF;
            map[(char)(printable ? b : next++)] = (byte)b;
        }
        return map;
    }
}
