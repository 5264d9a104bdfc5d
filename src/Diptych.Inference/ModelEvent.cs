namespace Diptych.Inference;

/// <summary>What became of a model.</summary>
public enum ModelEventKind
{
    Loaded,

    /// <summary>It left a device: to make room, or for good.</summary>
    Evicted,

    /// <summary>It could not be loaded.</summary>
    Failed,
}

/// <summary>Something that became of a model, for whoever keeps a log.</summary>
/// <param name="Device">Empty where none had room.</param>
/// <param name="Bytes">Memory that it takes, or gave back.</param>
/// <param name="Took">How long loading took.</param>
/// <param name="Error">Why it could not be loaded.</param>
public sealed record ModelEvent(ModelEventKind Kind, string Model, string Device, long Bytes, TimeSpan Took, Exception? Error = null);
