using System.Text.Json;
using Diptych.App.Http;
using Diptych.Core;
using Diptych.Engine.Search;
using Diptych.Index.Fusion;
using Diptych.Index.Lexical;
using Xunit;

namespace Diptych.Tests.Index;

public sealed class RankingTests
{
    [Fact]
    public void Reciprocal_rank_fusion_adds_one_over_k_plus_rank()
    {
        var fused = RankFusion.ReciprocalRank([([(1, 9.0), (2, 8.0)], 1), ([(2, 0.5), (3, 0.4)], 1)]);
        Assert.Equal([2, 1, 3], fused.Select(f => f.Id));
        Assert.Equal((1.0 / (RankFusion.K + 1)) + (1.0 / (RankFusion.K + 2)), fused[0].Score, 1e-12);
    }

    [Fact]
    public void Weighted_fusion_scales_each_list_to_its_own_range()
    {
        var fused = RankFusion.Weighted([([(1, 100.0), (2, 0.0)], 1), ([(2, 0.9), (1, 0.8)], 3)]);
        Assert.Equal([(2, 3.0), (1, 1.0)], fused);
    }

    [Fact]
    public void Isotonic_regression_is_the_nearest_falling_sequence()
    {
        Assert.Equal([0.9, 0.5, 0.5, 0.1], Isotonic.Decreasing([0.9, 0.4, 0.6, 0.1]));
        Assert.Equal([2.0, 2.0, 2.0], Isotonic.Decreasing([1.0, 2.0, 3.0]));
        Assert.Empty(Isotonic.Decreasing([]));
    }

    [Theory]
    [InlineData("Where is the harbour?", "harbour")]
    [InlineData("\"deep field\" galaxies", "deep field|galaxies")]
    [InlineData("the of", "the|of")]
    [InlineData("an unclosed \"phrase", "unclosed|phrase")]
    [InlineData("AND OR NOT NEAR(x) col:val * harb*", "harb*|near|x|col|val")]
    [InlineData("?!", "")]
    public void Anything_typed_becomes_parts_that_may_match(string typed, string parts) =>
        Assert.Equal(parts, string.Join('|', FullTextQuery.Parts(typed).Select(p => p.IsPrefix ? $"{p.Words}*" : p.Words)));

    [Theory]
    [InlineData("year>=2000", true)]
    [InlineData("year<2000", false)]
    [InlineData("year=2005", true)]
    [InlineData("tag=dog,cat", true)]
    [InlineData("tag!=cat", false)]
    [InlineData("source^=/photos", true)]
    [InlineData("has:year", true)]
    [InlineData("has:place", false)]
    [InlineData("modality=image", true)]
    [InlineData("page>1", true)]
    public void Filters_read_metadata_and_built_in_fields(string filter, bool matches)
    {
        var document = new Document
        {
            Collection = "c",
            Source = "/photos/a.jpg",
            ContentHash = "",
            MediaType = "image/jpeg",
            Title = "a",
            Metadata = Metadata.Empty.With("year", "2005").With("tag", "Cat", "pet"),
        };
        var passage = new Passage { Modality = Modality.Image, Anchor = new Anchor(2) };
        Filter parsed = Filter.Parse(filter);
        Assert.Equal(matches, parsed.Matches(document, passage));
        Filter again = JsonSerializer.Deserialize<Filter>(JsonSerializer.Serialize(parsed, Json.Options), Json.Options)!;
        Assert.Equal(matches, again.Matches(document, passage));
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("""{"field":"a"}""")]
    [InlineData("""{"and":{}}""")]
    [InlineData("[]")]
    public void A_malformed_filter_is_told(string json) => Assert.Throws<JsonException>(() => JsonSerializer.Deserialize<Filter>(json, Json.Options));
}
