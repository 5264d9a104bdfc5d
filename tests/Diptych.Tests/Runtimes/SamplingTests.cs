using Diptych.Inference.Scheduling;
using Diptych.Runtimes.Decoding;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Samples stay right at the edges of their settings, and what goes wrong for one answer is that one's alone.</summary>
[Collection("decoders")]
public sealed class SamplingTests
{
    [Theory]
    [InlineData(0.25f)]
    [InlineData(0.05f)]
    [InlineData(1e-3f)]
    [InlineData(1e-6f)]
    [InlineData(1e-38f)]
    public void A_low_temperature_takes_the_likeliest(float temperature)
    {
        var random = new Random(3);
        float[] logits = [.. Enumerable.Range(0, 2000).Select(_ => (float)(random.NextDouble() * 20) - 120f)];
        logits[1234] = 300;
        Assert.Equal(1234, Draw(new Sampling { Temperature = temperature }, logits));
    }

    [Fact]
    public void Samples_have_their_probabilities_whatever_the_logits_size()
    {
        // e^(-1/0.5) and e^0: 0.119 and 0.881, a thousand above zero.
        int first = Enumerable.Range(0, 2000).Count(seed => Draw(new Sampling { Temperature = 0.5f, Seed = seed }, [1000, 1001, -1000]) == 0);
        Assert.InRange(first, 190, 290);
    }

    [Theory]
    [InlineData(100f, 1f, 0f)]
    [InlineData(100f, 1e-30f, 2f)]
    [InlineData(100f, 1e30f, -2f)]
    public void Extreme_biases_and_penalties_give_a_token(float bias, float repetition, float presence)
    {
        foreach (float temperature in new[] { 0, 0.1f, 2f })
        {
            var sampling = new Sampling { Temperature = temperature, Bias = new Dictionary<int, float> { [7] = bias }, RepetitionPenalty = repetition, PresencePenalty = presence, FrequencyPenalty = presence };
            Assert.InRange(Draw(sampling, [.. Enumerable.Range(0, 50).Select(i => i / 10f)]), 0, 49);
        }
        Assert.Equal(7, Draw(new Sampling { Temperature = 1, Bias = new Dictionary<int, float> { [7] = bias } }, new float[50]));
    }

    [Fact]
    public async Task What_throws_for_one_answer_ends_that_one_alone()
    {
        string folder = Path.GetDirectoryName(Shared.Require("golden", "tiny", "llama31-like", "config.json"))!;
        string words = Path.GetTempFileName();
        await File.WriteAllLinesAsync(
            words,
            Enumerable.Range(0, 128_000).Select(i => $"{Convert.ToBase64String(i < 256 ? [(byte)i] : [(byte)(i >> 16), (byte)(i >> 8), (byte)i])} {i}"),
            TestContext.Current.CancellationToken);
        using var engine = new DecoderEngine(
            Decoder.Open(folder), BytePairTokenizer.FromTiktoken(words), 8 << 20, TimeProvider.System, new StepCosts(0.001), threads: 1);
        File.Delete(words);
        Task<int> Answer(Sampling sampling) => Task.Run(async () =>
        {
            int tokens = 0;
            await foreach (GeneratedText part in engine.GenerateAsync(new Prompt([1, 2, 3, 4]), sampling, null, CancellationToken.None))
            {
                tokens = part.CompletionTokens;
            }
            return tokens;
        });
        var whole = new Sampling { MaxTokens = 40, Bias = engine.Config.EndTokens.ToDictionary(t => t, _ => -100f) };
        var faulty = whole with { Bias = new Dictionary<int, float> { [5] = float.NaN } };
        Task<int>[] sound = [Answer(whole), Answer(whole), Answer(whole with { Temperature = 0.1f })];
        Task<int>[] broken = [Answer(faulty), Answer(faulty with { Temperature = 1 })];
        foreach (Task<int> one in broken)
        {
            await Assert.ThrowsAsync<InvalidOperationException>(() => one);
        }
        Assert.All(await Task.WhenAll(sound), tokens => Assert.True(tokens > 0));
        Assert.Equal(await Answer(whole), await sound[0]);
        EngineSnapshot after = engine.Snapshot();
        Assert.Equal((0, 0), (after.Running, after.Waiting));
    }

    private static int Draw(Sampling sampling, float[] logits) =>
        new Sampler(sampling with { Seed = sampling.Seed ?? 1 }, 1, null!, new HashSet<int>()).Next(logits, [3, 4], 10);
}
