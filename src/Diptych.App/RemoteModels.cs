using System.ClientModel;
using System.ClientModel.Primitives;
using System.Net.Http.Headers;
using Diptych.Inference;
using Diptych.Runtimes.Remote;
using Microsoft.Extensions.AI;
using OpenAI;
using OpenAI.Chat;
using OpenAI.Embeddings;

namespace Diptych.App;

/// <summary>Models behind OpenAI-compatible servers, as the settings name them.</summary>
internal sealed class RemoteModels(TimeProvider time, IReadOnlyDictionary<Lane, LaneObjective> objectives, ILogger<RemoteServer> log)
{
    private static readonly TimeSpan ProbeTimeout = TimeSpan.FromSeconds(2);

    public RemoteChat Chat(LlmOptions llm)
    {
        IChatClient client = new ChatClient(llm.Model, Key(llm.ApiKey), Options(llm.Endpoint!, llm.TimeoutSeconds)).AsIChatClient();
        return new RemoteChat(client, Server(llm.Model!, llm.Endpoint!, llm.ApiKey), time, objectives[Lane.Generate].Target);
    }

    public RemoteEncoder Encoder(RemoteEmbeddingOptions remote)
    {
        IEmbeddingGenerator<string, Embedding<float>> generator = new EmbeddingClient(remote.Model, Key(remote.ApiKey), Options(remote.Endpoint, remote.TimeoutSeconds)).AsIEmbeddingGenerator();
        return new RemoteEncoder(generator, Server(remote.Model, remote.Endpoint, remote.ApiKey), time, objectives);
    }

    /// <summary>Whether it is well is asked of the list of models, which every such server has.</summary>
    private RemoteServer Server(string model, string endpoint, string? key) => new($"{model} at {endpoint}", time, async stop =>
    {
        using var client = new HttpClient { Timeout = ProbeTimeout };
        client.DefaultRequestHeaders.Authorization = key is { Length: > 0 } ? new AuthenticationHeaderValue("Bearer", key) : null;
        try
        {
            using HttpResponseMessage response = await client.GetAsync(new Uri($"{endpoint.TrimEnd('/')}/models"), stop);
            return response.IsSuccessStatusCode;
        }
        catch (Exception error) when (error is HttpRequestException || (error is OperationCanceledException && !stop.IsCancellationRequested))
        {
            return false;
        }
    }, log: log);

    private static ApiKeyCredential Key(string? key) => new(key is { Length: > 0 } ? key : "none");

    private static OpenAIClientOptions Options(string endpoint, int timeoutSeconds) => new()
    {
        Endpoint = new Uri(endpoint),
        NetworkTimeout = TimeSpan.FromSeconds(timeoutSeconds),
        // Tried again by the lane, which knows whether anything was shown.
        RetryPolicy = new ClientRetryPolicy(0),
    };
}
