using Diptych.Index.VectorData;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.VectorData;
using Xunit;

namespace Diptych.Tests.Index;

public sealed class VectorDataTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("diptych-vd-").FullName;

    private string File => Path.Combine(_directory, "records.db");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public async Task The_sample_of_the_guide_works_as_printed()
    {
        string guide = await System.IO.File.ReadAllTextAsync(Path.Combine(Shared.Repository, "docs", "library.md"), TestContext.Current.CancellationToken);
        string code = await System.IO.File.ReadAllTextAsync(Path.Combine(Shared.Repository, "tests", "Diptych.Tests", "Index", "VectorDataSample.cs"), TestContext.Current.CancellationToken);
        string[] printed = [.. guide.Split("```csharp")[1].Split("```")[0].Split('\n').Select(l => l.Trim()).Where(l => l.Length > 0 && !l.StartsWith("using ", StringComparison.Ordinal))];
        Assert.True(printed.Length <= 15, $"{printed.Length} lines");
        Assert.All(printed, line => Assert.Contains(line, code, StringComparison.Ordinal));
        Assert.Equal(["Blue whale 1.00", "Humpback 0.98"], await VectorDataSample.RunAsync(File));
    }

    [Fact]
    public async Task Records_are_stored_replaced_filtered_and_found_and_survive_reopening()
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        for (int round = 0; round < 2; round++)
        {
            using var store = new DiptychVectorStore(File);
            VectorStoreCollection<int, Photo> photos = store.GetCollection<int, Photo>("photos");
            if (round == 0)
            {
                Assert.False(await photos.CollectionExistsAsync(cancellation));
                await Assert.ThrowsAsync<VectorStoreException>(() => photos.GetAsync(1, cancellationToken: cancellation));
                await photos.EnsureCollectionExistsAsync(cancellation);
                await photos.UpsertAsync(Enumerable.Range(0, 200).Select(i => new Photo { Id = i, Title = "old", Year = 1, Pixels = Angle(i + 50) }), cancellation);
                await photos.UpsertAsync(Enumerable.Range(0, 200).Select(i => new Photo { Id = i, Title = $"photo {i}", Year = 2000 + (i % 10), Tags = ["a", $"t{i % 3}"], Pixels = Angle(i) }), cancellation);
                await photos.DeleteAsync(7, cancellation);
            }
            Assert.Equal(["photos"], await store.ListCollectionNamesAsync(cancellation).ToListAsync(cancellation));
            Photo? eight = await photos.GetAsync(8, new RecordRetrievalOptions { IncludeVectors = true }, cancellation);
            Assert.Equal(("photo 8", 2008, "t2"), (eight!.Title, eight.Year, eight.Tags[1]));
            Assert.Equal(Angle(8).ToArray(), eight.Pixels!.Value.ToArray());
            Assert.Null((await photos.GetAsync(8, cancellationToken: cancellation))!.Pixels);
            Assert.Null(await photos.GetAsync(7, cancellationToken: cancellation));

            var near = await photos.SearchAsync(Angle(7), 3, cancellationToken: cancellation).ToListAsync(cancellation);
            Assert.Equal([6, 8], near.Take(2).Select(r => r.Record.Id).Order());
            Assert.Equal(Math.Cos(0.01), near[0].Score!.Value, 1e-3);
            int year = 2005;
            var filtered = await photos.SearchAsync(Angle(7), 2, new() { Filter = p => p.Year == year && p.Tags.Contains("t0") }, cancellation).ToListAsync(cancellation);
            Assert.Equal([15, 45], filtered.Select(r => r.Record.Id));
            var paged = await photos.SearchAsync(Angle(7), 2, new() { Skip = 1, Filter = p => p.Year == year && p.Tags.Contains("t0") }, cancellation).ToListAsync(cancellation);
            Assert.Equal([45, 75], paged.Select(r => r.Record.Id));
            Assert.Empty(await photos.SearchAsync(Angle(100), 5, new() { ScoreThreshold = 0.999999, Filter = p => p.Id < 10 }, cancellation).ToListAsync(cancellation));
            var newest = await photos.GetAsync(p => p.Year == 2009, 2, new() { OrderBy = o => o.Descending(p => p.Id), Skip = 1 }, cancellation).ToListAsync(cancellation);
            Assert.Equal([189, 179], newest.Select(p => p.Id));
        }
    }

    [Fact]
    public async Task Texts_are_embedded_by_the_generator_and_dynamic_records_and_guid_keys_work()
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        using var generator = new Letters();
        using var store = new DiptychVectorStore(File, generator);
        VectorStoreCollection<Guid, Note> notes = store.GetCollection<Guid, Note>("notes");
        await notes.EnsureCollectionExistsAsync(cancellation);
        var note = new Note { Text = "aab" };
        await notes.UpsertAsync([note, new Note { Text = "ccc" }], cancellation);
        Assert.NotEqual(Guid.Empty, note.Id);
        VectorSearchResult<Note> found = (await notes.SearchAsync("aaab", 1, cancellationToken: cancellation).ToListAsync(cancellation)).Single();
        Assert.Equal(note.Id, found.Record.Id);

        VectorStoreCollection<object, Dictionary<string, object?>> dynamic = store.GetDynamicCollection("dynamic", new VectorStoreCollectionDefinition
        {
            Properties = [new VectorStoreKeyProperty("Id", typeof(string)), new VectorStoreDataProperty("Name", typeof(string)), new VectorStoreVectorProperty("V", typeof(ReadOnlyMemory<float>), 2)],
        });
        await dynamic.EnsureCollectionExistsAsync(cancellation);
        await dynamic.UpsertAsync(new Dictionary<string, object?> { ["Id"] = "x", ["Name"] = "ex", ["V"] = Angle(3) }, cancellation);
        Assert.Equal("ex", (await dynamic.GetAsync("x", cancellationToken: cancellation))!["Name"]);
        Assert.Equal("x", (await dynamic.SearchAsync(Angle(3), 1, cancellationToken: cancellation).ToListAsync(cancellation)).Single().Record["Id"]);
        await store.EnsureCollectionDeletedAsync("dynamic", cancellation);
        Assert.False(await store.CollectionExistsAsync("dynamic", cancellation));
        await Assert.ThrowsAsync<VectorStoreException>(() => dynamic.GetAsync("x", cancellationToken: cancellation));
    }

    [Fact]
    public async Task What_cannot_be_is_refused_before_anything_is_written()
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        using var store = new DiptychVectorStore(File);
        VectorStoreCollection<int, Photo> photos = store.GetCollection<int, Photo>("photos");
        await photos.EnsureCollectionExistsAsync(cancellation);
        foreach (float[] vector in new float[][] { [1, 2, 3], [0, 0], [float.NaN, 1], [float.PositiveInfinity, 1] })
        {
            await Assert.ThrowsAsync<VectorStoreException>(() => photos.UpsertAsync([new Photo { Id = 1, Pixels = Angle(1) }, new Photo { Id = 2, Pixels = vector }], cancellation));
        }
        Assert.Null(await photos.GetAsync(1, cancellationToken: cancellation));
        await Assert.ThrowsAsync<VectorStoreException>(async () => await photos.SearchAsync(new float[3], 1, cancellationToken: cancellation).ToListAsync(cancellation));
        await Assert.ThrowsAsync<NotSupportedException>(() => store.GetCollection<int, Euclidean>("e").EnsureCollectionExistsAsync(cancellation));
    }

    private static ReadOnlyMemory<float> Angle(double step) => new[] { (float)Math.Cos(step * 0.01), (float)Math.Sin(step * 0.01) };

    private sealed class Photo
    {
        [VectorStoreKey]
        public int Id { get; set; }

        [VectorStoreData]
        public string? Title { get; set; }

        [VectorStoreData]
        public int Year { get; set; }

        [VectorStoreData]
        public List<string> Tags { get; set; } = [];

        [VectorStoreVector(2)]
        public ReadOnlyMemory<float>? Pixels { get; set; }
    }

    private sealed class Note
    {
        [VectorStoreKey]
        public Guid Id { get; set; }

        [VectorStoreVector(3)]
        public string Text { get; set; } = "";
    }

    private sealed class Euclidean
    {
        [VectorStoreKey]
        public int Id { get; set; }

        [VectorStoreVector(2, DistanceFunction = DistanceFunction.EuclideanDistance)]
        public ReadOnlyMemory<float> V { get; set; }
    }

    /// <summary>Counts a, b and c.</summary>
    private sealed class Letters : IEmbeddingGenerator<string, Embedding<float>>
    {
        public Task<GeneratedEmbeddings<Embedding<float>>> GenerateAsync(IEnumerable<string> values, EmbeddingGenerationOptions? options = null, CancellationToken cancellationToken = default) =>
            Task.FromResult(new GeneratedEmbeddings<Embedding<float>>(values.Select(v => new Embedding<float>(new[] { 0.1f + v.Count(c => c == 'a'), v.Count(c => c == 'b'), v.Count(c => c == 'c') }))));

        public object? GetService(Type serviceType, object? serviceKey = null) => null;

        public void Dispose()
        {
        }
    }
}
