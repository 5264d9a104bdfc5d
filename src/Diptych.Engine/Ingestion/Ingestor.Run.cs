using System.Collections.Concurrent;

namespace Diptych.Engine.Ingestion;

public sealed partial class Ingestor
{
    /// <summary>A file of this size is not left to the collector's own time.</summary>
    private const long LargeBytes = 16 << 20;

    /// <summary>What one run has found, told and put off so far.</summary>
    private sealed class Run(IngestOptions options, Action<IngestEvent, IngestTotals>? report, TimeProvider time)
    {
        private readonly ConcurrentDictionary<string, string> _firstByHash = new(StringComparer.Ordinal);
        private readonly HashSet<string> _settled = new(StringComparer.Ordinal);
        private List<Postponed> _postponed = [];
        private readonly ConcurrentDictionary<string, bool> _found = new(StringComparer.Ordinal), _roots = new(StringComparer.Ordinal);
        private readonly long _start = time.GetTimestamp();
        private readonly Lock _lock = new();
        private long _reserved;

        public IngestOptions Options => options;

        /// <returns>What to give back.</returns>
        public async Task<long> ReserveAsync(long bytes, CancellationToken cancellation)
        {
            long reserved = await options.Bytes.ReserveAsync(bytes, cancellation).ConfigureAwait(false);
            Interlocked.Add(ref _reserved, reserved);
            return reserved;
        }

        public void Return(long bytes)
        {
            Interlocked.Add(ref _reserved, -bytes);
            options.Bytes.Return(bytes);
            if (bytes >= LargeBytes)
            {
                // Large arrays are collected late by themselves: several files' bytes would lie there unused.
                GC.Collect(GC.MaxGeneration, GCCollectionMode.Forced, blocking: false);
            }
        }

        /// <summary>Gives back what was between two stages when the run ended: the budget may be others' too.</summary>
        public void ReturnAll() => options.Bytes.Return(Interlocked.Exchange(ref _reserved, 0));

        public IngestTotals Totals { get; private set; } = new();

        /// <returns>False for one that came before.</returns>
        public bool Found(IngestSource source)
        {
            if (source.Root is { } root)
            {
                _roots[root] = true;
            }
            if (!_found.TryAdd(source.Source, true))
            {
                return false;
            }
            lock (_lock)
            {
                Totals = Totals with { Found = Totals.Found + 1 };
            }
            return true;
        }

        public bool WasFound(string source) => _found.ContainsKey(source);

        /// <summary>The first source of this run with these bytes.</summary>
        public string FirstWith(string hash, string source) => _firstByHash.GetOrAdd(hash, source);

        public void Postpone(Postponed postponed)
        {
            lock (_lock)
            {
                _postponed.Add(postponed);
            }
        }

        /// <summary>What was postponed since the last call.</summary>
        public IReadOnlyList<Postponed> TakePostponed()
        {
            lock (_lock)
            {
                (List<Postponed> taken, _postponed) = (_postponed, []);
                return taken;
            }
        }

        /// <summary>It is read the next time it comes, whatever else has its bytes.</summary>
        public void Settle(string source)
        {
            lock (_lock)
            {
                _settled.Add(source);
            }
        }

        public bool IsSettled(string source)
        {
            lock (_lock)
            {
                return _settled.Contains(source);
            }
        }

        /// <summary>Whether this run found files in the folder that a file is in, or above it up to the root that was walked.</summary>
        public bool FoundBeside(string source)
        {
            for (string? folder = Path.GetDirectoryName(source); folder is not null; folder = Path.GetDirectoryName(folder))
            {
                if (_roots.ContainsKey(folder))
                {
                    return true;
                }
            }
            return false;
        }

        /// <summary>How many files this run found under a folder.</summary>
        public int FoundUnder(string prefix) => _found.Keys.Count(s => s.StartsWith(prefix, StringComparison.Ordinal));

        public void RefusePrune(string sentence)
        {
            lock (_lock)
            {
                Totals = Totals with { PruneRefused = [.. Totals.PruneRefused, sentence] };
            }
        }

        public void Say(IngestEvent e)
        {
            lock (_lock)
            {
                Totals = Totals.With(e) with { Seconds = time.GetElapsedTime(_start).TotalSeconds };
                report?.Invoke(e, Totals);
            }
        }
    }
}
