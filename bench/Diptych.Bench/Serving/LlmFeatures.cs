using System.Runtime.CompilerServices;
using System.Text.Json;
using Diptych.Engine.Answering;
using Diptych.Engine.Evaluation;
using Diptych.Inference;
using Diptych.Runtimes.Chat;
using Diptych.Runtimes.Decoding;
using Diptych.Tests.Runtimes;
using Microsoft.Extensions.AI;
using NJsonSchema;

namespace Diptych.Bench.Serving;

/// <summary>What the engine does beyond speed: answers held to schemas, guesses, weights as they are stored.</summary>
internal static class LlmFeatures
{
    public static async Task RunAsync(Report report)
    {
        using LocalModel model = LocalModel.Open("smollm2", LlmServer.Gguf, 128 << 20, TimeProvider.System);
        await AnswerAsync(model, "Hello", new Sampling { MaxTokens = 200, LooksBack = false });
        await SchemasAsync(report, model);
        await GroundedAsync(report, model);
        Packed(report);
    }

    private const int Schemas = 200, GroundedQuestions = 20;

    /// <summary>Two hundred schemas, and the same tokens without them.</summary>
    private static async Task SchemasAsync(Report report, LocalModel model)
    {
        int valid = 0, tokens = 0, free = 0;
        double seconds = 0, freely = 0;
        for (int seed = 0; seed < Schemas; seed++)
        {
            string schema = SchemaSamples.Of(seed);
            JsonSchema validator = await JsonSchema.FromJsonAsync(schema);
            string question = $"Write an example as JSON of: {string.Join(", ", validator.ActualProperties.Keys)}";
            var sampling = new Sampling { MaxTokens = 160, LooksBack = false };
            // The prompt is read once before, so that both know it.
            await AnswerAsync(model, question, sampling with { MaxTokens = 1 });
            long start = TimeProvider.System.GetTimestamp();
            var (text, written) = await AnswerAsync(model, question, sampling with { Constraint = model.SchemaConstraint(schema) });
            seconds += TimeProvider.System.GetElapsedTime(start).TotalSeconds;
            tokens += written;
            valid += Valid(validator, text) ? 1 : 0;
            start = TimeProvider.System.GetTimestamp();
            free += (await AnswerAsync(model, question, sampling with { MaxTokens = Math.Max(1, written), Bias = new Dictionary<int, float> { [0] = -100, [2] = -100 } })).Written;
            freely += TimeProvider.System.GetElapsedTime(start).TotalSeconds;
        }
        double slower = (seconds / tokens / (freely / free)) - 1;
        report.Row("Answers held to 200 JSON Schemas: valid", $"{valid}", $"{Schemas}", valid == Schemas);
        report.Row("Answers held to 200 JSON Schemas: slower by token, schemas read and all", Report.Number(slower, "0.0 %"), "<= 10 %", slower <= 0.1);
    }

    private static bool Valid(JsonSchema schema, string text)
    {
        try
        {
            return schema.Validate(text).Count == 0;
        }
        catch (Exception error) when (error is JsonException or Newtonsoft.Json.JsonException)
        {
            return false;
        }
    }

    /// <summary>
    /// Questions as <c>ask</c> puts them to models that read passages, over the evidence that the product finds, with and without looking
    /// back. (One of this size is given a few sentences, and answers in one: there is little to look back at.)
    /// </summary>
    private static async Task GroundedAsync(Report report, LocalModel model)
    {
        string cranfield = Path.Combine(Report.Shared, "data", "cranfield");
        var prompts = new List<Prompt>();
        await Report.WithProductAsync(async product =>
        {
            await product.Evaluator.IngestTextsAsync("default", TestCollections.Corpus(Path.Combine(cranfield, "cran.all.1400")), default);
            var answerer = new Answerer(product.Searcher, product.Store, product.Embedder, new Recorder(model, prompts));
            foreach (var (_, text) in TestCollections.Queries(Path.Combine(cranfield, "cran.qry")).Take(GroundedQuestions))
            {
                await foreach (AnswerPart part in answerer.AskAsync(new Question { Text = text, Collection = "default", MinConfidence = 0 }, default))
                {
                }
            }
        });
        double plain = 0, guessed = 0;
        int same = 0, tokens = 0;
        foreach (Prompt prompt in prompts)
        {
            var sampling = new Sampling { MaxTokens = 200 };
            // The prompt is read once before, so that what is timed is the answer.
            await AnswerAsync(model, prompt, sampling with { MaxTokens = 1 });
            long start = TimeProvider.System.GetTimestamp();
            var (without, written) = await AnswerAsync(model, prompt, sampling with { LooksBack = false });
            plain += TimeProvider.System.GetElapsedTime(start).TotalSeconds;
            start = TimeProvider.System.GetTimestamp();
            var (with, _) = await AnswerAsync(model, prompt, sampling);
            guessed += TimeProvider.System.GetElapsedTime(start).TotalSeconds;
            same += with == without ? 1 : 0;
            tokens += written;
        }
        report.Row("Answers over passages, as ask asks for them, with prompt lookup, tokens/s", $"{Report.Number(tokens / guessed, "0")} ({Report.Number(plain / guessed, "0.00")} x, {same} of {prompts.Count} the same)",
            $">= 1.5 x without, {Report.Number(tokens / plain, "0")}; all the same", plain / guessed >= 1.5 && same == prompts.Count);
    }

    /// <summary>Keeps what the product would ask.</summary>
    private sealed class Recorder(LocalModel model, List<Prompt> prompts) : IChatClient
    {
        public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
            IEnumerable<ChatMessage> messages, ChatOptions? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
        {
            prompts.Add(new Prompt(model.Write([.. messages.Select(m => new ChatTurn(m.Role.Value, m.Text))])));
            await Task.CompletedTask;
            yield break;
        }

        public Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default) => throw new NotSupportedException();

        public object? GetService(Type serviceType, object? serviceKey = null) => serviceType == typeof(IContextWindow) ? new Larger(model) : model.GetService(serviceType, serviceKey);

        public void Dispose()
        {
        }
    }

    private sealed class Larger(LocalModel model) : IContextWindow
    {
        public int MaxTokens => model.MaxTokens;

        public int PictureTokens => 0;

        public long Parameters => 8_000_000_000;

        public int CountTokens(string text) => model.CountTokens(text);
    }

    /// <summary>Weights as stored beside single precision, over the abstracts of Cranfield.</summary>
    private static void Packed(Report report)
    {
        string cranfield = Path.Combine(Report.Shared, "data", "cranfield");
        using Decoder exact = Decoder.Open(LlmServer.Gguf, WeightFormat.F32), packed = Decoder.Open(LlmServer.Gguf);
        using var team = new CoreTeam(Environment.ProcessorCount);
        using var file = new GgufFile(LlmServer.Gguf);
        var tokenizer = BytePairTokenizer.FromGguf(file);
        int agree = 0, count = 0;
        double less = 0;
        foreach (string text in TestCollections.Corpus(Path.Combine(cranfield, "cran.all.1400")).Select(d => d.Text).Where(t => t.Length > 200).Take(24))
        {
            int[] ids = [.. tokenizer.Encode(text).Take(192)];
            float[] a = Logits(exact, ids), b = Logits(packed, ids);
            int v = exact.Config.Vocabulary;
            for (int i = 0; i + 1 < ids.Length; i++)
            {
                ReadOnlySpan<float> x = a.AsSpan(i * v, v), y = b.AsSpan(i * v, v);
                agree += System.Numerics.Tensors.TensorPrimitives.IndexOfMax(x) == System.Numerics.Tensors.TensorPrimitives.IndexOfMax(y) ? 1 : 0;
                less += Perplexity.LogLikelihood(x, ids[i + 1]) - Perplexity.LogLikelihood(y, ids[i + 1]);
                count++;
            }
        }
        double agreement = agree / (double)count, perplexity = Math.Exp(less / count) - 1;
        report.Row("Weights as stored beside single precision: the same token first", Report.Number(agreement), ">= 0.97", agreement >= 0.97);
        report.Row("Weights as stored beside single precision: perplexity", Report.Number(perplexity, "+0.00 %;-0.00 %"), "<= +2 %", perplexity <= 0.02);

        float[] Logits(Decoder decoder, int[] ids)
        {
            using var cache = KeyValueBlocks.Holding(decoder.Config, 256);
            return decoder.Forward([new Stretch(ids, 0, SequenceBlocks.For(cache, 256), AllLogits: true)], cache, team);
        }
    }

    private static Task<(string Text, int Written)> AnswerAsync(LocalModel model, string question, Sampling sampling) => AnswerAsync(model, new Prompt(model.Write([new ChatTurn("user", question)])), sampling);

    private static async Task<(string Text, int Written)> AnswerAsync(LocalModel model, Prompt prompt, Sampling sampling)
    {
        string text = "";
        int written = 0;
        await foreach (GeneratedText part in model.GenerateAsync(prompt, sampling, CancellationToken.None))
        {
            text += part.Text;
            written = part.CompletionTokens;
        }
        return (text, written);
    }
}
