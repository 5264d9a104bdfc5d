using Diptych.App;
using Diptych.Core;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Diptych.Reading.Images;
using Diptych.Runtimes;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Ocr;

namespace Diptych.Bench.Serving;

/// <summary>
/// Ten minutes of texts, pictures, captions and reading of photos over models that do not fit together, so that they come and go: what
/// the ledger says beside what the process has.
/// </summary>
internal static class LedgerSoak
{
    private const int Minutes = 10;

    /// <summary>Of what all models take together.</summary>
    private const double Room = 0.8;

    public static async Task RunAsync(Report report)
    {
        string data = Directory.CreateTempSubdirectory("diptych-ledger-").FullName;
        try
        {
            // Once with room for all, to know what they take.
            long all = 0;
            await using (var everything = await Rig.OpenAsync(data, long.MaxValue / 4))
            {
                await everything.LoadAllAsync();
                all = everything.Device.UsedBytes;
            }
            await using Rig rig = await Rig.OpenAsync(data, (long)(Room * all));
            await MixAsync(report, rig);
        }
        finally
        {
            Directory.Delete(data, recursive: true);
        }
    }

    private static async Task MixAsync(Report report, Rig rig)
    {
        using var stop = new CancellationTokenSource(TimeSpan.FromMinutes(Minutes));
        long start = TimeProvider.System.GetTimestamp();
        (long baseline, long ledgerBefore) = (Process(), rig.Device.UsedBytes);
        Task[] work = [.. rig.Work(stop.Token)];
        var samples = new List<(double Seconds, long Process, long Ledger)>();
        long most = 0;
        using var tick = new PeriodicTimer(TimeSpan.FromSeconds(1), TimeProvider.System);
        while (!stop.IsCancellationRequested)
        {
            await tick.WaitForNextTickAsync();
            long ledger = rig.Device.UsedBytes;
            most = Math.Max(most, ledger);
            samples.Add((TimeProvider.System.GetElapsedTime(start).TotalSeconds, Process() - baseline, ledger - ledgerBefore));
        }
        await Task.WhenAll(work);
        // The first minute brings what stays: thread stacks, compiled code.
        var steady = samples.Where(s => s.Seconds > 60).ToList();
        double process = steady.Average(s => s.Process), held = steady.Average(s => s.Ledger);
        double growth = steady[^120..].Average(s => s.Process - s.Ledger) - steady[..120].Average(s => s.Process - s.Ledger);
        report.Row($"Ledger and process over {Minutes} minutes of mixed load ({rig.Loads} loads, {rig.Done} items): process, of the ledger", $"{Report.Number(process / held, "0.00")} ({process / (1 << 20):0} and {held / (1 << 20):0} MiB)", "0.9 to 1.1", process / held is >= 0.9 and <= 1.1);
        report.Row("the same: growth of the process beyond the ledger, first two minutes to last two", $"{growth / (1 << 20):0} MiB", "<= 2 % of the process", growth <= 0.02 * process);
        report.Row("the same: the ledger's highest, of its budget", Report.Number((double)most / rig.Device.BudgetBytes, "0.00"), "<= 1", most <= rig.Device.BudgetBytes);
    }

    /// <summary>What the process has in memory, but for the managed heap.</summary>
    private static long Process() => Environment.WorkingSet - GC.GetGCMemoryInfo(GCKind.Any).TotalCommittedBytes;

    private sealed class Rig : IAsyncDisposable
    {
        private readonly InferenceService _service;
        private readonly PreparationPool _preparation = new();
        private readonly Embedder _embedder;
        private readonly PictureReading _reading;
        private readonly IPictureReader _reader;
        private readonly byte[][] _photos;
        private long _done;

        private Rig(string data, long budget)
        {
            var (text, image, tokenizer) = StarterModel.Open(new DiptychOptions().StarterModel);
            _service = new InferenceService([text, image], TimeProvider.System, new InferenceOptions { Devices = [Inference.Device.Cpu with { BudgetBytes = budget }], Profiles = new ModelProfiles(Path.Combine(data, "profiles.json")) });
            IImageDecoder images = new SkiaImageDecoder();
            _embedder = new Embedder(_service, tokenizer, images, _preparation, StarterModel.TextName, StarterModel.ImageName);
            _reading = new PictureReading(_service, images, _preparation, new DiptychOptions().StarterModel);
            _reading.Add("captions", Path.Combine(Report.Shared, "models", "starter-vlm"));
            _reader = PpOcr.Open(Path.Combine(Report.Shared, "models", "ppocr"), _service);
            _photos = [.. Directory.EnumerateFiles(Path.Combine(Report.Shared, "samples"), "*.jpg").Take(8).Select(File.ReadAllBytes)];
        }

        public DeviceSnapshot Device => _service.Snapshot().Devices[0];

        public long Done => Interlocked.Read(ref _done);

        public int Loads { get; private set; }

        public static Task<Rig> OpenAsync(string data, long budget) => Task.FromResult(new Rig(data, budget));

        public Task LoadAllAsync() => _service.LoadAsync(default);

        public IEnumerable<Task> Work(CancellationToken stop)
        {
            var random = new Random(5);
            int n = 0;
            yield return Every(0.1, () => _embedder.EmbedTextAsync($"{n++} {string.Join(' ', Enumerable.Repeat("passage", random.Next(4, 200)))}", Lane.Bulk, stop), stop);
            yield return Every(0.5, () => _embedder.EmbedImageFileAsync(_photos[n++ % _photos.Length], Lane.Bulk, stop), stop);
            // By turns: for half a minute photos are described, for half a minute read.
            yield return Every(2, () => Turn() ? _reading.SeeAsync("captions", [.. _photos[n % _photos.Length], (byte)n++], stop) : Task.CompletedTask, stop);
            yield return Every(3, () => Turn() ? Task.CompletedTask : _reader.ReadAsync(Picture(n++), Lane.Bulk, stop), stop);
            yield return WatchAsync(stop);
        }

        public async ValueTask DisposeAsync()
        {
            await _service.DisposeAsync();
            _preparation.Dispose();
        }

        private static bool Turn() => TimeProvider.System.GetUtcNow().Second < 30;

        private RgbImage Picture(int n) => new SkiaImageDecoder().Prepare(_photos[n % _photos.Length], thumbnail: false, fullSide: 960).Full!;

        private async Task Every(double seconds, Func<Task> item, CancellationToken stop)
        {
            using var tick = new PeriodicTimer(TimeSpan.FromSeconds(seconds), TimeProvider.System);
            try
            {
                while (await tick.WaitForNextTickAsync(stop))
                {
                    try
                    {
                        await item();
                        Interlocked.Increment(ref _done);
                    }
                    catch (OverloadedException)
                    {
                        // Refused, as somebody would be: the next is another's.
                    }
                }
            }
            catch (OperationCanceledException) when (stop.IsCancellationRequested)
            {
            }
        }

        private async Task WatchAsync(CancellationToken stop)
        {
            var loaded = new HashSet<string>();
            while (!stop.IsCancellationRequested)
            {
                var now = _service.Snapshot().Models.Where(m => m.State == "loaded").Select(m => m.Name).ToHashSet();
                Loads += now.Except(loaded).Count();
                loaded = now;
                await Task.Delay(TimeSpan.FromMilliseconds(20), TimeProvider.System, CancellationToken.None);
            }
        }
    }
}
