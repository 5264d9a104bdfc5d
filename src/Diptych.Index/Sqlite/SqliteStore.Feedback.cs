using System.Globalization;
using Diptych.Core;
using Microsoft.Data.Sqlite;

namespace Diptych.Index.Sqlite;

/// <summary>Feedback, and what was learnt from it.</summary>
public sealed partial class SqliteStore
{
    private const string SelectTuning =
        "SELECT c.name, t.version, t.created_at, t.adapter, t.before, t.after, t.active FROM tunings t JOIN collections c ON c.id = t.collection_id WHERE c.name = $n";

    public void AddFeedback(string collection, IReadOnlyList<Feedback> feedback) => Writing(collection, id =>
    {
        foreach (Feedback f in feedback)
        {
            _writer.Execute(
                "INSERT INTO feedback (collection_id, at, query, source, ordinal, positive) VALUES ($c, $at, $q, $s, $o, $p)",
                ("$c", id), ("$at", Iso(f.At)), ("$q", f.Query), ("$s", f.Source), ("$o", f.Ordinal), ("$p", f.Positive ? 1 : 0));
        }
        return true;
    });

    public IReadOnlyList<Feedback> Feedback(string collection)
    {
        using SqliteConnection connection = ForReading();
        return [.. connection.Rows(
            "SELECT f.at, f.query, f.source, f.ordinal, f.positive FROM feedback f JOIN collections c ON c.id = f.collection_id WHERE c.name = $n ORDER BY f.id", ("$n", collection))
            .Select(r => new Feedback(Time(r.GetString(0)), r.GetString(1), r.GetString(2), r.GetInt32(3), r.GetInt32(4) == 1))];
    }

    public Tuning SaveTuning(string collection, byte[] adapter, double before, double after, bool active) => Writing(collection, id =>
    {
        int version = Convert.ToInt32(_writer.Scalar("SELECT coalesce(max(version), 0) + 1 FROM tunings WHERE collection_id = $c", ("$c", id)), CultureInfo.InvariantCulture);
        var tuning = new Tuning(collection, version, _time.GetUtcNow(), adapter, before, after, active);
        if (active)
        {
            _writer.Execute("UPDATE tunings SET active = 0 WHERE collection_id = $c", ("$c", id));
        }
        _writer.Execute(
            "INSERT INTO tunings VALUES ($c, $v, $at, $a, $b, $f, $on)",
            ("$c", id), ("$v", version), ("$at", Iso(tuning.CreatedAt)), ("$a", adapter), ("$b", before), ("$f", after), ("$on", active ? 1 : 0));
        return tuning;
    });

    public IReadOnlyList<Tuning> Tunings(string collection)
    {
        using SqliteConnection connection = ForReading();
        return [.. connection.Rows($"{SelectTuning} ORDER BY t.version DESC", ("$n", collection)).Select(ReadTuning)];
    }

    public Tuning? ActiveTuning(string collection)
    {
        using SqliteConnection connection = ForReading();
        return connection.Rows($"{SelectTuning} AND t.active = 1", ("$n", collection)).Select(ReadTuning).FirstOrDefault();
    }

    public void ActivateTuning(string collection, int version) => Writing(collection, id =>
    {
        _writer.Execute("UPDATE tunings SET active = (version = $v) WHERE collection_id = $c", ("$c", id), ("$v", version));
        return version == 0 || _writer.Scalar("SELECT 1 FROM tunings WHERE collection_id = $c AND version = $v", ("$c", id), ("$v", version)) is not null
            ? version
            : throw new NotFoundException($"'{collection}' has no tuning {version}.");
    });

    private T Writing<T>(string collection, Func<long, T> work) => Storing(() =>
    {
        T result;
        lock (_writing)
        {
            using SqliteTransaction transaction = _writer.BeginTransaction(deferred: false);
            long id = CollectionId(collection, create: false);
            result = work(id > 0 ? id : throw new NotFoundException($"There is no collection '{collection}'."));
            // No document has this number: it only tells everybody that something changed.
            _writer.Execute("INSERT INTO log (document_id, added) VALUES (0, 0)");
            transaction.Commit();
        }
        Refresh();
        return result;
    });

    private static Tuning ReadTuning(SqliteDataReader r) =>
        new(r.GetString(0), r.GetInt32(1), Time(r.GetString(2)), r.GetFieldValue<byte[]>(3), r.GetDouble(4), r.GetDouble(5), r.GetInt32(6) == 1);
}
