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
    private readonly RemoteChat? _writer;

    private Product(InferenceService inference, Embedder embedder, ReaderPool readers, IPictureReader? pictures, Lazy<LocalModel?> languageModel, IDocumentStore store, TimeProvider time, LlmOptions llm, RemoteChat? writer)
    {
        (_inference, _readers, _writer) = (inference, readers, writer);
        Embedder = embedder;
        _languageModel = languageModel;
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
        InstalledModel? reader = options.ReadPictures ? options.Models().List().FirstOrDefault(m => m.Kind == ModelKind.PictureReader) : null;
        try
        {
            var embedder = new Embedder(inference, tokenizer, readers, preparation, Runtimes.StarterModel.TextName, Runtimes.StarterModel.ImageName);
            IDocumentStore store = await Task.Run<IDocumentStore>(
                () => options.Store is { Length: > 0 } address
                    ? PostgresStore.Open(address, embedder.TextSpace, embedder.CrossSpace, time, logs.CreateLogger<PostgresStore>())
                    : SqliteStore.Open(options.Database, embedder.TextSpace, embedder.CrossSpace, time, logs.CreateLogger<SqliteStore>()),
                cancellation);
            await load;
            IPictureReader? pictures = reader is null ? null : PpOcr.Open(options.Models().PathOf(reader), inference);
            // Read when somebody first asks: a search need not wait for it.
            var reading = new PictureReading(inference, readers, preparation, options.StarterModel);
            var languageModel = new Lazy<LocalModel?>(() => OpenLanguageModel(options, inference, reading, time, modelLog));
            ModelFolder folder = options.Models();
            var encoders = new Dictionary<string, IEncoder>(StringComparer.Ordinal);
            var rerankers = new Dictionary<string, Reranker>(StringComparer.Ordinal);
            foreach (InstalledModel model in folder.List())
            {
                switch (model.Kind)
                {
                    case ModelKind.DualEncoder:
                        encoders.Add(model.Name, DualEncoder.Open(model.Name, folder.PathOf(model), inference, readers, preparation));
                        break;
                    case ModelKind.TextEncoder:
                        encoders.Add(model.Name, TextEncoder.Open(model.Name, folder.PathOf(model), inference));
                        break;
                    case ModelKind.Reranker:
                        rerankers.Add(model.Name, Reranker.Open(model.Name, folder.PathOf(model), inference));
                        break;
                }
            }
            var servers = new RemoteModels(time, options.Objectives(), logs.CreateLogger<Runtimes.Remote.RemoteServer>());
            foreach (var (name, remote) in options.Embeddings)
            {
                if (!encoders.TryAdd(name, servers.Encoder(remote)))
                {
                    throw new Core.InvalidRequestException($"Setting 'Diptych:Embeddings:{name}' has the name of a model that was added.");
                }
            }
            return new Product(inference, embedder, readers, pictures, languageModel, store, time, options.Llm, options.Llm.Endpoint is null ? null : servers.Chat(options.Llm))
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
        if (options.Llm.Endpoint is not null || options.Llm.Model == "none")
        {
            return null;
        }
        ModelFolder folder = options.Models();
        InstalledModel[] decoders = [.. folder.List().Where(m => m.Kind == ModelKind.Decoder)];
        InstalledModel? chosen = options.Llm.Model is { } name
            ? Array.Find(decoders, m => m.Name == name) ?? throw new Core.InvalidRequestException($"Setting 'Diptych:Llm:Model' names '{name}', which was not added. Added: {string.Join(", ", decoders.Select(d => d.Name).DefaultIfEmpty("none"))}.")
            : decoders.FirstOrDefault();
        if (chosen is null)
        {
            return null;
        }
        long cache = (long)options.Llm.CacheMb << 20;
        string path = LocalModel.Find(folder.PathOf(chosen))!;
        inference.Hold(MemoryKind.Weights, chosen.Name, Decoder.WeightBytes(path, options.Llm.WeightFormat));
        inference.Hold(MemoryKind.KeyValues, chosen.Name, cache);
        InstalledModel[] added = [.. folder.List().Where(m => m.Kind == ModelKind.Adapter)];
        // As many as have a place, at their largest: sixteen bits in the file, single precision in memory.
        inference.Hold(MemoryKind.Adapters, chosen.Name, added.Select(a => 2 * a.Bytes).OrderDescending().Take(LocalModel.AdapterPlaces).Sum());
        var adapters = added.ToDictionary(m => m.Name, folder.PathOf);
        long started = time.GetTimestamp();
        var opened = LocalModel.Open(
            chosen.Name, path, cache, time, adapters, reading, swapBytes: (long)options.Llm.SwapMb << 20, separatesTenants: options.Llm.SeparateTenants,
            objectives: options.Objectives(), kept: (inference.Profiles, $"{chosen.Versioned}/{options.Llm.Weights}"), format: options.Llm.WeightFormat);
        long bytes = Decoder.WeightBytes(path, options.Llm.WeightFormat) + cache;
        Logs.Write(log, new ModelEvent(ModelEventKind.Loaded, chosen.Name, Device.Cpu.Name, bytes, time.GetElapsedTime(started)));
        return opened;
    }

    private IEnumerable<RemoteServer> Remotes() => Encoders.Values.OfType<RemoteEncoder>().Select(e => e.Server).Concat(_writer is null ? [] : [_writer.Server]);
}
