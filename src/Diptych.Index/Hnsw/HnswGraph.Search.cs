using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Diptych.Index.Hnsw;

/// <summary>Searching: without a lock, without an allocation.</summary>
internal sealed unsafe partial class HnswGraph<TCodes>
{
    /// <summary>Codes fetched ahead of the one being compared.</summary>
    private const int Ahead = 8;

    /// <summary>
    /// Up to so many matching rows for each candidate of a traversal, comparing with all of them costs no more than the traversal, and
    /// misses nothing. Measured: a row in order takes a quarter of the time of one met at random, and a traversal meets 16 a candidate.
    /// </summary>
    private const int ExactPerCandidate = 200;

    /// <summary>The same when what matches is known to lie away from the query, where the graph finds it late.</summary>
    private const int CorrelatedExactPerCandidate = 1000;

    /// <summary>From this share of matching rows on, the plain traversal with a wider pool goes first: a third.</summary>
    private const int OverFetchShare = 3;

    /// <summary>Neighbours and neighbours' neighbours looked at from one node.</summary>
    private const int MostTwoHop = 48;

    private const int MinimumPool = 32;

    /// <summary>Places from which a walk over matching rows begins.</summary>
    private const int Starts = 32;

    private readonly SearchScratch?[] _idle = new SearchScratch?[64];
    private readonly List<WeakReference<SearchScratch>> _scratches = [];
    private long _epoch = 1;

    public override int Search(ReadOnlySpan<float> query, Span<Neighbor> results, int ef, ReadOnlySpan<ulong> filter, out SearchPlan plan)
    {
        if (query.Length != Dimensions)
        {
            throw new ArgumentException($"The query has {query.Length} dimensions; the index has {Dimensions}.", nameof(query));
        }
        plan = SearchPlan.Graph;
        SearchScratch scratch = Rent();
        try
        {
            TCodes.EncodeQuery(query, scratch.Query, _codeStride);
            query.CopyTo(new Span<float>(scratch.Exact, Dimensions));
            long entry = Volatile.Read(ref _entry);
            if (entry < 0 || results.IsEmpty)
            {
                return 0;
            }
            int ahead = Math.Max(ef, results.Length), live = Math.Max(1, Count), found;
            if (filter.IsEmpty)
            {
                // Deleted nodes fill part of the pool: widen it by their share, and further where they lie thick.
                int wide = Wider(ahead, live + Deleted, live);
                for (int start = Descend(scratch, entry, 0); ; wide = Wider(wide, 4, 1))
                {
                    Traverse(scratch, start, 0, wide, -1);
                    found = Rescore(scratch, results, filter);
                    if (found == results.Length || scratch.Size < wide)
                    {
                        return found;
                    }
                }
            }
            int exactPool = Math.Max(results.Length * RescoreFactor, MinimumPool);
            plan = SearchFiltered(scratch, entry, ahead, live, filter, exactPool);
            found = Rescore(scratch, results, filter);
            if (found < results.Length && plan != SearchPlan.Exact)
            {
                plan = SearchPlan.Exact;
                Scan(scratch, filter, exactPool);
                found = Rescore(scratch, results, filter);
            }
            return found;
        }
        finally
        {
            Return(scratch);
        }
    }

    /// <summary>The nearest node on the layer above <paramref name="layer"/>, going greedily from the top.</summary>
    private int Descend(SearchScratch scratch, long entry, int layer)
    {
        int nearest = (int)entry;
        int best = TCodes.Similarity(_codes[nearest], scratch.Query, _codeStride);
        for (int at = EntryLayer(entry); at > layer; at--)
        {
            bool moved = true;
            while (moved)
            {
                moved = false;
                int* links = LinksOf(nearest, at);
                int count = links[0];
                for (int i = 1; i <= count; i++)
                {
                    Fetch(links[i]);
                }
                for (int i = 1; i <= count; i++)
                {
                    int similarity = TCodes.Similarity(_codes[links[i]], scratch.Query, _codeStride);
                    if (similarity > best)
                    {
                        (best, nearest, moved) = (similarity, links[i], true);
                    }
                }
            }
        }
        return nearest;
    }

    /// <summary>Fills the pool with the nearest <paramref name="ef"/> nodes that a best-first walk from <paramref name="start"/> meets.</summary>
    /// <param name="except">A node that is not to be found, -1 for none.</param>
    private void Traverse(SearchScratch scratch, int start, int layer, int ef, int except)
    {
        scratch.Begin(ef);
        scratch.ForgetVisited(_slots);
        if (except >= 0)
        {
            scratch.Visit(except);
        }
        int* batch = scratch.Batch;
        if (scratch.Visit(start))
        {
            scratch.Offer(start, TCodes.Similarity(_codes[start], scratch.Query, _codeStride));
        }
        for (int node = scratch.Next(); node >= 0; node = scratch.Next())
        {
            int* links = LinksOf(node, layer);
            int count = links[0], fresh = 0;
            for (int i = 1; i <= count; i++)
            {
                if (scratch.Visit(links[i]))
                {
                    batch[fresh++] = links[i];
                }
            }
            Compare(scratch, fresh);
        }
    }

    private SearchPlan SearchFiltered(SearchScratch scratch, long entry, int ef, int live, ReadOnlySpan<ulong> filter, int exactPool)
    {
        int matches = 0;
        for (int word = 0; word < Math.Min(filter.Length, (_slots + 63) / 64); word++)
        {
            matches += BitOperations.PopCount(filter[word] & *(ulong*)_alive[word]);
        }
        if (matches <= ExactPerCandidate * ef)
        {
            Scan(scratch, filter, exactPool);
            return SearchPlan.Exact;
        }
        int start = Descend(scratch, entry, 0);
        if (matches >= live / OverFetchShare && MatchesNear(start, filter))
        {
            int wide = Wider(ef, live + Deleted, matches);
            Traverse(scratch, start, 0, wide, -1);
            int found = 0;
            foreach (ulong candidate in scratch.Pool)
            {
                found += Accepts(filter, SearchScratch.Slot(candidate)) ? 1 : 0;
            }
            if (found >= ef * 3 / 4)
            {
                return SearchPlan.OverFetch;
            }
            // What matches lies elsewhere than the query: go there over matching nodes only.
            if (matches <= CorrelatedExactPerCandidate * ef)
            {
                Scan(scratch, filter, exactPool);
                return SearchPlan.Exact;
            }
        }
        TraverseMatching(scratch, start, ef, filter);
        return SearchPlan.TwoHop;
    }

    /// <summary>Whether of the rows around a node a fourth match: where fewer do, what matches lies elsewhere.</summary>
    private bool MatchesNear(int node, ReadOnlySpan<ulong> filter)
    {
        int* links = LinksOf(node, 0);
        int count = links[0], matching = 0;
        for (int i = 1; i <= count; i++)
        {
            matching += Accepts(filter, links[i]) ? 1 : 0;
        }
        return 4 * matching >= count;
    }

    /// <summary>Compares the query with every row that matches.</summary>
    private void Scan(SearchScratch scratch, ReadOnlySpan<ulong> filter, int pool)
    {
        scratch.Begin(pool);
        int words = Math.Min(filter.Length, (_slots + 63) / 64), fresh = 0;
        int* batch = scratch.Batch;
        for (int word = 0; word < words; word++)
        {
            for (ulong bits = filter[word] & *(ulong*)_alive[word]; bits != 0; bits &= bits - 1)
            {
                batch[fresh++] = (word << 6) + BitOperations.TrailingZeroCount(bits);
            }
            if (fresh > SearchScratch.BatchLength - 64 || word == words - 1)
            {
                Compare(scratch, fresh);
                fresh = 0;
            }
        }
    }

    /// <summary>A best-first walk over the rows that match: a neighbour that does not is passed through to those of its neighbours that do.</summary>
    private void TraverseMatching(SearchScratch scratch, int start, int ef, ReadOnlySpan<ulong> filter)
    {
        scratch.Begin(ef);
        scratch.ForgetVisited(_slots);
        int* batch = scratch.Batch;
        int starts = 0;
        if (Accepts(filter, start))
        {
            batch[starts++] = start;
        }
        // Matching rows from all over, so that the walk has where to begin when none stands near the query.
        int words = Math.Min(filter.Length, (_slots + 63) / 64);
        for (int i = 0; i < Starts; i++)
        {
            for (int word = (int)((long)words * i / Starts), end = (int)((long)words * (i + 1) / Starts); word < end; word++)
            {
                ulong bits = filter[word] & *(ulong*)_alive[word];
                if (bits != 0)
                {
                    batch[starts++] = (word << 6) + BitOperations.TrailingZeroCount(bits);
                    break;
                }
            }
        }
        for (int i = 0; i < starts; i++)
        {
            scratch.Visit(batch[i]);
        }
        Compare(scratch, starts);
        for (int node = scratch.Next(); node >= 0; node = scratch.Next())
        {
            int* links = LinksOf(node, 0);
            int count = links[0], fresh = 0, passed = 0;
            int* through = batch + _lowest + MostTwoHop + 1;
            for (int i = 1; i <= count; i++)
            {
                if (Accepts(filter, links[i]))
                {
                    if (scratch.Visit(links[i]))
                    {
                        batch[fresh++] = links[i];
                    }
                }
                else if (scratch.Visit(links[i]))
                {
                    through[passed++] = links[i];
                }
            }
            for (int i = 0; i < passed && fresh < MostTwoHop; i++)
            {
                int* second = LinksOf(through[i], 0);
                for (int j = 1, n = second[0]; j <= n && fresh < MostTwoHop; j++)
                {
                    if (Accepts(filter, second[j]) && scratch.Visit(second[j]))
                    {
                        batch[fresh++] = second[j];
                    }
                }
            }
            Compare(scratch, fresh);
        }
    }

    /// <summary>Offers the first <paramref name="count"/> of the batch to the pool.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Compare(SearchScratch scratch, int count)
    {
        int* batch = scratch.Batch;
        for (int i = 0; i < Math.Min(Ahead, count); i++)
        {
            Fetch(batch[i]);
        }
        for (int i = 0; i < count; i++)
        {
            if (i + Ahead < count)
            {
                Fetch(batch[i + Ahead]);
            }
            int similarity = TCodes.Similarity(_codes[batch[i]], scratch.Query, _codeStride);
            if (similarity > scratch.Worst)
            {
                scratch.Offer(batch[i], similarity);
            }
        }
    }

    private static int Wider(int ef, int all, int wanted) => (int)Math.Min(1 << 20, (long)ef * all / Math.Max(1, wanted));

    private bool Accepts(ReadOnlySpan<ulong> filter, int slot) => IsSet(filter, slot) && IsAlive(slot);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Fetch(int slot)
    {
        if (Sse.IsSupported)
        {
            byte* code = _codes[slot];
            for (int i = 0; i < _codeStride; i += 64)
            {
                Sse.Prefetch0(code + i);
            }
        }
    }

    /// <summary>Scores the pool's first with 16-bit floats, and puts the best into the results.</summary>
    private int Rescore(SearchScratch scratch, Span<Neighbor> results, ReadOnlySpan<ulong> filter)
    {
        int most = Math.Min(scratch.Size, Math.Max(results.Length * RescoreFactor, results.Length + 8));
        Neighbor[] found = scratch.Rescored;
        int count = 0;
        foreach (ulong entry in scratch.Pool)
        {
            int slot = SearchScratch.Slot(entry);
            if (IsAlive(slot) && (filter.IsEmpty || IsSet(filter, slot)))
            {
                found[count++] = new Neighbor(slot, HalfRow.Dot(_halves[slot], scratch.Exact, _halfStride));
                if (count == most)
                {
                    break;
                }
            }
        }
        Span<Neighbor> all = found.AsSpan(0, count);
        all.Sort(static (a, b) => a.Score != b.Score ? b.Score.CompareTo(a.Score) : a.Slot.CompareTo(b.Slot));
        int kept = Math.Min(count, results.Length);
        all[..kept].CopyTo(results);
        return kept;
    }

    /// <summary>Candidates scored anew for each result.</summary>
    private static int RescoreFactor => typeof(TCodes) == typeof(BitCodes) ? 16 : 2;

    private static bool IsSet(ReadOnlySpan<ulong> filter, int slot) => slot >> 6 < filter.Length && (filter[slot >> 6] >> slot & 1) != 0;

    private SearchScratch Rent()
    {
        // Each thread looks first where it last put one back.
        int at = Environment.CurrentManagedThreadId;
        SearchScratch? scratch = null;
        for (int i = 0; i < _idle.Length && scratch is null; i++)
        {
            ref SearchScratch? place = ref _idle[(at + i) % _idle.Length];
            scratch = place is null ? null : Interlocked.Exchange(ref place, null);
        }
        if (scratch is null)
        {
            scratch = new SearchScratch(_codeStride, _halfStride);
            lock (_scratches)
            {
                _scratches.RemoveAll(s => !s.TryGetTarget(out _));
                _scratches.Add(new WeakReference<SearchScratch>(scratch));
            }
        }
        // A full fence: the epoch is seen before anything of the graph is read.
        Interlocked.Exchange(ref scratch.Epoch, Volatile.Read(ref _epoch));
        return scratch;
    }

    private void Return(SearchScratch scratch)
    {
        Volatile.Write(ref scratch.Epoch, long.MaxValue);
        int at = Environment.CurrentManagedThreadId;
        for (int i = 0; i < _idle.Length; i++)
        {
            if (Interlocked.CompareExchange(ref _idle[(at + i) % _idle.Length], scratch, null) is null)
            {
                return;
            }
        }
    }
}
