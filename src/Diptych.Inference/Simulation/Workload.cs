namespace Diptych.Inference.Simulation;

/// <summary>What a request asks of the service.</summary>
public enum WorkKind
{
    /// <summary>A query to embed.</summary>
    Query,

    /// <summary>A picture to embed for a search by image.</summary>
    Picture,

    /// <summary>A passage to embed for ingestion.</summary>
    Passage,
}

/// <summary>A request of a workload: it arrives when it arrives, whatever became of those before it.</summary>
/// <param name="Seconds">From the beginning.</param>
/// <param name="Units">For each item: tokens of a text, or the longer side of a picture in pixels.</param>
public sealed record Arrival(double Seconds, Lane Lane, WorkKind Kind, IReadOnlyList<int> Units, string Tenant = "");

/// <summary>Requests over time, made from traces.</summary>
public sealed record Workload(string Name, double Seconds, IReadOnlyList<Arrival> Arrivals)
{
    /// <summary>Tokens of one passage, as the chunker cuts them.</summary>
    private const int PassageTokens = 220;

    /// <summary>A question is the last turn of a conversation; the traces count the whole.</summary>
    private const int QueryShare = 16;

    /// <summary>Longer sides of pictures, in pixels: traced ones are taken as the nearest.</summary>
    public static IReadOnlyList<int> PictureSides { get; } = [224, 448, 896, 1344, 1792, 2688];

    public static IReadOnlyList<string> Names { get; } = ["mixed", "azure-conv", "azure-code", "mooncake", "servegen"];

    /// <summary>Of <see cref="Answers"/>.</summary>
    public static IReadOnlyList<string> AnswerNames { get; } = ["answers-conv", "answers-code", "answers-mooncake"];

    /// <summary>Prompts and answers of a language model, with the lengths that were traced: Azure's conversations, its code, or Mooncake's conversations.</summary>
    /// <param name="lengths">Lengths, as a share of the traced.</param>
    /// <param name="mostTokens">Of a prompt and its answer: prompts that are too long lose their beginning.</param>
    /// <exception cref="DirectoryNotFoundException">The folder has not the trace.</exception>
    public static IReadOnlyList<DecodingArrival> Answers(string name, string traces, double rate, double seconds, double lengths, int mostTokens)
    {
        IReadOnlyList<TracedRequest> requests = name switch
        {
            "answers-code" => Traces.Azure(Need(traces, "azure_llm_2023", "AzureLLMInferenceTrace_code.csv")),
            "answers-mooncake" => Traces.Mooncake(Need(traces, "mooncake_fast25", "conversation_trace.jsonl")),
            _ => Traces.Azure(Need(traces, "azure_llm_2023", "AzureLLMInferenceTrace_conv.csv")),
        };
        int Of(int tokens, int most) => (int)Math.Clamp(tokens * lengths, 1, most);
        return
        [
            .. Loop(requests, seconds * rate).Select(r => Of(r.OutputTokens, mostTokens / 2) is var answer
                ? new DecodingArrival(r.Seconds / rate, Of(r.InputTokens, mostTokens - answer), answer) : null!),
        ];
    }

    /// <summary>
    /// Makes a workload: questions come as conversation turns came (Azure, or Mooncake), pictures as the image requests to a language model did (ServeGen; encoding them is part of the time to its first token),
    /// documents to ingest as code prompts did (Azure), each cut into passages. "mixed" has all three.
    /// </summary>
    /// <param name="traces">The folder of traces.</param>
    /// <param name="rate">How many times faster than traced.</param>
    /// <exception cref="DirectoryNotFoundException">The folder has not the traces that the workload needs.</exception>
    public static Workload FromTraces(string name, string traces, double rate, double seconds, int seed)
    {
        var arrivals = new List<Arrival>();
        double traced = seconds * rate;
        if (name is "mixed" or "azure-conv")
        {
            arrivals.AddRange(Questions(Traces.Azure(Need(traces, "azure_llm_2023", "AzureLLMInferenceTrace_conv.csv")), traced, rate));
        }
        if (name is "mooncake")
        {
            arrivals.AddRange(Questions(Traces.Mooncake(Need(traces, "mooncake_fast25", "conversation_trace.jsonl")), traced, rate));
        }
        if (name is "mixed" or "azure-code")
        {
            arrivals.AddRange(Loop(Traces.Azure(Need(traces, "azure_llm_2023", "AzureLLMInferenceTrace_code.csv")), traced).Select(r => new Arrival(
                r.Seconds / rate, Lane.Bulk, WorkKind.Passage, Passages(r.InputTokens))));
        }
        if (name is "mixed" or "servegen")
        {
            string folder = Path.GetDirectoryName(Need(traces, "servegen", "data", "multimodal", "mm-image", "chunk-0-trace.csv"))!;
            arrivals.AddRange(Traces.ServeGen(folder, 36_000, traced, seed).Where(r => r.ImageTokens.Count > 0).Select(r => new Arrival(
                r.Seconds / rate, Lane.Generate, WorkKind.Picture, [.. r.ImageTokens.Take(4).Select(Side)])));
        }
        return new Workload(name, seconds, [.. arrivals.OrderBy(a => a.Seconds)]);
    }

    private static IEnumerable<Arrival> Questions(IReadOnlyList<TracedRequest> requests, double traced, double rate) => Loop(requests, traced).Select(r => new Arrival(
        r.Seconds / rate, Lane.Interactive, WorkKind.Query, [Math.Clamp(r.InputTokens / QueryShare, 4, 128)]));

    /// <summary>A trace that is shorter than what is asked for begins anew.</summary>
    private static IEnumerable<TracedRequest> Loop(IReadOnlyList<TracedRequest> requests, double seconds)
    {
        double length = requests[^1].Seconds + 1;
        for (double start = 0; start < seconds; start += length)
        {
            foreach (TracedRequest request in requests)
            {
                if (start + request.Seconds >= seconds)
                {
                    yield break;
                }
                yield return request with { Seconds = start + request.Seconds };
            }
        }
    }

    private static int[] Passages(int tokens)
    {
        int count = Math.Max(1, (tokens + PassageTokens - 1) / PassageTokens);
        return [.. Enumerable.Range(0, count).Select(i => i + 1 < count ? PassageTokens : Math.Max(8, tokens - ((count - 1) * PassageTokens)))];
    }

    /// <summary>A vision token of the traced model covers 28 x 28 pixels; a picture is taken as 4:3.</summary>
    private static int Side(int imageTokens) => PictureSides.MinBy(s => Math.Abs(s - (28 * Math.Sqrt(imageTokens * 4.0 / 3))));

    private static string Need(string traces, params string[] parts)
    {
        string path = Path.Combine([traces, .. parts]);
        return File.Exists(path) ? path : throw new DirectoryNotFoundException($"{path} does not exist. Point --traces at the folder with azure_llm_2023, mooncake_fast25 and servegen.");
    }
}

/// <summary>What a lane got, whether simulated or measured.</summary>
/// <param name="Attainment">Share of what was offered that was answered within the lane's target; refusals are misses.</param>
/// <param name="Rate">Requests offered a second.</param>
public sealed record LaneResult(Lane Lane, long Offered, long Completed, long Refused, double Attainment, double P50Ms, double P99Ms, double Rate)
{
    /// <summary>Sums up what became of a lane's requests.</summary>
    public static LaneResult Of(Lane lane, double seconds, IReadOnlyList<(bool Completed, bool Refused, double LatencySeconds)> requests, double targetSeconds)
    {
        double[] latencies = [.. requests.Where(r => r.Completed).Select(r => r.LatencySeconds).Order()];
        double Quantile(double share) => latencies.Length == 0 ? 0 : 1000 * latencies[Math.Min(latencies.Length - 1, (int)(share * latencies.Length))];
        return new LaneResult(
            lane, requests.Count, latencies.Length, requests.Count(r => r.Refused),
            requests.Count == 0 ? 1 : latencies.Count(l => l <= targetSeconds) / (double)requests.Count, Quantile(0.5), Quantile(0.99), requests.Count / seconds);
    }
}
