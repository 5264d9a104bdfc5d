using System.Runtime.InteropServices;
using System.Text.Json;

namespace Diptych.Inference.Scheduling;

/// <summary>What was measured of a model on a device.</summary>
/// <param name="WeightBytes">Memory that it takes once loaded.</param>
/// <param name="WorkspaceBytes">Memory that its largest batches took on top.</param>
/// <param name="FewTokens">Of a decoder: seconds of its steps by their tokens, as far as they are few.</param>
public sealed record ModelProfile(CostProfile Cost, long WeightBytes, long WorkspaceBytes, double LoadSeconds, IReadOnlyList<double>? FewTokens = null);

/// <summary>Profiles by machine, device, model and revision, kept in a file so that a start need not measure again.</summary>
/// <param name="path">Null keeps them for this process only.</param>
public sealed class ModelProfiles(string? path)
{
    private readonly Lock _lock = new();
    private Dictionary<string, ModelProfile>? _profiles;

    public ModelProfile? Find(ModelDescription model, string device) => Find($"{model.Name}@{model.Revision}", device);

    /// <param name="model">Its name and revision.</param>
    public ModelProfile? Find(string model, string device)
    {
        lock (_lock)
        {
            return Read().GetValueOrDefault(Key(model, device));
        }
    }

    /// <summary>Keeps a profile. A file that cannot be written costs the next start a measurement, and nothing else.</summary>
    public void Save(ModelDescription model, string device, ModelProfile profile) => Save($"{model.Name}@{model.Revision}", device, profile);

    /// <inheritdoc cref="Save(ModelDescription, string, ModelProfile)"/>
    public void Save(string model, string device, ModelProfile profile)
    {
        lock (_lock)
        {
            Read()[Key(model, device)] = profile;
            if (path is null)
            {
                return;
            }
            try
            {
                Directory.CreateDirectory(Path.GetDirectoryName(path)!);
                string fresh = $"{path}.{Environment.ProcessId}";
                File.WriteAllBytes(fresh, JsonSerializer.SerializeToUtf8Bytes(_profiles));
                File.Move(fresh, path, overwrite: true);
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                // Measured again next time.
            }
        }
    }

    private Dictionary<string, ModelProfile> Read()
    {
        try
        {
            _profiles ??= path is not null && File.Exists(path) ? JsonSerializer.Deserialize<Dictionary<string, ModelProfile>>(File.ReadAllBytes(path)) : null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or JsonException)
        {
            // Derived data: a damaged file is made anew.
        }
        return _profiles ??= [];
    }

    private static string Key(string model, string device) => $"{Machine}/{device}/{model}";

    private static string Machine { get; } = $"{Processor()} x {Environment.ProcessorCount}, {RuntimeInformation.ProcessArchitecture}";

    private static string Processor()
    {
        const string Linux = "/proc/cpuinfo";
        string? line = File.Exists(Linux) ? File.ReadLines(Linux).FirstOrDefault(l => l.StartsWith("model name", StringComparison.Ordinal)) : null;
        return line?.Split(':')[^1].Trim() ?? Environment.GetEnvironmentVariable("PROCESSOR_IDENTIFIER") ?? "processor";
    }
}
