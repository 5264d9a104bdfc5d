using Microsoft.Data.Sqlite;

namespace Diptych.Index.Sqlite;

/// <summary>Making anew what is derived.</summary>
public sealed partial class SqliteStore
{
    public void Repair()
    {
        lock (_writing)
        {
            using SqliteTransaction transaction = _writer.BeginTransaction(deferred: false);
            foreach (string table in new[] { "passages", "contents", "vectors" })
            {
                _writer.Execute($"DELETE FROM {table} WHERE document_id NOT IN (SELECT id FROM documents)");
            }
            _writer.Execute("DELETE FROM pictures WHERE passage_id NOT IN (SELECT id FROM passages)");
            transaction.Commit();
            _writer.Execute("REINDEX");
        }
        Refresh();
        foreach (var (id, collection) in _writer.Rows("SELECT id, name FROM collections").Select(r => (r.GetInt64(0), r.GetString(1))).ToList())
        {
            ForgetWords(collection, id);
        }
        Exclusive(() =>
        {
            if (Directory.Exists(GraphFolder))
            {
                Directory.Delete(GraphFolder, recursive: true);
            }
            _spaces.Clear();
            AddVectors("");
        });
        SignalMover();
    }
}
