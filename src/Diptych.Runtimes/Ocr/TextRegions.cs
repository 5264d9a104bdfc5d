using System.Numerics;

namespace Diptych.Runtimes.Ocr;

/// <summary>
/// From a detector's probability map to rectangles around lines (Differentiable Binarization: Liao et al. 2020): what is above the
/// threshold, grown by a pixel, falls into connected regions; each is boxed, judged by its mean probability, and given back the margin
/// that the detector was taught to leave out.
/// </summary>
internal static class TextRegions
{
    private const float PixelThreshold = 0.3f;
    private const float BoxThreshold = 0.5f;
    private const float UnclipRatio = 1.6f;
    private const int MaxRegions = 1000;
    private const float MinSide = 3;

    /// <param name="map">[height, width] probabilities.</param>
    /// <param name="toWidth">Size of the picture that the rectangles are wanted in.</param>
    /// <returns>In reading order.</returns>
    public static List<Quad> Find(ReadOnlySpan<float> map, int width, int height, int toWidth, int toHeight)
    {
        bool[] mask = Dilated(map, width, height);
        var quads = new List<Quad>();
        var edge = new List<Vector2>();
        var stack = new Stack<int>();
        for (int start = 0; start < mask.Length && quads.Count < MaxRegions; start++)
        {
            if (!mask[start])
            {
                continue;
            }
            Flood(mask, width, height, start, edge, stack);
            Quad box = Quad.Around(edge);
            if (Math.Min(box.Width, box.Height) < MinSide || Score(map, width, height, box) < BoxThreshold)
            {
                continue;
            }
            box = box.Grow(box.Area * UnclipRatio / box.Perimeter);
            if (Math.Min(box.Width, box.Height) < MinSide + 2)
            {
                continue;
            }
            box = box.Scale((float)toWidth / width, (float)toHeight / height, toWidth, toHeight);
            if ((int)box.Width > MinSide && (int)box.Height > MinSide)
            {
                quads.Add(box);
            }
        }
        return InReadingOrder(quads);
    }

    private static bool[] Dilated(ReadOnlySpan<float> map, int width, int height)
    {
        bool[] mask = new bool[map.Length];
        for (int y = 0; y < height; y++)
        {
            for (int x = 0; x < width; x++)
            {
                if (map[(y * width) + x] > PixelThreshold)
                {
                    for (int dy = 0; dy < 2 && y + dy < height; dy++)
                    {
                        for (int dx = 0; dx < 2 && x + dx < width; dx++)
                        {
                            mask[((y + dy) * width) + x + dx] = true;
                        }
                    }
                }
            }
        }
        return mask;
    }

    /// <summary>Takes a region (joined at sides or corners) out of the mask; what a hull needs of it are the ends of its rows.</summary>
    private static void Flood(bool[] mask, int width, int height, int start, List<Vector2> edge, Stack<int> stack)
    {
        edge.Clear();
        stack.Push(start);
        mask[start] = false;
        while (stack.TryPop(out int at))
        {
            int x = at % width, y = at / width;
            edge.Add(new Vector2(x, y));
            for (int ny = Math.Max(0, y - 1); ny <= Math.Min(height - 1, y + 1); ny++)
            {
                for (int nx = Math.Max(0, x - 1); nx <= Math.Min(width - 1, x + 1); nx++)
                {
                    int next = (ny * width) + nx;
                    if (mask[next])
                    {
                        mask[next] = false;
                        stack.Push(next);
                    }
                }
            }
        }
        if (edge.Count > 64)
        {
            var rows = edge.GroupBy(p => p.Y).SelectMany(r => (IEnumerable<Vector2>)[r.MinBy(p => p.X), r.MaxBy(p => p.X)]).ToList();
            edge.Clear();
            edge.AddRange(rows);
        }
    }

    private static float Score(ReadOnlySpan<float> map, int width, int height, Quad box)
    {
        float[] c = box.Corners;
        int left = Math.Clamp((int)Math.Min(Math.Min(c[0], c[2]), Math.Min(c[4], c[6])), 0, width - 1), right = Math.Clamp((int)MathF.Ceiling(Math.Max(Math.Max(c[0], c[2]), Math.Max(c[4], c[6]))), 0, width - 1);
        int top = Math.Clamp((int)Math.Min(Math.Min(c[1], c[3]), Math.Min(c[5], c[7])), 0, height - 1), bottom = Math.Clamp((int)MathF.Ceiling(Math.Max(Math.Max(c[1], c[3]), Math.Max(c[5], c[7]))), 0, height - 1);
        double sum = 0;
        int count = 0;
        for (int y = top; y <= bottom; y++)
        {
            for (int x = left; x <= right; x++)
            {
                if (box.Contains(new Vector2(x, y)))
                {
                    sum += map[(y * width) + x];
                    count++;
                }
            }
        }
        return count == 0 ? 0 : (float)(sum / count);
    }

    /// <summary>From top to bottom; lines that begin within ten pixels of height are one row, from left to right.</summary>
    private static List<Quad> InReadingOrder(List<Quad> quads)
    {
        Quad[] sorted = [.. quads.OrderBy(q => q.A.Y).ThenBy(q => q.A.X)];
        for (int i = 1; i < sorted.Length; i++)
        {
            for (int j = i; j > 0 && Math.Abs(sorted[j].A.Y - sorted[j - 1].A.Y) < 10 && sorted[j].A.X < sorted[j - 1].A.X; j--)
            {
                (sorted[j], sorted[j - 1]) = (sorted[j - 1], sorted[j]);
            }
        }
        return [.. sorted];
    }
}
