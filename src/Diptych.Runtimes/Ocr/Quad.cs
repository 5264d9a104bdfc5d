using System.Numerics;

namespace Diptych.Runtimes.Ocr;

/// <summary>A rectangle at any angle: its corners clockwise from the top left.</summary>
internal readonly record struct Quad(Vector2 A, Vector2 B, Vector2 C, Vector2 D)
{
    public float Width => Math.Max(Vector2.Distance(A, B), Vector2.Distance(D, C));

    public float Height => Math.Max(Vector2.Distance(A, D), Vector2.Distance(B, C));

    public float Area => Math.Abs(Cross(B - A, C - A) + Cross(C - A, D - A)) / 2;

    public float Perimeter => Vector2.Distance(A, B) + Vector2.Distance(B, C) + Vector2.Distance(C, D) + Vector2.Distance(D, A);

    /// <summary>Every side moved outward.</summary>
    public Quad Grow(float distance)
    {
        Vector2 along = Vector2.Normalize(B - A) * distance, down = Vector2.Normalize(D - A) * distance;
        return new Quad(A - along - down, B + along - down, C + along + down, D - along + down);
    }

    public Quad Scale(float x, float y, int width, int height)
    {
        Vector2 Map(Vector2 p) => new(Math.Clamp(MathF.Round(p.X * x), 0, width), Math.Clamp(MathF.Round(p.Y * y), 0, height));
        return new Quad(Map(A), Map(B), Map(C), Map(D));
    }

    public float[] Corners => [A.X, A.Y, B.X, B.Y, C.X, C.Y, D.X, D.Y];

    public bool Contains(Vector2 p) => Inside(A, B, p) && Inside(B, C, p) && Inside(C, D, p) && Inside(D, A, p);

    /// <summary>The smallest rectangle around points: one of its sides lies on the hull (rotating calipers: Freeman and Shapira 1975).</summary>
    public static Quad Around(List<Vector2> points)
    {
        List<Vector2> hull = Hull(points);
        if (hull.Count < 3)
        {
            Vector2 a = hull[0], b = hull[^1];
            return Ordered([a, b, b, a]);
        }
        float best = float.PositiveInfinity;
        Vector2[] corners = [];
        for (int i = 0; i < hull.Count; i++)
        {
            Vector2 side = Vector2.Normalize(hull[(i + 1) % hull.Count] - hull[i]), normal = new(-side.Y, side.X);
            float low = float.PositiveInfinity, high = float.NegativeInfinity, near = float.PositiveInfinity, far = float.NegativeInfinity;
            foreach (Vector2 p in hull)
            {
                float along = Vector2.Dot(p, side), across = Vector2.Dot(p, normal);
                (low, high, near, far) = (Math.Min(low, along), Math.Max(high, along), Math.Min(near, across), Math.Max(far, across));
            }
            float area = (high - low) * (far - near);
            if (area < best)
            {
                best = area;
                corners = [(side * low) + (normal * near), (side * high) + (normal * near), (side * high) + (normal * far), (side * low) + (normal * far)];
            }
        }
        return Ordered(corners);
    }

    /// <summary>Left corners first, the upper before the lower; then the right ones.</summary>
    private static Quad Ordered(Vector2[] corners)
    {
        Vector2[] byX = [.. corners.OrderBy(c => c.X)];
        (Vector2 a, Vector2 d) = byX[0].Y <= byX[1].Y ? (byX[0], byX[1]) : (byX[1], byX[0]);
        (Vector2 b, Vector2 c) = byX[2].Y <= byX[3].Y ? (byX[2], byX[3]) : (byX[3], byX[2]);
        return new Quad(a, b, c, d);
    }

    /// <summary>Andrew's monotone chain.</summary>
    private static List<Vector2> Hull(List<Vector2> points)
    {
        Vector2[] sorted = [.. points.Distinct().OrderBy(p => p.X).ThenBy(p => p.Y)];
        if (sorted.Length < 3)
        {
            return [.. sorted];
        }
        var hull = new List<Vector2>();
        foreach (IEnumerable<Vector2> pass in (IEnumerable<Vector2>[])[sorted, sorted.Reverse()])
        {
            int start = hull.Count;
            foreach (Vector2 p in pass)
            {
                while (hull.Count - start >= 2 && Cross(hull[^1] - hull[^2], p - hull[^2]) <= 0)
                {
                    hull.RemoveAt(hull.Count - 1);
                }
                hull.Add(p);
            }
            hull.RemoveAt(hull.Count - 1);
        }
        return hull;
    }

    private static bool Inside(Vector2 from, Vector2 to, Vector2 p) => Cross(to - from, p - from) >= -1e-3f;

    private static float Cross(Vector2 a, Vector2 b) => (a.X * b.Y) - (a.Y * b.X);
}
