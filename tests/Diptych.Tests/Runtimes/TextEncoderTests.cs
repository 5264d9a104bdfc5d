using Diptych.Core;
using Diptych.Inference;
using Diptych.Reading.Images;
using Diptych.Runtimes;
using Diptych.Runtimes.Encoders;
using Diptych.Runtimes.Store;
using Diptych.Runtimes.Text;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Text models and cross-encoders in the folders that sentence-transformers and Optimum write.</summary>
public sealed class TextEncoderTests : IDisposable
{
    private static readonly string[] Vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "wing", "flow", "cat", "sat", "##s", "of"];
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-encoders-").FullName;

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_text_model_that_was_added_embeds_as_its_export_does()
    {
        // The starter's text tower in the layout of sentence-transformers: its first output is a text's vector.
        string source = Directory.CreateDirectory(Path.Combine(_folder, "minilm")).FullName;
        Directory.CreateDirectory(Path.Combine(source, "onnx"));
        Directory.CreateDirectory(Path.Combine(source, "openvino"));
        File.Copy(Path.Combine(Shared.Starter, "text.onnx"), Path.Combine(source, "onnx", "model.onnx"));
        File.Copy(Path.Combine(Shared.Starter, "vocab.txt"), Path.Combine(source, "vocab.txt"));
        await File.WriteAllTextAsync(Path.Combine(source, "openvino", "model.bin"), "another format", Stop);
        await File.WriteAllTextAsync(Path.Combine(source, "config.json"), """{"architectures": ["BertModel"], "hidden_size": 384, "max_position_embeddings": 512}""", Stop);
        await File.WriteAllTextAsync(Path.Combine(source, "sentence_bert_config.json"), """{"max_seq_length": 256}""", Stop);
        var models = new ModelFolder(Path.Combine(_folder, "models"));
        InstalledModel added = models.Add(source, null, Stop);
        Assert.Equal(ModelKind.TextEncoder, added.Kind);
        Assert.Contains("onnx/model.onnx", added.Files.Keys);
        Assert.DoesNotContain("openvino/model.bin", added.Files.Keys);
        Assert.Empty(models.Verify("minilm"));

        var (text, image, tokenizer) = StarterModel.Open(Shared.Starter);
        await using var service = new InferenceService([text, image], TimeProvider.System);
        using var preparation = new PreparationPool();
        var own = new Embedder(service, tokenizer, new SkiaImageDecoder(), preparation, StarterModel.TextName, StarterModel.ImageName);
        IEncoder encoder = TextEncoder.Open("minilm", models.PathOf(added), service);
        float[][] vectors = await Task.WhenAll(new[] { "a cat on a mat", "the boundary layer of a swept wing at high speed", "x" }.Select(t => encoder.EmbedTextAsync(t, Lane.Bulk, Stop)));
        Assert.All(vectors, v => Assert.Equal(1, v.Sum(x => x * x), 1e-4));
        TextEmbedding expected = await own.EmbedTextAsync("a cat on a mat", Lane.Bulk, Stop);
        Assert.All(vectors[0].Zip(expected.Text), p => Assert.Equal(p.Second, p.First, 1e-4));
        await Assert.ThrowsAsync<InvalidRequestException>(() => encoder.EmbedImageAsync([1], Lane.Bulk, Stop));
    }

    [Fact]
    public async Task A_cross_encoder_reads_pairs_whatever_is_beside_them_in_a_batch()
    {
        string folder = PairScorer("""{"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}, "max_position_embeddings": 16}""");
        Assert.Equal(ModelKind.Reranker, new ModelFolder(Path.Combine(_folder, "models")).Add(folder, "judge", Stop).Kind);
        await using var service = new InferenceService([], TimeProvider.System);
        Reranker reranker = Reranker.Open("judge", folder, service);
        // Weights are the ids over ten; the separator after the second text is its own.
        (string Text, double Score)[] expected = [("wing flow", 0.4 + 0.5 + 0.3), ("cats", 0.6 + 0.8 + 0.3), ("Sat?", 0.7 + 0.1 + 0.3), ("", 0.3)];
        double[] scores = await Task.WhenAll(expected.Select(e => reranker.ScoreAsync("flow of wing", e.Text, Lane.Bulk, Stop)));
        Assert.All(expected.Zip(scores), p => Assert.Equal(1 / (1 + Math.Exp(-p.First.Score)), p.Second, 1e-5));
    }

    [Fact]
    public void A_pair_that_is_too_long_loses_the_longer_texts_end()
    {
        string folder = PairScorer("""{"architectures": ["BertForSequenceClassification"], "num_labels": 1}""");
        WordPieceTokenizer tokenizer = WordPieceTokenizer.Open(folder, 10);
        Assert.Equal([2, 4, 3, ~5, ~5, ~5, ~5, ~5, ~5, ~3], tokenizer.EncodePair("wing", "flow flow flow flow flow flow flow flow flow"));
        Assert.Equal([2, 4, 4, 4, 3, ~5, ~5, ~5, ~5, ~3], tokenizer.EncodePair("wing wing wing wing wing", "flow flow flow flow flow flow flow"));
        Assert.Equal([2, 4, 3, ~6, ~3], tokenizer.EncodePair("WING", "cat"));
    }

    [Theory]
    [InlineData("""{"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}}""", "3 classes")]
    [InlineData("""{"architectures": ["BertModel"]}""", "hidden_size")]
    public void What_cannot_be_run_is_refused_by_its_reason(string config, string reason) =>
        Assert.Contains(reason, Assert.Throws<InvalidDataException>(() => EncoderFolder.Find(PairScorer(config))).Message, StringComparison.Ordinal);

    [Fact]
    public void A_tokenizer_of_another_kind_is_named()
    {
        string folder = PairScorer("""{"architectures": ["XLMRobertaModel"], "hidden_size": 8}""");
        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), """{"model": {"type": "WordLevel", "vocab": {}}, "added_tokens": []}""");
        Assert.Contains("WordLevel", Assert.Throws<InvalidDataException>(() => new ModelFolder(Path.Combine(_folder, "models")).Add(folder, null, Stop)).Message, StringComparison.Ordinal);
        Assert.Empty(new ModelFolder(Path.Combine(_folder, "models")).List());
    }

    [Theory]
    [InlineData("model.onnx", "junk", "model.onnx")]
    [InlineData("tokenizer.json", "{\"model\": 5}", "tokenizer.json")]
    [InlineData("tokenizer.json", "{", "tokenizer.json")]
    [InlineData("vocab.txt", "a\nb", "vocab.txt")]
    [InlineData("tokenizer_config.json", "[]", "tokenizer_config.json")]
    public void A_damaged_file_is_named_and_nothing_is_added(string file, string content, string named)
    {
        string folder = PairScorer("""{"architectures": ["BertForSequenceClassification"], "num_labels": 1}""");
        File.WriteAllText(Path.Combine(folder, file), content);
        var models = new ModelFolder(Path.Combine(_folder, "models"));
        Assert.Contains(named, Assert.Throws<InvalidDataException>(() => models.Add(folder, null, Stop)).Message, StringComparison.Ordinal);
        Assert.Empty(models.List());
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string PairScorer(string config)
    {
        string folder = Directory.CreateDirectory(Path.Combine(_folder, $"pairs{Guid.NewGuid():N}")).FullName;
        File.WriteAllBytes(Path.Combine(folder, "model.onnx"), TinyOnnx.PairScorer([.. Vocabulary.Select((_, i) => i / 10f)]));
        File.WriteAllLines(Path.Combine(folder, "vocab.txt"), Vocabulary);
        File.WriteAllText(Path.Combine(folder, "config.json"), config);
        return folder;
    }
}
