using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Sqlite;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Diptych.Runtimes.Structured;
using Xunit;

namespace Diptych.Tests.House;

/// <summary>What is held after much use. Runs with nothing beside it: what others allocate would count.</summary>
[Collection(nameof(Alone))]
public sealed class MemoryTests
{
    [Fact]
    public void A_million_names_cost_neither_memory_nor_time_and_who_has_work_keeps_its_account()
    {
        var shares = new TenantShares();
        int busy = shares.IndexOf("busy"), served = shares.IndexOf("served");
        shares.Enter(busy, Lane.Interactive, 2);
        shares.Charge(busy, Lane.Interactive, 5);
        long before = GC.GetTotalMemory(forceFullCollection: true);
        for (int i = 0; i < 1_000_000; i++)
        {
            int once = shares.IndexOf($"tenant {i}");
            shares.Enter(once, Lane.Bulk, 1);
            Assert.Equal(1, shares.Ahead(once, Lane.Bulk, 1));
            shares.Leave(once, Lane.Bulk, 1);
            shares.Charge(once, Lane.Bulk, 1);
            shares.Charge(served, Lane.Bulk, 1);
        }
        Assert.True(GC.GetTotalMemory(forceFullCollection: true) - before < 16 << 20);
        Assert.True(shares.Count < 5_000);
        Assert.Equal((busy, 5d, 2d), (shares.IndexOf("busy"), shares.Served(busy, Lane.Interactive), shares.Waiting(busy, Lane.Interactive)));
        Assert.Equal((served, 1_000_000d), (shares.IndexOf("served"), shares.Served(served, Lane.Bulk)));
        int anew = shares.IndexOf("tenant 0");
        Assert.Equal(0, shares.Served(anew, Lane.Bulk));
    }

    [Fact]
    public void States_that_double_are_forgotten_before_they_fill_the_memory()
    {
        byte[][] bytes = [.. Enumerable.Range(0, 256).Select(b => new[] { (byte)b })];
        long before = GC.GetTotalMemory(forceFullCollection: true);
        TextConstraint constraint = TextConstraint.OfRegex("[ab]*a[ab]{1500}", new TokenTrie(bytes));
        TextConstraint.Position position = constraint.Begin();
        var random = new Random(3);
        float[] logits = new float[bytes.Length];
        for (int i = 0; i < 8_000; i++)
        {
            Array.Clear(logits);
            position.Mask(logits, new HashSet<int>(), 20_000);
            Assert.Equal(0, logits['a']);
            Assert.Equal(0, logits['b']);
            Assert.Equal(float.NegativeInfinity, logits['c']);
            position.Advance([random.Next(2) == 0 ? (byte)'a' : (byte)'b']);
        }
        long held = GC.GetTotalMemory(forceFullCollection: true) - before;
        GC.KeepAlive(position);
        Assert.True(held < 128 << 20, $"{held >> 20} MiB are held");
    }

    [Fact]
    public void Small_collections_take_little_and_deleted_ones_nothing()
    {
        const int count = 200;
        string folder = Directory.CreateTempSubdirectory("diptych-small-").FullName;
        try
        {
            using var store = SqliteStore.Open(Path.Combine(folder, "diptych.db"), new EmbeddingSpace("text", 384, "t", "1"), new EmbeddingSpace("cross", 256, "c", "1"), TimeProvider.System);
            store.Commit([Small(0)]);
            Look(store, 0);
            long before = GC.GetTotalMemory(forceFullCollection: true);
            store.Commit([.. Enumerable.Range(1, count).Select(Small)]);
            for (int i = 1; i <= count; i++)
            {
                Look(store, i);
            }
            long each = (GC.GetTotalMemory(forceFullCollection: true) - before) / count;
            for (int i = 1; i <= count; i++)
            {
                Assert.True(store.DeleteCollection($"c{i}"));
                Assert.Empty(store.SearchLexical($"c{i}", $"word{i}", 5, null, Modality.Text));
            }
            long left = (GC.GetTotalMemory(forceFullCollection: true) - before) / count;
            Assert.True(each < 100_000 && left < 10_000, $"{each} bytes each, {left} when they are deleted");
            Look(store, 0);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static void Look(SqliteStore store, int i)
    {
        Assert.Single(store.SearchLexical($"c{i}", $"word{i}", 5, null, Modality.Text));
        Assert.Equal($"note {i}", store.SearchText($"c{i}", Unit(384, i), 1, null, Modality.Text).Single().Key.Document.Source);
    }

    private static IngestedDocument Small(int i) => new(
        new Document { Collection = $"c{i}", Source = $"note {i}", ContentHash = $"{i}", MediaType = "text/plain", Title = "t" },
        $"word{i}",
        null,
        [new IngestedPassage(new Passage { Modality = Modality.Text, Text = $"word{i}" }, Unit(384, i), Unit(256, i))]);

    private static float[] Unit(int dimensions, int at)
    {
        float[] vector = new float[dimensions];
        vector[at % dimensions] = 1;
        return vector;
    }
}

[CollectionDefinition(nameof(Alone), DisableParallelization = true)]
public sealed class Alone;
