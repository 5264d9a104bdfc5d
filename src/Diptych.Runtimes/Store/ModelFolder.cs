using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Diptych.Core;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Encoders;
using Diptych.Runtimes.Ocr;

namespace Diptych.Runtimes.Store;

/// <summary>What a model is for.</summary>
public enum ModelKind
{
    /// <summary>Reads the text in pictures: PP-OCR's detector, classifier and recogniser.</summary>
    PictureReader,

    /// <summary>Writes: a decoder of Llama's family, in Hugging Face's layout or GGUF.</summary>
    Decoder,

    /// <summary>Embeds texts and pictures in one space: CLIP or SigLIP, in Hugging Face's layout.</summary>
    DualEncoder,

    /// <summary>Embeds texts: a model of sentence-transformers, exported to ONNX.</summary>
    TextEncoder,

    /// <summary>Scores texts for a question: a cross-encoder, exported to ONNX.</summary>
    Reranker,

    /// <summary>Changes a decoder by low-rank additions (PEFT LoRA).</summary>
    Adapter,
}

/// <summary>A model that was added: its files with their SHA-256, and where it came from.</summary>
/// <param name="Source">The folder or hub address that it was added from.</param>
public sealed record InstalledModel(string Name, ModelKind Kind, string Source, IReadOnlyDictionary<string, string> Files)
{
    /// <summary>Size of all files.</summary>
    public long Bytes { get; init; }

    /// <summary>Its name with what tells its files from any others.</summary>
    [JsonIgnore]
    public string Versioned => $"{Name}@{Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(string.Concat(Files.OrderBy(f => f.Key, StringComparer.Ordinal).Select(f => f.Value)))))[..12]}";
}

/// <summary>
/// The models that were added, each a folder with its files and a manifest. A model is there whole or not at all: it is gathered in a
/// folder beside and moved into place at the end.
/// </summary>
/// <param name="folder">Made when the first model is added.</param>
public sealed class ModelFolder(string folder)
{
    private const string Manifest = "diptych.json";
    private static readonly JsonSerializerOptions Json = new(JsonSerializerDefaults.Web) { WriteIndented = true, Converters = { new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower) } };

    /// <summary>The models whose manifests can be read. <see cref="Broken"/> tells of the others.</summary>
    public IReadOnlyList<InstalledModel> List() => [.. Directories().Select(d => Read(d, out _)).OfType<InstalledModel>()];

    /// <summary>
    /// What cannot be run of what was added, by name, and why: a manifest is damaged, files are missing or of another size, or a decoder's or
    /// adapter's headers say what cannot be. No weights are read, so an encoder whose weights were changed shows when it is loaded.
    /// </summary>
    public IReadOnlyDictionary<string, string> Broken()
    {
        var broken = new SortedDictionary<string, string>(StringComparer.Ordinal);
        foreach (string directory in Directories())
        {
            if ((Read(directory, out string? reason) is { } model ? ReasonOf(model) : reason) is { } why)
            {
                broken.Add(Path.GetFileName(directory), why);
            }
        }
        return broken;
    }

    /// <summary>Why a model cannot be run, as far as its headers tell; null where nothing speaks against it.</summary>
    public string? ReasonOf(InstalledModel model)
    {
        string directory = PathOf(model);
        try
        {
            if (model.Files.Keys.FirstOrDefault(f => !File.Exists(Path.Combine(directory, f))) is { } missing)
            {
                return $"{missing} is missing.";
            }
            long bytes = model.Files.Keys.Sum(f => new FileInfo(Path.Combine(directory, f)).Length);
            if (bytes != model.Bytes)
            {
                return $"Its files have {bytes} bytes, and had {model.Bytes} when it was added.";
            }
            switch (model.Kind)
            {
                case ModelKind.Decoder:
                    LocalModel.Check(LocalModel.Find(directory) ?? throw new InvalidDataException("It holds no decoder."));
                    break;
                case ModelKind.Adapter:
                    LoraAdapter.Check(directory);
                    break;
            }
            return null;
        }
        catch (Exception error) when (error is InvalidDataException or IOException or UnauthorizedAccessException)
        {
            return error.Message;
        }
    }

    public string PathOf(InstalledModel model) => Path.Combine(folder, model.Name);

    /// <summary>Adds a model from a local folder, or from one file.</summary>
    /// <exception cref="NotFoundException">The folder does not exist.</exception>
    /// <exception cref="InvalidRequestException">The folder holds no model that can be run, or one of this name is there.</exception>
    /// <exception cref="InvalidDataException">A file of the model is damaged, or of a kind that cannot be run.</exception>
    public InstalledModel Add(string directory, string? name, CancellationToken cancellation)
    {
        bool single = File.Exists(directory);
        if (!single && !Directory.Exists(directory))
        {
            throw new NotFoundException($"There is no folder or file {directory}.");
        }
        // Refused before it is copied, and by the path that was given.
        if (single)
        {
            LocalModel.Check(directory);
        }
        else
        {
            KindOf(directory, Path.GetFullPath(directory));
        }
        string named = single ? Path.GetFileNameWithoutExtension(directory) : Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(directory)));
        return Install(name ?? named, Path.GetFullPath(directory), staging =>
        {
            foreach (string file in single ? [Path.GetFileName(directory)] : Parts(directory))
            {
                cancellation.ThrowIfCancellationRequested();
                string target = Path.Combine(staging, file);
                Directory.CreateDirectory(Path.GetDirectoryName(target)!);
                File.Copy(single ? directory : Path.Combine(directory, file), target);
            }
            return Task.CompletedTask;
        }).GetAwaiter().GetResult();
    }

    /// <summary>Adds a model from a hub; an interrupted download goes on where it ended.</summary>
    /// <exception cref="NotFoundException">The hub has no such model or revision.</exception>
    /// <exception cref="InvalidRequestException">It is no model that can be run, or one of this name is there.</exception>
    public async Task<InstalledModel> AddAsync(Hub hub, HubModel model, string? name, IProgress<DownloadProgress>? progress, CancellationToken cancellation)
    {
        string named = name ?? model.Name;
        RefuseTaken(named);
        // Kept across attempts, so that what was fetched already is not fetched again.
        string partial = Path.Combine(folder, $".partial-{named}");
        Directory.CreateDirectory(partial);
        await hub.DownloadAsync(model, partial, progress, cancellation).ConfigureAwait(false);
        InstalledModel installed = await Install(named, model.ToString(), staging =>
        {
            foreach (string file in Parts(partial))
            {
                string target = Path.Combine(staging, file);
                Directory.CreateDirectory(Path.GetDirectoryName(target)!);
                File.Move(Path.Combine(partial, file), target);
            }
            return Task.CompletedTask;
        }).ConfigureAwait(false);
        Directory.Delete(partial, recursive: true);
        return installed;
    }

    /// <exception cref="NotFoundException">There is no such model.</exception>
    public void Remove(string name)
    {
        // By its folder, so that what is broken can be removed too.
        string directory = Directories().FirstOrDefault(d => Path.GetFileName(d) == name) ?? throw Unknown(name);
        // Out of sight first: a half deleted model is not one.
        string going = Path.Combine(folder, $".removed-{Guid.NewGuid():N}");
        Directory.Move(directory, going);
        Directory.Delete(going, recursive: true);
    }

    /// <returns>What is wrong with each file: missing, or changed since it was added. Empty for a sound model.</returns>
    /// <exception cref="NotFoundException">There is no such model.</exception>
    public IReadOnlyList<string> Verify(string name)
    {
        InstalledModel model = Find(name);
        var faults = new List<string>();
        foreach (var (file, hash) in model.Files)
        {
            string path = Path.Combine(PathOf(model), file);
            if (!File.Exists(path))
            {
                faults.Add($"{file} is missing");
            }
            else if (Hash(path) != hash)
            {
                faults.Add($"{file} has changed since it was added");
            }
        }
        return faults;
    }

    private InstalledModel Find(string name)
    {
        string directory = Directories().FirstOrDefault(d => Path.GetFileName(d) == name) ?? throw Unknown(name);
        return Read(directory, out string? reason) ?? throw new InvalidDataException($"{name} is broken: {reason}");
    }

    private NotFoundException Unknown(string name) => new($"There is no model '{name}'. Added: {string.Join(", ", Directories().Select(Path.GetFileName).DefaultIfEmpty("none"))}.");

    private IEnumerable<string> Directories() => !Directory.Exists(folder) ? []
        : Directory.EnumerateDirectories(folder).Order(StringComparer.Ordinal).Where(d => !Path.GetFileName(d).StartsWith('.'));

    private async Task<InstalledModel> Install(string name, string source, Func<string, Task> gather)
    {
        RefuseTaken(name);
        string staging = Path.Combine(folder, $".adding-{Guid.NewGuid():N}");
        Directory.CreateDirectory(staging);
        try
        {
            await gather(staging).ConfigureAwait(false);
            DualEncoder.Prepare(staging);
            var files = Parts(staging).Order(StringComparer.Ordinal).ToDictionary(f => f, f => Hash(Path.Combine(staging, f)));
            var model = new InstalledModel(name, KindOf(staging, source), source, files) { Bytes = files.Keys.Sum(f => new FileInfo(Path.Combine(staging, f)).Length) };
            await File.WriteAllTextAsync(Path.Combine(staging, Manifest), JsonSerializer.Serialize(model, Json)).ConfigureAwait(false);
            Directory.Move(staging, Path.Combine(folder, name));
            return model;
        }
        finally
        {
            if (Directory.Exists(staging))
            {
                Directory.Delete(staging, recursive: true);
            }
        }
    }

    private void RefuseTaken(string name)
    {
        if (name.Length == 0 || name.StartsWith('.') || name.Any(c => !char.IsAsciiLetterOrDigit(c) && c is not ('-' or '_' or '.')))
        {
            throw new InvalidRequestException($"'{name}' is no name for a model: letters, digits, '-', '_' and '.'. Choose one with --name.");
        }
        if (Directory.Exists(Path.Combine(folder, name)))
        {
            throw new InvalidRequestException($"There is a model '{name}' already. Remove it first, or choose another name with --name.");
        }
    }

    private static ModelKind KindOf(string directory, string source)
    {
        if (PpOcr.Find(directory) is not null)
        {
            return ModelKind.PictureReader;
        }
        if (File.Exists(Path.Combine(directory, "adapter_config.json")) && File.Exists(Path.Combine(directory, "adapter_model.safetensors")))
        {
            LoraAdapter.Check(directory);
            return ModelKind.Adapter;
        }
        if (DualEncoder.IsIn(directory))
        {
            DualEncoder.Check(directory);
            return ModelKind.DualEncoder;
        }
        if (EncoderFolder.Find(directory) is { } encoder)
        {
            encoder.Check();
            return encoder.ScoresPairs ? ModelKind.Reranker : ModelKind.TextEncoder;
        }
        if (LocalModel.Find(directory) is { } decoder)
        {
            // What cannot be run is refused now, and not when somebody asks it.
            LocalModel.Check(decoder);
            return ModelKind.Decoder;
        }
        throw new InvalidRequestException($"{source} holds no model that Diptych can run. It runs decoders of Llama's family (a GGUF file, or config.json, safetensors and tokenizer.json), adapters for them (PEFT LoRA), CLIP and SigLIP (config.json with model.safetensors, or exported to ONNX: text_model.onnx and vision_model.onnx, or both in model.onnx), text models of sentence-transformers and cross-encoders exported to ONNX (config.json, model.onnx or onnx/model.onnx, tokenizer.json or vocab.txt), and PP-OCR exported to ONNX: a detector (*det*.onnx), a classifier (*cls*.onnx), a recogniser (*rec*.onnx) and its characters (*keys*.txt).");
    }

    /// <summary>Files of a model's folder: those at its top, and what belongs to a text model beneath it.</summary>
    private static List<string> Parts(string directory)
    {
        List<string> all = [.. Directory.EnumerateFiles(directory, "*", SearchOption.AllDirectories).Select(f => Path.GetRelativePath(directory, f).Replace('\\', '/'))];
        return all.FindAll(f => !f.Contains('/', StringComparison.Ordinal) || EncoderFolder.IsPart(f, all));
    }

    private static string Hash(string path)
    {
        using FileStream file = File.OpenRead(path);
        return Convert.ToHexStringLower(SHA256.HashData(file));
    }

    /// <returns>Null, and the reason, where its manifest cannot be read.</returns>
    private static InstalledModel? Read(string directory, out string? reason)
    {
        string manifest = Path.Combine(directory, Manifest);
        reason = null;
        try
        {
            InstalledModel model = JsonSerializer.Deserialize<InstalledModel>(File.ReadAllBytes(manifest), Json) ?? throw new JsonException("It is null.");
            // The folder is the name: another one would lead out of it.
            reason = model.Files is null || model.Name != Path.GetFileName(directory) || !model.Files.Keys.All(f => IsWithin(directory, f)) ? $"{manifest} is not this folder's. Remove the model and add it again." : null;
            return reason is null ? model : null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or JsonException or NotSupportedException)
        {
            reason = $"{manifest} is damaged: {error.Message} Remove the model and add it again.";
            return null;
        }
    }

    private static bool IsWithin(string directory, string file) =>
        file.Length > 0 && Path.GetFullPath(Path.Combine(directory, file)).StartsWith(Path.GetFullPath(directory) + Path.DirectorySeparatorChar, StringComparison.Ordinal);
}
