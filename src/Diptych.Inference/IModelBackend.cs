namespace Diptych.Inference;

/// <summary>
/// The whole contract between the scheduler and what runs a model. A batch is flat arrays and offsets; a result never
/// depends on its batchmates (1e-5 on embeddings).
/// </summary>
public interface IModelBackend
{
    /// <summary>What the model takes and gives; known before it is loaded.</summary>
    ModelDescription Description { get; }

    /// <summary>Brings the model onto a device. A backend may be loaded on several at a time.</summary>
    ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation);
}

/// <summary>A model on a device; disposing of it frees its memory.</summary>
public interface ILoadedModel : IAsyncDisposable
{
    /// <summary>Runs one batch. Called by several workers at a time.</summary>
    /// <returns>One row per item and output, in the batch's order.</returns>
    /// <exception cref="DeviceMemoryException">The device had no memory for this batch; a smaller one may run.</exception>
    ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation);
}

/// <summary>A model as the scheduler sees it.</summary>
/// <param name="Name">Unique among the models of a service.</param>
/// <param name="Revision">Changes when the weights or the preprocessing do.</param>
/// <param name="Input">Tokens or pixels.</param>
/// <param name="Outputs">Name and row width of each output; 0 where rows differ in width.</param>
/// <param name="MaxUnits">Longest item: tokens for a text model, tiles for an image model.</param>
/// <param name="WeightBytes">Size of the weights as they are stored.</param>
/// <param name="UnitBytes">Bytes of one unit of pixels; 0 for a text model.</param>
/// <param name="ProbeWidth">For a model that takes pictures of any size: the width, in pixels, of one with so many units.</param>
public sealed record ModelDescription(
    string Name,
    string Revision,
    InputKind Input,
    IReadOnlyDictionary<string, int> Outputs,
    int MaxUnits,
    long WeightBytes,
    int UnitBytes = 0,
    Func<int, int>? ProbeWidth = null);

/// <summary>What a model reads.</summary>
public enum InputKind
{
    Tokens,
    Pixels,
}

/// <summary>Items of one model, laid end to end: item i is [Offsets[i], Offsets[i + 1]) of the array that its kind fills.</summary>
/// <param name="Tokens">Token ids of all items; empty for an image model.</param>
/// <param name="Pixels">RGB bytes, height x width x 3 per item; empty for a text model.</param>
/// <param name="Widths">[n]: each picture's width in pixels, for models that take any size; null for those that take one.</param>
public sealed record Batch(int[] Tokens, byte[] Pixels, int[] Offsets, int[]? Widths = null)
{
    public int Count => Offsets.Length - 1;
}

/// <summary>Rows by output name, one for each item in the batch's order.</summary>
public sealed record BatchOutput(IReadOnlyDictionary<string, float[][]> Rows)
{
    /// <summary>Cuts an output [n, width] into its rows.</summary>
    public static float[][] Cut(ReadOnlySpan<float> values, int count)
    {
        int width = values.Length / count;
        float[][] rows = new float[count][];
        for (int i = 0; i < count; i++)
        {
            rows[i] = values.Slice(i * width, width).ToArray();
        }
        return rows;
    }
}

/// <summary>Something that runs models: memory of its own, and so many batches at a time.</summary>
/// <param name="Name">"cpu", "cuda:0".</param>
/// <param name="BudgetBytes">Memory that models may take of it, everything included.</param>
/// <param name="Workers">Batches at a time.</param>
public sealed record Device(string Name, long BudgetBytes, int Workers)
{
    /// <summary>This machine's cores, and half of its memory.</summary>
    public static Device Cpu { get; } = new("cpu", GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 2, Environment.ProcessorCount);
}

/// <summary>A device could not allocate what a batch or a model needs.</summary>
public sealed class DeviceMemoryException(string message, Exception? cause = null) : Exception(message, cause);
