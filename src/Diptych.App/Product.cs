using System.ClientModel;
using System.ClientModel.Primitives;
using Diptych.Engine.Answering;
using Diptych.Engine.Evaluation;
using Diptych.Engine.Ingestion;
using Diptych.Engine.Search;
using Diptych.Index;
using Diptych.Index.Postgres;
using Diptych.Index.Sqlite;
using Diptych.Inference;
using Diptych.Runtimes.Ocr;
using Diptych.Runtimes.Remote;
using Diptych.Runtimes.Store;
using Microsoft.Extensions.AI;
using OpenAI;
using OpenAI.Chat;

namespace Diptych.App;

/// <summary>The parts wired together: models, scheduler, store, and what works over them.</summary>
public sealed class Product : IAsyncDisposable
{
    private readonly InferenceService _inference;

    private Product(InferenceService inference, Embedder embedder, IImageDecoder images, IPictureReader? pictures, IDocumentStore store, TimeProvider time, LlmOptions llm, TimeSpan target)
    {
        _inference = inference;
        Embedder = embedder;
        Store = store;
        Ingestor = new Ingestor(store, embedder, images, time, pictures);
        Searcher = new Searcher(store, embedder);
        Evaluator = new Evaluator(Ingestor, Searcher);
        Answerer = new Answerer(Searcher, store, embedder, ChatClient(llm, time, target), llm.Images);
    }

    public InferenceService Inference => _inference;

    public Embedder Embedder { get; }

    public IDocumentStore Store { get; }

    public Ingestor Ingestor { get; }

    public Searcher Searcher { get; }

    public Evaluator Evaluator { get; }

    public Answerer Answerer { get; }

    /// <summary>Loads the models and the store, side by side.</summary>
    public static async Task<Product> OpenAsync(DiptychOptions options, TimeProvider time, CancellationToken cancellation)
    {
        var (text, image, tokenizer) = Runtimes.StarterModel.Open(options.StarterModel);
        var inference = new InferenceService([text, image], time, options.Inference());
        IImageDecoder images = Runtimes.StarterModel.ImageDecoder();
        var preparation = new PreparationPool();
        Task load = Task.Run(() => inference.LoadAsync(cancellation), cancellation);
        // Models that were added are loaded when they are asked for.
        InstalledModel? reader = options.ReadPictures ? options.Models().List().FirstOrDefault(m => m.Kind == ModelKind.PictureReader) : null;
        try
        {
            var embedder = new Embedder(inference, tokenizer, images, preparation, Runtimes.StarterModel.TextName, Runtimes.StarterModel.ImageName);
            IDocumentStore store = await Task.Run<IDocumentStore>(
                () => options.Store is { Length: > 0 } address
                    ? PostgresStore.Open(address, embedder.TextSpace, embedder.CrossSpace, time)
                    : SqliteStore.Open(options.Database, embedder.TextSpace, embedder.CrossSpace, time),
                cancellation);
            await load;
            IPictureReader? pictures = reader is null ? null : PpOcr.Open(options.Models().PathOf(reader), inference);
            return new Product(inference, embedder, images, pictures, store, time, options.Llm, options.Objectives()[Lane.Generate].Target);
        }
        catch
        {
            // A process that ends while a native library is still being set up on another thread crashes.
            await load.ContinueWith(_ => { }, CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default);
            await inference.DisposeAsync();
            preparation.Dispose();
            throw;
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _inference.DisposeAsync();
        Embedder.Preparation.Dispose();
        Store.Dispose();
    }

    private static IChatClient? ChatClient(LlmOptions llm, TimeProvider time, TimeSpan target)
    {
        if (llm.Endpoint is null)
        {
            return null;
        }
        var options = new OpenAIClientOptions
        {
            Endpoint = new Uri(llm.Endpoint),
            NetworkTimeout = TimeSpan.FromSeconds(llm.TimeoutSeconds),
            // Tried again by the lane, which knows whether anything was shown.
            RetryPolicy = new ClientRetryPolicy(0),
        };
        IChatClient remote = new ChatClient(llm.Model, new ApiKeyCredential(llm.ApiKey is { Length: > 0 } key ? key : "none"), options).AsIChatClient();
        return new RemoteChat(remote, $"{llm.Model} at {llm.Endpoint}", time, target);
    }
}
