using Diptych.Inference.Simulation;
using Diptych.Runtimes.Decoding;

namespace Diptych.Bench.Serving;

/// <summary>The decoder engine behind its API, beside llama.cpp's server: same model, threads, prompts and client, one after the other.</summary>
internal static class LlmSpeed
{
    private const double FirstToken = 1, BetweenTokens = 0.1, LowestRate = 0.5;
    private static int _seed;

    public static async Task RunAsync(Report report)
    {
        string data = Directory.CreateTempSubdirectory("diptych-llm-").FullName;
        try
        {
            await using LlmServer llama = await LlmServer.LlamaAsync();
            string[] adapters = MakeAdapters(Path.Combine(data, "made"));
            await using LlmServer ours = await LlmServer.OursAsync(Path.Combine(data, "store"), adapters);
            for (int i = 0; i < 6; i++)
            {
                // Until the code that runs is the code that stays.
                await ours.CompleteAsync(Text(600), 60);
                await llama.CompleteAsync(Text(60), 20);
            }
            await OneAsync(report, ours, llama);
            await TogetherAsync(report, ours, llama);
            await BesidePromptsAsync(report, ours, llama);
            await PrefixAsync(report, ours);
            await AdaptersAsync(report, ours, [.. adapters.Select(a => Path.GetFileName(a))]);
            await RateAsync(report, ours, llama);
        }
        finally
        {
            Directory.Delete(data, recursive: true);
        }
    }

    private static async Task OneAsync(Report report, LlmServer ours, LlmServer llama)
    {
        var decode = new Dictionary<LlmServer, List<double>> { [ours] = [], [llama] = [] };
        var prompts = new Dictionary<LlmServer, List<double>> { [ours] = [], [llama] = [] };
        for (int i = 0; i < 5; i++)
        {
            foreach (LlmServer server in new[] { ours, llama })
            {
                decode[server].Add((await server.CompleteAsync(Text(20), 160)).TokensPerSecond);
                LlmServer.Streamed prompt = await server.CompleteAsync(Text(1500), 1);
                prompts[server].Add(prompt.Read / prompt.First);
            }
        }
        double a = Report.Median(decode[ours]), b = Report.Median(decode[llama]), c = Report.Median(prompts[ours]), d = Report.Median(prompts[llama]);
        report.Row("Decoding, one answer, tokens/s", $"{Report.Number(a, "0")} ({Report.Number(a / b, "0.00")} x)", $">= 1.0 x llama-server {Report.Number(b, "0")}", a >= b);
        report.Row("Prompt of 1,500 tokens, tokens/s", $"{Report.Number(c, "0")} ({Report.Number(c / d, "0.00")} x)", $">= 1.0 x llama-server {Report.Number(d, "0")}", c >= d);
    }

    /// <summary>Lengths of Azure's conversations, as many at a time as said, always the next when one ends.</summary>
    private static async Task TogetherAsync(Report report, LlmServer ours, LlmServer llama)
    {
        TracedRequest[] requests = [.. Conversations().Where(r => r.InputTokens is >= 16 and <= 1500 && r.OutputTokens is >= 16 and <= 400).Take(24)];
        foreach (int together in new[] { 8, 16 })
        {
            async Task<double> AggregateAsync(LlmServer server)
            {
                string[] prompts = [.. requests.Select(r => Text(r.InputTokens))];
                int next = -1, written = 0;
                long start = TimeProvider.System.GetTimestamp();
                await Task.WhenAll(Enumerable.Range(0, together).Select(async _ =>
                {
                    while (Interlocked.Increment(ref next) is var mine && mine < requests.Length)
                    {
                        Interlocked.Add(ref written, (await server.CompleteAsync(prompts[mine], requests[mine].OutputTokens)).Written);
                    }
                }));
                return written / TimeProvider.System.GetElapsedTime(start).TotalSeconds;
            }
            double a = await AggregateAsync(ours), b = await AggregateAsync(llama);
            report.Row($"{together} at a time, Azure conversation lengths, tokens written/s", $"{Report.Number(a, "0")} ({Report.Number(a / b, "0.00")} x)", $">= 1.25 x llama-server {Report.Number(b, "0")}", a >= 1.25 * b);
        }
    }

    private static async Task BesidePromptsAsync(Report report, LlmServer ours, LlmServer llama)
    {
        async Task<(double Alone, double Beside)> P99Async(LlmServer server)
        {
            double[] at = new double[2];
            for (int beside = 0; beside < 2; beside++)
            {
                using var stop = new CancellationTokenSource();
                Task<LlmServer.Streamed>[] running = [.. Enumerable.Range(0, 4).Select(_ => server.CompleteAsync(Text(100), 300))];
                Task prompts = Task.Run(async () =>
                {
                    while (beside == 1 && !stop.IsCancellationRequested)
                    {
                        await server.CompleteAsync(Text(1500), 1);
                        await Task.Delay(TimeSpan.FromSeconds(0.5), TimeProvider.System);
                    }
                });
                LlmServer.Streamed[] answers = await Task.WhenAll(running);
                await stop.CancelAsync();
                await prompts;
                double[] gaps = [.. answers.SelectMany(a => a.Gaps).Order()];
                at[beside] = gaps[gaps.Length * 99 / 100] * 1000;
            }
            return (at[0], at[1]);
        }
        var (alone, beside) = await P99Async(ours);
        var (other, otherBeside) = await P99Async(llama);
        report.Row("Time between tokens of 4 answers while 1,500-token prompts arrive, p99 ms", $"{Report.Number(beside, "0.0")} ({Report.Number(beside / alone, "0.00")} x undisturbed)",
            $"<= 2 x undisturbed {Report.Number(alone, "0.0")}; llama-server {Report.Number(otherBeside, "0.0")} ({Report.Number(otherBeside / other, "0.00")} x)", beside <= 2 * alone);
    }

    private static async Task PrefixAsync(Report report, LlmServer ours)
    {
        var shares = new List<double>();
        for (int i = 0; i < 5; i++)
        {
            string prefix = Text(1000);
            double first = (await ours.CompleteAsync($"{prefix} What is that?", 4)).First, second = (await ours.CompleteAsync($"{prefix} Why is it so?", 4)).First;
            shares.Add(second / first);
        }
        double share = Report.Median(shares);
        report.Row("Known beginning of 1,000 tokens: time to first token, of the first request's", Report.Number(share), "<= 0.1", share <= 0.1);
    }

    /// <summary>Four askers, each with another adapter every time, beside four with one.</summary>
    private static async Task AdaptersAsync(Report report, LlmServer ours, string[] adapters)
    {
        async Task<double> P99Async(Func<int, string> adapter)
        {
            var first = new List<double>();
            int next = -1;
            await Task.WhenAll(Enumerable.Range(0, 4).Select(async _ =>
            {
                while (Interlocked.Increment(ref next) is var mine && mine < 128)
                {
                    double seconds = (await ours.CompleteAsync(Text(100), 12, $"smollm2:{adapter(mine)}")).First;
                    lock (first)
                    {
                        first.Add(seconds);
                    }
                }
            }));
            return first.Order().ElementAt(first.Count * 99 / 100) * 1000;
        }
        await P99Async(i => adapters[i % adapters.Length]);
        double one = await P99Async(_ => adapters[0]), all = await P99Async(i => adapters[i % adapters.Length]);
        report.Row($"{adapters.Length} adapters in rotation over 8 places: time to first token, p99 ms", $"{Report.Number(all, "0")} ({Report.Number(all / one, "0.00")} x)", $"<= 1.5 x one adapter {Report.Number(one, "0")}", all <= 1.5 * one);
    }

    /// <summary>Sixteen adapters of rank 8 over queries and values, each another.</summary>
    private static string[] MakeAdapters(string folder)
    {
        const int Rank = 8, Layers = 30, Width = 576;
        return [.. Enumerable.Range(0, 16).Select(a =>
        {
            string path = Path.Combine(folder, $"adapter{a}");
            Directory.CreateDirectory(path);
            File.WriteAllText(Path.Combine(path, "adapter_config.json"), $$"""{"peft_type": "LORA", "r": {{Rank}}, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}""");
            var random = new Random(a);
            var header = new Dictionary<string, object>(StringComparer.Ordinal);
            using var data = new MemoryStream();
            for (int layer = 0; layer < Layers; layer++)
            {
                foreach (var (module, rows) in new[] { ("q_proj", Width), ("v_proj", Width / 3) })
                {
                    foreach (var (part, shape) in new[] { ("lora_A", new[] { Rank, Width }), ("lora_B", new[] { rows, Rank }) })
                    {
                        long from = data.Length;
                        float[] values = [.. Enumerable.Range(0, shape[0] * shape[1]).Select(_ => (float)(random.NextDouble() - 0.5) * 0.02f)];
                        data.Write(System.Runtime.InteropServices.MemoryMarshal.AsBytes<float>(values));
                        header[$"base_model.model.model.layers.{layer}.self_attn.{module}.{part}.weight"] = new { dtype = "F32", shape, data_offsets = new[] { from, data.Length } };
                    }
                }
            }
            byte[] json = System.Text.Json.JsonSerializer.SerializeToUtf8Bytes(header);
            using FileStream file = File.Create(Path.Combine(path, "adapter_model.safetensors"));
            file.Write(BitConverter.GetBytes((long)json.Length));
            file.Write(json);
            data.Position = 0;
            data.CopyTo(file);
            return path;
        })];
    }

    /// <summary>Arrivals of the conversation trace, lengths an eighth of the real ones, sped up until the hundredth answer is late.</summary>
    private static async Task RateAsync(Report report, LlmServer ours, LlmServer llama)
    {
        const double Seconds = 20;
        IReadOnlyList<TracedRequest> all = Conversations();
        DecodingArrival[] Load(double rate, double seconds)
        {
            TracedRequest[] requests = [.. all.Take((int)(rate * seconds))];
            double stretch = seconds / requests[^1].Seconds;
            return [.. requests.Select(r => new DecodingArrival(r.Seconds * stretch, Math.Clamp(r.InputTokens / 8, 4, 240), Math.Clamp(r.OutputTokens / 8, 2, 60)))];
        }
        async Task<(double Attainment, double[] Firsts, int Read)> AttainmentAsync(LlmServer server, double rate, double seconds)
        {
            DecodingArrival[] requests = Load(rate, seconds);
            var firsts = new System.Collections.Concurrent.ConcurrentBag<double>();
            int read = 0;
            string[] prompts = [.. requests.Select(r => Text(r.PromptTokens))];
            long start = TimeProvider.System.GetTimestamp();
            bool[] kept = await Task.WhenAll(requests.Select(async (r, i) =>
            {
                TimeSpan wait = TimeSpan.FromSeconds(r.Seconds) - TimeProvider.System.GetElapsedTime(start);
                await Task.Delay(wait > TimeSpan.Zero ? wait : TimeSpan.Zero, TimeProvider.System);
                double late = TimeProvider.System.GetElapsedTime(start).TotalSeconds - r.Seconds;
                LlmServer.Streamed answer;
                try
                {
                    answer = await server.CompleteAsync(prompts[i], r.AnswerTokens);
                }
                catch (HttpRequestException error)
                {
                    // Refused or dropped: missed, and said.
                    await Console.Error.WriteLineAsync($"{server.Name} at {rate:0.0}/s: {error.Message}");
                    return false;
                }
                double[] gaps = [.. answer.Gaps.Order()];
                firsts.Add(answer.First + late);
                Interlocked.Add(ref read, answer.Read);
                return answer.First + late <= FirstToken && (gaps.Length == 0 || gaps[gaps.Length * 99 / 100] <= BetweenTokens);
            }));
            return (kept.Average(k => k ? 1.0 : 0), [.. firsts.Order()], read);
        }
        async Task<double> HighestAsync(LlmServer server)
        {
            double low = 0;
            for (double rate = LowestRate; rate <= 64; rate *= 1.3)
            {
                if ((await AttainmentAsync(server, rate, Seconds)).Attainment < 0.99)
                {
                    break;
                }
                low = rate;
            }
            return low;
        }
        double a = await HighestAsync(ours), b = await HighestAsync(llama);
        report.Row("Highest rate with 99 % in time (first token 1 s, between tokens 100 ms), conversation trace at 1/8 of its lengths, requests/s",
            Report.Number(a, "0.0"), $">= 1.5 x llama-server {(b > 0 ? Report.Number(b, "0.0") : $"below {LowestRate}")}", a >= 1.5 * Math.Max(b, LowestRate));

        // The same arrivals in the simulator, by the model's steps as they are now. Prompts have the tokens that the server counted.
        const double Longer = 90, Share = 0.7;
        var live = await AttainmentAsync(ours, Share * a, Longer);
        DecodingArrival[] same = Load(Share * a, Longer);
        double counted = live.Read / (double)same.Sum(r => r.PromptTokens);
        StepTimes times = StepTimes.Measure(LlmServer.Gguf, TimeProvider.System);
        DecodingResult simulated = new DecoderSimulator(times.Steps, DecoderEngine.MaxRunning, 1 << 20).Run([.. same.Select(r => r with { PromptTokens = (int)Math.Max(1, r.PromptTokens * counted) })], Longer, 1, TimeSpan.FromSeconds(FirstToken));
        double p99 = live.Firsts[live.Firsts.Length * 99 / 100] * 1000, p50 = live.Firsts[live.Firsts.Length / 2] * 1000;
        report.Row($"Answers simulated and live at {Report.Number(Share, "0.0")} of that rate: attainment, first token p99 ms",
            $"{Report.Number(simulated.Attainment)} and {Report.Number(live.Attainment)}, {Report.Number(simulated.FirstP99Ms, "0")} and {Report.Number(p99, "0")} (medians {Report.Number(simulated.FirstP50Ms, "0")} and {Report.Number(p50, "0")}; {same.Length} requests)",
            "within 0.03, within 20 %", Math.Abs(simulated.Attainment - live.Attainment) <= 0.03 && Math.Abs((simulated.FirstP99Ms / p99) - 1) <= 0.2);
    }

    private static IReadOnlyList<TracedRequest> Conversations() => Traces.Azure(Directory.GetFiles(Path.Combine(Report.Shared, "traces"), "*conv*.csv", SearchOption.AllDirectories).Order(StringComparer.Ordinal).First());

    /// <summary>Words of about so many tokens, new each time.</summary>
    public static string Text(int tokens)
    {
        var random = new Random(Interlocked.Increment(ref _seed));
        string[] words = "time year people way day man thing woman life child world school state family student group country problem hand part place case week company system program question work government number night point home water room mother area money story fact month lot right study book eye job word business issue side kind head house service friend father power hour game line end member law car city name team".Split(' ');
        return string.Join(' ', Enumerable.Range(0, Math.Max(1, tokens)).Select(_ => words[random.Next(words.Length)]));
    }
}
