using Diptych.Core;

namespace Diptych.Index;

/// <summary>
/// The durable truth: documents with their passages, vectors and words, in collections, and search over them. A document's commit is
/// atomic, and a search that begins after it sees it. Safe to use from many threads. One conformance suite holds every implementation.
/// </summary>
public interface IDocumentStore : IDisposable
{
    EmbeddingSpace TextSpace { get; }

    EmbeddingSpace CrossSpace { get; }

    /// <summary>Grows with every change that searches see, whoever made it.</summary>
    long Sequence { get; }

    /// <summary>Makes what others committed visible here. Cheap when nothing changed.</summary>
    void Refresh();

    /// <summary>Makes the collection if it is not there.</summary>
    /// <param name="language">What its words are stemmed in; null takes what it has, or English.</param>
    /// <exception cref="InvalidRequestException">The name cannot be a collection's, the language is not known, or the collection has another.</exception>
    void EnsureCollection(string name, string? language = null);

    bool CollectionExists(string name);

    IReadOnlyList<Collection> Collections();

    /// <summary>Deletes the collection with all its documents.</summary>
    /// <returns>False when there is no such collection.</returns>
    bool DeleteCollection(string name);

    /// <summary>
    /// Stores the documents in one transaction: each replaces the version with the same collection and source, whose passages leave and
    /// whose id it keeps.
    /// </summary>
    /// <returns>The documents with their ids.</returns>
    /// <exception cref="InvalidRequestException">A vector has the wrong dimensions or is not of unit length; nothing is stored.</exception>
    IReadOnlyList<Document> Commit(IReadOnlyList<IngestedDocument> documents);

    /// <summary>Gives sources the content of documents that are there, all in one transaction.</summary>
    /// <returns>
    /// By placement the document; null where the document whose content it takes is gone or has other content by now, or cannot move since
    /// the source is taken.
    /// </returns>
    IReadOnlyList<Document?> Place(string collection, IReadOnlyList<Placement> placements);

    /// <returns>False when there is no such document.</returns>
    bool Delete(long documentId);

    /// <param name="prefix">Only sources that begin with it.</param>
    IReadOnlyList<Document> Documents(string? collection, string? prefix = null, int limit = int.MaxValue, int offset = 0);

    Document? Document(long id);

    Document? Document(string collection, string source);

    /// <summary>The documents of the collection with these bytes, the oldest first.</summary>
    IReadOnlyList<Document> DocumentsByHash(string collection, string contentHash);

    string DocumentText(long id);

    /// <summary>The original bytes, where the store keeps them (uploads, URLs, standard input); else null.</summary>
    byte[]? DocumentOriginal(long id);

    /// <summary>JPEG bytes, or null for a passage that is no image.</summary>
    byte[]? Thumbnail(long passageId);

    /// <summary>The encoded image of a passage inside a document; null when the document itself is the image.</summary>
    byte[]? Image(long passageId);

    IReadOnlyList<Passage> Passages(long documentId);

    /// <returns>By id; ids that do not exist are absent.</returns>
    IReadOnlyDictionary<long, Passage> PassagesById(IEnumerable<long> ids);

    /// <returns>By passage id: text vector (null for an image without words) and cross vector.</returns>
    IReadOnlyDictionary<long, (float[]? Text, float[] Cross)> Vectors(IEnumerable<long> passageIds);

    /// <summary>Image passages of the collection.</summary>
    int ImageCount(string collection);

    /// <summary>The nearest in the text space among passages of one modality, best first.</summary>
    IReadOnlyList<Candidate> SearchText(string collection, ReadOnlyMemory<float> query, int k, Filter? filter, Modality modality);

    /// <summary>The nearest in the cross space among passages of one modality, best first.</summary>
    IReadOnlyList<Candidate> SearchCross(string collection, ReadOnlyMemory<float> query, int k, Filter? filter, Modality modality);

    /// <summary>BM25 (k1 1.2, b 0.75) over stemmed words; any word of the query may match, quoted words as a phrase.</summary>
    IReadOnlyList<Candidate> SearchLexical(string collection, string text, int k, Filter? filter, Modality modality);

    /// <summary>In how many passages of the collection each word occurs, and how many passages there are.</summary>
    (IReadOnlyDictionary<string, int> Frequencies, int Passages) WordFrequencies(string collection, IReadOnlyList<string> words);

    /// <summary>Keeps what was said of hits.</summary>
    /// <exception cref="NotFoundException">There is no such collection.</exception>
    void AddFeedback(string collection, IReadOnlyList<Feedback> feedback);

    /// <summary>What was said of the collection's hits, in its order.</summary>
    IReadOnlyList<Feedback> Feedback(string collection);

    /// <summary>Keeps what was learnt as the next version.</summary>
    /// <param name="active">Whether searches are to use it from now on, in place of another.</param>
    /// <exception cref="NotFoundException">There is no such collection.</exception>
    Tuning SaveTuning(string collection, byte[] adapter, double before, double after, bool active);

    /// <summary>What was learnt, the latest first.</summary>
    IReadOnlyList<Tuning> Tunings(string collection);

    Tuning? ActiveTuning(string collection);

    /// <summary>Lets searches use a version, or none (0).</summary>
    /// <exception cref="NotFoundException">There is no such collection, or version.</exception>
    void ActivateTuning(string collection, int version);

    /// <summary>Makes everything anew that is derived from the documents: word index, vector graphs.</summary>
    void Repair();

    /// <summary>Asks the database something that costs nothing, as a request would.</summary>
    /// <exception cref="StoreUnavailableException">It does not answer.</exception>
    /// <exception cref="StoreDamagedException">It is damaged.</exception>
    void Ask();

    /// <summary>What goes on beside requests.</summary>
    IReadOnlyList<BackgroundLoop> Loops { get; }

    /// <summary>What is wrong with what is stored; empty when it is sound.</summary>
    IReadOnlyList<string> CheckIntegrity();
}
