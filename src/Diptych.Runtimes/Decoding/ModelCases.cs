using System.Numerics.Tensors;

namespace Diptych.Runtimes.Decoding;

/// <summary>What came of one case of a model's own.</summary>
/// <param name="Detail">Where it first deviates; null where it passed.</param>
public sealed record VerifiedCase(string Name, double MaxAbsError, bool Passed, string? Detail = null);

/// <summary>Runs a model against the cases that its folder carries (cases.safetensors): logits of given ids, and a greedy answer.</summary>
public static class ModelCases
{
    /// <summary>How far a logit may be from the reference's.</summary>
    public const double Tolerance = 2e-4;

    /// <param name="adapter">Folder of a PEFT adapter, whose cases are run then; null runs the model's own.</param>
    /// <exception cref="InvalidDataException">The model cannot be run, or the folder carries no cases.</exception>
    public static IReadOnlyList<VerifiedCase> Run(string directory, string? adapter)
    {
        string path = Path.Combine(adapter ?? directory, "cases.safetensors");
        if (!File.Exists(path))
        {
            throw new InvalidDataException($"{adapter ?? directory} has no cases.safetensors to run.");
        }
        if (adapter is null && Encoders.DualEncoder.IsIn(directory) && Encoders.DualEncoder.HasWeights(directory))
        {
            return Encoders.EncoderCases.Run(directory);
        }
        using Decoder decoder = Decoder.Open(LocalModel.Find(directory) ?? throw new InvalidDataException($"{directory} holds no decoder."), WeightFormat.F32);
        using LoraAdapter? lora = adapter is null ? null : LoraAdapter.Load(adapter, decoder.Config);
        using var file = new SafeTensorsFile(path);
        using var team = new CoreTeam(Environment.ProcessorCount);
        var cases = new List<VerifiedCase>();
        if (file.Tensors.TryGetValue("input_ids", out StoredTensor? ids) && file.Tensors.TryGetValue("logits", out StoredTensor? logits))
        {
            cases.Add(Logits(decoder, lora, team, Ids(file, ids), ids.Columns, file.Floats(logits)));
        }
        if (file.Tensors.TryGetValue("greedy_prompt", out StoredTensor? prompt) && file.Tensors.TryGetValue("greedy_ids", out StoredTensor? answer))
        {
            cases.Add(Greedy(decoder, lora, team, Ids(file, prompt), Ids(file, answer)));
        }
        if (file.Tensors.TryGetValue("pixel_values", out StoredTensor? pixels) && file.Tensors.TryGetValue("image_features", out StoredTensor? features) && Llama4Vision.Open(directory) is { } opened)
        {
            using Llama4Vision vision = opened;
            var (seen, pictures) = vision.Encode(file.Floats(pixels), team);
            cases.Add(Compare("image_features", seen, file.Floats(features), features.Columns, 1));
            if (file.Tensors.TryGetValue("mm_input_ids", out StoredTensor? mixed) && file.Tensors.TryGetValue("mm_logits", out StoredTensor? answers))
            {
                int[] tokens = Ids(file, mixed);
                using var cache = KeyValueBlocks.Holding(decoder.Config, tokens.Length);
                float[] actual = decoder.Forward([new Stretch(tokens, 0, SequenceBlocks.For(cache, tokens.Length), lora, AllLogits: true, Pictures: pictures)], cache, team);
                cases.Add(Compare("mm_logits", actual, file.Floats(answers), decoder.Config.Vocabulary, tokens.Length));
            }
        }
        string[] known = ["input_ids", "logits", "greedy_prompt", "greedy_ids", "pixel_values", "mm_input_ids"];
        foreach (string left in file.Tensors.Keys.Where(k => !known.Contains(k) && !cases.Exists(c => c.Name == k)))
        {
            cases.Add(new VerifiedCase(left, double.NaN, false, "cases of this kind are not run"));
        }
        return cases;
    }

    private static VerifiedCase Logits(Decoder decoder, LoraAdapter? lora, CoreTeam team, int[] ids, int length, float[] expected)
    {
        using var cache = KeyValueBlocks.Holding(decoder.Config, ids.Length, ids.Length / length);
        Stretch[] rows = [.. ids.Chunk(length).Select(row => new Stretch(row, 0, SequenceBlocks.For(cache, length), lora, AllLogits: true))];
        float[] actual = decoder.Forward(rows, cache, team);
        return Compare("logits", actual, expected, decoder.Config.Vocabulary, length);
    }

    /// <param name="width">Numbers of a token.</param>
    /// <param name="length">Tokens of a row.</param>
    private static VerifiedCase Compare(string name, float[] actual, float[] expected, int width, int length)
    {
        if (actual.Length != expected.Length)
        {
            return new VerifiedCase(name, double.NaN, false, $"{actual.Length} numbers instead of {expected.Length}");
        }
        float[] errors = new float[actual.Length];
        TensorPrimitives.Subtract(actual, expected, errors);
        TensorPrimitives.Abs(errors, errors);
        int worst = TensorPrimitives.IndexOfMax<float>(errors), first = Array.FindIndex(errors, e => !(e <= Tolerance));
        return new VerifiedCase(name, errors[worst], first < 0, first < 0 ? null : $"row {first / width / length}, token {first / width % length}, number {first % width} is off by {errors[first]}");
    }

    private static VerifiedCase Greedy(Decoder decoder, LoraAdapter? lora, CoreTeam team, int[] prompt, int[] expected)
    {
        using var cache = KeyValueBlocks.Holding(decoder.Config, expected.Length);
        var blocks = SequenceBlocks.For(cache, expected.Length);
        List<int> ids = [.. prompt];
        float[] logits = decoder.Forward([new Stretch(prompt, 0, blocks, lora)], cache, team);
        while (ids.Count < expected.Length)
        {
            ids.Add(TensorPrimitives.IndexOfMax<float>(logits));
            if (ids[^1] != expected[ids.Count - 1])
            {
                return new VerifiedCase("greedy_ids", 1, false, $"token {ids.Count - 1} is {ids[^1]} instead of {expected[ids.Count - 1]}");
            }
            logits = decoder.Forward([new Stretch([ids[^1]], ids.Count - 1, blocks, lora)], cache, team);
        }
        return new VerifiedCase("greedy_ids", 0, true);
    }

    private static int[] Ids(SafeTensorsFile file, StoredTensor tensor) => [.. file.Floats(tensor).Select(v => (int)v)];
}
