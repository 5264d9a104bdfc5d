using System.Numerics.Tensors;
using Diptych.Inference;
using Microsoft.ML.OnnxRuntime;

namespace Diptych.Runtimes.Onnx;

/// <summary>How the vectors of a text's tokens become the text's.</summary>
internal enum Pooling
{
    Mean,
    First,
    Max,
}

/// <summary>
/// A transformer over tokens as Optimum and sentence-transformers export it: token vectors that are pooled, a text's vector, or the score
/// of a pair. The tokens of a pair's second text come as their complement.
/// </summary>
/// <param name="pooling">Null for a model that scores pairs.</param>
/// <param name="outputs">What its result may be called, the likeliest first; null for text models.</param>
internal sealed class OnnxEncoder(ModelDescription description, string path, Pooling? pooling, IReadOnlyList<string>? outputs = null) : IModelBackend
{
    public const string Vector = "embedding", Score = "score";

    public ModelDescription Description => description;

    public ValueTask<ILoadedModel> LoadAsync(Device device, CancellationToken cancellation)
    {
        InferenceSession session = OnnxRuntime.Open(path, device);
        string[] inputs = [.. session.InputMetadata.Keys];
        if (inputs.Except(["input_ids", "attention_mask", "token_type_ids"]).FirstOrDefault() is { } unknown)
        {
            session.Dispose();
            throw new InvalidDataException($"{path} asks for '{unknown}', which is not known here; input_ids, attention_mask and token_type_ids are given.");
        }
        string? output = (outputs ?? ["sentence_embedding", "logits", "last_hidden_state", "token_embeddings"]).FirstOrDefault(session.OutputMetadata.ContainsKey) ?? (outputs is null ? session.OutputNames[0] : null);
        if (output is null)
        {
            string has = string.Join(", ", session.OutputNames);
            session.Dispose();
            throw new InvalidDataException($"{path} gives {has}; {string.Join(" or ", outputs!)} is read.");
        }
        if (session.OutputMetadata[output].ElementType != typeof(float))
        {
            session.Dispose();
            throw new InvalidDataException($"{path} gives '{output}' in {session.OutputMetadata[output].ElementType.Name}; single precision is read.");
        }
        return ValueTask.FromResult<ILoadedModel>(new Loaded(session, inputs, output, pooling));
    }

    private sealed class Loaded(InferenceSession session, string[] inputs, string output, Pooling? pooling) : ILoadedModel
    {
        public ValueTask<BatchOutput> ExecuteAsync(Batch batch, CancellationToken cancellation)
        {
            int longest = Enumerable.Range(0, batch.Count).Max(i => batch.Offsets[i + 1] - batch.Offsets[i]);
            long[] ids = new long[batch.Count * longest], mask = new long[ids.Length], types = new long[ids.Length];
            for (int i = 0; i < batch.Count; i++)
            {
                for (int j = batch.Offsets[i], at = i * longest; j < batch.Offsets[i + 1]; j++, at++)
                {
                    int token = batch.Tokens[j];
                    (ids[at], mask[at], types[at]) = (token < 0 ? ~token : token, 1, token < 0 ? 1 : 0);
                }
            }
            long[] shape = [batch.Count, longest];
            using var values = new DisposableList<OrtValue>();
            values.AddRange(inputs.Select(name => OrtValue.CreateTensorValueFromMemory(name switch { "input_ids" => ids, "attention_mask" => mask, _ => types }, shape)));
            using IDisposableReadOnlyCollection<OrtValue> outputs = OnnxRuntime.Run(session, inputs, values, [output]);
            ReadOnlySpan<float> all = outputs[0].GetTensorDataAsSpan<float>();
            float[][] rows = BatchOutput.Cut(all, batch.Count);
            if (pooling is { } how)
            {
                bool byToken = outputs[0].GetTensorTypeAndShape().Shape.Length == 3;
                for (int i = 0; i < rows.Length; i++)
                {
                    float[] row = byToken ? Pool(rows[i], rows[i].Length / longest, batch.Offsets[i + 1] - batch.Offsets[i], how) : rows[i];
                    TensorPrimitives.Divide(row, Math.Max(TensorPrimitives.Norm<float>(row), 1e-12f), row);
                    rows[i] = row;
                }
            }
            return ValueTask.FromResult(new BatchOutput(new Dictionary<string, float[][]> { [pooling is null ? Score : Vector] = rows }));
        }

        public ValueTask DisposeAsync()
        {
            session.Dispose();
            return ValueTask.CompletedTask;
        }

        /// <param name="vectors">[padded, width], of which the first are tokens.</param>
        private static float[] Pool(float[] vectors, int width, int tokens, Pooling how)
        {
            float[] pooled = vectors[..width];
            for (int t = 1; t < tokens && how != Pooling.First; t++)
            {
                ReadOnlySpan<float> next = vectors.AsSpan(t * width, width);
                if (how == Pooling.Max)
                {
                    TensorPrimitives.Max(pooled, next, pooled);
                }
                else
                {
                    TensorPrimitives.Add(pooled, next, pooled);
                }
            }
            return pooled;
        }
    }
}
