namespace Diptych.Inference;

/// <summary>
/// The whole contract between the scheduler and what runs a model. A batch is flat arrays and offsets; a result never
/// depends on its batchmates (1e-5 on embeddings).
/// </summary>
public interface IModelBackend
{
    /// <summary>What the model takes and gives; callable before <see cref="LoadAsync"/>.</summary>
    ModelDescription Description { get; }

    ValueTask LoadAsync(CancellationToken cancellation);

    /// <summary>Runs one batch. Called by several workers at a time.</summary>
    /// <returns>One row per item and output, in the batch's order.</returns>
    ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation);

    ValueTask UnloadAsync();
}

/// <summary>A model as the scheduler sees it.</summary>
/// <param name="Name">Unique among the models of a service.</param>
/// <param name="Revision">Changes when the weights or the preprocessing do.</param>
/// <param name="Input">Tokens or pixels.</param>
/// <param name="Outputs">Name and row width of each output.</param>
/// <param name="MaxUnits">Longest item: tokens for a text model, 1 for an image model.</param>
/// <param name="WeightBytes">Size of the weights.</param>
public sealed record ModelDescription(
    string Name,
    string Revision,
    InputKind Input,
    IReadOnlyDictionary<string, int> Outputs,
    int MaxUnits,
    long WeightBytes);

/// <summary>What a model reads.</summary>
public enum InputKind
{
    Tokens,
    Pixels,
}

/// <summary>Items of one model, laid end to end: item i is [Offsets[i], Offsets[i + 1]) of the array that its kind fills.</summary>
/// <param name="Tokens">Token ids of all items; empty for an image model.</param>
/// <param name="Pixels">RGB bytes, height x width x 3 per item; empty for a text model.</param>
public sealed record Batch(int[] Tokens, byte[] Pixels, int[] Offsets)
{
    public int Count => Offsets.Length - 1;
}

/// <summary>Rows by output name: row i of an output of width w is [i * w, (i + 1) * w).</summary>
public sealed record BatchOutput(IReadOnlyDictionary<string, float[]> Rows);
