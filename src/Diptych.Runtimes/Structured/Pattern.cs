using System.Text;

namespace Diptych.Runtimes.Structured;

/// <summary>What a text may look like, piece by piece; built by <see cref="RegexReader"/> and <see cref="SchemaReader"/>.</summary>
internal abstract record Pattern
{
    public static Pattern Empty { get; } = new Sequence([]);

    public static Pattern Text(string text) => new Literal(Encoding.UTF8.GetBytes(text));

    public static Pattern Of(params IReadOnlyList<Pattern> parts) => parts.Count == 1 ? parts[0] : new Sequence(parts);

    public static Pattern Any(params IReadOnlyList<Pattern> choices) => choices.Count == 1 ? choices[0] : new Choice(choices);

    public Pattern Optional() => new Repeat(this, 0, 1, Empty);

    public Pattern Times(int least, int? most = null, Pattern? separator = null) => new Repeat(this, least, most, separator ?? Empty);

    /// <summary>Bytes as they are.</summary>
    public sealed record Literal(byte[] Bytes) : Pattern;

    /// <summary>One character of a set, in UTF-8.</summary>
    public sealed record Character(CodePoints Set) : Pattern;

    public sealed record Sequence(IReadOnlyList<Pattern> Parts) : Pattern;

    public sealed record Choice(IReadOnlyList<Pattern> Choices) : Pattern;

    /// <param name="Most">Null for any number.</param>
    /// <param name="Separator">Between two of them.</param>
    public sealed record Repeat(Pattern Inner, int Least, int? Most, Pattern Separator) : Pattern;

    /// <summary>Members in their order, those that are not required may be left out, with a separator between those that are there.</summary>
    public sealed record Members(IReadOnlyList<(Pattern Member, bool Required)> All, Pattern Separator) : Pattern;
}
