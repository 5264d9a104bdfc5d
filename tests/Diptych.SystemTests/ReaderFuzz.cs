using System.IO.Compression;
using System.Text;
using Diptych.App;
using Diptych.Core;
using Diptych.Engine.Ingestion;
using Diptych.Reading;
using Diptych.Reading.Processes;
using SkiaSharp;

namespace Diptych.SystemTests;

/// <summary>Reads mutated files through the program's reader processes, and cuts what comes out into passages.</summary>
internal static class ReaderFuzz
{
    /// <summary>Tighter than the product's, so that what reaches them does so soon.</summary>
    private static readonly ReaderLimits Limits = new() { MemoryBytes = 512L << 20, CpuTime = TimeSpan.FromSeconds(10), Time = TimeSpan.FromSeconds(60) };

    /// <summary>Beyond its limit, by how long at most a file may take.</summary>
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(2);

    /// <param name="Read">Files that were read.</param>
    /// <param name="Refused">Files that were refused by their reader.</param>
    /// <param name="Ended">Files that ended their process, or went beyond a limit.</param>
    /// <param name="Faults">What may not be: a file and what it did.</param>
    /// <param name="SlowestSeconds">The longest that a file took.</param>
    /// <param name="GrowthBytes">What the managed memory of this process grew by.</param>
    public sealed record Result(int Read, int Refused, int Ended, IReadOnlyList<string> Faults, double SlowestSeconds, long GrowthBytes);

    /// <summary>One small file of each format: the samples, and pictures in the other formats.</summary>
    public static IEnumerable<SourceFile> OwnSeeds()
    {
        foreach (string file in Directory.GetFiles(Host.Samples, "*", SearchOption.AllDirectories).Where(f => MediaTypes.IsKnown(f)).Order(StringComparer.Ordinal))
        {
            yield return new SourceFile(Path.GetFileName(file), File.ReadAllBytes(file));
        }
        using SKBitmap photo = SKBitmap.Decode(Path.Combine(Host.Samples, "photos", "coins.png"));
        using SKBitmap small = photo.Resize(new SKImageInfo(96, 64), new SKSamplingOptions(SKCubicResampler.Mitchell));
        using SKData webp = small.Encode(SKEncodedImageFormat.Webp, 80);
        yield return new SourceFile("photo.webp", webp.ToArray());
        yield return new SourceFile("photo.bmp", Bmp(small));
        yield return new SourceFile("photo.tiff", Tiff(small));
        yield return new SourceFile("dot.gif", Convert.FromHexString("47494638396101000100800000000000FFFFFF2C00000000010001000002024401003B"));
        yield return new SourceFile("table.tsv", "name\tplace\nAnna\tPier 4\n"u8.ToArray());
        byte[] inner = File.ReadAllBytes(Directory.GetFiles(Path.Combine(Host.Samples, "documents"), "*.docx").Order(StringComparer.Ordinal).First());
        yield return new SourceFile("mail.eml", Encoding.ASCII.GetBytes(
            $"From: a@example.org\r\nSubject: Plans\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>See the plans.\r\n--b\r\nContent-Type: application/octet-stream; name=\"a.docx\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{Convert.ToBase64String(inner, Base64FormattingOptions.InsertLineBreaks)}\r\n--b--\r\n"));
    }

    /// <param name="count">Mutated files, spread evenly over the seeds.</param>
    /// <param name="progress">Told how many are done, now and then.</param>
    public static async Task<Result> RunAsync(IReadOnlyList<SourceFile> seeds, int count, int seed, Action<int> progress, CancellationToken cancellation)
    {
        using var pool = new ReaderPool(ReaderCommand.Of(typeof(Product).Assembly.Location, Product.ReaderArgument), Limits, TimeProvider.System, Environment.ProcessorCount);
        var (text, image, tokenizer) = Runtimes.StarterModel.Open(new DiptychOptions().StarterModel);
        var chunker = new Chunker(tokenizer);
        var faults = new List<string>();
        int read = 0, refused = 0, ended = 0, done = 0;
        double slowest = 0;
        foreach (SourceFile whole in seeds)
        {
            _ = pool.Read(whole, MediaTypes.Detect(whole.Name, whole.Bytes), 0, cancellation).ToDocument();
        }
        long before = GC.GetTotalMemory(forceFullCollection: true);
        var parallel = new ParallelOptions { MaxDegreeOfParallelism = Environment.ProcessorCount, CancellationToken = cancellation };
        await Parallel.ForEachAsync(Enumerable.Range(0, count), parallel, async (i, token) => await Task.Factory.StartNew(
            () =>
            {
                SourceFile original = seeds[i % seeds.Count];
                byte[] bytes = Mutate(original.Bytes, new Random((seed * 1_000_003) + i));
                long start = TimeProvider.System.GetTimestamp();
                string? fault = null;
                try
                {
                    ReadDocument document = pool.Read(new SourceFile(original.Name, bytes), MediaTypes.Detect(original.Name, bytes), 0, token).ToDocument();
                    _ = chunker.Cut(document, token);
                    Interlocked.Increment(ref read);
                }
                catch (UnreadableException refusal)
                {
                    _ = refusal.Failure == ReadFailure.Content ? Interlocked.Increment(ref refused) : Interlocked.Increment(ref ended);
                    fault = refusal.Message.Length == 0 ? "no reason" : null;
                }
                catch (Exception error) when (error is not OperationCanceledException)
                {
                    fault = $"{error.GetType().Name}: {error.Message}";
                }
                TimeSpan took = TimeProvider.System.GetElapsedTime(start);
                lock (faults)
                {
                    slowest = Math.Max(slowest, took.TotalSeconds);
                    fault ??= took > Limits.Time + Grace ? $"took {took.TotalSeconds:0.0} s" : null;
                    if (fault is not null)
                    {
                        faults.Add($"{original.Name}, mutation {i} of seed {seed}: {fault}");
                    }
                    if (++done % 500 == 0)
                    {
                        progress(done);
                    }
                }
            },
            token,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default));
        return new Result(read, refused, ended, faults, slowest, GC.GetTotalMemory(forceFullCollection: true) - before);
    }

    /// <summary>Bytes cut, changed, repeated or blanked; of a package half the time within one of its parts, since its checksums hold off the rest.</summary>
    private static byte[] Mutate(byte[] original, Random random) =>
        original.AsSpan().StartsWith("PK\u0003\u0004"u8) && random.Next(2) == 0 ? MutatePart(original, random) : MutateBytes(original, random);

    private static byte[] MutatePart(byte[] package, Random random)
    {
        using var copy = new MemoryStream();
        copy.Write(package);
        using (var zip = new ZipArchive(copy, ZipArchiveMode.Update, leaveOpen: true))
        {
            ZipArchiveEntry[] parts = [.. zip.Entries.Where(e => e.Length > 0)];
            ZipArchiveEntry part = parts[random.Next(parts.Length)];
            byte[] bytes = new byte[part.Length];
            using (Stream content = part.Open())
            {
                content.ReadExactly(bytes);
            }
            string name = part.FullName;
            part.Delete();
            using Stream changed = zip.CreateEntry(name).Open();
            changed.Write(MutateBytes(bytes, random));
        }
        return copy.ToArray();
    }

    private static byte[] MutateBytes(byte[] original, Random random)
    {
        byte[] bytes = [.. original];
        switch (random.Next(6))
        {
            case 0:
                return bytes[..random.Next(1, bytes.Length)];
            case 1:
                for (int i = random.Next(1, 30); i > 0; i--)
                {
                    bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
                }
                return bytes;
            case 2:
                int from = random.Next(bytes.Length), length = random.Next(1, Math.Min(4096, bytes.Length - from) + 1);
                return [.. bytes[..from], .. bytes.AsSpan(from, length), .. bytes.AsSpan(from, length), .. bytes[(from + length)..]];
            case 3:
                int at = random.Next(bytes.Length), count = random.Next(1, Math.Min(2048, bytes.Length - at) + 1);
                bytes.AsSpan(at, count).Fill((byte)random.Next(256));
                return bytes;
            case 4:
                // A digit becomes another: counts, sizes and offsets in text formats.
                for (int i = random.Next(1, 200), place = random.Next(bytes.Length); i > 0 && place < bytes.Length; place++)
                {
                    if (bytes[place] is >= (byte)'0' and <= (byte)'9')
                    {
                        bytes[place] = (byte)('0' + random.Next(10));
                        i--;
                    }
                }
                return bytes;
            default:
                // The largest and smallest numbers, where binary formats have their sizes.
                int spot = random.Next(Math.Max(1, bytes.Length - 4));
                bytes.AsSpan(spot, Math.Min(4, bytes.Length - spot)).Fill(random.Next(2) == 0 ? byte.MaxValue : byte.MinValue);
                return bytes;
        }
    }

    private static byte[] Bmp(SKBitmap picture)
    {
        using var bytes = new MemoryStream();
        using var writer = new BinaryWriter(bytes);
        writer.Write("BM"u8);
        writer.Write(54 + (picture.Width * picture.Height * 4));
        writer.Write(0);
        writer.Write(54);
        writer.Write(40);
        writer.Write(picture.Width);
        writer.Write(-picture.Height);
        writer.Write((short)1);
        writer.Write((short)32);
        writer.Write(new byte[24]);
        WritePixels(writer, picture, p => [p.Blue, p.Green, p.Red, 255]);
        return bytes.ToArray();
    }

    private static byte[] Tiff(SKBitmap picture)
    {
        using var bytes = new MemoryStream();
        using var writer = new BinaryWriter(bytes);
        writer.Write("II*\0"u8);
        writer.Write(8);
        // Tags in order: width, height, bits, compression, photometric, strip offset, samples, rows a strip, strip bytes.
        (short Tag, int Value)[] tags =
        [
            (256, picture.Width), (257, picture.Height), (258, 8), (259, 1), (262, 1), (273, 8 + 2 + (9 * 12) + 4), (277, 1), (278, picture.Height), (279, picture.Width * picture.Height),
        ];
        writer.Write((short)tags.Length);
        foreach (var (tag, value) in tags)
        {
            writer.Write(tag);
            writer.Write((short)4);
            writer.Write(1);
            writer.Write(value);
        }
        writer.Write(0);
        WritePixels(writer, picture, p => [p.Green]);
        return bytes.ToArray();
    }

    private static void WritePixels(BinaryWriter writer, SKBitmap picture, Func<SKColor, byte[]> bytes)
    {
        for (int y = 0; y < picture.Height; y++)
        {
            for (int x = 0; x < picture.Width; x++)
            {
                writer.Write(bytes(picture.GetPixel(x, y)));
            }
        }
    }
}
