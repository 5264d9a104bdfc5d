using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Diptych.Core;
using Diptych.Index.Exact;
using Microsoft.Data.Sqlite;
using SQLitePCL;

namespace Diptych.Index.Sqlite;

/// <summary>The vectors in memory: loaded at open, then caught up from the log after every commit, this process's or another's.</summary>
public sealed partial class SqliteStore
{
    private readonly SqliteConnection _watcher;
    private readonly Lock _refreshing = new();
    private readonly ConcurrentDictionary<string, Spaces> _spaces = new(StringComparer.Ordinal);
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

    /// <summary>Exact search in the text space.</summary>
    public IReadOnlyList<Candidate> SearchText(string collection, ReadOnlyMemory<float> query, int k, Filter? filter, Modality modality) =>
        Search(collection, s => modality == Modality.Text ? s.Text : s.ImageText, query, k, filter);

    /// <summary>Exact search in the cross space, among passages of one modality.</summary>
    public IReadOnlyList<Candidate> SearchCross(string collection, ReadOnlyMemory<float> query, int k, Filter? filter, Modality modality) =>
        Search(collection, s => modality == Modality.Text ? s.CrossText : s.CrossImage, query, k, filter);

    /// <summary>Image passages of the collection.</summary>
    public int ImageCount(string collection) => _spaces.TryGetValue(collection, out Spaces? spaces) ? spaces.CrossImage.Snapshot.Live : 0;

    private IReadOnlyList<Candidate> Search(string collection, Func<Spaces, VectorTable> table, ReadOnlyMemory<float> query, int k, Filter? filter)
    {
        if (!_spaces.TryGetValue(collection, out Spaces? spaces))
        {
            return [];
        }
        Func<PassageKey, bool>? accept = filter is null ? null : key => key.Passes(filter);
        return table(spaces).Snapshot.Search(query, k, accept, Environment.ProcessorCount);
    }

    private void Load()
    {
        lock (_refreshing)
        {
            using SqliteTransaction read = _watcher.BeginTransaction(deferred: true);
            _seq = (long)_watcher.Scalar("SELECT coalesce(max(seq), 0) FROM log")!;
            foreach (SqliteDataReader row in _watcher.Rows(DocumentQueries.Select))
            {
                Document document = DocumentQueries.Read(row);
                _documents[document.Id] = document;
            }
            AddVectors("");
            read.Commit();
            _dataVersion = (long)_watcher.Scalar("PRAGMA data_version")!;
        }
    }

    private void CatchUp()
    {
        using SqliteTransaction read = _watcher.BeginTransaction(deferred: true);
        long seq = (long)_watcher.Scalar("SELECT coalesce(max(seq), 0) FROM log")!;
        var changes = _watcher.Rows("SELECT document_id, added FROM log WHERE seq > $s ORDER BY seq", ("$s", _seq))
            .Select(r => (Id: r.GetInt64(0), Added: r.GetInt64(1) == 1)).ToList();
        var removed = changes.Where(c => !c.Added).Select(c => c.Id).ToHashSet();
        foreach (long id in removed)
        {
            if (_documents.TryRemove(id, out Document? document))
            {
                _spaces[document.Collection].Remove(id);
            }
        }
        foreach (long[] ids in changes.Where(c => c.Added && !removed.Contains(c.Id)).Select(c => c.Id).Chunk(500))
        {
            string list = string.Join(',', ids);
            foreach (SqliteDataReader row in _watcher.Rows($"{DocumentQueries.Select} WHERE d.id IN ({list})"))
            {
                Document document = DocumentQueries.Read(row);
                _documents[document.Id] = document;
            }
            AddVectors($"WHERE document_id IN ({list})", ids);
        }
        read.Commit();
        foreach (Spaces spaces in _spaces.Values)
        {
            spaces.Publish();
        }
        Volatile.Write(ref _seq, seq);
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
            Spaces spaces = _spaces.GetOrAdd(document.Collection, _ => new Spaces(TextSpace.Dimensions, CrossSpace.Dimensions));
            var key = new PassageKey(reader.GetInt64(0), document, (Modality)reader.GetInt32(2), reader.IsDBNull(3) ? null : reader.GetInt32(3));
            spaces.Add(key, Floats(raw.sqlite3_column_blob(statement, 4)), Floats(raw.sqlite3_column_blob(statement, 5)));
        }
        foreach (Spaces spaces in _spaces.Values)
        {
            spaces.Publish();
        }
    }

    private static ReadOnlySpan<float> Floats(ReadOnlySpan<byte> bytes) => MemoryMarshal.Cast<byte, float>(bytes);

    /// <summary>
    /// The tables of one collection. Text passages and images stand apart, so that each modality has a top-k of its own and a scan
    /// touches no row that it cannot return.
    /// </summary>
    private sealed class Spaces(int textDimensions, int crossDimensions)
    {
        private readonly Dictionary<long, List<(VectorTable Table, int Row)>> _rows = [];

        public VectorTable Text { get; } = new(textDimensions);

        /// <summary>Text vectors of images: of their captions and the words around them.</summary>
        public VectorTable ImageText { get; } = new(textDimensions);

        public VectorTable CrossText { get; } = new(crossDimensions);

        public VectorTable CrossImage { get; } = new(crossDimensions);

        private VectorTable[] All => [Text, ImageText, CrossText, CrossImage];

        public void Add(PassageKey key, ReadOnlySpan<float> text, ReadOnlySpan<float> cross)
        {
            bool image = key.Modality == Modality.Image;
            if (!text.IsEmpty)
            {
                Add(image ? ImageText : Text, key, text);
            }
            Add(image ? CrossImage : CrossText, key, cross);
        }

        public void Remove(long documentId)
        {
            if (_rows.Remove(documentId, out var rows))
            {
                foreach (var (table, row) in rows)
                {
                    table.Delete(row);
                }
            }
        }

        public void Publish()
        {
            foreach (VectorTable table in All)
            {
                if (table.NeedsCompaction)
                {
                    foreach (var rows in _rows.Values)
                    {
                        rows.RemoveAll(r => r.Table == table);
                    }
                    table.Compact((key, row) => Rows(key).Add((table, row)));
                }
                table.Publish();
            }
        }

        private void Add(VectorTable table, PassageKey key, ReadOnlySpan<float> vector) => Rows(key).Add((table, table.Add(key, vector)));

        private List<(VectorTable Table, int Row)> Rows(PassageKey key) =>
            CollectionsMarshal.GetValueRefOrAddDefault(_rows, key.Document.Id, out _) ??= [];
    }
}
