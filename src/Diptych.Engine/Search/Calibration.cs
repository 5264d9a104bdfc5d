namespace Diptych.Engine.Search;

/// <summary>
/// Turns raw scores into probabilities of relevance, so that a text and a photo can stand in one ranking, and a query that nothing
/// answers can be told. One logistic curve for each pair of what is asked with and what is found, since their cosines are not on
/// one scale (the modality gap: Liang et al., NeurIPS 2022). Fitted for the starter model on Flickr8k's dev photos and
/// Cranfield; docs/evaluation.md says how well it holds.
/// </summary>
public static class Calibration
{
    /// <param name="cosine">Between the query and the passage, in the text space.</param>
    /// <param name="coverage">Share of the query's words, weighted by rarity, that the passage has.</param>
    public static double TextToText(double cosine, double coverage) => Logistic(-6.0 + (12.0 * cosine) + (4.0 * coverage));

    /// <param name="cosine">Between the query and the image, in the shared space.</param>
    /// <param name="images">Images in the collection. Among many, some come near to any query by chance: the prior odds that this one
    /// is meant fall as 1 / images. The curve was fitted among a thousand.</param>
    public static double TextToImage(double cosine, int images) => Logistic(-18.3 + (43.9 * cosine) - Math.Log(Math.Max(images, 20) / 1000.0));

    public static double ImageToText(double cosine) => Logistic(-8.0 + (18.0 * cosine));

    public static double ImageToImage(double cosine) => Logistic(-8.0 + (12.0 * cosine));

    /// <summary>First hits on which the channels are compared.</summary>
    public const int AgreementDepth = 5;

    /// <summary>The constant of the reciprocal ranks that are compared.</summary>
    public const int AgreementK = 60;

    /// <summary>
    /// What the first hits together say of whether there is an answer at all, 0.6 to 1. The two measures are the best of some sixty
    /// that were tried on Cranfield with relevant documents removed; their means and deviations there are the scale.
    /// </summary>
    /// <param name="agreement">Reciprocal ranks of the first hits in all channels, as a share of the most they can be.</param>
    /// <param name="coherence">Mean cosine among the three nearest passages, in the text space.</param>
    public static double Support(double agreement, double coherence) =>
        0.6 + (0.4 * Logistic(((agreement - 0.958) / 0.034) + ((coherence - 0.651) / 0.104)));

    private static double Logistic(double x) => 1 / (1 + Math.Exp(-x));
}
