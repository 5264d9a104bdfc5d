using System.Net;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Diptych.SystemTests;

/// <summary>Mutated requests to every address that takes a body, and to those that take parameters.</summary>
public static class RequestFuzz
{
    private static readonly TimeSpan Longest = TimeSpan.FromSeconds(30);

    private static readonly (string Path, string Body)[] Seeds =
    [
        ("/v1/search", """{"collection":"samples","query":"a pink flower","limit":5,"offset":1,"filter":{"and":[{"field":"page","gte":1},{"not":{"field":"title","prefix":"x"}}]},"channels":["cross","text"],"fusion":"weighted","channel_weights":{"text":0.5},"modality":"text","group_by_document":true,"mmr_lambda":0.4,"min_confidence":0.1}"""),
        ("/v1/search", """{"collection":"samples","parts":[{"text":"bees","weight":-0.5},{"passage":3},{"image_url":"/v1/passages/2/image"},{"image":"data:image/gif;base64,R0lGODlhAQABAAAAACw="}]}"""),
        ("/v1/answers", """{"collection":"samples","question":"What weighs 12 kilograms?","filter":{"field":"modality","in":["text","image"]},"stream":true,"min_confidence":0.2,"extract_only":true}"""),
        ("/v1/embeddings", """{"model":"starter-text","input":["a cat",{"text":"two"}],"encoding_format":"base64","dimensions":384,"user":"u"}"""),
        ("/v1/embeddings", """{"model":"starter-cross","input":{"image":"R0lGODlhAQABAAAAACw="}}"""),
        ("/v1/rerank", """{"model":"starter-text","query":"ferry","documents":["a",{"text":"b"}],"top_n":1,"return_documents":true}"""),
        ("/v1/chat/completions", """{"model":"none","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"hi"}]}],"max_tokens":4,"temperature":0.3,"seed":4294967296,"stop":["x"],"logit_bias":{"3":5},"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{"a":{"type":"string","pattern":"^(a|b){2}$"}}}}},"stream":null,"stream_options":{"include_usage":true}}"""),
        ("/v1/completions", """{"model":"none","prompt":"1, 2,","max_tokens":4,"stop":""}"""),
        ("/v1/responses", """{"model":"none","input":[{"role":"user","content":"hi"}],"stream":false}"""),
        ("/v1/feedback", """{"collection":"samples","query":"ferry","passage_ids":[1,2],"signal":"up"}"""),
        ("/v1/collections", """{"name":"fuzz","language":"german"}"""),
        ("/v1/collections/samples/urls", """{"urls":["ftp://example.org/a","x"]}"""),
        ("/v1/models/starter-text/load", "{}"),
        ("/v1/collections/samples/tune", "{}"),
    ];

    private static readonly string[] Gets =
    [
        "/v1/collections/samples/documents?limit=5&after=0", "/v1/jobs?limit=5&state=done", "/v1/jobs/x/files?after=1", "/v1/documents/1", "/v1/documents/1/original", "/v1/passages/1", "/v1/passages/1/image", "/v1/passages/1/thumbnail", "/v1/models", "/v1/inference",
    ];

    private static readonly string[] Values =
    [
        "null", "-1", "0", "1e308", "-1e-400", "9223372036854775807", "99999999999999999999", "2147483648", "true", "\"\"", "\"\\ud800\"", "\"\\u0000\"", "\"a\\udc00b\"", "[]", "{}", "[null]", "[[]]", "{\"a\":null}", "\"NaN\"", "0.5",
        $"\"{new string('x', 5_000)}\"", $"{new string('[', 60)}{new string(']', 60)}", $"{new string('[', 5_000)}", "\"../../etc/passwd\"", "\"; DROP TABLE documents; --\"", "\"\\uD83D\\uDE00\"", "{\"not\":{\"not\":{\"not\":{\"field\":\"x\",\"eq\":\"y\"}}}}",
    ];

    /// <param name="Refused">Answered with a 4xx.</param>
    /// <param name="Faults">What was answered with a 5xx that gives no reason, or not in time.</param>
    public sealed record Result(int Taken, int Refused, IReadOnlyList<string> Faults);

    public static async Task<Result> RunAsync(HttpClient client, int requests, int seed, Action<int> progress, CancellationToken cancellation)
    {
        var random = new Random(seed);
        int taken = 0, refused = 0;
        var faults = new List<string>();
        for (int i = 0; i < requests; i++)
        {
            using HttpRequestMessage request = Next(random);
            string body = request.Content is null ? "" : await request.Content.ReadAsStringAsync(cancellation);
            string what = $"{i}: {request.Method} {request.RequestUri} {(body.Length > 300 ? body[..300] + "…" : body)}";
            try
            {
                using HttpResponseMessage response = await client.SendAsync(request, cancellation).WaitAsync(Longest, TimeProvider.System, cancellation);
                string answer = await response.Content.ReadAsStringAsync(cancellation).WaitAsync(Longest, TimeProvider.System, cancellation);
                int status = (int)response.StatusCode;
                (taken, refused) = status < 400 ? (taken + 1, refused) : (taken, refused + 1);
                if (status >= 500 && response.StatusCode is not (HttpStatusCode.ServiceUnavailable or HttpStatusCode.InsufficientStorage))
                {
                    faults.Add($"{what} -> {status} {answer}");
                }
                else if (status is >= 400 and < 500 && (answer.Contains("System.", StringComparison.Ordinal) || answer.Contains("Diptych.", StringComparison.Ordinal)))
                {
                    faults.Add($"{what} -> tells the names of this program's types: {answer}");
                }
            }
            catch (Exception error) when (error is TimeoutException or HttpRequestException)
            {
                faults.Add($"{what} -> {error.Message}");
            }
            if (i % 500 == 0)
            {
                progress(i);
            }
        }
        return new Result(taken, refused, faults);
    }

    private static HttpRequestMessage Next(Random random)
    {
        if (random.Next(6) == 0)
        {
            string path = Gets[random.Next(Gets.Length)];
            int at = random.Next(4, path.Length);
            string[] parts = ["-1", "0", "99999999999999999999", "%00", "%ff", "é", "..%2f", "a&limit=x", "?", "'", "&&", "=", ""];
            return new HttpRequestMessage(HttpMethod.Get, new Uri(path[..at] + parts[random.Next(parts.Length)] + path[Math.Min(path.Length, at + random.Next(3))..], UriKind.Relative));
        }
        var (address, seed) = Seeds[random.Next(Seeds.Length)];
        return new HttpRequestMessage(HttpMethod.Post, address) { Content = new ByteArrayContent(Mutated(seed, random)) { Headers = { ContentType = new("application/json") } } };
    }

    private static byte[] Mutated(string seed, Random random)
    {
        string body = seed;
        for (int changes = random.Next(1, 4); changes > 0; changes--)
        {
            try
            {
                JsonNode root = JsonNode.Parse(body)!;
                JsonNode[] all = [.. Below(root)];
                if (all.Length > 0)
                {
                    all[random.Next(all.Length)].ReplaceWith("@mark@");
                    body = root.ToJsonString();
                }
            }
            catch (Exception error) when (error is JsonException or InvalidOperationException)
            {
                // What an earlier change made cannot be written again.
                break;
            }
            string value = random.Next(8) == 0 ? seed : Values[random.Next(Values.Length)];
            body = body.Contains("\"@mark@\"", StringComparison.Ordinal) ? body.Replace("\"@mark@\"", value, StringComparison.Ordinal) : value;
        }
        byte[] bytes = Encoding.UTF8.GetBytes(body);
        if (random.Next(5) == 0 && bytes.Length > 0)
        {
            bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
        }
        return random.Next(20) == 0 ? bytes[..random.Next(bytes.Length + 1)] : bytes;
    }

    private static IEnumerable<JsonNode> Below(JsonNode node)
    {
        IEnumerable<JsonNode?> inner = node switch { JsonObject o => o.Select(m => m.Value), JsonArray a => a, _ => [] };
        foreach (JsonNode? one in inner)
        {
            if (one is not null)
            {
                yield return one;
                foreach (JsonNode deeper in Below(one))
                {
                    yield return deeper;
                }
            }
        }
    }
}
