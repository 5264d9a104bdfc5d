using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Diptych.Runtimes.Chat;
using Diptych.Runtimes.Decoding;
using Xunit;

namespace Diptych.Tests.Runtimes;

[Collection("decoders")]
public sealed class DecoderEngineTests
{
    private static string Gguf => Shared.Require("models", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf");

    private static readonly CancellationToken None = CancellationToken.None;

    [Fact]
    [Trait("Needs", "shared")]
    public async Task An_answer_is_the_same_alone_beside_others_with_a_known_beginning_and_after_it_gave_way()
    {
        string long_ = string.Join(' ', Enumerable.Repeat("The lighthouse stands on a rock, and the keeper climbs its stairs each night.", 12));
        string[] questions = ["What stands on the rock?", "Who climbs the stairs?", "Count to ten.", "Name a colour.", "Say hello.", "What is the capital of Italy?"];
        using var alone = Open(64 << 20);
        var expected = new List<string>();
        foreach (string question in questions)
        {
            expected.Add((await AnswerAsync(alone, $"{long_} {question}")).Text);
        }
        EngineSnapshot known = alone.Engine.Snapshot();
        Assert.True(known.CachedTokens > known.PromptTokens, $"{known}");
        using var crowded = Open(64 << 20);
        string[] together = await Task.WhenAll(questions.Select(async q => (await AnswerAsync(crowded, $"{long_} {q}")).Text));
        Assert.Equal(expected, together);

        // Two begin, and as their answers grow there is no memory for both: one gives its pages back, and gets them from disk or is computed anew.
        // However slowly the second prompt goes on beside the first answer, it is there before that one ends.
        var lengthy = new Sampling { MaxTokens = 120, LooksBack = false, Bias = new Dictionary<int, float> { [0] = -100, [2] = -100 } };
        string[] others = [.. Enumerable.Range(1, 3).Select(i => $"{i}. {long_}")];
        string[] apart = new string[3];
        for (int i = 0; i < 3; i++)
        {
            apart[i] = (await AnswerAsync(alone, others[i], lengthy)).Text;
        }
        foreach (int swapMegabytes in new[] { 0, 64 })
        {
            using var tight = Open(24 << 20, swapMegabytes);
            Assert.Equal(apart, await Task.WhenAll(others.Select(async o => (await AnswerAsync(tight, o, lengthy)).Text)));
            EngineSnapshot after = tight.Engine.Snapshot();
            Assert.True(after.Preemptions > 0 && (after.Swapped > 0) == (swapMegabytes > 0), $"{after}");
        }
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task Looking_back_says_the_same_in_fewer_steps()
    {
        foreach (float temperature in new[] { 0f, 0.8f })
        {
            using var model = Open(64 << 20);
            const string question = "Repeat this sentence three times: The keeper of the old lighthouse climbs one hundred and ninety-nine stairs each night to light the lamp.";
            var sampling = new Sampling { MaxTokens = 90, Temperature = temperature, Seed = 3, LooksBack = false };
            var plain = await AnswerAsync(model, question, sampling);
            Assert.Equal(0, model.Engine.Snapshot().GuessedTokens);
            Assert.Equal(plain, await AnswerAsync(model, question, sampling with { LooksBack = true }));
            EngineSnapshot after = model.Engine.Snapshot();
            Assert.True(after.GuessedRight >= 10, $"{after}");
            Assert.True(after.GuessedRight <= after.GuessedTokens && after.BlocksUsed <= 8, $"{after}");
        }
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task A_cancelled_answer_gives_its_memory_back_and_a_too_long_prompt_is_refused()
    {
        using var model = Open(32 << 20);
        using var cancel = new CancellationTokenSource();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            await foreach (GeneratedText _ in model.GenerateAsync(model.Write([new ChatTurn("user", "Tell a long story.")]), new Sampling { MaxTokens = 4000 }, cancel.Token))
            {
                await cancel.CancelAsync();
            }
        });
        long start = TimeProvider.System.GetTimestamp();
        while (model.Engine.Snapshot() is { Running: > 0 } or { BlocksUsed: > 4 })
        {
            Assert.True(TimeProvider.System.GetElapsedTime(start) < TimeSpan.FromSeconds(10), $"{model.Engine.Snapshot()}");
            await Task.Delay(TimeSpan.FromMilliseconds(5), TimeProvider.System, TestContext.Current.CancellationToken);
        }
        await Assert.ThrowsAsync<InvalidRequestException>(async () =>
        {
            await foreach (GeneratedText _ in model.GenerateAsync(new int[model.Engine.MaxTokens], new Sampling(), None))
            {
            }
        });
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task A_tenant_that_floods_waits_for_itself_and_a_limit_that_would_pass_is_refused()
    {
        using var model = Open(24 << 20, swapMegabytes: 0);
        string text = string.Join(' ', Enumerable.Repeat("Ships pass the harbour in the evening and the keeper writes their names down.", 20));
        int flooded = 0;
        new RequestTerms { Tenant = "flood" }.Begin();
        Task<(string, string)>[] flood = [.. Enumerable.Range(0, 24).Select(async i =>
        {
            var answer = await AnswerAsync(model, $"{i}. {text}", new Sampling { MaxTokens = 4 });
            Interlocked.Increment(ref flooded);
            return answer;
        })];
        new RequestTerms { Tenant = "other" }.Begin();
        await AnswerAsync(model, $"Other: {text}", new Sampling { MaxTokens = 4 });
        Assert.InRange(flooded, 0, 10);

        // Its own prompts lie ahead of it: ten seconds of them, and the client has a tenth of one.
        new RequestTerms { Tenant = "flood", DueAt = TimeProvider.System.GetTimestamp() + (TimeProvider.System.TimestampFrequency / 10) }.Begin();
        var late = await Assert.ThrowsAsync<OverloadedException>(() => AnswerAsync(model, $"Late: {text}"));
        Assert.True(late.RetryAfter >= TimeSpan.FromSeconds(1));
        new RequestTerms().Begin();
        await Task.WhenAll(flood);
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task Nobody_waits_for_bulk_work_or_longer_than_the_lane_allows_and_what_steps_took_is_kept()
    {
        string text = string.Join(' ', Enumerable.Repeat("Ships pass the harbour in the evening and the keeper writes their names down.", 20)), kept = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid():N}.json");
        var brief = new Sampling { MaxTokens = 4 };
        var objectives = new Dictionary<Lane, LaneObjective>(LaneObjective.Defaults)
        {
            [Lane.Interactive] = new(TimeSpan.FromSeconds(0.1), TimeSpan.FromSeconds(0.05), TimeSpan.FromSeconds(0.1)),
            [Lane.Generate] = new(TimeSpan.FromSeconds(1), Timeout.InfiniteTimeSpan, TimeSpan.FromSeconds(0.1)),
        };
        using (var model = LocalModel.Open("smollm2", Gguf, 24 << 20, TimeProvider.System, objectives: objectives, kept: (new ModelProfiles(kept), "smollm2@1")))
        {
            int done = 0;
            new RequestTerms { Lane = Lane.Bulk }.Begin();
            Task<(string, string)>[] bulk = [.. Enumerable.Range(0, 16).Select(async i =>
            {
                var answer = await AnswerAsync(model, $"{i}. {text}", brief);
                Interlocked.Increment(ref done);
                return answer;
            })];
            await Task.WhenAny(bulk);
            new RequestTerms { Lane = Lane.Interactive }.Begin();
            await Assert.ThrowsAsync<OverloadedException>(() => AnswerAsync(model, $"At once: {text}", brief));
            new RequestTerms().Begin();
            await AnswerAsync(model, $"Somebody waits: {text}", brief);
            Assert.InRange(done, 0, 8);
            await Task.WhenAll(bulk);
        }
        ModelProfile learned = new ModelProfiles(kept).Find("smollm2@1", "cpu")!;
        Assert.True(learned.Cost.PerUnitSeconds > 0);
        Assert.Contains(learned.FewTokens!, s => s > 0);
        Assert.Equal(learned.FewTokens!, new StepCosts(learned.Cost, learned.FewTokens).Few());
        File.Delete(kept);
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task Stop_texts_end_the_answer_even_across_tokens_and_the_same_seed_says_the_same()
    {
        using var model = Open(32 << 20);
        string whole = (await AnswerAsync(model, "Count to ten.")).Text;
        string stop = whole[(whole.Length / 2)..((whole.Length / 2) + 5)];
        var cut = await AnswerAsync(model, "Count to ten.", new Sampling { MaxTokens = 40, Stop = [stop] });
        Assert.Equal((whole[..whole.IndexOf(stop, StringComparison.Ordinal)], "stop"), cut);
        var sampling = new Sampling { MaxTokens = 24, Temperature = 0.9f, TopP = 0.95f, TopK = 50, Seed = 7 };
        string first = (await AnswerAsync(model, "Write a line.", sampling)).Text;
        Assert.Equal(first, (await AnswerAsync(model, "Write a line.", sampling)).Text);
        Assert.NotEqual(first, (await AnswerAsync(model, "Write a line.", sampling with { Seed = 8 })).Text);
        Assert.Equal("length", (await AnswerAsync(model, "Write a poem.", new Sampling { MaxTokens = 5 })).Finish);
        int banned = model.Tokenizer.Encode(whole)[0];
        Assert.NotEqual(whole, (await AnswerAsync(model, "Count to ten.", new Sampling { MaxTokens = 40, Bias = new Dictionary<int, float> { [banned] = -100 } })).Text);
    }

    [Fact]
    public void Text_waits_for_whole_characters_and_for_what_may_be_a_stop()
    {
        var text = new TextStream(["END"]);
        byte[] euro = System.Text.Encoding.UTF8.GetBytes("€");
        Assert.Equal("", text.Add(euro.AsSpan(0, 2)));
        Assert.Equal("€a", text.Add([euro[2], (byte)'a']));
        Assert.Equal("b", text.Add("bE"u8));
        Assert.Equal("", text.Add("N"u8));
        Assert.Equal("ENx", text.Add("x"u8));
        Assert.Equal("", text.Add("END of it"u8));
        Assert.True(text.Stopped);
        Assert.Equal("�", new TextStream([]) is var broken && broken.Add(euro.AsSpan(0, 1)).Length == 0 ? broken.End() : "");
    }

    /// <summary>Nobody is dropped for waiting, however slow the machine is.</summary>
    private static LocalModel Open(long cacheBytes, int swapMegabytes = 0) => LocalModel.Open(
        "smollm2", Gguf, cacheBytes, TimeProvider.System, swapBytes: (long)swapMegabytes << 20,
        objectives: new Dictionary<Lane, LaneObjective>(LaneObjective.Defaults) { [Lane.Generate] = new(TimeSpan.FromSeconds(1), Timeout.InfiniteTimeSpan, TimeSpan.FromSeconds(0.1)) });

    private static async Task<(string Text, string Finish)> AnswerAsync(LocalModel model, string question, Sampling? sampling = null)
    {
        string text = "", finish = "";
        await foreach (GeneratedText part in model.GenerateAsync(model.Write([new ChatTurn("user", question)]), sampling ?? new Sampling { MaxTokens = 16 }, None))
        {
            text += part.Text;
            finish = part.Finish ?? finish;
        }
        return (text, finish);
    }
}
