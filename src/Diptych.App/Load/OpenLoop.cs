using System.Net.Http.Headers;
using System.Text.Json;
using Diptych.App.Http;
using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Diptych.Inference.Simulation;
using Diptych.Reading.Images;

namespace Diptych.App.Load;

/// <summary>
/// Sends a workload to a server as its requests arrive, whatever became of those before: a slow server gets no gentler load, and lateness
/// counts from the intended time (no coordinated omission).
/// </summary>
/// <param name="server">A loopback address.</param>
internal sealed class OpenLoop(Uri server, ITokenizer tokenizer, TimeProvider time, IReadOnlyDictionary<Lane, LaneObjective> objectives) : IDisposable
{
    private static readonly string[] Words = "time year people way day man thing woman life child world school state family student group country problem hand part place case week company system program question work government number night point home water room mother area money story fact month lot right study book eye job word business issue side kind head house service friend father power hour game line end member law car city name team minute idea kid body back parent face others level office door health person art war history party result change morning reason research girl guy moment air teacher force".Split(' ');

    private readonly HttpClient _client = new(new SocketsHttpHandler { MaxConnectionsPerServer = 4096, PooledConnectionIdleTimeout = TimeSpan.FromMinutes(5) })
    {
        BaseAddress = server.IsLoopback ? server : throw new Core.InvalidRequestException($"Load is sent to this machine only, not to {server.Host}."),
        Timeout = TimeSpan.FromMinutes(5),
    };

    private readonly Dictionary<int, string> _pictures = Workload.PictureSides.ToDictionary(s => s, s => Convert.ToBase64String(SyntheticPhoto.Jpeg(s, s)));
    private int _nextSeed = 1;

    /// <returns>What each lane got, and the milliseconds that refusals took, in order.</returns>
    public async Task<(IReadOnlyList<LaneResult> Lanes, IReadOnlyList<double> RefusalMs)> RunAsync(Workload workload, CancellationToken cancellation)
    {
        var (results, refusals) = await SendAsync(workload, cancellation);
        var lanes = Enumerable.Range(0, results.Length).GroupBy(i => workload.Arrivals[i].Lane).OrderBy(g => g.Key)
            .Select(g => LaneResult.Of(g.Key, workload.Seconds, [.. g.Select(i => results[i])], objectives[g.Key].Target.TotalSeconds));
        return ([.. lanes], refusals);
    }

    /// <returns>The share of the chosen requests that were answered within their lane's target.</returns>
    public async Task<double> AttainmentAsync(Workload workload, Func<Arrival, bool> choose, CancellationToken cancellation)
    {
        var (results, _) = await SendAsync(workload, cancellation);
        int[] chosen = [.. Enumerable.Range(0, results.Length).Where(i => choose(workload.Arrivals[i]))];
        return chosen.Count(i => results[i].Completed && results[i].LatencySeconds <= objectives[workload.Arrivals[i].Lane].Target.TotalSeconds) / (double)chosen.Length;
    }

    private async Task<((bool Completed, bool Refused, double LatencySeconds)[] Results, IReadOnlyList<double> RefusalMs)> SendAsync(Workload workload, CancellationToken cancellation)
    {
        // Bodies are made before the clock starts: making them must not share the cores with what is measured.
        byte[][] bodies = [.. workload.Arrivals.Select(Body)];
        var results = new (bool Completed, bool Refused, double LatencySeconds)[workload.Arrivals.Count];
        var refusals = new List<double>();
        var sent = new Task[workload.Arrivals.Count];
        long start = time.GetTimestamp();
        for (int i = 0; i < sent.Length; i++)
        {
            TimeSpan wait = TimeSpan.FromSeconds(workload.Arrivals[i].Seconds) - time.GetElapsedTime(start);
            if (wait > TimeSpan.FromMilliseconds(0.5))
            {
                await Task.Delay(wait, time, cancellation);
            }
            int index = i;
            sent[i] = Task.Run(async () => results[index] = await SendAsync(workload.Arrivals[index], bodies[index], start, refusals, cancellation), cancellation);
        }
        await Task.WhenAll(sent);
        return (results, [.. refusals.Order()]);
    }

    /// <summary>
    /// Measures what requests take outside the models while nothing else runs, sent as load is: a query's overhead and its spread, and a
    /// picture's by its size. How work waits for other work is the simulator's to say.
    /// </summary>
    public async Task<OutsideModels> CalibrateAsync(CostProfile text, CostProfile image, CancellationToken cancellation)
    {
        const int Queries = 80, Pictures = 21, QueryTokens = 16;
        const double Apart = 0.1;
        async Task<double[]> SortedAsync(Arrival arrival, int times)
        {
            Arrival[] spaced = [.. Enumerable.Range(0, times).Select(i => arrival with { Seconds = i * Apart })];
            var (results, _) = await SendAsync(new Workload("calibration", times * Apart, spaced), cancellation);
            return [.. results.Select(r => r.LatencySeconds).Order()];
        }
        double[] query = await SortedAsync(new Arrival(0, Lane.Interactive, WorkKind.Query, [QueryTokens]), Queries);
        double model = text.FixedSeconds + (QueryTokens * text.PerUnitSeconds), request = Math.Max(3e-4, query[Queries / 2] - model), spread = Math.Clamp(query[Queries * 9 / 10] / query[Queries / 2], 1, 2);
        double see = image.FixedSeconds + image.PerUnitSeconds;
        var pictures = new List<(int, double)>();
        foreach (int side in Workload.PictureSides)
        {
            pictures.Add((side, Math.Max(1e-4, (await SortedAsync(new Arrival(0, Lane.Generate, WorkKind.Picture, [side]), Pictures))[Pictures / 2] - request - see)));
        }
        return new OutsideModels(new CostProfile(request, 0, spread, 0), pictures);
    }

    public void Dispose() => _client.Dispose();

    private async Task<(bool Completed, bool Refused, double LatencySeconds)> SendAsync(Arrival arrival, byte[] body, long start, List<double> refusals, CancellationToken cancellation)
    {
        long sentAt = time.GetTimestamp();
        using var content = new ByteArrayContent(body);
        content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/embeddings") { Content = content };
        request.Headers.Add(Terms.LaneHeader, arrival.Lane.ToString().ToLowerInvariant());
        if (arrival.Tenant.Length > 0)
        {
            request.Headers.Add(Terms.TenantHeader, arrival.Tenant);
        }
        using HttpResponseMessage response = await _client.SendAsync(request, HttpCompletionOption.ResponseContentRead, cancellation);
        double latency = time.GetElapsedTime(start).TotalSeconds - arrival.Seconds;
        if ((int)response.StatusCode == StatusCodes.Status429TooManyRequests)
        {
            lock (refusals)
            {
                refusals.Add(time.GetElapsedTime(sentAt).TotalMilliseconds);
            }
            return (false, true, latency);
        }
        if (!response.IsSuccessStatusCode)
        {
            string problem = await response.Content.ReadAsStringAsync(cancellation);
            throw new HttpRequestException($"The server answered {response.StatusCode}: {problem}");
        }
        return (true, false, latency);
    }

    private byte[] Body(Arrival arrival)
    {
        object[] inputs = [.. arrival.Units.Select(object (u) => arrival.Kind == WorkKind.Picture
            ? new { image = _pictures[u] }
            : Text(u))];
        return JsonSerializer.SerializeToUtf8Bytes(new { model = OpenAiEndpoints.CrossModel, input = inputs, encoding_format = "base64" });
    }

    /// <summary>Words that are new each time, so that nothing is answered from memory.</summary>
    private string Text(int tokens)
    {
        var random = new Random(Interlocked.Increment(ref _nextSeed));
        string text = string.Join(' ', Enumerable.Range(0, Math.Max(1, tokens - 2)).Select(_ => Words[random.Next(Words.Length)]));
        return tokenizer.Count(text) <= tokens ? text : text[..(text.Length * tokens / tokenizer.Count(text))];
    }
}
