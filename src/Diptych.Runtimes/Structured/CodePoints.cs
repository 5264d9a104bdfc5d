namespace Diptych.Runtimes.Structured;

/// <summary>A set of Unicode code points, as ranges in order that do not touch. Surrogates are never in it.</summary>
internal sealed class CodePoints
{
    private const int Last = 0x10FFFF;

    private CodePoints(IEnumerable<(int First, int Last)> ranges)
    {
        var merged = new List<(int First, int Last)>();
        foreach (var (first, last) in ranges.SelectMany(WithoutSurrogates).Where(r => r.First <= r.Last).OrderBy(r => r.First))
        {
            if (merged.Count > 0 && first <= merged[^1].Last + 1)
            {
                merged[^1] = (merged[^1].First, Math.Max(merged[^1].Last, last));
            }
            else
            {
                merged.Add((first, last));
            }
        }
        Ranges = merged;
    }

    public static CodePoints All { get; } = Of((0, Last));

    public static CodePoints Digits { get; } = Of(('0', '9'));

    public static CodePoints WordLetters { get; } = Of(('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_'));

    public static CodePoints Spaces { get; } = Of(('\t', '\r'), (' ', ' '));

    /// <summary>What a dot stands for.</summary>
    public static CodePoints NotNewLine { get; } = Of(('\n', '\n'), ('\r', '\r')).Complement();

    public IReadOnlyList<(int First, int Last)> Ranges { get; }

    public static CodePoints Of(params IEnumerable<(int First, int Last)> ranges) => new(ranges);

    public static CodePoints Of(int one) => new([(one, one)]);

    public CodePoints Union(CodePoints other) => new([.. Ranges, .. other.Ranges]);

    public CodePoints Complement()
    {
        var gaps = new List<(int, int)>();
        int next = 0;
        foreach (var (first, last) in Ranges)
        {
            gaps.Add((next, first - 1));
            next = last + 1;
        }
        gaps.Add((next, Last));
        return new CodePoints(gaps);
    }

    public CodePoints Intersect(CodePoints other) => Complement().Union(other.Complement()).Complement();

    private static IEnumerable<(int First, int Last)> WithoutSurrogates((int First, int Last) range)
    {
        yield return (range.First, Math.Min(range.Last, 0xD7FF));
        yield return (Math.Max(range.First, 0xE000), range.Last);
    }
}
