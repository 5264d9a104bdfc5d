using Diptych.Inference;
using Diptych.Runtimes.Decoding;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Keys and values where some layers see all tokens and others a chunk of sixteen, as in Llama 4.</summary>
[Collection("decoders")]
public sealed class KeyValueMemoryTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-memory-").FullName;

    public KeyValueMemoryTests() => Llama4ChatTests.Write(_folder);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Layers_that_see_a_chunk_keep_that_chunk_only_and_nothing_changes()
    {
        using Decoder decoder = Decoder.Open(_folder);
        using var team = new CoreTeam(2);
        int[] ids = [.. Enumerable.Range(0, 120).Select(i => 7 + (i * 31 % 90))];
        using var all = KeyValueBlocks.Holding(decoder.Config, ids.Length);
        float[] expected = decoder.Forward([new Stretch(ids, 0, SequenceBlocks.For(all, ids.Length), AllLogits: true)], all, team);

        // One layer of four keeps eight pages; each of the others has two at most while a stretch of ten passes a chunk's border.
        using var little = new KeyValueBlocks(decoder.Config, 8 + (3 * 2));
        Assert.Equal((4, 1), (little.Layout.Groups, little.Layout.LayersPerGroup));
        var blocks = new SequenceBlocks(little);
        for (int at = 0; at < ids.Length; at += 10)
        {
            Assert.True(blocks.Grow(at + 10), $"no page for token {at}");
            float[] logits = decoder.Forward([new Stretch(ids[at..(at + 10)], at, blocks, AllLogits: true)], little, team);
            Assert.All(logits.Zip(expected[(at * decoder.Config.Vocabulary)..]), pair => Assert.Equal(pair.Second, pair.First, 1e-5));
            blocks.Forget(at + 10);
        }
        Assert.Equal(8 + 3, blocks.Held);
        blocks.Release();
        Assert.Equal(little.Count, little.Free);
    }

    [Fact]
    public void A_known_beginning_is_gone_on_from_where_the_last_chunk_is_still_kept()
    {
        using Decoder decoder = Decoder.Open(_folder);
        using var memory = KeyValueBlocks.Holding(decoder.Config, 256, 4);
        var cache = new PrefixCache(memory);
        List<int> ids = [.. Enumerable.Range(0, 100)];
        UInt128 seed = PrefixCache.Seed(null, "");
        var hashes = new List<UInt128>();
        var first = new SequenceBlocks(memory);
        for (int at = 20; at <= 100; at += 20)
        {
            Assert.True(first.Grow(at));
            cache.Add(hashes, seed, ids, first, at);
            first.Forget(at);
        }
        first.Release();
        Assert.Equal(6 * 4, cache.Evictable);

        var second = new SequenceBlocks(memory);
        Assert.Equal(6, cache.Find([], seed, [.. ids], second));
        // At token 96 a new chunk begins: nothing of the chunks before is needed.
        Assert.Equal(6, second.Held);
        second.Release();
        Assert.Equal(0, cache.Find([], PrefixCache.Seed(null, "someone"), [.. ids], new SequenceBlocks(memory)));

        // The ends leave first, so that what is left can still be gone on from.
        while (cache.Evictable > 2 * 4)
        {
            Assert.True(cache.Evict());
        }
        Assert.Equal(2, cache.Find([], seed, ids, second));
        second.Release();
        while (cache.Evict())
        {
        }
        Assert.Equal(memory.Count, memory.Free);
    }

    [Fact]
    public async Task Long_prompts_with_a_known_beginning_are_answered_as_without()
    {
        string beginning = string.Concat(Enumerable.Range(0, 30).Select(i => $"{i} lamps. "));
        using LocalModel fresh = Open(), known = Open();
        _ = await AnswerAsync(known, beginning + "How many?");
        Assert.Equal(await AnswerAsync(fresh, beginning + "And who?"), await AnswerAsync(known, beginning + "And who?"));
        Assert.True(known.Engine.Snapshot().CachedTokens >= 250, $"{known.Engine.Snapshot()}");
    }

    [Fact]
    public async Task Tenants_that_are_kept_apart_do_not_find_each_others_beginnings()
    {
        using LocalModel apart = LocalModel.Open("tiny", _folder, 16 << 20, TimeProvider.System, separatesTenants: true);
        string text = new('a', 100);
        long[] found = new long[3];
        foreach (var (tenant, i) in new[] { "one", "two", "two" }.Select((t, i) => (t, i)))
        {
            new RequestTerms { Tenant = tenant }.Begin();
            _ = await AnswerAsync(apart, text);
            found[i] = apart.Engine.Snapshot().CachedTokens;
        }
        Assert.Equal(0, found[1]);
        Assert.True(found[2] >= 90, $"{found[2]}");
    }

    private LocalModel Open() => LocalModel.Open("tiny", _folder, 16 << 20, TimeProvider.System);

    private static async Task<string> AnswerAsync(LocalModel model, string text)
    {
        string answer = "";
        await foreach (GeneratedText part in model.GenerateAsync(model.Tokenizer.Encode(text), new Sampling { MaxTokens = 12 }, TestContext.Current.CancellationToken))
        {
            answer += part.Text;
        }
        return answer;
    }
}
