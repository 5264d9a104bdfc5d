namespace Diptych.Runtimes.Decoding;

/// <summary>What a decoder needs, from its shapes alone.</summary>
/// <param name="Parameters">All of them.</param>
/// <param name="ActiveParameters">Those that one token passes through.</param>
/// <param name="WeightBytes">At the given bits.</param>
/// <param name="KeyValueBytesPerToken">Of the layers that keep every token.</param>
/// <param name="WindowBytes">Of the layers that keep one chunk or window: at most, for one sequence.</param>
/// <param name="SequenceBytes">Keys and values of one sequence at the given context.</param>
/// <param name="WorkspaceBytes">Activations of a step of 512 tokens, and its logits.</param>
/// <param name="TotalBytes">Weights, all sequences, workspace.</param>
/// <param name="Fits">Whether the total stays within the memory.</param>
/// <param name="SequencesThatFit">At the given context.</param>
/// <param name="ContextThatFits">Tokens, for the given number of sequences.</param>
/// <param name="TokensPerTile">Of a picture, where the model has an eye of its own; else 0.</param>
/// <param name="SecondsPerToken">Reading the active weights and one sequence's keys and values once; null without a bandwidth.</param>
public sealed record DecoderPlan(
    long Parameters, long ActiveParameters, long WeightBytes, long KeyValueBytesPerToken, long WindowBytes, long SequenceBytes, long WorkspaceBytes, long TotalBytes,
    bool Fits, long SequencesThatFit, long ContextThatFits, double? SecondsPerToken, int TokensPerTile)
{
    private const int StepTokens = 512;

    /// <summary>Llama 4 Scout's shapes (17 billion active parameters, 16 experts), from its published configuration.</summary>
    public static DecoderConfig Scout { get; } = Llama4(experts: 16, step: 1, maxTokens: 10_485_760);

    /// <summary>Llama 4 Maverick's (128 experts in every other layer).</summary>
    public static DecoderConfig Maverick { get; } = Llama4(experts: 128, step: 2, maxTokens: 1_048_576);

    /// <param name="weightBits">Bits of a weight, scales included.</param>
    /// <param name="keyValueBytes">Bytes of a number in keys and values.</param>
    /// <param name="bandwidth">Bytes a second; 0 where it is not known.</param>
    public static DecoderPlan Of(DecoderConfig c, double weightBits, int keyValueBytes, long memory, long context, int sequences, double bandwidth)
    {
        long attention = 2L * c.Width * c.HeadWidth * (c.Heads + c.KeyValueHeads), embedding = (long)c.Vocabulary * c.Width;
        long parameters = embedding + c.Width, active = c.Width;
        // The head is counted; where it is the embedding itself, the sum is too large by one of them.
        parameters += embedding;
        active += embedding;
        long local = 0, global = 0;
        for (int layer = 0; layer < c.Layers; layer++)
        {
            bool expert = c.Llama4?.HasExperts[layer] == true;
            long one = 3L * c.Width * (expert ? c.Llama4!.ExpertWidth : c.InnerWidth), router = expert ? (long)c.Width * c.Llama4!.Experts : 0;
            parameters += attention + (2 * c.Width) + router + (expert ? one * (c.Llama4!.Experts + 1) : one);
            active += attention + (2 * c.Width) + router + (expert ? 2 * one : one);
            (local, global) = c.Reach(layer) is null ? (local, global + 1) : (local + 1, global);
        }
        long row = 2L * c.KeyValueHeads * c.HeadWidth * keyValueBytes, chunk = c.Llama4?.Chunk ?? c.Window ?? 0;
        long Sequence(long tokens) => (global * row * tokens) + (local * row * Math.Min(tokens, chunk));
        long weights = (long)(parameters * weightBits / 8), workspace = 4L * ((StepTokens * ((4L * c.Width) + (2L * c.InnerWidth) + (2L * c.Heads * c.HeadWidth))) + ((long)sequences * c.Vocabulary));
        long total = weights + workspace + (sequences * Sequence(context)), left = memory - weights - workspace;
        long fits = left <= 0 ? 0 : left / Math.Max(1, Sequence(context)), perSequence = left <= 0 ? 0 : left / sequences;
        long longest = perSequence <= local * row * chunk ? perSequence / Math.Max(1, (global + local) * row) : (perSequence - (local * row * chunk)) / Math.Max(1, global * row);
        return new DecoderPlan(
            parameters, active, weights, global * row, local * row * chunk, Sequence(context), workspace, total, total <= memory, fits, Math.Min(longest, c.MaxTokens),
            bandwidth > 0 ? ((active * weightBits / 8) + Sequence(context)) / bandwidth : null,
            c.Llama4?.TokensPerTile ?? 0);
    }

    private static DecoderConfig Llama4(int experts, int step, int maxTokens) => new()
    {
        Architecture = "llama4",
        Layers = 48,
        Width = 5120,
        Heads = 40,
        KeyValueHeads = 8,
        HeadWidth = 128,
        InnerWidth = 16_384,
        Vocabulary = 202_048,
        MaxTokens = maxTokens,
        NormEpsilon = 1e-5f,
        RopeTheta = 500_000,
        RopeInterleaved = true,
        Llama4 = new Llama4Additions(
            [.. Enumerable.Range(0, 48).Select(l => (l + 1) % 4 != 0)], [.. Enumerable.Range(0, 48).Select(l => (l + 1) % step == 0)], experts, 8192, 8192, experts == 16, true, 8192, 0.1f, 200_092, 144),
    };
}
