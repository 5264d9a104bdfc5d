using Diptych.Core;

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

    public LlmOptions Llm { get; set; } = new();

    /// <summary>The SQLite database under <see cref="Data"/>.</summary>
    internal string Database => Path.Combine(Data, "diptych.db");

    /// <exception cref="InvalidRequestException">A setting has a value that cannot be; the message names its key.</exception>
    public DiptychOptions Validate()
    {
        Require(Data.Length > 0, "Data", "a folder");
        Require(Uri.TryCreate(Url.Replace("*", "localhost", StringComparison.Ordinal), UriKind.Absolute, out Uri? url) && url.Scheme is "http" or "https", "Url", "an http:// address such as http://127.0.0.1:7820");
        Require(MaxUploadMb is > 0 and <= 2047, "MaxUploadMb", "between 1 and 2047");
        Require(Llm.Endpoint is null || (Uri.TryCreate(Llm.Endpoint, UriKind.Absolute, out Uri? llm) && llm.Scheme is "http" or "https"), "Llm:Endpoint", "an address such as http://127.0.0.1:8080/v1");
        Require(Llm.Endpoint is null || Llm.Model is { Length: > 0 }, "Llm:Model", "the name of a model, since Llm:Endpoint is set");
        Require(Llm.TimeoutSeconds > 0, "Llm:TimeoutSeconds", "above 0");
        return this;
    }

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

    public string? Model { get; set; }

    public string? ApiKey { get; set; }

    /// <summary>Whether images among the evidence are sent along.</summary>
    public bool Images { get; set; } = true;

    public int TimeoutSeconds { get; set; } = 120;
}
