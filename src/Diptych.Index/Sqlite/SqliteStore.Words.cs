using System.Collections.Concurrent;
using Diptych.Core;
using Diptych.Index.Lexical;
using Microsoft.Data.Sqlite;

namespace Diptych.Index.Sqlite;

/// <summary>The words of each collection: an index beside the database that follows it, before a search looks and meanwhile.</summary>
public sealed partial class SqliteStore
{
    /// <summary>Passages held in memory before they go to the files; and at closing, how many are worth it.</summary>
    private const int CheckpointAt = 20_000, CheckpointAtClosing = 500;

    /// <summary>Commits of this long are followed together; a search that comes before follows by itself.</summary>
    private static readonly TimeSpan FollowEvery = TimeSpan.FromMilliseconds(250);

    private readonly ConcurrentDictionary<string, Words> _words = new(StringComparer.Ordinal);
    private readonly SemaphoreSlim _wordsDue = new(0);
    private readonly BackgroundLoop _wordsFollower;
    private Task _following = Task.CompletedTask;
    private long _newest;
    private string? _wordsFileError;

    /// <summary>Folder of the word indexes' files.</summary>
    private string WordsFolder => Path.ChangeExtension(_path, ".words");

    public IReadOnlyList<Candidate> SearchLexical(string collection, string text, int k, Filter? filter, Modality modality)
    {
        IReadOnlyList<FullTextQuery.Part> parts = FullTextQuery.Parts(text);
        if (parts.Count == 0 || WordsOf(collection) is not { } words)
        {
            return [];
        }
        Func<long, long, int?, bool>? passes = filter is null
            ? null
            : (id, document, page) => _documents.TryGetValue(document, out Document? found) && new PassageKey(id, found, modality, page).Passes(filter);
        var candidates = new List<Candidate>(Math.Min(k, 1000));
        foreach (WordHit hit in words.Search(parts, modality, k, passes))
        {
            // A document that left since the words were read is not in the snapshot: this search does not see it.
            if (_documents.TryGetValue(hit.Document, out Document? document))
            {
                candidates.Add(new Candidate(new PassageKey(hit.Passage, document, modality, hit.Page), hit.Score));
            }
        }
        return candidates;
    }

    public (IReadOnlyDictionary<string, int> Frequencies, int Passages) WordFrequencies(string collection, IReadOnlyList<string> words) =>
        WordsOf(collection) is { } index ? (index.Frequencies(words), index.Passages) : (new Dictionary<string, int>(StringComparer.Ordinal), 0);

    private WordIndex? WordsOf(string collection)
    {
        Words words = _words.GetOrAdd(collection, _ => new Words());
        if (Volatile.Read(ref words.Sequence) != Sequence)
        {
            lock (words.Gate)
            {
                Follow(collection, words);
            }
        }
        return words.Index;
    }

    /// <summary>Under <see cref="Words.Gate"/>: adds and removes what the log told since.</summary>
    private void Follow(string collection, Words words)
    {
        long sequence = Sequence;
        if (words.Index is not null && words.IsWhole && words.Added.IsEmpty && words.Removed.IsEmpty)
        {
            Volatile.Write(ref words.Sequence, sequence);
            return;
        }
        using SqliteConnection connection = ForReading();
        var (id, language) = connection.Rows("SELECT id, language FROM collections WHERE name = $n", ("$n", collection)).Select(r => (r.GetInt64(0), r.GetString(1))).FirstOrDefault();
        if (id == 0 || id != words.Collection)
        {
            words.Index?.Dispose();
            (words.Index, words.Collection, words.IsWhole) = (null, id, false);
        }
        if (id == 0)
        {
            // A collection that comes under the name later has words of its own.
            _words.TryRemove(KeyValuePair.Create(collection, words));
            Volatile.Write(ref words.Sequence, sequence);
            return;
        }
        words.Index ??= new WordIndex(Path.Combine(WordsFolder, $"{id}"), language, document => document > Volatile.Read(ref _newest) || _documents.ContainsKey(document));
        Read(connection, collection, words, words.Index);
        Volatile.Write(ref words.Sequence, sequence);
    }

    private void Read(SqliteConnection connection, string collection, Words words, WordIndex index)
    {
        while (words.Removed.TryDequeue(out long document))
        {
            index.Remove(document);
        }
        var added = new List<long>();
        while (words.Added.TryDequeue(out long document))
        {
            added.Add(document);
        }
        if (!words.IsWhole)
        {
            // Under the lock that documents come under: none is missed that is older than the last.
            Exclusive(() => added = [.. _documents.Where(d => d.Value.Collection == collection).Select(d => d.Key).Order()]);
            words.IsWhole = true;
        }
        added.RemoveAll(d => d <= index.Last);
        foreach (long[] documents in added.Chunk(500))
        {
            foreach (SqliteDataReader row in connection.Rows(
                $"SELECT id, document_id, modality, page, text, heading_path FROM passages WHERE document_id IN ({string.Join(',', documents)}) ORDER BY id"))
            {
                if (_documents.TryGetValue(row.GetInt64(1), out Document? document))
                {
                    index.Add(row.GetInt64(0), row.GetInt64(1), (Modality)row.GetInt32(2), row.IsDBNull(3) ? null : row.GetInt32(3), row.GetString(4), Context(document, row.GetString(5)));
                }
            }
        }
        index.Publish(added.Count == 0 ? index.Last : added[^1]);
    }

    /// <summary>Follows commits beside them, so that a search seldom has to, and keeps what it made in files.</summary>
    private async Task FollowWordsAsync(CancellationToken stopping)
    {
        string[] folders = Directory.Exists(WordsFolder) ? Directory.GetDirectories(WordsFolder) : [];
        using (SqliteConnection connection = ForReading())
        {
            var ids = new HashSet<string>(StringComparer.Ordinal);
            foreach (var (id, name) in connection.Rows("SELECT id, name FROM collections").Select(r => (r.GetInt64(0), r.GetString(1))).ToList())
            {
                ids.Add($"{id}");
                _words.GetOrAdd(name, _ => new Words());
            }
            foreach (string folder in folders.Where(f => !ids.Contains(Path.GetFileName(f))))
            {
                Directory.Delete(folder, recursive: true);
            }
        }
        while (!stopping.IsCancellationRequested)
        {
            foreach (string collection in _words.Keys)
            {
                if (stopping.IsCancellationRequested)
                {
                    return;
                }
                WordsOf(collection);
                SaveWords(collection, CheckpointAt);
            }
            await _wordsDue.WaitAsync(stopping).ConfigureAwait(false);
            // Commits come many a second, and to publish costs much the same for one document as for a hundred.
            await Task.Delay(FollowEvery, _time, stopping).ConfigureAwait(false);
            while (_wordsDue.Wait(0, CancellationToken.None))
            {
            }
        }
    }

    private void SaveWords(string collection, int least)
    {
        if (!_words.TryGetValue(collection, out Words? words) || words.Index is not { } index || index.Unsaved < least)
        {
            return;
        }
        try
        {
            index.Checkpoint(action =>
            {
                lock (words.Gate)
                {
                    long last = index.Last;
                    action();
                    if (index.Last != last)
                    {
                        // Another process's files end elsewhere: what follows is read again.
                        words.IsWhole = false;
                        Volatile.Write(ref words.Sequence, -1);
                    }
                }
            });
            _wordsFileError = null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // What is in memory serves all the same; the next start reads it from the database.
            if (_wordsFileError is null)
            {
                Log.FileFailed(_log, error, WordsFolder);
            }
            _wordsFileError = $"{WordsFolder} could not be written: {error.Message}";
        }
    }

    private void CloseWords()
    {
        foreach (var (collection, words) in _words)
        {
            SaveWords(collection, CheckpointAtClosing);
            words.Index?.Dispose();
        }
    }

    private void ForgetWords(string collection, long id)
    {
        if (_words.TryRemove(collection, out Words? words))
        {
            lock (words.Gate)
            {
                words.Index?.Dispose();
                words.Index = null;
            }
        }
        string folder = Path.Combine(WordsFolder, $"{id}");
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private sealed class Words
    {
        public readonly Lock Gate = new();
        public long Sequence = -1;

        public WordIndex? Index { get; set; }

        public long Collection { get; set; }

        /// <summary>Whether <see cref="Added"/> has all that came after the index's last document.</summary>
        public bool IsWhole { get; set; }

        public ConcurrentQueue<long> Added { get; } = new();

        public ConcurrentQueue<long> Removed { get; } = new();
    }
}
