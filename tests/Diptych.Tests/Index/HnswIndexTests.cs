using System.Numerics.Tensors;
using Diptych.Index.Hnsw;
using Xunit;

namespace Diptych.Tests.Index;

public sealed class HnswIndexTests
{
    private const int Dimensions = 48;

    [Fact]
    public unsafe void Every_kernel_computes_what_the_scalar_one_does()
    {
        var random = new Random(3);
        foreach (int dimensions in new[] { 64, 128, 256, 384, 1024 })
        {
            byte[] node = new byte[dimensions];
            sbyte[] query = new sbyte[dimensions];
            for (int round = 0; round < 50; round++)
            {
                for (int i = 0; i < dimensions; i++)
                {
                    // The extremes in the first rounds: there a narrow sum would saturate.
                    node[i] = round == 0 ? (byte)255 : round == 1 ? (byte)1 : (byte)random.Next(1, 256);
                    query[i] = round == 0 ? (sbyte)127 : round == 1 ? (sbyte)-127 : (sbyte)random.Next(-127, 128);
                }
                fixed (byte* n = node)
                fixed (sbyte* q = query)
                {
                    int expected = Int8Codes.Scalar(n, q, dimensions);
                    if (System.Runtime.Intrinsics.X86.AvxVnni.IsSupported)
                    {
                        Assert.Equal(expected, Int8Codes.Vnni(n, q, dimensions));
                    }
                    if (System.Runtime.Intrinsics.X86.Avx2.IsSupported)
                    {
                        Assert.Equal(expected, Int8Codes.Wide(n, q, dimensions));
                    }
                    if (System.Runtime.Intrinsics.Arm.Dp.IsSupported)
                    {
                        Assert.Equal(expected - (128 * query.Sum(x => x)), Int8Codes.Neon(n, q, dimensions));
                    }
                }
            }
        }
    }

    [Fact]
    public unsafe void Half_rows_give_the_dot_product_of_what_was_rounded()
    {
        float[] vector = Unit(new Random(1), 100), query = Unit(new Random(2), 100);
        vector[3] = 1e-7f; // a subnormal half
        byte* row = stackalloc byte[HalfRow.Stride(100)];
        float* padded = stackalloc float[HalfRow.Stride(100) / 2];
        new Span<float>(padded, HalfRow.Stride(100) / 2).Clear();
        query.CopyTo(new Span<float>(padded, 100));
        HalfRow.Encode(vector, row);
        float expected = vector.Zip(query, (v, q) => (float)(Half)v * q).Sum();
        Assert.Equal(expected, HalfRow.Dot(row, padded, HalfRow.Stride(100)), 1e-6);
    }

    [Theory]
    [InlineData(VectorCodes.Int8, 64, 0.97)]
    [InlineData(VectorCodes.Bit, 400, 0.75)]
    public void Finds_nearly_all_of_the_nearest(VectorCodes codes, int ef, double least)
    {
        var (vectors, count) = (Clustered(5000, 1), 5000);
        HnswIndex index = HnswIndex.Create(Dimensions, new HnswOptions { Codes = codes });
        int[] slots = new int[count];
        index.AddRange(vectors, slots, 2, TestContext.Current.CancellationToken);
        Assert.Equal(count, index.Count);
        Assert.True(Recall(index, vectors, slots, [], ef) >= least);
    }

    [Fact]
    public void Adding_one_by_one_makes_as_good_a_graph_as_adding_many()
    {
        float[] vectors = Clustered(2000, 2);
        HnswIndex index = HnswIndex.Create(Dimensions);
        int[] slots = [.. Enumerable.Range(0, 2000).Select(i => index.Add(vectors.AsSpan(i * Dimensions, Dimensions)))];
        Assert.True(Recall(index, vectors, slots, [], 64) >= 0.97);
    }

    [Theory]
    [InlineData(0.5)]
    [InlineData(0.1)]
    [InlineData(0.02)]
    public void A_filter_loses_no_recall_wherever_its_matches_lie(double share)
    {
        const int count = 30_000;
        float[] vectors = Clustered(count, 4);
        HnswIndex index = HnswIndex.Create(Dimensions);
        int[] slots = new int[count];
        index.AddRange(vectors, slots, 2, TestContext.Current.CancellationToken);
        float[] direction = Unit(new Random(99), Dimensions);
        var random = new Random(5);
        float[] along = [.. Enumerable.Range(0, count).Select(i => TensorPrimitives.Dot(direction, vectors.AsSpan(i * Dimensions, Dimensions)))];
        float border = along.OrderDescending().ElementAt((int)(count * share));
        foreach (Func<int, bool> accept in new Func<int, bool>[] { _ => random.NextDouble() < share, row => along[row] > border })
        {
            ulong[] filter = new ulong[(index.Slots + 63) / 64];
            for (int row = 0; row < count; row++)
            {
                if (accept(row))
                {
                    filter[slots[row] >> 6] |= 1UL << slots[row];
                }
            }
            foreach (int ef in new[] { 32, 64 })
            {
                double recall = Recall(index, vectors, slots, filter, ef);
                Assert.True(recall >= 0.93, $"{recall} at ef {ef}");
            }
        }
    }

    [Fact]
    public void Deleted_rows_never_come_back_and_their_slots_are_used_again()
    {
        const int count = 4000;
        HnswIndex index = HnswIndex.Create(Dimensions);
        var random = new Random(6);
        float[] current = Clustered(count, 10);
        int[] slots = new int[count];
        index.AddRange(current, slots, 2, TestContext.Current.CancellationToken);
        // Every row is replaced, in ten rounds.
        for (int round = 0; round < 10; round++)
        {
            int from = round * count / 10, to = (round + 1) * count / 10;
            float[] fresh = Clustered(count / 10, 100 + round);
            for (int row = from; row < to; row++)
            {
                Assert.True(index.Delete(slots[row]));
                Assert.False(index.Delete(slots[row]));
            }
            var gone = slots[from..to].ToHashSet();
            var found = new Neighbor[50];
            for (int q = 0; q < 50; q++)
            {
                int n = index.Search(current.AsSpan(random.Next(from, to) * Dimensions, Dimensions), found, 100);
                Assert.DoesNotContain(found[..n], f => gone.Contains(f.Slot));
            }
            index.Repair(2, TestContext.Current.CancellationToken);
            Assert.Equal(0, index.Deleted);
            fresh.CopyTo(current, from * Dimensions);
            index.AddRange(fresh, slots.AsMemory(from..to), 2, TestContext.Current.CancellationToken);
        }
        Assert.Equal(count, index.Count);
        Assert.Equal(count, slots.Distinct().Count());
        Assert.True(index.Slots <= count * 1.2, $"{index.Slots} slots for {count} rows");
        double recall = Recall(index, current, slots, [], 64);
        Assert.True(recall >= 0.97, $"{recall}");
    }

    [Fact]
    public void Rows_moved_together_are_found_as_before_and_new_ones_with_them()
    {
        const int count = 4000;
        HnswIndex index = HnswIndex.Create(Dimensions);
        float[] vectors = Clustered(count, 10);
        int[] slots = new int[count], moved = new int[count];
        index.AddRange(vectors, slots, 2, TestContext.Current.CancellationToken);
        int[] left = [.. Enumerable.Range(0, count).Where(r => r % 3 == 0)];
        foreach (int row in Enumerable.Range(0, count).Where(r => r % 3 != 0))
        {
            index.Delete(slots[row]);
        }
        index.Repair(2, TestContext.Current.CancellationToken);
        HnswIndex compact = index.Compact(moved);
        Assert.Equal((left.Length, left.Length, 0), (compact.Count, compact.Slots, compact.Deleted));
        Assert.Equal(left.Length, left.Select(r => moved[slots[r]]).Where(s => s >= 0).Distinct().Count());
        Assert.All(Enumerable.Range(0, count).Where(r => r % 3 != 0), r => Assert.Equal(-1, moved[slots[r]]));
        float[] kept = [.. left.SelectMany(r => vectors.AsSpan(r * Dimensions, Dimensions).ToArray())];
        int[] places = [.. left.Select(r => moved[slots[r]])];
        double before = Recall(index, kept, [.. left.Select(r => slots[r])], [], 64), after = Recall(compact, kept, places, [], 64);
        Assert.True(after >= before - 0.01 && after >= 0.97, $"{before} before, {after} after");
        int[] added = new int[1000];
        float[] more = Clustered(1000, 11);
        compact.AddRange(more, added, 2, TestContext.Current.CancellationToken);
        double whole = Recall(compact, [.. kept, .. more], [.. places, .. added], [], 64);
        Assert.True(whole >= 0.97, $"{whole} with new rows");
    }

    [Fact]
    public void Rows_deleted_between_repair_and_moving_together_do_not_tear_the_graph()
    {
        const int count = 4000, kept = 160;
        HnswIndex index = HnswIndex.Create(Dimensions);
        float[] vectors = Clustered(count, 12);
        int[] slots = new int[count], moved = new int[count], added = new int[count];
        index.AddRange(vectors, slots, 2, TestContext.Current.CancellationToken);
        Array.ForEach(slots[(count / 4)..], s => index.Delete(s));
        index.Repair(2, TestContext.Current.CancellationToken);
        Array.ForEach(slots[kept..(count / 4)], s => index.Delete(s));
        HnswIndex compact = index.Compact(moved);
        Assert.Equal((kept, count / 4, (count / 4) - kept), (compact.Count, compact.Slots, compact.Deleted));

        // What is added finds its neighbours through what is left, and each other.
        compact.Repair(2, TestContext.Current.CancellationToken);
        float[] more = Clustered(count, 13);
        compact.AddRange(more, added, 2, TestContext.Current.CancellationToken);
        double whole = Recall(compact, [.. vectors[..(kept * Dimensions)], .. more], [.. slots[..kept].Select(s => moved[s]), .. added], [], 64);
        Assert.True(whole >= 0.97, $"{whole}");
    }

    [Fact]
    public void What_a_cancelled_range_left_unadded_is_given_out_again()
    {
        HnswIndex index = HnswIndex.Create(Dimensions);
        float[] vectors = Clustered(2000, 50);
        using var cancel = new CancellationTokenSource();
        cancel.Cancel();
        Assert.ThrowsAny<OperationCanceledException>(() => index.AddRange(vectors, new int[2000], 1, cancel.Token));
        index.Repair(1, TestContext.Current.CancellationToken);
        int[] slots = new int[2000];
        index.AddRange(vectors, slots, 2, TestContext.Current.CancellationToken);
        Assert.Equal((2000, 2000), (index.Count, index.Slots));
        Assert.True(Recall(index, vectors, slots, [], 64) >= 0.97);
    }

    [Fact]
    public void An_emptied_index_starts_anew()
    {
        HnswIndex index = HnswIndex.Create(Dimensions);
        float[] vectors = Clustered(200, 1);
        int[] slots = new int[200];
        index.AddRange(vectors, slots, 1, TestContext.Current.CancellationToken);
        foreach (int slot in slots)
        {
            index.Delete(slot);
        }
        var found = new Neighbor[5];
        Assert.Equal(0, index.Search(vectors.AsSpan(0, Dimensions), found, 10));
        index.Repair(1, TestContext.Current.CancellationToken);
        Assert.Equal(0, index.Search(vectors.AsSpan(0, Dimensions), found, 10));
        int again = index.Add(vectors.AsSpan(0, Dimensions));
        Assert.Equal(1, index.Search(vectors.AsSpan(0, Dimensions), found, 10));
        Assert.Equal(again, found[0].Slot);
    }

    [Fact]
    public async Task Searches_stay_right_while_rows_come_and_go()
    {
        HnswIndex index = HnswIndex.Create(Dimensions);
        float[] lasting = Clustered(1500, 20), passing = Clustered(3000, 21);
        int[] slots = new int[1500];
        index.AddRange(lasting, slots, 1, TestContext.Current.CancellationToken);
        using var stop = new CancellationTokenSource();
        Task<int>[] readers = [.. Enumerable.Range(0, 2).Select(t => Task.Run(() =>
        {
            var found = new Neighbor[10];
            int searches = 0, missed = 0;
            for (int i = t; !stop.IsCancellationRequested; i = (i + 7) % 1500, searches++)
            {
                ReadOnlySpan<float> query = lasting.AsSpan(i * Dimensions, Dimensions);
                int n = index.Search(query, found, 64);
                Assert.True(n == 10, $"{n} found of {index.Count}, {index.Deleted} deleted, {index.Slots} slots");
                Assert.True(found[0].Score >= found[n - 1].Score && found[0].Score < 1.01f);
                missed += found[..n].Any(f => f.Slot == slots[i]) ? 0 : 1;
            }
            Assert.True(missed <= searches * 0.02, $"{missed} of {searches} did not find themselves");
            return searches;
        }))];
        for (int round = 0; round < 4; round++)
        {
            int[] passed = new int[3000];
            index.AddRange(passing, passed, 1, TestContext.Current.CancellationToken);
            foreach (int slot in passed)
            {
                index.Delete(slot);
            }
            index.Repair(1, TestContext.Current.CancellationToken);
        }
        await stop.CancelAsync();
        Assert.All(await Task.WhenAll(readers), searches => Assert.True(searches > 0));
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    [InlineData(0f)]
    [InlineData(1e30f)]
    public void Vectors_that_are_not_of_unit_length_are_refused(float value)
    {
        float[] vector = new float[Dimensions];
        vector[7] = value;
        HnswIndex index = HnswIndex.Create(Dimensions);
        Assert.Contains("unit length", Assert.Throws<ArgumentException>(() => index.Add(vector)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => index.Add(new float[Dimensions + 1]));
        Assert.Throws<ArgumentException>(() => index.Search(new float[Dimensions - 1], new Neighbor[3], 10));
        Assert.Equal(0, index.Slots);
    }

    [Fact]
    public void A_search_allocates_nothing()
    {
        HnswIndex index = HnswIndex.Create(Dimensions);
        float[] vectors = Clustered(3000, 30);
        index.AddRange(vectors, new int[3000], 2, TestContext.Current.CancellationToken);
        ulong[] half = [.. Enumerable.Repeat(0x5555555555555555UL, (index.Slots + 63) / 64)];
        var found = new Neighbor[10];
        for (int i = 0; i < 200; i++)
        {
            index.Search(vectors.AsSpan(i * Dimensions, Dimensions), found, 50);
            index.Search(vectors.AsSpan(i * Dimensions, Dimensions), found, 50, half, out _);
        }
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 500; i++)
        {
            index.Search(vectors.AsSpan(i * Dimensions, Dimensions), found, 50);
            index.Search(vectors.AsSpan(i * Dimensions, Dimensions), found, 50, half, out _);
        }
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Theory]
    [InlineData(VectorCodes.Int8)]
    [InlineData(VectorCodes.Bit)]
    public void An_opened_file_answers_as_the_saved_index_did_and_can_be_changed(VectorCodes codes)
    {
        string path = Path.Combine(Directory.CreateTempSubdirectory("diptych-hnsw-").FullName, "index.hnsw");
        float[] vectors = Clustered(3000, 40);
        HnswIndex saved = HnswIndex.Create(Dimensions, new HnswOptions { Codes = codes });
        int[] slots = new int[3000];
        saved.AddRange(vectors, slots, 2, TestContext.Current.CancellationToken);
        foreach (int slot in slots[..500])
        {
            saved.Delete(slot);
        }
        saved.Repair(2, TestContext.Current.CancellationToken);
        saved.Save(path, 42, [1, 2, 3]);
        byte[] bytes = File.ReadAllBytes(path);
        var (opened, sequence, attachment) = HnswIndex.Open(path);
        Assert.Equal((42, 2500, 3000), (sequence, opened.Count, opened.Slots));
        Assert.Equal([1, 2, 3], attachment);
        Neighbor[] expected = new Neighbor[10], found = new Neighbor[10];
        for (int q = 0; q < 100; q++)
        {
            saved.Search(vectors.AsSpan(q * 20 * Dimensions, Dimensions), expected, 50);
            opened.Search(vectors.AsSpan(q * 20 * Dimensions, Dimensions), found, 50);
            Assert.Equal(expected, found);
        }
        // What changes after opening stays in memory until it is saved again.
        opened.AddRange(vectors.AsMemory(0, 500 * Dimensions), slots.AsMemory(0, 500), 2, TestContext.Current.CancellationToken);
        Assert.Equal((3000, 3000), (opened.Count, opened.Slots));
        Assert.Equal(bytes, File.ReadAllBytes(path));
        if (codes == VectorCodes.Int8)
        {
            Assert.True(Recall(opened, vectors, slots, [], 64) >= 0.97);
        }
    }

    [Fact]
    public void A_damaged_file_is_told_apart_wherever_it_is_damaged()
    {
        string path = Path.Combine(Directory.CreateTempSubdirectory("diptych-hnsw-").FullName, "index.hnsw");
        HnswIndex index = HnswIndex.Create(Dimensions);
        index.AddRange(Clustered(500, 41), new int[500], 1, TestContext.Current.CancellationToken);
        index.Save(path, 1);
        byte[] sound = File.ReadAllBytes(path);
        var random = new Random(8);
        for (int round = 0; round < 40; round++)
        {
            byte[] damaged = [.. sound];
            // The page behind the header is filler that nothing reads.
            int at = round < 12 ? random.Next(96) : random.Next(4096, sound.Length);
            damaged[at] ^= (byte)random.Next(1, 256);
            File.WriteAllBytes(path, round % 4 == 3 ? sound[..random.Next(sound.Length)] : damaged);
            Assert.Throws<InvalidDataException>(() => HnswIndex.Open(path));
        }
        Assert.Throws<FileNotFoundException>(() => HnswIndex.Open(path + ".none"));
    }

    /// <summary>Mean recall@10 over 100 queries near rows, against comparing with every row.</summary>
    private static double Recall(HnswIndex index, float[] vectors, int[] slots, ulong[] filter, int ef)
    {
        var random = new Random(77);
        var found = new Neighbor[10];
        int hits = 0, wanted = 0;
        for (int q = 0; q < 100; q++)
        {
            float[] query = Noisy(vectors.AsSpan(random.Next(slots.Length) * Dimensions, Dimensions), random, 0.1f);
            int[] expected = [.. Enumerable.Range(0, slots.Length)
                .Where(row => filter.Length == 0 || (filter[slots[row] >> 6] >> slots[row] & 1) != 0)
                .OrderByDescending(row => TensorPrimitives.Dot(query, vectors.AsSpan(row * Dimensions, Dimensions))).Take(10).Select(row => slots[row])];
            int n = index.Search(query, found, ef, filter, out _);
            hits += found[..n].Count(f => expected.Contains(f.Slot));
            wanted += expected.Length;
        }
        return (double)hits / wanted;
    }

    private static float[] Clustered(int count, int seed)
    {
        var random = new Random(seed);
        float[][] centers = [.. Enumerable.Range(0, 40).Select(i => Unit(new Random(1000 + i), Dimensions))];
        float[] all = new float[count * Dimensions];
        for (int row = 0; row < count; row++)
        {
            Noisy(centers[random.Next(40)], random, 0.12f).CopyTo(all, row * Dimensions);
        }
        return all;
    }

    private static float[] Noisy(ReadOnlySpan<float> center, Random random, float deviation)
    {
        float[] vector = center.ToArray();
        for (int i = 0; i < vector.Length; i++)
        {
            vector[i] += deviation * (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        }
        TensorPrimitives.Divide(vector, TensorPrimitives.Norm(vector), vector);
        return vector;
    }

    private static float[] Unit(Random random, int dimensions) => Noisy(new float[dimensions], random, 1);
}
