using Diptych.Core;
using Npgsql;

namespace Diptych.Index.Postgres;

/// <summary>Feedback, and what was learnt from it.</summary>
public sealed partial class PostgresStore
{
    private const string SelectTuning =
        "SELECT c.name, t.version, t.created_at, t.adapter, t.before, t.after, t.active FROM tunings t JOIN collections c ON c.id = t.collection_id WHERE c.name = $1";

    public void AddFeedback(string collection, IReadOnlyList<Feedback> feedback) => Writing(collection, (connection, id) =>
    {
        foreach (Feedback f in feedback)
        {
            connection.Execute(
                "INSERT INTO feedback (collection_id, at, query, source, ordinal, positive) VALUES ($1, $2, $3, $4, $5, $6)",
                id, f.At.ToUniversalTime(), Clean(f.Query), Clean(f.Source), f.Ordinal, f.Positive);
        }
        return true;
    });

    public IReadOnlyList<Feedback> Feedback(string collection) => Read(c => c.Rows(
        r => new Feedback(r.GetFieldValue<DateTimeOffset>(0), r.GetString(1), r.GetString(2), r.GetInt32(3), r.GetBoolean(4)),
        "SELECT f.at, f.query, f.source, f.ordinal, f.positive FROM feedback f JOIN collections c ON c.id = f.collection_id WHERE c.name = $1 ORDER BY f.id", collection));

    public Tuning SaveTuning(string collection, byte[] adapter, double before, double after, bool active) => Writing(collection, (connection, id) =>
    {
        int version = (int)connection.Scalar("SELECT coalesce(max(version), 0) + 1 FROM tunings WHERE collection_id = $1", id)!;
        var tuning = new Tuning(collection, version, _time.GetUtcNow(), adapter, before, after, active);
        if (active)
        {
            connection.Execute("UPDATE tunings SET active = false WHERE collection_id = $1", id);
        }
        connection.Execute("INSERT INTO tunings VALUES ($1, $2, $3, $4, $5, $6, $7)", id, version, tuning.CreatedAt, adapter, before, after, active);
        return tuning;
    });

    public IReadOnlyList<Tuning> Tunings(string collection) => Read(c => c.Rows(ReadTuning, $"{SelectTuning} ORDER BY t.version DESC", collection));

    public Tuning? ActiveTuning(string collection) => Read(c => c.Rows(ReadTuning, $"{SelectTuning} AND t.active", collection)).FirstOrDefault();

    public void ActivateTuning(string collection, int version) => Writing(collection, (connection, id) =>
    {
        connection.Execute("UPDATE tunings SET active = (version = $2) WHERE collection_id = $1", id, version);
        return version == 0 || connection.Scalar("SELECT 1 FROM tunings WHERE collection_id = $1 AND version = $2", id, version) is not null
            ? version
            : throw new NotFoundException($"'{collection}' has no tuning {version}.");
    });

    private T Writing<T>(string collection, Func<NpgsqlConnection, long, T> work) => Write(connection =>
    {
        // One at a time by collection, so that versions are given once.
        T result = connection.Scalar("SELECT id FROM collections WHERE name = $1 FOR UPDATE", collection) is long id
            ? work(connection, id)
            : throw new NotFoundException($"There is no collection '{collection}'.");
        // No document has this number: it only tells everybody that something changed.
        connection.Execute("INSERT INTO log (document_id, added) VALUES (0, false)");
        return result;
    });

    private static Tuning ReadTuning(NpgsqlDataReader r) =>
        new(r.GetString(0), r.GetInt32(1), r.GetFieldValue<DateTimeOffset>(2), r.GetFieldValue<byte[]>(3), r.GetDouble(4), r.GetDouble(5), r.GetBoolean(6));
}
