using System.Runtime.CompilerServices;
using System.Text.Json;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Diptych.Runtimes.Chat;
using Diptych.Runtimes.Structured;
using Microsoft.Extensions.AI;

namespace Diptych.Runtimes.Decoding;

/// <summary>A language model in this process: a decoder, its tokenizer, its way to write a conversation, its engine; as an <see cref="IChatClient"/>.</summary>
public sealed class LocalModel : IChatClient, IContextWindow
{
    private readonly ChatFormat? _format;
    private readonly string? _formatProblem;
    private readonly AdapterSlots _slots;
    private readonly Lazy<TokenTrie> _tokens;
    private readonly PictureReading? _reading;
    private readonly bool _separatesTenants;
    private readonly Dictionary<string, TextConstraint> _constraints = new(StringComparer.Ordinal);

    private LocalModel(string name, DecoderEngine engine, BytePairTokenizer tokenizer, (ChatFormat? Format, string? Problem) format, IReadOnlyDictionary<string, string> adapters, int slots, PictureReading? reading, bool separatesTenants)
    {
        (Name, Engine, Tokenizer, _reading, _separatesTenants) = (name, engine, tokenizer, reading, separatesTenants);
        (_format, _formatProblem) = format;
        _slots = new AdapterSlots(slots, new Dictionary<string, string>(adapters, StringComparer.Ordinal), Load);
        _tokens = new Lazy<TokenTrie>(() => new TokenTrie([.. Enumerable.Range(0, tokenizer.Count).Select(i => tokenizer.Specials.Values.Contains(i) ? [] : tokenizer.Bytes(i).ToArray())]));
    }

    /// <summary>Seconds of a token before any was measured.</summary>
    private const double FirstGuess = 0.003;

    /// <summary>Adapters that are in memory at a time.</summary>
    public const int AdapterPlaces = 8;

    /// <summary>Keeps what was learned of steps for the next start.</summary>
    private Action Keep { get; init; } = () => { };

    public string Name { get; }

    public int MaxTokens => Engine.MaxTokens;

    /// <summary>Of a picture that fills as many tiles as are taken; an adapter that reads pictures is asked for by its name, and does not count.</summary>
    public int PictureTokens => _reading is null || Engine.Config.Llama4 is not { TokensPerTile: > 0 } llama ? 0 : _reading.MostTiles(Name) * (llama.TokensPerTile + 2);

    public long Parameters => Engine.Parameters;

    public int CountTokens(string text) => Tokenizer.Encode(text).Length;

    public DecoderEngine Engine { get; }

    public BytePairTokenizer Tokenizer { get; }

    /// <summary>Names of the adapters that can be asked for, loaded or not.</summary>
    public IEnumerable<string> Adapters => _slots.States().Select(s => s.Name);

    public IReadOnlyList<AdapterState> AdapterStates => _slots.States();

    /// <summary>Keeps an adapter in memory, or no longer.</summary>
    /// <exception cref="NotFoundException">There is none of this name.</exception>
    public Task PinAdapterAsync(string name, bool pinned, CancellationToken cancellation) => _slots.PinAsync(name, pinned, cancellation);

    /// <summary>Reads an adapter now; it stays until another needs its place.</summary>
    /// <exception cref="NotFoundException">There is none of this name.</exception>
    public async Task LoadAdapterAsync(string name, CancellationToken cancellation) => (await _slots.TakeAsync(name, cancellation).ConfigureAwait(false)).Dispose();

    /// <returns>False where it is in use, pinned, or not in memory.</returns>
    public bool UnloadAdapter(string name) => _slots.Unload(name);

    /// <summary>The GGUF file of a folder, or the folder itself where it is in Hugging Face's layout; null where it holds no decoder.</summary>
    public static string? Find(string directory) =>
        Directory.EnumerateFiles(directory, "*.gguf").Order(StringComparer.Ordinal).FirstOrDefault()
        ?? (File.Exists(Path.Combine(directory, "config.json")) && Directory.EnumerateFiles(directory, "*.safetensors").Any() ? directory : null);

    /// <summary>Reads everything but the weights.</summary>
    /// <exception cref="InvalidDataException">It is no model that can be run; the message says why.</exception>
    public static void Check(string path)
    {
        _ = ReadTokenizer(path);
        Decoder.Check(path);
    }

    /// <param name="path">What <see cref="Find"/> gave.</param>
    /// <param name="cacheBytes">Memory for keys and values.</param>
    /// <param name="adapters">Folders of adapters by name; each is read when it is first asked for.</param>
    /// <param name="reading">What their eyes see with; null leaves them blind.</param>
    /// <param name="slots">Adapters in memory at a time.</param>
    /// <param name="swapBytes">Room on disk for keys and values of answers that gave way; as much as in memory where it is not said.</param>
    /// <param name="separatesTenants">Whether what is kept of a prompt serves only the tenant whose prompt it was.</param>
    /// <param name="objectives">When first tokens are due, and when those that wait for theirs are dropped; null for the defaults.</param>
    /// <param name="format">How the weights are kept in memory.</param>
    /// <param name="kept">Where what steps take is kept from start to start, and as whose.</param>
    /// <exception cref="InvalidDataException">It is no model that can be run; the message says why.</exception>
    public static LocalModel Open(
        string name, string path, long cacheBytes, TimeProvider time, IReadOnlyDictionary<string, string>? adapters = null, PictureReading? reading = null, int slots = AdapterPlaces, long? swapBytes = null,
        bool separatesTenants = false, IReadOnlyDictionary<Lane, LaneObjective>? objectives = null, (ModelProfiles Profiles, string Model)? kept = null, WeightFormat format = WeightFormat.AsStored)
    {
        reading?.Add(name, path);
        foreach (var (adapter, folder) in reading is null ? new Dictionary<string, string>() : adapters ?? new Dictionary<string, string>())
        {
            reading!.Add(adapter, folder);
        }
        BytePairTokenizer tokenizer = ReadTokenizer(path);
        Decoder decoder = Decoder.Open(path, format);
        StepCosts cost = kept?.Profiles.Find(kept.Value.Model, Device.Cpu.Name) is { } known ? new StepCosts(known.Cost, known.FewTokens) : new StepCosts(FirstGuess);
        return new LocalModel(name, new DecoderEngine(decoder, tokenizer, cacheBytes, time, cost, swapBytes: swapBytes, objectives: objectives), tokenizer, ReadFormat(path, tokenizer, time), adapters ?? new Dictionary<string, string>(), slots, reading, separatesTenants)
        {
            Keep = () => kept?.Profiles.Save(kept.Value.Model, Device.Cpu.Name, new ModelProfile(cost.Profile, 0, 0, 0, cost.Few())),
        };
    }

    /// <summary>Whether its template writes functions that can be called as the model was taught.</summary>
    public bool TakesTools => _format?.TakesTools == true;

    /// <summary>Whether its template writes calls, and what they answered.</summary>
    public bool TakesAnswers => _format?.TakesAnswers == true;

    /// <param name="tools">Functions that may be called, as OpenAI's dialect defines them; null for none.</param>
    /// <exception cref="InvalidRequestException">The model has no chat template, or one that cannot be read or does not take this conversation.</exception>
    public int[] Write(IEnumerable<ChatTurn> turns, JsonElement? tools = null) => _format is null
        ? throw new InvalidRequestException($"{Name} has no chat template; use it for completions. {_formatProblem}".TrimEnd())
        : Tokenizer.Encode(_format.Write([.. turns], tools), specials: true);

    /// <summary>A conversation as ids, its pictures seen by the adapter's eye.</summary>
    /// <param name="adapter">Name of the adapter that answers; null for none.</param>
    /// <exception cref="InvalidRequestException">There is a picture and no eye for it, or one cannot be read.</exception>
    public async Task<Prompt> WriteAsync(IReadOnlyList<ChatTurn> turns, string? adapter, CancellationToken cancellation, JsonElement? tools = null)
    {
        byte[][] pictures = [.. turns.SelectMany(t => t.Pictures ?? [])];
        if (pictures.Length == 0)
        {
            return new Prompt(Write(turns, tools));
        }
        // An adapter without an eye of its own sees with the model's.
        string? eye = _reading?.Sees(adapter) == true ? adapter : _reading?.Sees(Name) == true ? Name : null;
        if (eye is null)
        {
            string[] seeing = [.. Adapters.Where(a => _reading?.Sees(a) == true).Select(a => $"{Name}:{a}")];
            throw new InvalidRequestException($"{Name}{(adapter is null ? "" : $":{adapter}")} does not read pictures.{(seeing.Length > 0 ? $" Use {string.Join(" or ", seeing)}." : "")}");
        }
        SeenPicture[] seen = await Task.WhenAll(pictures.Select(p => _reading!.SeeAsync(eye, p, cancellation))).ConfigureAwait(false);
        // Captioners were trained on bare turns.
        string[] pieces = (_format is null || eye == adapter ? ChatFormat.ChatMl : _format).Write(turns, tools).Split(ChatTurn.PictureMark);
        if (pieces.Length != pictures.Length + 1)
        {
            throw new InvalidRequestException($"{Name}'s chat template does not take pictures.");
        }
        var ids = new List<int>();
        for (int i = 0; i < pieces.Length; i++)
        {
            // Llama 4's template has no line between a picture and what follows it.
            ids.AddRange(Tokenizer.Encode(i > 0 && seen[i - 1].Rows > 0 ? pieces[i].TrimStart('\n') : pieces[i], specials: true));
            if (i < pictures.Length)
            {
                int[] tokens = [.. PictureReading.Ids(pictures[i], seen[i].Tokens.Length / Engine.Config.Width)];
                ids.AddRange(seen[i].Rows == 0 ? tokens : Tiled(tokens, seen[i]));
            }
        }
        return new Prompt([.. ids], [.. seen.SelectMany(s => s.Tokens)]);
    }

    /// <summary>A picture's tokens between Llama 4's markers: tile by tile, row by row, and the whole picture last.</summary>
    private IEnumerable<int> Tiled(int[] tokens, SeenPicture picture)
    {
        int Marker(string name) => Tokenizer.Specials.TryGetValue(name, out int id) ? id : throw new InvalidRequestException($"{Name}'s tokenizer has no {name}, which pictures need.");
        int tiles = picture.Rows * picture.Columns, perTile = tokens.Length / (tiles > 1 ? tiles + 1 : 1);
        yield return Marker("<|image_start|>");
        for (int tile = 0; tiles > 1 && tile < tiles; tile++)
        {
            foreach (int token in tokens.AsSpan(tile * perTile, perTile).ToArray())
            {
                yield return token;
            }
            yield return Marker((tile + 1) % picture.Columns == 0 ? "<|tile_y_separator|>" : "<|tile_x_separator|>");
        }
        yield return Marker("<|image|>");
        foreach (int token in tokens[^perTile..])
        {
            yield return token;
        }
        yield return Marker("<|image_end|>");
    }

    /// <summary>Holds an answer to the texts of JSON that are valid under a schema.</summary>
    /// <exception cref="InvalidRequestException">It is no schema, or has what cannot be held to.</exception>
    public TextConstraint SchemaConstraint(string schema) => Constraint("schema " + schema, () => TextConstraint.OfSchema(schema, _tokens.Value));

    /// <summary>Holds an answer to a regular expression, which the whole of it matches.</summary>
    /// <exception cref="InvalidRequestException">It is no regular expression, or has what cannot be held to.</exception>
    public TextConstraint RegexConstraint(string expression) => Constraint("regex " + expression, () => TextConstraint.OfRegex(expression, _tokens.Value));

    private TextConstraint Constraint(string key, Func<TextConstraint> make)
    {
        lock (_constraints)
        {
            if (_constraints.TryGetValue(key, out TextConstraint? known))
            {
                return known;
            }
        }
        TextConstraint made = make();
        lock (_constraints)
        {
            // What one schema has learnt of the vocabulary is worth keeping, that of very many is not.
            if (_constraints.Count >= MostConstraints || _constraints.Values.Sum(c => (long)c.Size) + made.Size > MostNodes)
            {
                _constraints.Clear();
            }
            return _constraints[key] = made;
        }
    }

    private const int MostConstraints = 64, MostNodes = 1_000_000;

    /// <summary>Answers a prompt.</summary>
    /// <param name="adapter">Name of the adapter to answer with; null for none.</param>
    /// <exception cref="NotFoundException">There is no adapter of this name.</exception>
    /// <exception cref="InvalidRequestException">The adapter does not fit, or the prompt is longer than the model takes.</exception>
    /// <exception cref="OverloadedException">Too many wait already.</exception>
    public async IAsyncEnumerable<GeneratedText> GenerateAsync(Prompt prompt, Sampling sampling, [EnumeratorCancellation] CancellationToken cancellation, string? adapter = null)
    {
        using AdapterSlots.Lease? lease = adapter is null ? null : await _slots.TakeAsync(adapter, cancellation).ConfigureAwait(false);
        Prompt owned = _separatesTenants ? prompt with { Owner = RequestTerms.Current.Tenant } : prompt;
        await foreach (GeneratedText text in Engine.GenerateAsync(owned, sampling, lease?.Adapter, cancellation).ConfigureAwait(false))
        {
            yield return text;
        }
    }

    public IAsyncEnumerable<GeneratedText> GenerateAsync(int[] prompt, Sampling sampling, CancellationToken cancellation, string? adapter = null) => GenerateAsync(new Prompt(prompt), sampling, cancellation, adapter);

    public async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        var updates = new List<ChatResponseUpdate>();
        await foreach (ChatResponseUpdate update in GetStreamingResponseAsync(messages, options, cancellationToken).ConfigureAwait(false))
        {
            updates.Add(update);
        }
        return updates.ToChatResponse();
    }

    public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
        IEnumerable<ChatMessage> messages, ChatOptions? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        Prompt prompt = await WriteAsync([.. messages.Select(Turn)], adapter: null, cancellationToken).ConfigureAwait(false);
        var sampling = new Sampling
        {
            Temperature = options?.Temperature ?? 0,
            TopP = options?.TopP ?? 1,
            TopK = options?.TopK ?? 0,
            FrequencyPenalty = options?.FrequencyPenalty ?? 0,
            PresencePenalty = options?.PresencePenalty ?? 0,
            Seed = (int?)options?.Seed,
            MaxTokens = options?.MaxOutputTokens ?? 512,
            Stop = options?.StopSequences is { } stops ? [.. stops] : [],
            Constraint = options?.ResponseFormat is ChatResponseFormatJson json ? SchemaConstraint(json.Schema?.GetRawText() ?? SchemaReader.AnyObject) : null,
        };
        await foreach (GeneratedText text in GenerateAsync(prompt, sampling, cancellationToken).ConfigureAwait(false))
        {
            var update = new ChatResponseUpdate(ChatRole.Assistant, text.Text) { ModelId = Name };
            if (text.Finish is not null)
            {
                update.FinishReason = text.Finish == "stop" ? ChatFinishReason.Stop : ChatFinishReason.Length;
                update.Contents.Add(new UsageContent(new UsageDetails { InputTokenCount = text.PromptTokens, OutputTokenCount = text.CompletionTokens, TotalTokenCount = text.PromptTokens + text.CompletionTokens, CachedInputTokenCount = text.CachedTokens }));
            }
            yield return update;
        }
    }

    private LoraAdapter Load(string folder)
    {
        try
        {
            return LoraAdapter.Load(folder, Engine.Config);
        }
        catch (InvalidDataException error)
        {
            throw new InvalidRequestException($"The adapter cannot be used with {Name}: {error.Message}", error);
        }
    }

    private static ChatTurn Turn(ChatMessage message)
    {
        byte[][] pictures = [.. message.Contents.OfType<DataContent>().Where(d => d.HasTopLevelMediaType("image")).Select(d => d.Data.ToArray())];
        return new ChatTurn(message.Role.Value, string.Concat(pictures.Select(_ => $"{ChatTurn.PictureMark}\n")) + message.Text.Replace(ChatTurn.PictureMark, ' '), pictures);
    }

    /// <exception cref="InvalidDataException">It has no tokenizer that is read.</exception>
    internal static BytePairTokenizer ReadTokenizer(string path)
    {
        if (File.Exists(path))
        {
            using var file = new GgufFile(path);
            return BytePairTokenizer.FromGguf(file);
        }
        string model = Path.Combine(path, "tokenizer.json"), tiktoken = Path.Combine(path, "tokenizer.model");
        return File.Exists(model) ? BytePairTokenizer.FromJson(model)
            : File.Exists(tiktoken) ? BytePairTokenizer.FromTiktoken(tiktoken) : throw new InvalidDataException($"{path} has no tokenizer.json and no tokenizer.model.");
    }

    /// <summary>The model's way to write a conversation. One that cannot be read takes nothing from it but chat.</summary>
    private static (ChatFormat? Format, string? Problem) ReadFormat(string path, BytePairTokenizer tokenizer, TimeProvider time)
    {
        try
        {
            if (!File.Exists(path))
            {
                return (ChatFormat.Of(path, tokenizer, time), null);
            }
            using var file = new GgufFile(path);
            return (ChatFormat.Of(file, tokenizer, time), null);
        }
        catch (InvalidDataException error)
        {
            return (null, error.Message);
        }
    }

    public object? GetService(Type serviceType, object? serviceKey = null) => serviceKey is null && serviceType.IsInstanceOfType(this) ? this : null;

    public void Dispose()
    {
        Engine.Dispose();
        Keep();
        _slots.Dispose();
    }
}
