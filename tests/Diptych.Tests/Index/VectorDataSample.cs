using System.Globalization;
using Diptych.Index.VectorData;
using Microsoft.Extensions.VectorData;

namespace Diptych.Tests.Index;

/// <summary>The code of docs/library.md, as it is printed there.</summary>
internal static class VectorDataSample
{
    public static async Task<List<string>> RunAsync(string file)
    {
        var output = new List<string>();
        void Print(string line) => output.Add(line);
        using var store = new DiptychVectorStore(file);
        var whales = store.GetCollection<string, Whale>("whales");
        await whales.EnsureCollectionExistsAsync();
        await whales.UpsertAsync([new("Blue whale", 30, new[] { 1f, 0f }), new("Humpback", 16, new[] { 0.9f, 0.2f }), new("Orca", 8, new[] { 0f, 1f })]);
        await foreach (var hit in whales.SearchAsync(new[] { 1f, 0f }, top: 2, new() { Filter = w => w.Metres > 10 }))
        {
            Print(string.Create(CultureInfo.InvariantCulture, $"{hit.Record.Name} {hit.Score:0.00}"));
        }
        return output;
    }
}

internal sealed class Whale(string name, int metres, ReadOnlyMemory<float> vector)
{
    public Whale() : this("", 0, default) { }
    [VectorStoreKey] public string Name { get; set; } = name;
    [VectorStoreData] public int Metres { get; set; } = metres;
    [VectorStoreVector(2)] public ReadOnlyMemory<float> Vector { get; set; } = vector;
}
