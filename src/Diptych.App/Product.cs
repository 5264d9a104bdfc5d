using Diptych.Engine.Answering;
using Diptych.Engine.Evaluation;
using Diptych.Engine.Ingestion;
using Diptych.Engine.Search;
using Diptych.Engine.Tuning;
using Diptych.Index;
using Diptych.Index.Jobs;
using Diptych.Index.Postgres;
using Diptych.Index.Sqlite;
using Diptych.Inference;
using Diptych.Inference.Memory;
using Diptych.Reading.Processes;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Encoders;
using Diptych.Runtimes.Ocr;
using Diptych.Runtimes.Remote;
using Diptych.Runtimes.Store;
using Microsoft.Extensions.AI;

namespace Diptych.App;

/// <summary>The parts wired together: models, scheduler, store, and what works over them.</summary>
public sealed class Product : IAsyncDisposable
{
    /// <summary>What the program is started with to be a process that reads.</summary>
    internal const string ReaderArgument = "reader";

    private readonly InferenceService _inference;
    private readonly ReaderPool _readers;
    private readonly Lazy<LocalModel?> _languageModel;
    private readonly Lazy<Answerer> _answerer;
    private readonly Lazy<IReadOnlyDictionary<string, string>> _broken;
    private readonly Lazy<IReadOnlyList<string>> _writers;
    private readonly RemoteChat? _writer;

    private Product(InferenceService inference, Embedder embedder, ReaderPool readers, IPictureReader? pictures, Lazy<LocalModel?> languageModel, DiptychOptions options, Dictionary<string, string> unopened, IDocumentStore store, TimeProvider time, RemoteChat? writer)
    {
        LlmOptions llm = options.Llm;
        (_inference, _readers, _writer) = (inference, readers, writer);
        Embedder = embedder;
        _languageModel = languageModel;
        _broken = new(() =>
        {
            var broken = new Dictionary<string, string>(options.Models().Broken(), StringComparer.Ordinal);
            foreach (var (name, reason) in unopened)
            {
                broken.TryAdd(name, reason);
            }
            return broken;
        });
        _writers = new(() =>
        {
            InstalledModel[] sound = [.. options.Models().List().Where(m => !Broken.ContainsKey(m.Name))];
            return WriterOf(options, sound) is { } chosen ? [chosen.Name, .. sound.Where(m => m.Kind == ModelKind.Adapter).Select(a => $"{chosen.Name}:{a.Name}")] : [];
        });
        Store = store;
        Ingestor = new Ingestor(store, embedder, readers, time, pictures);
        Searcher = new Searcher(store, embedder);
        Evaluator = new Evaluator(Ingestor, Searcher);
        Tuner = new Tuner(store, embedder, Searcher);
        _answerer = new Lazy<Answerer>(() => new Answerer(Searcher, store, embedder, (IChatClient?)writer ?? (llm.Model is null ? null : LanguageModel), llm.Images && writer is not null, llm.Grounded));
    }

    public InferenceService Inference => _inference;

    public Embedder Embedder { get; }

    /// <summary>The language model in this process, where one was added.</summary>
    public LocalModel? LanguageModel => _languageModel.Value;

    /// <summary>Models that embed, beside the product's own, by name: those that were added, and those behind other servers.</summary>
    public IReadOnlyDictionary<string, IEncoder> Encoders { get; private init; } = new Dictionary<string, IEncoder>();

    /// <summary>Cross-encoders that were added, by name.</summary>
    public IReadOnlyDictionary<string, Reranker> Rerankers { get; private init; } = new Dictionary<string, Reranker>();

    /// <summary>Names by which the language model in this process is asked, with and without its adapters; it need not be loaded.</summary>
    public IReadOnlyList<string> Writers => _writers.Value;

    /// <summary>Models that were added and cannot be run, by name, and why. Headers are read when it is first asked for, so that a search does not wait for them.</summary>
    public IReadOnlyDictionary<string, string> Broken => _broken.Value;

    /// <summary>Lanes, models, memory and other servers as they are now.</summary>
    public InferenceSnapshot Snapshot() => _inference.Snapshot() with { Remotes = [.. Remotes().Select(r => r.Snapshot())] };

    public IDocumentStore Store { get; }

    /// <summary>Jobs, kept where the documents are.</summary>
    public IJobQueue Jobs => (IJobQueue)Store;

    /// <summary>Where the files of jobs wait.</summary>
    public required ISpool Spool { get; init; }

    /// <summary>Where warnings go when nobody else keeps a log.</summary>
    private ILoggerFactory? OwnLogs { get; init; }

    public Ingestor Ingestor { get; }

    public Searcher Searcher { get; }

    public Evaluator Evaluator { get; }

    public Tuner Tuner { get; }

    public Answerer Answerer => _answerer.Value;

    /// <summary>Loads the models and the store, side by side.</summary>
    /// <param name="logs">The program's log; null writes warnings.</param>
    public static async Task<Product> OpenAsync(
        DiptychOptions options, TimeProvider time, CancellationToken cancellation, ILoggerFactory? logs = null)
    {
        var (text, image, tokenizer) = Runtimes.StarterModel.Open(options.StarterModel);
        ILoggerFactory? own = logs is null ? Logs.Create(options, LogLevel.Warning) : null;
        logs ??= own!;
        ILogger<InferenceService> modelLog = logs.CreateLogger<InferenceService>();
        var inference = new InferenceService([text, image], time, options.Inference() with { Told = e => Logs.Write(modelLog, e) });
        var readers = new ReaderPool(ReaderCommand.Of(typeof(Product).Assembly.Location, ReaderArgument), options.Readers.Limits(), time, options.Readers.Processes);
        var preparation = new PreparationPool();
        Task load = Task.Run(() => inference.LoadAsync(cancellation), cancellation);
        // Models that were added are loaded when they are asked for.
        ModelFolder folder = options.Models();
        var unopened = new Dictionary<string, string>(StringComparer.Ordinal);
        InstalledModel[] added = [.. folder.List()];
        InstalledModel? reader = options.ReadPictures ? Array.Find(added, m => m.Kind == ModelKind.PictureReader) : null;
        try
        {
            var embedder = new Embedder(inference, tokenizer, readers, preparation, Runtimes.StarterModel.TextName, Runtimes.StarterModel.ImageName);
            IDocumentStore store = await Task.Run<IDocumentStore>(
                () => options.Store is { Length: > 0 } address
                    ? PostgresStore.Open(address, embedder.TextSpace, embedder.CrossSpace, time, logs.CreateLogger<PostgresStore>())
                    : SqliteStore.Open(options.Database, embedder.TextSpace, embedder.CrossSpace, time, logs.CreateLogger<SqliteStore>()),
                cancellation);
            await load;
            IPictureReader? pictures = null;
            if (reader is not null)
            {
                OpenOrList(reader, unopened, () => pictures = PpOcr.Open(folder.PathOf(reader), inference));
            }
            // Read when somebody first asks: a search need not wait for it.
            var reading = new PictureReading(inference, readers, preparation, options.StarterModel);
            var languageModel = new Lazy<LocalModel?>(() => OpenLanguageModel(options, inference, reading, time, modelLog));
            var encoders = new Dictionary<string, IEncoder>(StringComparer.Ordinal);
            var rerankers = new Dictionary<string, Reranker>(StringComparer.Ordinal);
            foreach (InstalledModel model in added)
            {
                string path = folder.PathOf(model);
                OpenOrList(model, unopened, () =>
                {
                    switch (model.Kind)
                    {
                        case ModelKind.DualEncoder:
                            encoders.Add(model.Name, DualEncoder.Open(model.Name, path, inference, readers, preparation));
                            break;
                        case ModelKind.TextEncoder:
                            encoders.Add(model.Name, TextEncoder.Open(model.Name, path, inference));
                            break;
                        case ModelKind.Reranker:
                            rerankers.Add(model.Name, Reranker.Open(model.Name, path, inference));
                            break;
                    }
                });
            }
            var servers = new RemoteModels(time, options.Objectives(), logs.CreateLogger<Runtimes.Remote.RemoteServer>());
            foreach (var (name, remote) in options.Embeddings)
            {
                if (!encoders.TryAdd(name, servers.Encoder(remote)))
                {
                    throw new Core.InvalidRequestException($"Setting 'Diptych:Embeddings:{name}' has the name of a model that was added.");
                }
            }
            return new Product(inference, embedder, readers, pictures, languageModel, options, unopened, store, time, options.Llm.Endpoint is null ? null : servers.Chat(options.Llm))
            {
                Encoders = encoders,
                Rerankers = rerankers,
                OwnLogs = own,
                Spool = store is PostgresStore postgres ? postgres.Spool((long)options.SpoolMb << 20) : new FolderSpool(Path.Combine(options.Data, "spool"), (long)options.SpoolMb << 20, time),
            };
        }
        catch
        {
            // A process that ends while a native library is still being set up on another thread crashes.
            await load.ContinueWith(_ => { }, CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default);
            await inference.DisposeAsync();
            preparation.Dispose();
            readers.Dispose();
            own?.Dispose();
            throw;
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _inference.DisposeAsync();
        Embedder.Preparation.Dispose();
        _readers.Dispose();
        _writer?.Dispose();
        foreach (RemoteEncoder remote in Encoders.Values.OfType<RemoteEncoder>())
        {
            remote.Dispose();
        }
        if (_languageModel.IsValueCreated)
        {
            LanguageModel?.Dispose();
        }
        Store.Dispose();
        OwnLogs?.Dispose();
    }

    /// <summary>Opens the decoder that writes in this process. Its weights are read here, and its memory is entered in the ledger.</summary>
    private static LocalModel? OpenLanguageModel(
        DiptychOptions options, InferenceService inference, PictureReading reading, TimeProvider time, ILogger<InferenceService> log)
    {
        ModelFolder folder = options.Models();
        InstalledModel[] all = options.Llm.Endpoint is not null || options.Llm.Model == "none" ? [] : [.. folder.List()], decoders = Array.FindAll(all, m => m.Kind == ModelKind.Decoder), sound = Array.FindAll(all, m => folder.ReasonOf(m) is null);
        InstalledModel? chosen = WriterOf(options, sound);
        if (chosen is null && options.Llm is { Endpoint: null, Model: { } name and not "none" })
        {
            throw new Core.InvalidRequestException(Array.Find(decoders, m => m.Name == name) is { } unsound
                ? $"Setting 'Diptych:Llm:Model' names '{name}', which cannot be run: {folder.ReasonOf(unsound)}"
                : $"Setting 'Diptych:Llm:Model' names '{name}', which was not added. Added: {string.Join(", ", decoders.Select(d => d.Name).DefaultIfEmpty("none"))}.");
        }
        if (chosen is null)
        {
            return null;
        }
        long cache = (long)options.Llm.CacheMb << 20;
        string path = LocalModel.Find(folder.PathOf(chosen))!;
        InstalledModel[] added = Array.FindAll(sound, m => m.Kind == ModelKind.Adapter);
        var held = new List<IDisposable>();
        try
        {
            held.Add(inference.Hold(MemoryKind.Weights, chosen.Name, Decoder.WeightBytes(path, options.Llm.WeightFormat)));
            held.Add(inference.Hold(MemoryKind.KeyValues, chosen.Name, cache));
            // As many as have a place, at their largest: sixteen bits in the file, single precision in memory.
            held.Add(inference.Hold(MemoryKind.Adapters, chosen.Name, added.Select(a => 2 * a.Bytes).OrderDescending().Take(LocalModel.AdapterPlaces).Sum()));
            long started = time.GetTimestamp();
            var opened = LocalModel.Open(
                chosen.Name, path, cache, time, added.ToDictionary(m => m.Name, folder.PathOf), reading, swapBytes: (long)options.Llm.SwapMb << 20,
                separatesTenants: options.Llm.SeparateTenants, objectives: options.Objectives(),
                kept: (inference.Profiles, $"{chosen.Versioned}/{options.Llm.Weights}"), format: options.Llm.WeightFormat);
            long bytes = Decoder.WeightBytes(path, options.Llm.WeightFormat) + cache;
            Logs.Write(log, new ModelEvent(ModelEventKind.Loaded, chosen.Name, Device.Cpu.Name, bytes, time.GetElapsedTime(started)));
            return opened;
        }
        catch
        {
            // What could not be opened holds no memory.
            held.ForEach(h => h.Dispose());
            throw;
        }
    }

    /// <summary>The decoder that writes in this process: the one that is named, else the first that can be run.</summary>
    private static InstalledModel? WriterOf(DiptychOptions options, InstalledModel[] sound) =>
        options.Llm.Endpoint is not null || options.Llm.Model == "none" ? null : Array.Find(sound, m => m.Kind == ModelKind.Decoder && (options.Llm.Model is null || m.Name == options.Llm.Model));

    /// <summary>One that cannot be opened is listed with its reason, and keeps the others from nothing.</summary>
    private static void OpenOrList(InstalledModel model, Dictionary<string, string> unopened, Action open)
    {
        try
        {
            open();
        }
        catch (Exception error) when (error is InvalidDataException or Core.InvalidRequestException or IOException or UnauthorizedAccessException)
        {
            unopened[model.Name] = error.Message;
        }
    }

    private IEnumerable<RemoteServer> Remotes() => Encoders.Values.OfType<RemoteEncoder>().Select(e => e.Server).Concat(_writer is null ? [] : [_writer.Server]);
}
