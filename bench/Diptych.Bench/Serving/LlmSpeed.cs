using Diptych.Runtimes.Decoding;

namespace Diptych.Bench.Serving;

/// <summary>The decoder alone: tokens a second of one answer, and of a long prompt.</summary>
internal static class LlmSpeed
{
    public static Task RunAsync(Report report)
    {
        using Decoder decoder = Decoder.Open(Path.Combine(Report.Shared, "models", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"));
        using var team = new CoreTeam(Environment.ProcessorCount);
        using var cache = new KeyValueBlocks(decoder.Config, 128);
        List<int> blocks = [.. Enumerable.Range(0, 128).Select(_ => cache.Take())];
        int[] prompt = [.. Enumerable.Range(0, 512).Select(i => 100 + (i * 37 % 40000))];
        for (int i = 0; i < 4; i++)
        {
            decoder.Forward([new Stretch(prompt, 0, blocks)], cache, team);
        }
        double prefill = Report.Time(() => decoder.Forward([new Stretch(prompt, 0, blocks)], cache, team));
        for (int i = 0; i < 30; i++)
        {
            decoder.Forward([new Stretch([77], 512 + i, blocks)], cache, team);
        }
        double decode = Report.Time(() =>
        {
            for (int i = 0; i < 60; i++)
            {
                decoder.Forward([new Stretch([77], 542 + i, blocks)], cache, team);
            }
        });
        report.Row("SmolLM2-135M (Q4_1): prompt tokens/s, decode tokens/s", $"{Report.Number(512 / prefill, "0")}, {Report.Number(60 / decode, "0")}", "", true);
        return Task.CompletedTask;
    }
}
