using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Diptych.Core;
using Diptych.Index.Vectors;
using Microsoft.Data.Sqlite;
using SQLitePCL;

namespace Diptych.Index.Sqlite;

/// <summary>What searches read: made at open, then caught up from the log after every commit, this process's or another's.</summary>
public sealed partial class SqliteStore
{
    private readonly SqliteConnection _watcher;
    private readonly Lock _refreshing = new();
    private readonly ConcurrentDictionary<string, Spaces> _spaces = new(StringComparer.Ordinal);

    /// <summary>By version, which the indexes go by.</summary>
    private readonly ConcurrentDictionary<long, Document> _documents = new();

    private long _seq;
    private long _dataVersion = -1;

    /// <summary>The log entry that searches see; grows with every commit.</summary>
    public long Sequence => Volatile.Read(ref _seq);

    /// <summary>Makes what other processes committed visible here. Cheap when nothing changed.</summary>
    public void Refresh()
    {
        lock (_refreshing)
        {
            long version = (long)_watcher.Scalar("PRAGMA data_version")!;
            if (version == _dataVersion)
            {
                return;
            }
            CatchUp();
            _dataVersion = version;
        }
    }

    /// <summary>The nearest in the text space.</summary>
    public IReadOnlyList<Candidate> SearchText(string collection, ReadOnlyMemory<float> query, int k, Filter? filter, Modality modality) =>
        Search(collection, s => modality == Modality.Text ? s.Text : s.ImageText, query, k, filter);

    /// <summary>The nearest in the cross space, among passages of one modality.</summary>
    public IReadOnlyList<Candidate> SearchCross(string collection, ReadOnlyMemory<float> query, int k, Filter? filter, Modality modality) =>
        Search(collection, s => modality == Modality.Text ? s.CrossText : s.CrossImage, query, k, filter);

    /// <summary>Image passages of the collection.</summary>
    public int ImageCount(string collection) => _spaces.TryGetValue(collection, out Spaces? spaces) ? spaces.CrossImage.Count : 0;

    private IReadOnlyList<Candidate> Search(string collection, Func<Spaces, VectorSpace> space, ReadOnlyMemory<float> query, int k, Filter? filter) =>
        _spaces.TryGetValue(collection, out Spaces? spaces) ? space(spaces).Search(query, k, filter) : [];

    private void Load()
    {
        lock (_refreshing)
        {
            using SqliteTransaction read = _watcher.BeginTransaction(deferred: true);
            _seq = (long)_watcher.Scalar("SELECT coalesce(max(seq), 0) FROM log")!;
            foreach (SqliteDataReader row in _watcher.Rows(DocumentQueries.Select))
            {
                Document document = DocumentQueries.Read(row);
                _documents[DocumentQueries.Version(row)] = document;
                _newest = Math.Max(_newest, DocumentQueries.Version(row));
            }
            if (AdoptGraphs() is { } keys)
            {
                AddMissing(keys);
            }
            else
            {
                AddVectors("");
            }
            read.Commit();
            _dataVersion = (long)_watcher.Scalar("PRAGMA data_version")!;
        }
        _moving = _mover.RunAsync(_closing.Token);
        _following = _wordsFollower.RunAsync(_closing.Token);
        SignalMover();
    }

    private void CatchUp()
    {
        using SqliteTransaction read = _watcher.BeginTransaction(deferred: true);
        long seq = (long)_watcher.Scalar("SELECT coalesce(max(seq), 0) FROM log")!;
        var changes = _watcher.Rows("SELECT document_id, added FROM log WHERE seq > $s ORDER BY seq", ("$s", _seq))
            .Select(r => (Id: r.GetInt64(0), Added: r.GetInt64(1) == 1)).ToList();
        var removed = changes.Where(c => !c.Added).Select(c => c.Id).ToHashSet();
        var left = new HashSet<string>(StringComparer.Ordinal);
        foreach (long id in removed)
        {
            if (_documents.TryRemove(id, out Document? document))
            {
                SpacesOf(document.Collection).Remove(document.Id);
                left.Add(document.Collection);
                _words.GetOrAdd(document.Collection, _ => new Words()).Removed.Enqueue(id);
            }
        }
        foreach (long[] ids in changes.Where(c => c.Added && !removed.Contains(c.Id)).Select(c => c.Id).Chunk(500))
        {
            string list = string.Join(',', ids);
            foreach (SqliteDataReader row in _watcher.Rows($"{DocumentQueries.Select} WHERE d.id IN ({list}) ORDER BY d.id"))
            {
                Document document = DocumentQueries.Read(row);
                _documents[DocumentQueries.Version(row)] = document;
                _words.GetOrAdd(document.Collection, _ => new Words()).Added.Enqueue(DocumentQueries.Version(row));
            }
            AddVectors($"WHERE document_id IN ({list})", ids);
        }
        left.RemoveWhere(c => _watcher.Scalar("SELECT 1 FROM collections WHERE name = $n", ("$n", c)) is not null);
        read.Commit();
        foreach (string deleted in left)
        {
            _spaces.TryRemove(deleted, out _);
        }
        Volatile.Write(ref _newest, Math.Max(_newest, changes.Select(c => c.Id).DefaultIfEmpty(0).Max()));
        foreach (Spaces spaces in _spaces.Values)
        {
            spaces.Publish();
        }
        Volatile.Write(ref _seq, seq);
        _wordsDue.Release();
        SignalMover();
    }

    private void AddVectors(string where, long[]? documents = null)
    {
        // By passage where single documents are asked for: that index exists, and vectors need none of their own.
        string sql = documents is null
            ? "SELECT passage_id, document_id, modality, page, text, \"cross\" FROM vectors ORDER BY passage_id"
            : $"SELECT v.passage_id, v.document_id, v.modality, v.page, v.text, v.\"cross\" FROM passages p JOIN vectors v ON v.passage_id = p.id {where.Replace("document_id", "p.document_id", StringComparison.Ordinal)} ORDER BY 1";
        using SqliteCommand command = _watcher.Command(sql);
        using SqliteDataReader reader = command.ExecuteReader();
        sqlite3_stmt statement = reader.Handle!;
        while (reader.Read())
        {
            Document document = _documents[reader.GetInt64(1)];
            Spaces spaces = SpacesOf(document.Collection);
            var key = new PassageKey(reader.GetInt64(0), document, (Modality)reader.GetInt32(2), reader.IsDBNull(3) ? null : reader.GetInt32(3));
            spaces.Add(key, Floats(raw.sqlite3_column_blob(statement, 4)), Floats(raw.sqlite3_column_blob(statement, 5)));
        }
        foreach (Spaces spaces in _spaces.Values)
        {
            spaces.Publish();
        }
    }

    private static ReadOnlySpan<float> Floats(ReadOnlySpan<byte> bytes) => MemoryMarshal.Cast<byte, float>(bytes);

    private Spaces SpacesOf(string collection) => _spaces.GetOrAdd(collection, _ => new Spaces(TextSpace.Dimensions, CrossSpace.Dimensions));

    /// <summary>
    /// The vectors of one collection. Text passages and images stand apart, so that each modality has a top-k of its own and a search
    /// touches no row that it cannot return.
    /// </summary>
    private sealed class Spaces(int textDimensions, int crossDimensions)
    {
        private readonly Dictionary<long, List<long>> _passages = [];

        public VectorSpace Text { get; } = new(textDimensions, Modality.Text);

        /// <summary>Text vectors of images: of their captions and the words around them.</summary>
        public VectorSpace ImageText { get; } = new(textDimensions, Modality.Image);

        public VectorSpace CrossText { get; } = new(crossDimensions, Modality.Text);

        public VectorSpace CrossImage { get; } = new(crossDimensions, Modality.Image);

        /// <summary>With the name that each has on disk.</summary>
        public (string Name, VectorSpace Space)[] All => [("text", Text), ("image-text", ImageText), ("cross-text", CrossText), ("cross-image", CrossImage)];

        public void Add(PassageKey key, ReadOnlySpan<float> text, ReadOnlySpan<float> cross)
        {
            bool image = key.Modality == Modality.Image;
            AddUnlessThere(image ? ImageText : Text, key, text);
            AddUnlessThere(image ? CrossImage : CrossText, key, cross);
            Belongs(key);
        }

        /// <summary>The passage's vectors are in a graph already.</summary>
        public void Belongs(PassageKey key)
        {
            List<long> passages = CollectionsMarshal.GetValueRefOrAddDefault(_passages, key.Document.Id, out _) ??= [];
            passages.Add(key.Id);
        }

        public void Remove(long documentId)
        {
            if (_passages.Remove(documentId, out var passages))
            {
                foreach (var (_, space) in All)
                {
                    passages.ForEach(space.Remove);
                }
            }
        }

        public void Publish()
        {
            foreach (var (_, space) in All)
            {
                space.Publish();
            }
        }

        private static void AddUnlessThere(VectorSpace space, PassageKey key, ReadOnlySpan<float> vector)
        {
            if (!vector.IsEmpty && !space.Contains(key.Id))
            {
                space.Add(key, vector);
            }
        }
    }
}
