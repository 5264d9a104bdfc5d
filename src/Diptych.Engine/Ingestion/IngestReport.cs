using Diptych.Core;
using Diptych.Index.Jobs;

namespace Diptych.Engine.Ingestion;

/// <summary>Said once for each source, after its commit where it has one.</summary>
/// <param name="Reason">Why it failed, or whose duplicate it is.</param>
/// <param name="Lease">The job's item that ended with it, where there is one: in the store already where a document was committed.</param>
public sealed record IngestEvent(string Source, IngestOutcome Outcome, string? Reason, Document? Document, int Images, ItemLease? Lease = null)
{
    /// <summary>What could not be read of a source that was: a sentence each.</summary>
    public IReadOnlyList<string> Warnings { get; init; } = [];
}

/// <summary>Sums over a run so far.</summary>
public sealed record IngestTotals
{
    public int Found { get; init; }

    public int Done { get; init; }

    public int Added { get; init; }

    public int Replaced { get; init; }

    public int Unchanged { get; init; }

    public int Duplicates { get; init; }

    public int Moved { get; init; }

    public int Failed { get; init; }

    public int Pruned { get; init; }

    public int Cancelled { get; init; }

    /// <summary>Why folders were not pruned, by folder.</summary>
    public IReadOnlyList<string> PruneRefused { get; init; } = [];

    public long Passages { get; init; }

    public long Images { get; init; }

    public double Seconds { get; init; }

    internal IngestTotals With(IngestEvent e) => (this with
    {
        Done = Done + (e.Outcome == IngestOutcome.Pruned ? 0 : 1),
        Passages = Passages + (e.Outcome is IngestOutcome.Added or IngestOutcome.Replaced or IngestOutcome.Duplicate ? e.Document?.PassageCount ?? 0 : 0),
        Images = Images + e.Images,
    }) switch
    {
        var t when e.Outcome == IngestOutcome.Added => t with { Added = Added + 1 },
        var t when e.Outcome == IngestOutcome.Replaced => t with { Replaced = Replaced + 1 },
        var t when e.Outcome == IngestOutcome.Unchanged => t with { Unchanged = Unchanged + 1 },
        var t when e.Outcome == IngestOutcome.Duplicate => t with { Duplicates = Duplicates + 1 },
        var t when e.Outcome == IngestOutcome.Moved => t with { Moved = Moved + 1 },
        var t when e.Outcome == IngestOutcome.Failed => t with { Failed = Failed + 1 },
        var t when e.Outcome == IngestOutcome.Cancelled => t with { Cancelled = Cancelled + 1 },
        var t => t with { Pruned = Pruned + 1 },
    };
}

/// <summary>How a run is carried out.</summary>
public sealed record IngestOptions
{
    public required string Collection { get; init; }

    /// <summary>What a new collection's words are stemmed in; null takes the collection's own, or English.</summary>
    public string? Language { get; init; }

    /// <summary>
    /// Delete documents whose files are gone from these folders, once what moved has been recognised. A folder that is empty or missing, or
    /// would lose more than a third of its documents, is left as it is unless <see cref="PruneAll"/> names it.
    /// </summary>
    public IReadOnlyList<string> PruneUnder { get; init; } = [];

    /// <summary>Folders of <see cref="PruneUnder"/> that may lose any number of documents.</summary>
    public IReadOnlyList<string> PruneAll { get; init; } = [];

    /// <summary>Whether a file that is there but was not among the sources counts as gone: where ignore files alone chose the sources.</summary>
    public bool PruneUnlisted { get; init; } = true;

    /// <summary>Whether the collection is made where it is not there.</summary>
    public bool MakesCollection { get; init; } = true;

    /// <summary>File bytes between being read and being committed; a larger file passes alone.</summary>
    public ByteBudget Bytes { get; init; } = new(256L << 20);

    /// <summary>Whether every path in the store is one of this machine's, so that a file that is not there has gone, wherever it was.</summary>
    public bool OwnPaths { get; init; } = true;

    /// <summary>Reads files anew whose content has not changed: for what has been added since, such as a reader of pictures.</summary>
    public bool Again { get; init; }

    /// <summary>A larger file is refused.</summary>
    public long MaxFileBytes { get; init; } = 512L << 20;
}
