using System.Globalization;
using Diptych.Core;
using Lucene.Net.Documents;
using Lucene.Net.Index;
using Lucene.Net.Search;
using Lucene.Net.Store;
using Directory = System.IO.Directory;
using Query = Lucene.Net.Search.Query;

namespace Diptych.Index.Lexical;

/// <summary>A passage as words are found in it.</summary>
internal readonly record struct WordHit(long Passage, long Document, int? Page, double Score);

/// <summary>
/// The words of one collection (Lucene.NET; BM25, k1 1.2, b 0.75). It is derived from the store, as the vector graphs are: a checkpoint in
/// files, which says up to which document it goes, and in memory what came since. Documents have rising ids and are never changed, so that
/// number says all; a document that left is found by asking which are alive. Adding, removing and publishing take the owner's lock;
/// searching takes none. Several processes may use the files: whichever gets the lock writes the next checkpoint.
/// </summary>
internal sealed partial class WordIndex : IDisposable
{
    /// <summary>Changes when what is indexed changes; an older checkpoint is made anew.</summary>
    private const string Format = "1";

    private const string DocumentField = "d", PassageField = "p", PageField = "page";

    private readonly string _folder;
    private readonly string _language;
    private readonly WordAnalyzer _analyzer;
    private readonly Func<long, bool> _alive;
    private readonly HashSet<long> _dead = [];
    private LiveReader? _disk;
    private Tail? _tail, _frozen;
    private MultiReader _reader = new([], closeSubReaders: true);

    /// <param name="folder">Of the checkpoint; made when there is one.</param>
    /// <param name="alive">Whether a document is still there.</param>
    public WordIndex(string folder, string language, Func<long, bool> alive)
    {
        (_folder, _language, _alive) = (folder, language, alive);
        _analyzer = new WordAnalyzer(language);
        Adopt(first: true);
        Publish(Adopted);
    }

    /// <summary>The last document that is in it.</summary>
    public long Last { get; private set; }

    /// <summary>Passages and removals that no checkpoint has.</summary>
    public int Unsaved => (_tail?.Count ?? 0) + (_frozen?.Count ?? 0) + _dead.Count;

    public int Passages => Reading(reader => reader.Leaves.Sum(l => l.AtomicReader.NumDocs));

    private static string Field(Modality modality) => modality == Modality.Text ? "text" : "image";

    public void Add(long passage, long document, Modality modality, int? page, string text, string context)
    {
        _tail ??= new Tail(Config());
        _tail.Count++;
        _tail.Writer.AddDocument(
        [
            new StringField(DocumentField, Id(document), Lucene.Net.Documents.Field.Store.NO),
            new NumericDocValuesField(DocumentField, document),
            new NumericDocValuesField(PassageField, passage),
            new NumericDocValuesField(PageField, page ?? -1),
            new TextField(Field(modality), text, Lucene.Net.Documents.Field.Store.NO),
            new TextField(Field(modality), context, Lucene.Net.Documents.Field.Store.NO),
        ]);
    }

    public void Remove(long document)
    {
        var term = new Term(DocumentField, Id(document));
        _tail?.Writer.DeleteDocuments(term);
        bool there = _disk?.Drop(term) == true;
        if (_frozen?.Drop(term) == true || there)
        {
            _dead.Add(document);
        }
    }

    /// <summary>Lets searches see what was added and removed.</summary>
    /// <param name="last">The last document that is in it now.</param>
    public void Publish(long last)
    {
        Last = last;
        DirectoryReader? tail = _tail is null ? null : DirectoryReader.Open(_tail.Writer, applyAllDeletes: true);
        IndexReader[] parts = [.. new IndexReader?[] { _disk, _frozen?.Frozen, tail }.OfType<IndexReader>()];
        MultiReader before = Interlocked.Exchange(ref _reader, new MultiReader(parts, closeSubReaders: false));
        tail?.DecRef();
        before.DecRef();
    }

    /// <summary>
    /// Writes what no checkpoint has into the files. One thread at a time; searches, additions and removals go on meanwhile.
    /// </summary>
    /// <param name="exclusively">Runs an action under the owner's lock.</param>
    /// <returns>False when another process is writing them: ask again later.</returns>
    /// <exception cref="IOException">The files cannot be written; what is in memory serves on.</exception>
    public bool Checkpoint(Action<Action> exclusively)
    {
        long last = 0, adopted = Adopted;
        long[] dead = [];
        exclusively(() =>
        {
            (last, dead) = (Last, [.. _dead]);
            if (_frozen is null && _tail is not null)
            {
                (_frozen, _tail) = (_tail, null);
                _frozen.Freeze();
                Publish(Last);
            }
        });
        bool ours;
        Directory.CreateDirectory(_folder);
        try
        {
            using var files = FSDirectory.Open(_folder);
            using var writer = new IndexWriter(files, Config());
            ours = !DirectoryReader.IndexExists(files) || Read(files).Last == adopted;
            if (ours)
            {
                if (_frozen is not null)
                {
                    writer.AddIndexes(_frozen.Files);
                }
                writer.DeleteDocuments([.. dead.Select(d => new Term(DocumentField, Id(d)))]);
                writer.SetCommitData(new Dictionary<string, string>(StringComparer.Ordinal) { ["format"] = Format, ["language"] = _language, ["last"] = Id(last) });
                writer.Commit();
            }
        }
        catch (LockObtainFailedException)
        {
            return false;
        }
        exclusively(() =>
        {
            // What another process wrote may end before or after what is held here: then all of it is read anew from where that ends.
            Tail? gone = _frozen;
            _frozen = null;
            if (!ours)
            {
                _tail?.Dispose();
                _tail = null;
            }
            Adopt();
            if (ours)
            {
                Publish(Last);
            }
            else
            {
                Last = Adopted;
            }
            gone?.Dispose();
        });
        return true;
    }

    /// <summary>The best passages of a modality that have any part of the query.</summary>
    /// <param name="passes">Passage, document, page: whether it may be found; null for all.</param>
    public IReadOnlyList<WordHit> Search(IReadOnlyList<FullTextQuery.Part> parts, Modality modality, int k, Func<long, long, int?, bool>? passes) => Reading(reader =>
    {
        Query query = Expression(reader, parts, Field(modality));
        if (passes is not null)
        {
            query = new FilteredQuery(query, new PassageFilter(passes), FilteredQuery.QUERY_FIRST_FILTER_STRATEGY);
        }
        ScoreDoc[] found = Searcher(reader).Search(query, Math.Clamp(k, 1, Math.Max(1, reader.MaxDoc))).ScoreDocs;
        var hits = new List<WordHit>(found.Length);
        foreach (ScoreDoc doc in found)
        {
            AtomicReaderContext leaf = reader.Leaves[ReaderUtil.SubIndex(doc.Doc, reader.Leaves)];
            hits.Add(Columns.Of(leaf.AtomicReader).Hit(doc.Doc - leaf.DocBase, doc.Score));
        }
        return (IReadOnlyList<WordHit>)hits;
    });

    /// <summary>In how many passages each word occurs.</summary>
    public IReadOnlyDictionary<string, int> Frequencies(IReadOnlyList<string> words) => Reading(reader =>
    {
        var frequencies = new Dictionary<string, int>(StringComparer.Ordinal);
        foreach (string word in words)
        {
            IReadOnlyList<string> terms = _analyzer.Terms(word);
            if (terms.Count == 1 && !reader.Leaves.Any(l => l.AtomicReader.HasDeletions))
            {
                frequencies[word] = reader.DocFreq(new Term("text", terms[0])) + reader.DocFreq(new Term("image", terms[0]));
                continue;
            }
            var count = new TotalHitCountCollector();
            if (terms.Count > 0)
            {
                Searcher(reader).Search(new BooleanQuery { { Phrase("text", terms), Occur.SHOULD }, { Phrase("image", terms), Occur.SHOULD } }, count);
            }
            frequencies[word] = count.TotalHits;
        }
        return frequencies;
    });

    /// <summary>What is wrong with the files; null when they are sound.</summary>
    public string? Check() => Reading(_ =>
    {
        try
        {
            _disk?.CheckIntegrity();
            return null;
        }
        catch (Exception error) when (error is IOException or Lucene.Net.Index.CorruptIndexException)
        {
            return $"{_folder}: {error.Message}";
        }
    });

    public void Dispose()
    {
        Interlocked.Exchange(ref _reader, new MultiReader([], closeSubReaders: true)).DecRef();
        _disk?.DecRef();
        _frozen?.Dispose();
        _tail?.Dispose();
        _analyzer.Dispose();
    }

    /// <summary>Up to which document the adopted files go.</summary>
    private long Adopted { get; set; }

    /// <summary>Takes up the files there are, leaving out what is no longer alive; none where they are missing, damaged or of another make.</summary>
    private void Adopt(bool first = false)
    {
        LiveReader? before = _disk;
        (_disk, Adopted) = (null, 0);
        _dead.Clear();
        try
        {
            if (Directory.Exists(_folder))
            {
                using FSDirectory files = FSDirectory.Open(_folder);
                if (DirectoryReader.IndexExists(files))
                {
                    var (format, language, last) = Read(files);
                    if (format == Format && language == _language)
                    {
                        var disk = new LiveReader(DirectoryReader.Open(files));
                        if (first)
                        {
                            disk.CheckIntegrity();
                        }
                        (_disk, Adopted) = (disk, last);
                        _dead.UnionWith(_disk.Drop(_alive));
                    }
                }
            }
        }
        catch (Exception error) when (error is IOException or ArgumentException)
        {
            (_disk, Adopted) = (null, 0);
        }
        if (_disk is null && first && Directory.Exists(_folder))
        {
            Directory.Delete(_folder, recursive: true);
        }
        before?.DecRef();
    }

    private static (string Format, string Language, long Last) Read(FSDirectory files)
    {
        var segments = new SegmentInfos();
        segments.Read(files);
        IDictionary<string, string> data = segments.UserData;
        return data.TryGetValue("format", out string? format) && data.TryGetValue("language", out string? language) && data.TryGetValue("last", out string? last)
            ? (format, language, long.Parse(last, CultureInfo.InvariantCulture))
            : ("", "", 0);
    }

    private IndexWriterConfig Config() => new(WordAnalyzer.Version, _analyzer)
    {
        MergeScheduler = new SerialMergeScheduler(),
        Similarity = Bm25.Instance,
        RAMBufferSizeMB = 32,
    };

    private static IndexSearcher Searcher(IndexReader reader) => new(reader) { Similarity = Bm25.Instance };

    private T Reading<T>(Func<IndexReader, T> read)
    {
        while (true)
        {
            MultiReader reader = Volatile.Read(ref _reader);
            if (!reader.TryIncRef())
            {
                continue;
            }
            try
            {
                return read(reader);
            }
            finally
            {
                reader.DecRef();
            }
        }
    }

    private static string Id(long id) => id.ToString(CultureInfo.InvariantCulture);

    /// <summary>What came since the checkpoint, in memory.</summary>
    private sealed class Tail(IndexWriterConfig config) : IDisposable
    {
        public RAMDirectory Files { get; } = new();

        private IndexWriter? _writer;

        public IndexWriter Writer => _writer ??= new IndexWriter(Files, config);

        public int Count { get; set; }

        /// <summary>Null while it grows.</summary>
        public LiveReader? Frozen { get; private set; }

        public void Freeze()
        {
            Writer.Commit();
            Writer.Dispose();
            Frozen = new LiveReader(DirectoryReader.Open(Files));
        }

        public bool Drop(Term document) => Frozen?.Drop(document) == true;

        public void Dispose()
        {
            Frozen?.DecRef();
            if (Frozen is null)
            {
                _writer?.Dispose();
            }
            Files.Dispose();
        }
    }
}
