namespace Diptych.Index.Hnsw;

/// <summary>How an index keeps vectors for traversal.</summary>
public enum VectorCodes
{
    /// <summary>A byte a dimension.</summary>
    Int8,

    /// <summary>A bit a dimension.</summary>
    Bit,
}

/// <summary>What an index is built with.</summary>
public sealed record HnswOptions
{
    /// <summary>Links of a node on each layer above the lowest (M); the lowest has 2 M - 1, two cache lines of them at 16.</summary>
    public int Links { get; init; } = 16;

    /// <summary>Candidates kept while a node's neighbours are sought (efConstruction).</summary>
    public int EfConstruction { get; init; } = 128;

    public VectorCodes Codes { get; init; } = VectorCodes.Int8;

    /// <summary>
    /// Largest absolute component that int8 codes hold apart; larger ones are clipped. Null: 99.99 % of the first vectors' components fit.
    /// </summary>
    public float? Clip { get; init; }

    /// <summary>Seeds the layers that nodes reach.</summary>
    public ulong Seed { get; init; } = 1;

    /// <exception cref="ArgumentOutOfRangeException">A value is out of range.</exception>
    internal void Check(int dimensions)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(dimensions, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(dimensions, 8192);
        ArgumentOutOfRangeException.ThrowIfLessThan(Links, 4);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(Links, 64);
        ArgumentOutOfRangeException.ThrowIfLessThan(EfConstruction, Links);
    }
}

/// <summary>A row that a search found.</summary>
/// <param name="Slot">What <see cref="HnswIndex.Add"/> returned for it.</param>
/// <param name="Score">Dot product with the query: the cosine, since vectors are of unit length.</param>
public readonly record struct Neighbor(int Slot, float Score);

/// <summary>How a search went about it.</summary>
public enum SearchPlan
{
    /// <summary>The graph, unfiltered.</summary>
    Graph,

    /// <summary>The graph with more candidates than asked for, of which those that match are kept.</summary>
    OverFetch,

    /// <summary>The graph of those that match, reached over at most one that does not (ACORN, Patel et al. 2024).</summary>
    TwoHop,

    /// <summary>Every one that matches.</summary>
    Exact,
}

/// <summary>
/// Approximate nearest neighbours by a hierarchical navigable small world (Malkov and Yashunin 2018): unit vectors [n, d] as small codes
/// in a layered graph, the best of a traversal scored again with 16-bit floats.
/// Any number of threads search while others add; no search waits for anything. A search that begins after <see cref="Delete"/> returned
/// does not return that row.
/// </summary>
public abstract class HnswIndex
{
    private protected HnswIndex(int dimensions, HnswOptions options)
    {
        Dimensions = dimensions;
        Options = options;
    }

    public int Dimensions { get; }

    public HnswOptions Options { get; }

    /// <summary>Rows that searches may return.</summary>
    public abstract int Count { get; }

    /// <summary>Slots given out so far, those of deleted rows included: the length in bits of a filter.</summary>
    public abstract int Slots { get; }

    /// <summary>Deleted rows that the graph still leads through; <see cref="Repair"/> takes them out.</summary>
    public abstract int Deleted { get; }

    /// <summary>Grows with every repair: while it stays, no slot is given out a second time.</summary>
    internal abstract long Repairs { get; }

    /// <summary>Bytes of codes and links, per row.</summary>
    public abstract double BytesPerVector { get; }

    /// <exception cref="ArgumentOutOfRangeException">An option is out of range.</exception>
    public static HnswIndex Create(int dimensions, HnswOptions? options = null)
    {
        options ??= new HnswOptions();
        options.Check(dimensions);
        return options.Codes switch
        {
            VectorCodes.Bit => new HnswGraph<BitCodes>(dimensions, options),
            _ => new HnswGraph<Int8Codes>(dimensions, options),
        };
    }

    /// <param name="vector">[d], of unit length.</param>
    /// <returns>The row's slot, its own until it is deleted and repaired away.</returns>
    /// <exception cref="ArgumentException">Wrong dimensions, or not of unit length (zero, infinite and NaN included).</exception>
    public abstract int Add(ReadOnlySpan<float> vector);

    /// <summary>Adds rows on several cores.</summary>
    /// <param name="vectors">[n, d], unit rows.</param>
    /// <param name="slots">[n]; receives the slot of each.</param>
    public abstract void AddRange(ReadOnlyMemory<float> vectors, Memory<int> slots, int cores, CancellationToken cancellation = default);

    /// <returns>False when it was deleted already.</returns>
    public abstract bool Delete(int slot);

    /// <summary>
    /// Takes deleted rows out of the graph: each node that led to one is linked to what lay behind it (FreshDiskANN, Singh et al. 2021).
    /// Their slots are given out again once no search is left that may have seen them. Searches go on meanwhile; adding waits.
    /// </summary>
    public abstract void Repair(int cores, CancellationToken cancellation = default);

    /// <summary>
    /// A copy without holes: rows that are left side by side, in a fraction of the time that building takes, and the memory of the others
    /// given back with this index. Searches go on; adding waits; a row that is deleted here meanwhile is to be deleted there too. Holes are
    /// what <see cref="Repair"/> left: a row that was deleted since comes along, and is led through until the next repair.
    /// </summary>
    /// <param name="moved">[<see cref="Slots"/>]; receives each row's slot in the copy, -1 for holes.</param>
    public abstract HnswIndex Compact(Span<int> moved);

    /// <param name="query">[d].</param>
    /// <param name="results">Receives the nearest, best first; its length is k.</param>
    /// <param name="ef">Candidates kept in the traversal: more find more, slower.</param>
    /// <returns>How many were found.</returns>
    public int Search(ReadOnlySpan<float> query, Span<Neighbor> results, int ef) => Search(query, results, ef, [], out _);

    /// <param name="filter">A bit for each slot, set for those that may be returned; empty for all.</param>
    public abstract int Search(ReadOnlySpan<float> query, Span<Neighbor> results, int ef, ReadOnlySpan<ulong> filter, out SearchPlan plan);

    /// <summary>Writes the index to a file, whole or not at all (a temporary file, flushed, then renamed). Searches go on; adding waits.</summary>
    /// <param name="sequence">Up to which change of its source the index is current.</param>
    /// <param name="attachment">Bytes of the caller's, kept with it: what its slots stand for.</param>
    public abstract void Save(string path, long sequence, ReadOnlySpan<byte> attachment = default);

    /// <summary>Opens what <see cref="Save"/> wrote, by mapping it: pages are read as searches need them.</summary>
    /// <returns>The index, and the sequence and attachment that it was saved with.</returns>
    /// <exception cref="InvalidDataException">The file is damaged, or no index.</exception>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    public static (HnswIndex Index, long Sequence, byte[] Attachment) Open(string path)
    {
        Header header = Header.Read(path);
        var options = new HnswOptions
        {
            Links = header.Links,
            EfConstruction = header.EfConstruction,
            Codes = (VectorCodes)header.Codes,
            Seed = header.Seed,
            Clip = header.Scale == 0 ? null : 127 / header.Scale,
        };
        HnswIndex index = Create(header.Dimensions, options);
        byte[] attachment = index is HnswGraph<BitCodes> bits ? bits.Load(path, header) : ((HnswGraph<Int8Codes>)index).Load(path, header);
        return (index, header.Sequence, attachment);
    }
}
