using Diptych.App.Jobs;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Diptych.Runtimes.Store;

namespace Diptych.App;

/// <summary>
/// The settings, from (later wins) diptych.json in the working directory, the environment (<c>DIPTYCH__URL</c>,
/// <c>DIPTYCH__LLM__ENDPOINT</c> …) and flags.
/// </summary>
public sealed class DiptychOptions
{
    public const string Section = "Diptych";

    /// <summary>Folder of the database. Default: the user's data folder.</summary>
    public string Data { get; set; } = Path.Combine(
        Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.Create), "diptych");

    /// <summary>Address of a PostgreSQL database with pgvector that holds everything; null keeps it in SQLite under <see cref="Data"/>.</summary>
    public string? Store { get; set; }

    /// <summary>Folder of the starter model. Default: the one beside the program.</summary>
    public string StarterModel { get; set; } = Path.Combine(AppContext.BaseDirectory, "models", "starter");

    /// <summary>Where the server listens.</summary>
    public string Url { get; set; } = "http://127.0.0.1:7820";

    /// <summary>Largest upload, in megabytes.</summary>
    public int MaxUploadMb { get; set; } = 512;

    /// <summary>Whether documents may be ingested by URL from hosts on this machine or its private network.</summary>
    public bool AllowPrivateUrls { get; set; }

    /// <summary>The only hosts that documents and pictures are fetched from, wherever they are; none allows all that are publicly routable. Behind a proxy it must be set.</summary>
    public IList<string> UrlHosts { get; set; } = [];

    /// <summary>Longest time to fetch a document by URL, in seconds.</summary>
    public int FetchSeconds { get; set; } = 300;

    /// <summary>Most bytes of uploaded and fetched files that wait to be ingested, in megabytes.</summary>
    public int SpoolMb { get; set; } = 8192;

    /// <summary>Free space of the data folder's disk below which <c>/readyz</c> says that the server is not ready, in megabytes.</summary>
    public int MinFreeMb { get; set; } = 64;

    /// <summary>Most files that wait to be ingested.</summary>
    public int QueueItems { get; set; } = 1_000_000;

    /// <summary>File bytes that a job has in memory at a time, in megabytes; a larger file passes alone.</summary>
    public int JobMemoryMb { get; set; } = 64;

    /// <summary>How long jobs are kept after they ended.</summary>
    public int JobRetentionDays { get; set; } = 30;

    /// <summary>The least that is logged of what the program does. From Debug on, the log may tell users' file names.</summary>
    public LogLevel LogLevel { get; set; } = LogLevel.Information;

    /// <summary>How the log is written: text, a line each, or json.</summary>
    public string LogFormat { get; set; } = "text";

    public LlmOptions Llm { get; set; } = new();

    /// <summary>The processes that read files.</summary>
    public ReaderOptions Readers { get; set; } = new();

    /// <summary>By the name under which they are served: models behind OpenAI-compatible servers, which embed texts.</summary>
    public IDictionary<string, RemoteEmbeddingOptions> Embeddings { get; set; } = new Dictionary<string, RemoteEmbeddingOptions>(StringComparer.Ordinal);

    /// <summary>Whether text in pictures is read while they are ingested, where a model for it was added.</summary>
    public bool ReadPictures { get; set; } = true;

    /// <summary>The hub that <c>models add hf:owner/name</c> fetches from. Default: HF_ENDPOINT, or Hugging Face.</summary>
    public string Hub { get; set; } = Environment.GetEnvironmentVariable("HF_ENDPOINT") is { Length: > 0 } endpoint ? endpoint : "https://huggingface.co";

    /// <summary>What models run on. Default: this machine's cores, with half of its memory.</summary>
    public IList<DeviceOptions> Devices { get; set; } = [];

    /// <summary>By lane name (interactive, generate, bulk): what differs from the default objectives.</summary>
    public IDictionary<string, LaneOptions> Lanes { get; set; } = new Dictionary<string, LaneOptions>(StringComparer.OrdinalIgnoreCase);

    /// <summary>How batches are formed: deadline; or, to compare with, arrival, unbatched or priority (arrival:8 names the largest batch).</summary>
    public string Scheduling { get; set; } = "deadline";

    internal long MaxUploadBytes => (long)MaxUploadMb << 20;

    /// <summary>What fetches documents and pictures by URL.</summary>
    internal UrlSource Urls() => new(AllowPrivateUrls, UrlHosts, MaxUploadBytes, TimeSpan.FromSeconds(FetchSeconds));

    /// <summary>The models that were added, under <see cref="Data"/>.</summary>
    internal ModelFolder Models() => new(Path.Combine(Data, "models"));

    /// <summary>The SQLite database under <see cref="Data"/>.</summary>
    internal string Database => Path.Combine(Data, "diptych.db");

    /// <exception cref="InvalidRequestException">A setting has a value that cannot be; the message names its key.</exception>
    public DiptychOptions Validate()
    {
        Require(Data.Length > 0, "Data", "a folder");
        Require(Uri.TryCreate(Url.Replace("*", "localhost", StringComparison.Ordinal), UriKind.Absolute, out Uri? url) && url.Scheme is "http" or "https", "Url", "an http:// address such as http://127.0.0.1:7820");
        Require(Uri.TryCreate(Hub, UriKind.Absolute, out Uri? hub) && hub.Scheme is "http" or "https", "Hub", "an address such as https://huggingface.co");
        Require(MaxUploadMb is > 0 and <= 2047, "MaxUploadMb", "between 1 and 2047");
        Require(FetchSeconds is > 0 and <= 86400, "FetchSeconds", "between 1 and 86400");
        Require(SpoolMb > 0, "SpoolMb", "above 0");
        Require(MinFreeMb >= 0, "MinFreeMb", "0 or above");
        Require(QueueItems > 0, "QueueItems", "above 0");
        Require(JobMemoryMb > 0, "JobMemoryMb", "above 0");
        Require(JobRetentionDays is > 0 and <= 36500, "JobRetentionDays", "between 1 and 36500");
        Require(LogFormat is "text" or "json", "LogFormat", "text or json");
        Require(Llm.Endpoint is null || (Uri.TryCreate(Llm.Endpoint, UriKind.Absolute, out Uri? llm) && llm.Scheme is "http" or "https"), "Llm:Endpoint", "an address such as http://127.0.0.1:8080/v1");
        Require(Llm.Weights is "stored" or "int8" or "int4", "Llm:Weights", "stored, int8 or int4; diptych models verify NAME says what each costs");
        Require(Llm.CacheMb > 0, "Llm:CacheMb", "above 0");
        Require(Llm.SwapMb >= 0, "Llm:SwapMb", "0 or above");
        Require(Llm.Endpoint is null || Llm.Model is { Length: > 0 }, "Llm:Model", "the name of a model, since Llm:Endpoint is set");
        Require(Llm.TimeoutSeconds > 0, "Llm:TimeoutSeconds", "above 0");
        Readers.Validate(Require);
        foreach (var (name, remote) in Embeddings)
        {
            Require(Uri.TryCreate(remote.Endpoint, UriKind.Absolute, out Uri? server) && server.Scheme is "http" or "https", $"Embeddings:{name}:Endpoint", "an address such as http://127.0.0.1:8080/v1");
            Require(remote.Model.Length > 0, $"Embeddings:{name}:Model", "the name of a model");
            Require(remote.TimeoutSeconds > 0, $"Embeddings:{name}:TimeoutSeconds", "above 0");
        }
        Require(Policy(Scheduling) is not null, "Scheduling", "deadline, arrival, unbatched or priority; arrival and priority take a largest batch, as in arrival:8");
        foreach (var (name, lane) in Lanes)
        {
            Require(Enum.TryParse(name, ignoreCase: true, out Lane _), $"Lanes:{name}", "one of interactive, generate, bulk");
            Require(lane.TargetMs is null or > 0 && lane.ExpiryMs is null or > 0 && lane.MaxBatchMs is null or > 0, $"Lanes:{name}", "made of times above 0");
        }
        foreach (DeviceOptions device in Devices)
        {
            Require(device.Name == "cpu" || device.Name.StartsWith("cuda:", StringComparison.Ordinal), "Devices:Name", "cpu or cuda:N");
            Require(device.MemoryMb is null or > 0 && device.Workers is null or > 0, $"Devices:{device.Name}", "made of numbers above 0");
        }
        return this;
    }

    /// <returns>Null where there is no such policy; "arrival" and "priority" may name their largest batch, as in arrival:8.</returns>
    internal static Func<IReadOnlyList<CostModel>, IReadOnlyDictionary<Lane, LaneObjective>, SchedulingPolicy>? Policy(string scheduling)
    {
        string[] parts = scheduling.Split(':');
        int most = SchedulingPolicy.MaxItems;
        return parts.Length > 2 || (parts.Length == 2 && (!int.TryParse(parts[1], System.Globalization.CultureInfo.InvariantCulture, out most) || most is < 1 or > SchedulingPolicy.MaxItems)) ? null : parts[0] switch
        {
            "deadline" when parts.Length == 1 => (costs, objectives) => new DeadlinePolicy(costs, objectives),
            "arrival" => (costs, objectives) => new ArrivalPolicy(costs, objectives, most),
            "priority" => (costs, objectives) => new PriorityPolicy(costs, objectives, most),
            "unbatched" when parts.Length == 1 => (costs, objectives) => new ArrivalPolicy(costs, objectives, maxBatch: 1, delaySeconds: 0),
            _ => null,
        };
    }

    internal IReadOnlyDictionary<Lane, LaneObjective> Objectives() => LaneObjective.Defaults.ToDictionary(d => d.Key, d =>
    {
        LaneOptions? own = Lanes.FirstOrDefault(l => string.Equals(l.Key, d.Key.ToString(), StringComparison.OrdinalIgnoreCase)).Value;
        return own is null ? d.Value : new LaneObjective(
            own.TargetMs is { } target ? TimeSpan.FromMilliseconds(target) : d.Value.Target,
            own.ExpiryMs is { } expiry ? TimeSpan.FromMilliseconds(expiry) : d.Value.Expiry,
            own.MaxBatchMs is { } batch ? TimeSpan.FromMilliseconds(batch) : d.Value.MaxBatchTime);
    });

    internal InferenceOptions Inference() => new()
    {
        Objectives = Objectives(),
        Policy = Policy(Scheduling)!,
        Profiles = new ModelProfiles(Path.Combine(Data, "profiles.json")),
        Devices = Devices.Count == 0 ? [Device.Cpu] : [.. Devices.Select(d => new Device(
            d.Name, d.MemoryMb is { } megabytes ? megabytes << 20 : Device.Cpu.BudgetBytes, d.Workers ?? (d.Name == "cpu" ? Environment.ProcessorCount : 2)))],
    };

    private static void Require(bool holds, string key, string what)
    {
        if (!holds)
        {
            throw new InvalidRequestException($"Setting '{Section}:{key}' must be {what}.");
        }
    }
}

/// <summary>An OpenAI-compatible server that writes the answers; without one they are extracts.</summary>
public sealed class LlmOptions
{
    /// <summary>Its base address, with /v1.</summary>
    public string? Endpoint { get; set; }

    /// <summary>Its model. Without an endpoint: a model that was added, which then writes the answers in this process; null leaves them to extracts, and "none" keeps every added model out of memory.</summary>
    public string? Model { get; set; }

    /// <summary>How the weights of a model in this process are kept in memory: stored, as its files have them; int8 or int4.</summary>
    public string Weights { get; set; } = "stored";

    /// <summary>Memory for keys and values of a model in this process, in MiB.</summary>
    public int CacheMb { get; set; } = 512;

    /// <summary>Room in the temporary folder for keys and values of answers that gave way to others, in MiB; 0 has them computed anew.</summary>
    public int SwapMb { get; set; } = 512;

    /// <summary>Whether what is kept of known beginnings of prompts serves only the tenant whose prompt it was, so that nobody learns from an answer's speed what others asked.</summary>
    public bool SeparateTenants { get; set; }

    internal Runtimes.Decoding.WeightFormat WeightFormat => Weights switch { "int8" => Runtimes.Decoding.WeightFormat.Int8, "int4" => Runtimes.Decoding.WeightFormat.Int4, _ => Runtimes.Decoding.WeightFormat.AsStored };

    public string? ApiKey { get; set; }

    /// <summary>Whether sentences of an answer that the evidence does not support are left out; otherwise they stay, without a citation.</summary>
    public bool Grounded { get; set; } = true;

    /// <summary>Whether images among the evidence are sent along.</summary>
    public bool Images { get; set; } = true;

    public int TimeoutSeconds { get; set; } = 120;
}

/// <summary>A model behind an OpenAI-compatible server, which embeds texts.</summary>
public sealed class RemoteEmbeddingOptions
{
    /// <summary>The server's base address, with /v1.</summary>
    public string Endpoint { get; set; } = "";

    public string Model { get; set; } = "";

    public string? ApiKey { get; set; }

    public int TimeoutSeconds { get; set; } = 30;
}

/// <summary>A device that models run on.</summary>
public sealed class DeviceOptions
{
    /// <summary>cpu or cuda:N.</summary>
    public string Name { get; set; } = "cpu";

    /// <summary>Memory that models may take, in MiB. Default: half of the machine's.</summary>
    public long? MemoryMb { get; set; }

    /// <summary>Batches at a time. Default: one per core, or two on an accelerator, of which one is made ready while the other runs.</summary>
    public int? Workers { get; set; }
}

/// <summary>A lane's objective where it differs from the default.</summary>
public sealed class LaneOptions
{
    /// <summary>From submission to result.</summary>
    public double? TargetMs { get; set; }

    /// <summary>From submission to when work is dropped unrun.</summary>
    public double? ExpiryMs { get; set; }

    /// <summary>Longest predicted batch.</summary>
    public double? MaxBatchMs { get; set; }
}
