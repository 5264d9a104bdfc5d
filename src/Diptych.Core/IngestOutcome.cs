namespace Diptych.Core;

/// <summary>What became of one source.</summary>
public enum IngestOutcome
{
    Added,
    Replaced,

    /// <summary>The same bytes are there under the same source.</summary>
    Unchanged,

    /// <summary>The same bytes are there under another source: it is a document of its own, and nothing was read or embedded again.</summary>
    Duplicate,

    /// <summary>The document whose file was elsewhere before.</summary>
    Moved,
    Failed,

    /// <summary>It had vanished from the folders that were ingested.</summary>
    Pruned,

    /// <summary>Its job was cancelled, or its collection deleted, before it was stored.</summary>
    Cancelled,
}
