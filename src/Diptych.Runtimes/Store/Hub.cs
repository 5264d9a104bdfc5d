using System.Net;
using System.Net.Http.Headers;
using System.Security.Cryptography;
using System.Text.Json;
using Diptych.Core;
using Diptych.Runtimes.Encoders;

namespace Diptych.Runtimes.Store;

/// <summary>A model on a hub, written <c>hf:owner/name</c> or <c>hf:owner/name@revision</c>.</summary>
public sealed record HubModel(string Owner, string Name, string Revision)
{
    private const string Scheme = "hf:";

    /// <returns>Null for what is no hub address (a folder).</returns>
    /// <exception cref="InvalidRequestException">It begins as one and is none.</exception>
    public static HubModel? Parse(string text)
    {
        if (!text.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase))
        {
            return null;
        }
        string[] at = text[Scheme.Length..].Split('@', 2), path = at[0].Split('/');
        return path is [{ Length: > 0 } owner, { Length: > 0 } name] && !(at.Length == 2 && at[1].Length == 0)
            ? new HubModel(owner, name, at.Length == 2 ? at[1] : "main")
            : throw new InvalidRequestException($"'{text}' is no model on the hub. Write hf:owner/name or hf:owner/name@revision.");
    }

    public override string ToString() => $"{Scheme}{Owner}/{Name}@{Revision}";
}

/// <summary>How far a download is.</summary>
public sealed record DownloadProgress(string File, long Done, long Total);

/// <summary>
/// Fetches models from a hub that answers as Hugging Face's does. Downloads resume by range, are checked by SHA-256 where the hub gives
/// it (large files) and by size where it does not, and take their final name only then.
/// </summary>
/// <param name="endpoint">https://huggingface.co unless the user has another (HF_ENDPOINT).</param>
public sealed class Hub(HttpClient client, Uri endpoint, TimeProvider time)
{
    private const int Attempts = 4;
    private const string Partial = ".part";

    /// <exception cref="NotFoundException">The hub has no such model or revision.</exception>
    /// <exception cref="InvalidDataException">A file is not what the hub said it was, even when fetched anew.</exception>
    public async Task DownloadAsync(HubModel model, string folder, IProgress<DownloadProgress>? progress, CancellationToken cancellation)
    {
        string repository = $"{Uri.EscapeDataString(model.Owner)}/{Uri.EscapeDataString(model.Name)}", revision = Uri.EscapeDataString(model.Revision);
        using HttpResponseMessage listing = await client.GetAsync(new Uri(endpoint, $"/api/models/{repository}/revision/{revision}?blobs=true"), cancellation).ConfigureAwait(false);
        if (listing.StatusCode is HttpStatusCode.NotFound or HttpStatusCode.Unauthorized or HttpStatusCode.Forbidden)
        {
            throw new NotFoundException($"{endpoint.Host} has no {model}, or not for everybody ({(int)listing.StatusCode}).");
        }
        listing.EnsureSuccessStatusCode();
        using var json = JsonDocument.Parse(await listing.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false));
        string commit = json.RootElement.TryGetProperty("sha", out JsonElement sha) ? sha.GetString()! : model.Revision;
        // The configuration first: it says what else is needed.
        JsonElement[] siblings = [.. json.RootElement.GetProperty("siblings").EnumerateArray().OrderBy(s => s.GetProperty("rfilename").GetString() == "config.json" ? 0 : 1)];
        string[] names = [.. siblings.Select(s => s.GetProperty("rfilename").GetString()!)];
        bool encodes = false, exported = ExportedPair.Find(names) is not null;
        foreach (JsonElement sibling in siblings)
        {
            string file = sibling.GetProperty("rfilename").GetString()!;
            // Files of the top folder are the model; what lies deeper are other formats of it, but for the exports of a text model or of a pair. A name never leaves the folder.
            bool deeper = file.Contains('/', StringComparison.Ordinal);
            if ((deeper && !((encodes || exported) && EncoderFolder.IsPart(file, names))) || file.Contains('\\', StringComparison.Ordinal) || file.StartsWith('.') || ((encodes || exported) && IsOtherFormat(file)))
            {
                continue;
            }
            string? hash = sibling.TryGetProperty("lfs", out JsonElement lfs) && lfs.ValueKind == JsonValueKind.Object && lfs.TryGetProperty("sha256", out JsonElement digest) ? digest.GetString() : null;
            long? size = sibling.TryGetProperty("size", out JsonElement bytes) && bytes.ValueKind == JsonValueKind.Number ? bytes.GetInt64() : null;
            await FetchAsync(new Uri(endpoint, $"/{repository}/resolve/{commit}/{string.Join('/', file.Split('/').Select(Uri.EscapeDataString))}"), Path.Combine(folder, file), size, hash, progress, cancellation).ConfigureAwait(false);
            encodes |= file == "config.json" && (IsEncoder(Path.Combine(folder, file)) || (EncoderFolder.Exports.Any(names.Contains) && DualEncoder.Kind(folder) is not null));
        }
    }

    /// <summary>A text model is run from its ONNX export; its weights in other formats are not needed.</summary>
    private static bool IsOtherFormat(string file) => Path.GetExtension(file) is ".bin" or ".safetensors" or ".h5" or ".ot" or ".msgpack" or ".pt" or ".ckpt";

    private static bool IsEncoder(string config)
    {
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(config));
            return EncoderFolder.Encodes(json.RootElement);
        }
        catch (JsonException)
        {
            // What it is wrong with is told when the model is added.
            return false;
        }
    }

    private async Task FetchAsync(Uri url, string path, long? size, string? hash, IProgress<DownloadProgress>? progress, CancellationToken cancellation)
    {
        if (File.Exists(path))
        {
            return;
        }
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        for (int attempt = 1; ; attempt++)
        {
            long before = Length(path + Partial);
            try
            {
                await FetchOnceAsync(url, path + Partial, size, progress, cancellation).ConfigureAwait(false);
                if ((size is not null && new FileInfo(path + Partial).Length != size) || (hash is not null && !await MatchesAsync(path + Partial, hash, cancellation).ConfigureAwait(false)))
                {
                    File.Delete(path + Partial);
                    throw new InvalidDataException($"{Path.GetFileName(path)} is not what {url.Host} says it is (SHA-256 or size). It was fetched {attempt} times.");
                }
                File.Move(path + Partial, path);
                return;
            }
            catch (Exception error) when (attempt < Attempts && error is HttpRequestException or IOException or InvalidDataException)
            {
                // What has arrived stays, and the next attempt asks for the rest. Only attempts that brought nothing are counted.
                attempt = Length(path + Partial) > before ? 0 : attempt;
                await Task.Delay(TimeSpan.FromMilliseconds(250 << attempt), time, cancellation).ConfigureAwait(false);
            }
        }
    }

    private async Task FetchOnceAsync(Uri url, string path, long? size, IProgress<DownloadProgress>? progress, CancellationToken cancellation)
    {
        long have = Length(path);
        if (have > 0 && have == size)
        {
            return;
        }
        using var request = new HttpRequestMessage(HttpMethod.Get, url);
        if (have > 0)
        {
            request.Headers.Range = new RangeHeaderValue(have, null);
        }
        using HttpResponseMessage response = await client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancellation).ConfigureAwait(false);
        response.EnsureSuccessStatusCode();
        bool resumed = response.StatusCode == HttpStatusCode.PartialContent;
        Stream source = await response.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false);
        await using (source.ConfigureAwait(false))
        {
            var target = new FileStream(path, resumed ? FileMode.Append : FileMode.Create, FileAccess.Write);
            await using (target.ConfigureAwait(false))
            {
                byte[] buffer = new byte[1 << 20];
                long done = resumed ? have : 0, total = size ?? (done + (response.Content.Headers.ContentLength ?? 0));
                for (int read; (read = await source.ReadAsync(buffer, cancellation).ConfigureAwait(false)) > 0;)
                {
                    await target.WriteAsync(buffer.AsMemory(0, read), cancellation).ConfigureAwait(false);
                    progress?.Report(new DownloadProgress(Path.GetFileName(path)[..^Partial.Length], done += read, total));
                }
            }
        }
    }

    private static long Length(string path) => File.Exists(path) ? new FileInfo(path).Length : 0;

    private static async Task<bool> MatchesAsync(string path, string hash, CancellationToken cancellation)
    {
        FileStream file = File.OpenRead(path);
        await using (file.ConfigureAwait(false))
        {
            return Convert.ToHexStringLower(await SHA256.HashDataAsync(file, cancellation).ConfigureAwait(false)) == hash;
        }
    }
}
