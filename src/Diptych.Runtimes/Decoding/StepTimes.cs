namespace Diptych.Runtimes.Decoding;

/// <summary>What a decoder takes on this machine.</summary>
/// <param name="Steps">Seconds of a step by its tokens: decoded ones up to 32, of a prompt beyond.</param>
/// <param name="KeyValueBytesPerToken">In memory, before a window gives any back.</param>
/// <param name="MaxTokens">Of a prompt and its answer.</param>
public sealed record StepTimes(IReadOnlyList<(int Tokens, double Seconds)> Steps, long KeyValueBytesPerToken, int MaxTokens)
{
    private const int Context = 128, Warmups = 2, Times = 5;

    /// <param name="path">What <see cref="LocalModel.Find"/> gave.</param>
    /// <exception cref="InvalidDataException">It is no model that can be run; the message says why.</exception>
    public static StepTimes Measure(string path, TimeProvider time, WeightFormat format = WeightFormat.AsStored)
    {
        using Decoder decoder = Decoder.Open(path, format);
        using var team = new CoreTeam(Environment.ProcessorCount);
        using var memory = KeyValueBlocks.Holding(decoder.Config, (DecoderEngine.MaxRunning * (Context + KeyValueBlocks.TokensPerBlock)) + 512, DecoderEngine.MaxRunning + 1);
        int[] ids = [.. Enumerable.Range(0, 512).Select(i => i % decoder.Config.Vocabulary)];
        SequenceBlocks[] answers = [.. Enumerable.Range(0, DecoderEngine.MaxRunning).Select(_ => SequenceBlocks.For(memory, Context + 1))];
        foreach (SequenceBlocks answer in answers)
        {
            decoder.Forward([new Stretch(ids[..Context], 0, answer)], memory, team);
        }
        var prompt = SequenceBlocks.For(memory, 512);
        var steps = new List<(int, double)>();
        foreach (int tokens in new[] { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 })
        {
            Stretch[] step = tokens <= answers.Length ? [.. answers.Take(tokens).Select(a => new Stretch([1], Context, a))] : [new Stretch(ids[..tokens], 0, prompt)];
            var seconds = new List<double>();
            for (int i = 0; i < Warmups + Times; i++)
            {
                long start = time.GetTimestamp();
                decoder.Forward(step, memory, team);
                seconds.Add(time.GetElapsedTime(start).TotalSeconds);
            }
            steps.Add((tokens, seconds.Skip(Warmups).Order().ElementAt(Times / 2)));
        }
        KeyValueLayout layout = memory.Layout;
        return new StepTimes(steps, layout.Groups * layout.PageBytes / KeyValueBlocks.TokensPerBlock, decoder.Config.MaxTokens);
    }
}
