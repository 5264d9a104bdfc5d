using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Diptych.Index.Hnsw;
using Diptych.Index.Sqlite;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.VectorData;

namespace Diptych.Index.VectorData;

/// <summary>One record as it is kept: its data as JSON, its vectors, and where those are in the indexes.</summary>
internal sealed class StoredRecord(string key, string data, IReadOnlyDictionary<string, float[]> vectors)
{
    public string Key => key;

    public string Data => data;

    public IReadOnlyDictionary<string, float[]> Vectors => vectors;

    public Dictionary<string, int> Slots { get; } = new(StringComparer.Ordinal);

    /// <summary>Without vectors, made once, for filters to look at.</summary>
    public object? Materialized { get; set; }
}

/// <summary>A collection in memory, as the file has it: records by key, an index for each vector property.</summary>
internal sealed class RecordSet
{
    private readonly SqliteConnection _connection;
    private readonly Lock _writing;
    private readonly long _id;
    private readonly ReaderWriterLockSlim _lock = new();
    private readonly Dictionary<string, StoredRecord> _records = new(StringComparer.Ordinal);
    private readonly Dictionary<string, (HnswIndex Index, List<StoredRecord?> Rows)> _indexes = new(StringComparer.Ordinal);

    public RecordSet(SqliteConnection connection, Lock writing, long id, IReadOnlyDictionary<string, int> dimensions)
    {
        (_connection, _writing, _id) = (connection, writing, id);
        foreach (var (property, d) in dimensions)
        {
            _indexes[property] = (HnswIndex.Create(d), []);
        }
        var vectors = new Dictionary<long, Dictionary<string, float[]>>();
        foreach (SqliteDataReader row in connection.Rows("SELECT record_id, property, vector FROM record_vectors WHERE record_id IN (SELECT id FROM records WHERE collection_id = $c)", ("$c", id)))
        {
            ref var own = ref CollectionsMarshal.GetValueRefOrAddDefault(vectors, row.GetInt64(0), out _);
            own ??= new(StringComparer.Ordinal);
            own[row.GetString(1)] = MemoryMarshal.Cast<byte, float>(row.GetFieldValue<byte[]>(2)).ToArray();
        }
        foreach (SqliteDataReader row in connection.Rows("SELECT id, key, data FROM records WHERE collection_id = $c ORDER BY id", ("$c", id)))
        {
            Add(new StoredRecord(row.GetString(1), row.GetString(2), vectors.GetValueOrDefault(row.GetInt64(0)) ?? []));
        }
    }

    public StoredRecord? Get(string key)
    {
        _lock.EnterReadLock();
        try
        {
            return _records.GetValueOrDefault(key);
        }
        finally
        {
            _lock.ExitReadLock();
        }
    }

    public List<StoredRecord> All()
    {
        _lock.EnterReadLock();
        try
        {
            return [.. _records.Values];
        }
        finally
        {
            _lock.ExitReadLock();
        }
    }

    /// <summary>In one transaction; then searches see them.</summary>
    public void Upsert(IReadOnlyList<StoredRecord> records)
    {
        // Refused before anything is written.
        foreach (StoredRecord record in records)
        {
            foreach (var (property, vector) in record.Vectors)
            {
                int expected = _indexes[property].Index.Dimensions;
                if (vector.Length != expected || !(TensorPrimitives.SumOfSquares<float>(vector) is > 0 and < float.PositiveInfinity))
                {
                    throw new VectorStoreException($"The vector '{property}' of the record '{record.Key}' must have {expected} finite dimensions that are not all zero.");
                }
            }
        }
        lock (_writing)
        {
            using SqliteTransaction transaction = _connection.BeginTransaction(deferred: false);
            foreach (StoredRecord record in records)
            {
                RemoveRow(record.Key);
                long row = (long)_connection.Scalar("INSERT INTO records (collection_id, key, data) VALUES ($c, $k, $d) RETURNING id", ("$c", _id), ("$k", record.Key), ("$d", record.Data))!;
                foreach (var (property, vector) in record.Vectors)
                {
                    _connection.Execute("INSERT INTO record_vectors VALUES ($r, $p, $v)", ("$r", row), ("$p", property), ("$v", MemoryMarshal.AsBytes<float>(vector).ToArray()));
                }
            }
            transaction.Commit();
            Change(() =>
            {
                foreach (StoredRecord record in records)
                {
                    Drop(record.Key);
                    Add(record);
                }
            });
        }
    }

    public void Delete(IEnumerable<string> keys)
    {
        lock (_writing)
        {
            List<string> gone = [.. keys];
            using SqliteTransaction transaction = _connection.BeginTransaction(deferred: false);
            gone.ForEach(RemoveRow);
            transaction.Commit();
            Change(() => gone.ForEach(Drop));
        }
    }

    /// <param name="accept">Null accepts all.</param>
    /// <returns>The k nearest with their cosines, nearest first.</returns>
    public List<(StoredRecord Record, double Cosine)> Search(string property, ReadOnlySpan<float> query, int k, Func<StoredRecord, bool>? accept)
    {
        _lock.EnterReadLock();
        try
        {
            var (index, rows) = _indexes[property];
            if (query.Length != index.Dimensions)
            {
                throw new VectorStoreException($"The query has {query.Length} dimensions; '{property}' has {index.Dimensions}.");
            }
            ulong[] filter = accept is null ? [] : new ulong[(index.Slots + 63) / 64];
            for (int slot = 0; accept is not null && slot < rows.Count; slot++)
            {
                filter[slot >> 6] |= rows[slot] is { } record && accept(record) ? 1UL << slot : 0;
            }
            var found = new Neighbor[Math.Min(k, index.Count)];
            int n = index.Search(Unit(query), found, Math.Max(128, 2 * k), filter, out _);
            return [.. found.Take(n).Select(f => (rows[f.Slot]!, (double)f.Score))];
        }
        finally
        {
            _lock.ExitReadLock();
        }
    }

    private void Change(Action change)
    {
        _lock.EnterWriteLock();
        try
        {
            change();
            foreach (var (index, _) in _indexes.Values.Where(i => i.Index.Deleted > Math.Max(1024, i.Index.Count / 10)))
            {
                index.Repair(Environment.ProcessorCount);
            }
        }
        finally
        {
            _lock.ExitWriteLock();
        }
    }

    private void Add(StoredRecord record)
    {
        _records[record.Key] = record;
        foreach (var (property, vector) in record.Vectors)
        {
            var (index, rows) = _indexes[property];
            int slot = index.Add(Unit(vector));
            while (rows.Count <= slot)
            {
                rows.Add(null);
            }
            rows[slot] = record;
            record.Slots[property] = slot;
        }
    }

    private void Drop(string key)
    {
        if (_records.Remove(key, out StoredRecord? record))
        {
            foreach (var (property, slot) in record.Slots)
            {
                _indexes[property].Index.Delete(slot);
                _indexes[property].Rows[slot] = null;
            }
        }
    }

    private void RemoveRow(string key)
    {
        if (_connection.Scalar("SELECT id FROM records WHERE collection_id = $c AND key = $k", ("$c", _id), ("$k", key)) is long row)
        {
            _connection.Execute("DELETE FROM record_vectors WHERE record_id = $r", ("$r", row));
            _connection.Execute("DELETE FROM records WHERE id = $r", ("$r", row));
        }
    }

    private static float[] Unit(ReadOnlySpan<float> vector)
    {
        float[] unit = new float[vector.Length];
        TensorPrimitives.Divide(vector, Math.Max(TensorPrimitives.Norm(vector), float.Epsilon), unit);
        return unit;
    }
}
