using System.Numerics.Tensors;

namespace Diptych.Runtimes.Decoding;

/// <summary>What a way to keep weights costs.</summary>
/// <param name="Bytes">Of the weights in memory.</param>
/// <param name="Value">Perplexity over a text of ordinary English.</param>
/// <param name="Change">Of it, beside the first format that was measured.</param>
public sealed record FormatCost(WeightFormat Format, long Bytes, double Value, double Change);

/// <summary>Measures how well a model foretells a text, with its weights kept in each way.</summary>
public static class Perplexity
{
    /// <summary>Plain prose; what counts is that it is the same for all.</summary>
    private const string Text =
        """
        The harbour had been built for sailing ships, and its walls still carried the iron rings to which they were once made fast. On most mornings
        a ferry left for the islands at half past seven, taking workers, schoolchildren and a few visitors across the sound. When the wind came from
        the north the crossing was rough, and the captain would keep close to the shore until the lighthouse came into view. He had worked on this
        route for twenty-six years and knew every rock of it. In summer the journey took fifty minutes; in winter, when ice formed in the narrow
        channel, it could take twice as long.

        The islands themselves are low and green. Farmers keep sheep there, and there is one village with a church, a shop and a small museum. The
        museum shows how people lived before there was electricity: oil lamps, wooden boats, nets mended by hand, and photographs of families in
        front of their houses. One room is about the storm of 1927, which destroyed eleven boats in a single night. Visitors often ask why the houses
        were painted red. The answer is simple: red paint was made from what was left over at the copper mine on the mainland, and it was the
        cheapest colour that anyone could buy.

        Scientists come to the islands as well. They count birds in spring, measure the temperature of the water, and take samples from the sea bed.
        Their results show that the sea has become warmer by about one degree in forty years. Some kinds of fish have moved further north, while
        others, which were rare here before, are now caught every week. For the people who live from fishing this means new nets, new markets and new
        rules. They have learned to change with the sea, as their parents did before them, but they also say that it has never changed so quickly.
        """;

    private const int MostTokens = 384;

    /// <param name="path">What <see cref="LocalModel.Find"/> gave.</param>
    /// <exception cref="InvalidDataException">It is no model that can be run; the message says why.</exception>
    public static IReadOnlyList<FormatCost> Measure(string path)
    {
        int[] ids = [.. LocalModel.ReadTokenizer(path).Encode(Text).Take(MostTokens)];
        var costs = new List<FormatCost>();
        foreach (WeightFormat format in new[] { WeightFormat.F32, WeightFormat.AsStored, WeightFormat.Int8, WeightFormat.Int4 })
        {
            using Decoder decoder = Decoder.Open(path, format);
            double perplexity = Math.Exp(Surprise(decoder, ids));
            costs.Add(new FormatCost(format, decoder.ByteSize, perplexity, costs.Count == 0 ? 0 : (perplexity / costs[0].Value) - 1));
        }
        return costs;
    }

    /// <summary>Mean negative log-likelihood of each token but the first, in nats.</summary>
    private static double Surprise(Decoder decoder, int[] ids)
    {
        int vocabulary = decoder.Config.Vocabulary;
        using var cache = KeyValueBlocks.Holding(decoder.Config, ids.Length);
        using var team = new CoreTeam(Environment.ProcessorCount);
        float[] logits = decoder.Forward([new Stretch(ids, 0, SequenceBlocks.For(cache, ids.Length), AllLogits: true)], cache, team);
        double sum = 0;
        for (int i = 0; i + 1 < ids.Length; i++)
        {
            sum -= LogLikelihood(logits.AsSpan(i * vocabulary, vocabulary), ids[i + 1]);
        }
        return sum / (ids.Length - 1);
    }

    /// <summary>Natural logarithm of a token's probability under logits [vocabulary].</summary>
    internal static double LogLikelihood(ReadOnlySpan<float> logits, int token)
    {
        float most = TensorPrimitives.Max(logits);
        double sum = 0;
        foreach (float logit in logits)
        {
            sum += Math.Exp(logit - most);
        }
        return logits[token] - most - Math.Log(sum);
    }
}
