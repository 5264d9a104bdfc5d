using Diptych.Core;
using Diptych.Index.Hnsw;
using Diptych.Index.Vectors;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.Logging;

namespace Diptych.Index.Sqlite;

/// <summary>
/// The graphs: made beside searches and commits by one mover, and kept in files so that the next start need not make them. A file is
/// only a copy: it says which passages it holds, and at open these are compared with the database. A missing, old or damaged one costs
/// the time to make it anew, in which exact search answers.
/// </summary>
public sealed partial class SqliteStore
{
    private readonly SemaphoreSlim _moveDue = new(0);
    private readonly CancellationTokenSource _closing = new();
    private readonly BackgroundLoop _mover;
    private Task _moving = Task.CompletedTask;
    private int _moves;

    /// <summary>Folder of the graphs' files.</summary>
    private string GraphFolder => Path.ChangeExtension(_path, ".graphs");

    /// <summary>Why the last graph could not be kept in its file; null when it could.</summary>
    private string? _graphFileError;

    /// <summary>Waits until no rows are due to move into a graph.</summary>
    internal async Task SettleAsync(TimeProvider time, CancellationToken cancellation)
    {
        using var tick = new PeriodicTimer(TimeSpan.FromMilliseconds(20), time);
        while (Volatile.Read(ref _moves) > 0)
        {
            await tick.WaitForNextTickAsync(cancellation).ConfigureAwait(false);
            if (_mover.Failure is { } failure)
            {
                throw new InvalidOperationException("Making the vector graphs failed.", failure);
            }
        }
    }

    /// <summary>How many passages of a collection stand in graphs, per space.</summary>
    internal IReadOnlyDictionary<string, int> GraphCounts(string collection) => _spaces.TryGetValue(collection, out Spaces? spaces)
        ? spaces.All.ToDictionary(s => s.Name, s => s.Space.Graph?.Count ?? 0, StringComparer.Ordinal)
        : new Dictionary<string, int>(StringComparer.Ordinal);

    /// <summary>How many slots a collection's graphs have, per space: more than passages where there are holes.</summary>
    internal IReadOnlyDictionary<string, int> GraphSlots(string collection) =>
        _spaces[collection].All.ToDictionary(s => s.Name, s => s.Space.Graph?.Slots ?? 0, StringComparer.Ordinal);

    private void SignalMover()
    {
        if (_spaces.Values.Any(s => s.All.Any(a => a.Space.NeedsMove)))
        {
            Interlocked.Increment(ref _moves);
            _moveDue.Release();
        }
    }

    private async Task MoveAsync(CancellationToken stopping)
    {
        int cores = Math.Max(1, Environment.ProcessorCount / 2);
        while (true)
        {
            await _moveDue.WaitAsync(stopping).ConfigureAwait(false);
            try
            {
                foreach (var (collection, spaces) in _spaces)
                {
                    foreach (var (name, space) in spaces.All.Where(a => a.Space.NeedsMove))
                    {
                        long began = _time.GetTimestamp();
                        space.Move(cores, Exclusive, stopping);
                        Save(collection, name, space);
                        Log.Moved(_log, name, space.Graph?.Count ?? 0, _time.GetElapsedTime(began).TotalSeconds);
                    }
                }
            }
            catch
            {
                // It stays due.
                _moveDue.Release();
                throw;
            }
            Interlocked.Decrement(ref _moves);
        }
    }

    private void Exclusive(Action action)
    {
        lock (_refreshing)
        {
            action();
        }
    }

    private void Save(string collection, string name, VectorSpace space)
    {
        byte[] attachment = [];
        long sequence = 0;
        Exclusive(() => (attachment, sequence) = (space.Graph is null ? [] : space.Attachment(), _seq));
        using SqliteConnection connection = ForReading();
        if (connection.Scalar("SELECT id FROM collections WHERE name = $n", ("$n", collection)) is not long id)
        {
            return;
        }
        string file = GraphFile(id, name);
        try
        {
            if (space.Graph is { } graph)
            {
                Directory.CreateDirectory(GraphFolder);
                graph.Save(file, sequence, attachment);
            }
            else
            {
                File.Delete(file);
            }
            _graphFileError = null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // The graph in memory serves all the same; the next start makes it anew.
            if (_graphFileError is null)
            {
                Log.FileFailed(_log, error, file);
            }
            _graphFileError = $"{file} could not be written: {error.Message}";
        }
    }

    private string GraphFile(long collection, string space) => Path.Combine(GraphFolder, $"{collection}-{space}.hnsw");

    /// <returns>The passages there are, or null when there is no graph.</returns>
    private Dictionary<long, PassageKey>? AdoptGraphs()
    {
        if (!Directory.Exists(GraphFolder))
        {
            return null;
        }
        var files = new List<(VectorSpace Space, HnswIndex Graph, byte[] Attachment)>();
        foreach (var (id, collection) in _watcher.Rows("SELECT id, name FROM collections").Select(r => (r.GetInt64(0), r.GetString(1))).ToList())
        {
            foreach (var (name, space) in SpacesOf(collection).All)
            {
                string file = GraphFile(id, name);
                if (File.Exists(file) && TryOpen(file, name.Contains("cross", StringComparison.Ordinal) ? CrossSpace : TextSpace) is { } opened)
                {
                    files.Add((space, opened.Graph, opened.Attachment));
                }
            }
        }
        if (files.Count == 0)
        {
            return null;
        }
        var keys = new Dictionary<long, PassageKey>(files.Max(f => f.Graph.Count));
        foreach (SqliteDataReader row in _watcher.Rows("SELECT id, document_id, modality, page FROM passages INDEXED BY passage_keys"))
        {
            Document document = _documents[row.GetInt64(1)];
            var key = new PassageKey(row.GetInt64(0), document, (Modality)row.GetInt32(2), row.IsDBNull(3) ? null : row.GetInt32(3));
            keys[key.Id] = key;
        }
        // Each is its own; the keys are only read.
        Parallel.ForEach(files, f => f.Space.Adopt(f.Graph, f.Attachment, id => keys.GetValueOrDefault(id)));
        return keys;
    }

    /// <summary>Reads the vectors of every document that has a passage outside the graphs.</summary>
    private void AddMissing(Dictionary<long, PassageKey> keys)
    {
        var wordless = _watcher.Rows("SELECT id FROM passages WHERE modality = 1 AND text = ''").Select(r => r.GetInt64(0)).ToHashSet();
        var missing = new HashSet<long>();
        foreach (PassageKey key in keys.Values)
        {
            Spaces spaces = SpacesOf(key.Document.Collection);
            bool there = key.Modality == Modality.Text
                ? spaces.Text.Contains(key.Id) && spaces.CrossText.Contains(key.Id)
                : spaces.CrossImage.Contains(key.Id) && (wordless.Contains(key.Id) || spaces.ImageText.Contains(key.Id));
            if (!there)
            {
                missing.Add(key.Document.Id);
            }
        }
        foreach (PassageKey key in keys.Values.Where(k => !missing.Contains(k.Document.Id)))
        {
            SpacesOf(key.Document.Collection).Belongs(key);
        }
        // Read by version, known by identity.
        foreach (long[] documents in _documents.Where(d => missing.Contains(d.Value.Id)).Select(d => d.Key).Chunk(500))
        {
            AddVectors($"WHERE document_id IN ({string.Join(',', documents)})", documents);
        }
    }

    private static (HnswIndex Graph, byte[] Attachment)? TryOpen(string file, EmbeddingSpace space)
    {
        try
        {
            var (graph, _, attachment) = HnswIndex.Open(file);
            return graph.Dimensions == space.Dimensions ? (graph, attachment) : null;
        }
        catch (InvalidDataException)
        {
            // It is made anew from the database.
            return null;
        }
    }

    private static partial class Log
    {
        [LoggerMessage(2, LogLevel.Information, "The {Space} graph was brought up to date: {Rows} vectors, {Seconds:0.00} s")]
        public static partial void Moved(ILogger log, string space, int rows, double seconds);

        [LoggerMessage(3, LogLevel.Warning, "{File} could not be written; what is in memory serves, and the next start makes it anew")]
        public static partial void FileFailed(ILogger log, Exception error, string file);
    }
}
