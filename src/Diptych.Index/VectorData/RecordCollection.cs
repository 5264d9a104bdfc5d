using System.Globalization;
using System.Linq.Expressions;
using System.Runtime.CompilerServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.VectorData;
using Microsoft.Extensions.VectorData.ProviderServices;

namespace Diptych.Index.VectorData;

/// <summary>A collection of records of one type.</summary>
internal sealed class RecordCollection<TKey, TRecord>(DiptychVectorStore store, string name, CollectionModel model) : VectorStoreCollection<TKey, TRecord>
    where TKey : notnull
    where TRecord : class
{
    public override string Name => name;

    private RecordSet Records => store.Open(name, model.VectorProperties.ToDictionary(p => p.StorageName, p => p.Dimensions, StringComparer.Ordinal));

    public override Task<bool> CollectionExistsAsync(CancellationToken cancellationToken = default) => store.CollectionExistsAsync(name, cancellationToken);

    public override Task EnsureCollectionExistsAsync(CancellationToken cancellationToken = default)
    {
        foreach (VectorPropertyModel property in model.VectorProperties)
        {
            RecordModel.Score(property, 0);
        }
        store.Ensure(name);
        return Task.CompletedTask;
    }

    public override Task EnsureCollectionDeletedAsync(CancellationToken cancellationToken = default) => store.EnsureCollectionDeletedAsync(name, cancellationToken);

    public override Task<TRecord?> GetAsync(TKey key, RecordRetrievalOptions? options = null, CancellationToken cancellationToken = default) =>
        Task.FromResult(Records.Get(Text(key)) is { } stored ? Record(stored, options?.IncludeVectors ?? false) : null);

    public override async IAsyncEnumerable<TRecord> GetAsync(
        Expression<Func<TRecord, bool>> filter, int top, FilteredRecordRetrievalOptions<TRecord>? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(top, 1);
        await Task.CompletedTask.ConfigureAwait(false);
        Func<StoredRecord, bool> accepts = Accepts(filter)!;
        IEnumerable<StoredRecord> found = Records.All().Where(accepts);
        IOrderedEnumerable<StoredRecord>? ordered = null;
        foreach (var sort in options?.OrderBy?.Invoke(new()).Values ?? [])
        {
            Func<TRecord, object?> by = sort.PropertySelector.Compile();
            object? Key(StoredRecord r) => by(Plain(r));
            ordered = (ordered, sort.Ascending) switch
            {
                (null, true) => found.OrderBy(Key),
                (null, false) => found.OrderByDescending(Key),
                (_, true) => ordered.ThenBy(Key),
                _ => ordered.ThenByDescending(Key),
            };
        }
        foreach (StoredRecord record in (ordered ?? found).Skip(options?.Skip ?? 0).Take(top))
        {
            cancellationToken.ThrowIfCancellationRequested();
            yield return Record(record, options?.IncludeVectors ?? false);
        }
    }

    public override Task DeleteAsync(TKey key, CancellationToken cancellationToken = default)
    {
        Records.Delete([Text(key)]);
        return Task.CompletedTask;
    }

    public override Task DeleteAsync(IEnumerable<TKey> keys, CancellationToken cancellationToken = default)
    {
        Records.Delete(keys.Select(k => Text(k)));
        return Task.CompletedTask;
    }

    public override Task UpsertAsync(TRecord record, CancellationToken cancellationToken = default) => UpsertAsync([record], cancellationToken);

    public override async Task UpsertAsync(IEnumerable<TRecord> records, CancellationToken cancellationToken = default)
    {
        TRecord[] all = [.. records];
        var vectors = all.Select(_ => new Dictionary<string, float[]>(StringComparer.Ordinal)).ToArray();
        foreach (VectorPropertyModel property in model.VectorProperties)
        {
            object?[] values = [.. all.Select(property.GetValueAsObject)];
            int[] inputs = [.. Enumerable.Range(0, all.Length).Where(i => values[i] is not null && RecordModel.Vector(values[i]) is null)];
            IReadOnlyList<Embedding> made = inputs.Length == 0 ? [] : await property.GenerateEmbeddingsAsync(inputs.Select(i => values[i]!), cancellationToken).ConfigureAwait(false);
            for (int i = 0; i < inputs.Length; i++)
            {
                values[inputs[i]] = made[i];
            }
            for (int i = 0; i < all.Length; i++)
            {
                if (RecordModel.Vector(values[i]) is { } vector)
                {
                    vectors[i][property.StorageName] = vector.ToArray();
                }
            }
        }
        Records.Upsert([.. all.Select((r, i) => new StoredRecord(KeyOf(r), Data(r), vectors[i]))]);
    }

    public override async IAsyncEnumerable<VectorSearchResult<TRecord>> SearchAsync<TInput>(
        TInput searchValue, int top, VectorSearchOptions<TRecord>? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(top, 1);
        options ??= new VectorSearchOptions<TRecord>();
        VectorPropertyModel property = model.GetVectorPropertyOrSingle(options);
        ReadOnlyMemory<float> query = RecordModel.Vector(searchValue)
            ?? RecordModel.Vector(await property.GenerateEmbeddingAsync(searchValue, cancellationToken).ConfigureAwait(false))
            ?? throw new NotSupportedException($"Searches take ReadOnlyMemory<float>, float[] or Embedding<float>, not {typeof(TInput).Name}; other inputs need an embedding generator.");
        bool distance = property.DistanceFunction == DistanceFunction.CosineDistance;
        foreach (var (stored, cosine) in Records.Search(property.StorageName, query.Span, top + options.Skip, Accepts(options.Filter)).Skip(options.Skip))
        {
            cancellationToken.ThrowIfCancellationRequested();
            double score = RecordModel.Score(property, cosine);
            if (options.ScoreThreshold is not { } threshold || (distance ? score <= threshold : score >= threshold))
            {
                yield return new VectorSearchResult<TRecord>(Record(stored, options.IncludeVectors), score);
            }
        }
    }

    public override object? GetService(Type serviceType, object? serviceKey = null) =>
        serviceKey is not null ? null
        : serviceType == typeof(VectorStoreCollectionMetadata) ? new VectorStoreCollectionMetadata { VectorStoreSystemName = "diptych", CollectionName = name }
        : serviceType.IsInstanceOfType(this) ? this : null;

    private Func<StoredRecord, bool>? Accepts(Expression<Func<TRecord, bool>>? filter)
    {
        if (filter is null)
        {
            return null;
        }
        Func<TRecord, bool> compiled = filter.Compile();
        return record => compiled(Plain(record));
    }

    private TRecord Plain(StoredRecord stored)
    {
        stored.Materialized ??= Record(stored, vectors: false);
        if (stored.Materialized is not TRecord record)
        {
            // Another record type was used on the same collection before.
            stored.Materialized = record = Record(stored, vectors: false);
        }
        return record;
    }

    private string KeyOf(TRecord record)
    {
        object? key = model.KeyProperty.GetValueAsObject(record);
        if (model.KeyProperty.IsAutoGenerated && (key is null || key.Equals(Guid.Empty)))
        {
            key = Guid.CreateVersion7();
            model.KeyProperty.SetValueAsObject(record, key);
        }
        return Text(key ?? throw new VectorStoreException($"A record of '{name}' has no key."));
    }

    private static string Text(object key) => Convert.ToString(key, CultureInfo.InvariantCulture)!;

    private string Data(TRecord record)
    {
        var data = new JsonObject();
        foreach (DataPropertyModel property in model.DataProperties)
        {
            data[property.StorageName] = JsonSerializer.SerializeToNode(property.GetValueAsObject(record), property.Type);
        }
        return data.ToJsonString();
    }

    private TRecord Record(StoredRecord stored, bool vectors)
    {
        TRecord record = model.CreateRecord<TRecord>()!;
        Type key = model.KeyProperty.Type;
        model.KeyProperty.SetValueAsObject(record, key == typeof(Guid) ? Guid.Parse(stored.Key) : Convert.ChangeType(stored.Key, key, CultureInfo.InvariantCulture));
        JsonObject data = JsonNode.Parse(stored.Data)!.AsObject();
        foreach (DataPropertyModel property in model.DataProperties)
        {
            property.SetValueAsObject(record, data[property.StorageName].Deserialize(property.Type));
        }
        foreach (VectorPropertyModel property in vectors ? model.VectorProperties : [])
        {
            if (stored.Vectors.TryGetValue(property.StorageName, out float[]? vector))
            {
                Type type = Nullable.GetUnderlyingType(property.Type) ?? property.Type;
                property.SetValueAsObject(record, type == typeof(float[]) ? vector.ToArray() : type == typeof(Embedding<float>) ? new Embedding<float>(vector.ToArray()) : new ReadOnlyMemory<float>(vector.ToArray()));
            }
        }
        return record;
    }
}
