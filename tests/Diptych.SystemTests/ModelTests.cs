using System.Text.Json;
using Diptych.Tests;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>Models added from a folder and from a hub, and what the one that reads pictures adds to a search.</summary>
public sealed class ModelTests : IDisposable
{
    private readonly string _data = Directory.CreateTempSubdirectory("diptych-models-").FullName;

    public void Dispose() => Directory.Delete(_data, recursive: true);

    [Fact]
    [Trait("Needs", "shared")]
    public async Task A_receipt_is_found_by_its_words_and_the_answer_points_at_the_box()
    {
        string photos = Path.Combine(_data, "photos");
        Directory.CreateDirectory(photos);
        foreach (string file in new[] { "receipt.png", "tilted.png", "sign.png" })
        {
            File.Copy(Shared.Require("golden", "ocr", file), Path.Combine(photos, file));
        }
        await OkAsync("ingest", photos);
        var before = await Host.DiptychAsync(_data, "search", "croissant", "--json");
        await OkAsync("models", "add", Shared.Require("models", "ppocr"), "--name", "ppocr");
        Assert.Contains("ppocr", await OkAsync("models", "list"), StringComparison.Ordinal);
        await OkAsync("models", "verify", "ppocr");
        await OkAsync("ingest", photos, "--again");
        using var found = JsonDocument.Parse(await OkAsync("search", "croissant", "--json"));
        JsonElement hit = found.RootElement.GetProperty("hits")[0];
        Assert.EndsWith("receipt.png", hit.GetProperty("document").GetProperty("source").GetString(), StringComparison.Ordinal);
        Assert.DoesNotContain("Croissant", before.Output, StringComparison.Ordinal);
        using var answer = JsonDocument.Parse(await OkAsync("ask", "What is the invoice number?", "--json"));
        JsonElement citation = answer.RootElement.GetProperty("citations")[0];
        Assert.Contains("40817", citation.GetProperty("quote").GetString(), StringComparison.Ordinal);
        JsonElement box = citation.GetProperty("anchor").GetProperty("box");
        Assert.Equal(1, citation.GetProperty("anchor").GetProperty("page").GetInt32());
        Assert.InRange(box.GetProperty("width").GetDouble(), 0.3, 0.8);
        await OkAsync("models", "remove", "ppocr");
        Assert.Equal(1, (await Host.DiptychAsync(_data, "models", "verify", "ppocr")).ExitCode);
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task A_decoder_writes_in_this_process_and_speaks_OpenAIs_dialect()
    {
        await OkAsync("ingest", Path.Combine(Host.Samples, "documents"));
        await OkAsync("models", "add", Shared.Require("models", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"), "--name", "smollm2");
        await OkAsync("models", "add", Shared.Require("models", "starter-vlm"), "--name", "captions");
        await OkAsync("models", "add", Shared.Require("golden", "tiny", "clip"), "--name", "tiny-clip");
        using var written = JsonDocument.Parse(await OkAsync("ask", "How heavy is Chelsea?", "--model", "smollm2", "--json"));
        Assert.NotEmpty(written.RootElement.GetProperty("text").GetString()!);
        using var simulated = JsonDocument.Parse(await OkAsync("bench", "simulate", "--trace", "answers-conv", "--traces", Shared.Require("traces"), "--seconds", "30", "--rate", "2", "--lengths", "0.05", "--devices", "64", "--json"));
        JsonElement lane = simulated.RootElement.GetProperty("lanes").GetProperty("generate");
        Assert.True(lane.GetProperty("offered").GetInt32() > 5 && lane.GetProperty("attainment").GetDouble() > 0.95 && lane.GetProperty("between_p99_ms").GetDouble() > 0, lane.GetRawText());
        using var server = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("dotnet", [Host.Program, "serve", "--json", "--url", "http://127.0.0.1:0", "--data", _data]) { RedirectStandardOutput = true })!;
        try
        {
            using var line = JsonDocument.Parse((await server.StandardOutput.ReadLineAsync())!);
            string url = line.RootElement.GetProperty("url").GetString()!;
            string folder = Path.Combine(_data, "node");
            Directory.CreateDirectory(folder);
            await File.WriteAllTextAsync(Path.Combine(folder, "package.json"), "{\"type\":\"module\"}");
            var install = await Host.RunAsync("npm", ["install", "--no-audit", "--no-fund", "openai@6"], directory: folder);
            Assert.True(install.ExitCode == 0, install.Error);
            await File.WriteAllTextAsync(Path.Combine(folder, "check.mjs"), """
                import OpenAI from "openai";
                const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none" });
                const messages = [{ role: "user", content: "What is the capital of France?" }];
                const whole = await client.chat.completions.create({ model: "smollm2", messages, temperature: 0, max_tokens: 24 });
                let text = "", finish = "", usage = null;
                for await (const part of await client.chat.completions.create({ model: "smollm2", messages, temperature: 0, max_tokens: 24, stream: true, stream_options: { include_usage: true } })) {
                  text += part.choices[0]?.delta?.content ?? ""; finish = part.choices[0]?.finish_reason ?? finish; usage = part.usage ?? usage;
                }
                const plain = await client.completions.create({ model: "smollm2", prompt: "The capital of France is", temperature: 0, max_tokens: 3 });
                const four = await Promise.all([1, 2, 3, 4].map(n => client.chat.completions.create({ model: "smollm2", messages, temperature: 0, max_tokens: 24 })));
                const adapted = await client.chat.completions.create({ model: "smollm2:captions", messages, temperature: 0, max_tokens: 24 });
                let missing = 0;
                try { await client.chat.completions.create({ model: "smollm2:none", messages }); } catch (e) { missing = e.status; }
                const schema = { type: "object", properties: { city: { type: "string" }, population: { type: "integer", minimum: 0 } }, required: ["city", "population"], additionalProperties: false };
                const shaped = await client.chat.completions.create({ model: "smollm2", messages, max_tokens: 80, response_format: { type: "json_schema", json_schema: { name: "city", schema, strict: true } } });
                const tools = [{ type: "function", function: { name: "get_weather", description: "Weather of a city", parameters: { type: "object", properties: { city: { enum: ["Paris", "Rome"] } }, required: ["city"] } } }];
                const called = await client.chat.completions.create({ model: "smollm2", messages, tools, tool_choice: "required", max_tokens: 60 });
                const calling = [];
                for await (const part of await client.chat.completions.create({ model: "smollm2", messages, tools, tool_choice: { type: "function", function: { name: "get_weather" } }, max_tokens: 60, stream: true })) {
                  calling.push(part.choices[0]);
                }
                const toldBack = await client.chat.completions.create({ model: "smollm2", max_tokens: 12, messages: [...messages, called.choices[0].message, { role: "tool", tool_call_id: called.choices[0].message.tool_calls[0].id, content: "22 degrees" }], tools });
                const several = await client.chat.completions.create({ model: "smollm2", messages, n: 3, temperature: 1.2, seed: 4, max_tokens: 12, logprobs: true, top_logprobs: 2 });
                const pattern = await client.chat.completions.create({ model: "smollm2", messages, guided_regex: "(Paris|Rome), [A-Z][a-z]{3,9}", max_tokens: 20 });
                const response = await client.responses.create({ model: "smollm2", input: "What is the capital of France?", temperature: 0, max_output_tokens: 24 });
                let streamed = "", kinds = new Set();
                for await (const event of await client.responses.create({ model: "smollm2", input: [{ role: "user", content: [{ type: "input_text", text: "What is the capital of France?" }] }], temperature: 0, max_output_tokens: 24, stream: true })) {
                  kinds.add(event.type); if (event.type === "response.output_text.delta") streamed += event.delta;
                }
                const picture = { type: "image_url", image_url: { url: "data:image/png;base64," + (await import("node:fs")).readFileSync(process.argv[3]).toString("base64") } };
                const seen = await client.chat.completions.create({ model: "smollm2:captions", messages: [{ role: "user", content: [picture, { type: "text", text: "Describe this image." }] }], temperature: 0, max_tokens: 30 });
                const embedded = await client.embeddings.create({ model: "tiny-clip", input: [{ image: (await import("node:fs")).readFileSync(process.argv[3]).toString("base64") }], encoding_format: "float" });
                const adapter = async (what, method = "POST") => (await fetch(process.argv[2] + "/v1/adapters" + what, { method })).json();
                const adapters = [(await adapter("/captions/pin")).is_pinned, (await adapter("/captions/unload")).is_loaded, (await adapter("/captions/unpin")).is_pinned, (await adapter("/captions/unload")).is_loaded, (await adapter("", "GET"))[0].is_loaded, (await adapter("/none/load")).status];
                const status = async body => { try { await client.chat.completions.create({ model: "smollm2", messages, ...body }); return 200; } catch (e) { return e.status; } };
                const wrong = [
                  await status({ response_format: { type: "json_schema", json_schema: { name: "x", schema: { type: "integer", multipleOf: 7 } } } }), await status({ n: 99 }), await status({ tools, tool_choice: "sometimes" }),
                  await status({ messages: [{ role: "user", content: [picture] }] }), await status({ model: "smollm2:captions", messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "http://127.0.0.1:9/x.png" } }] }] }),
                ];
                let refused = 0;
                try { await client.chat.completions.create({ model: "gpt", messages }); } catch (e) { refused = e.status; }
                console.log(JSON.stringify({ whole: whole.choices[0].message.content, text, finish, usage, plain: plain.choices[0].text, same: four.every(f => f.choices[0].message.content === text), refused, missing, differs: adapted.choices[0].message.content !== text,
                  shaped: JSON.parse(shaped.choices[0].message.content), call: called.choices[0], callArguments: JSON.parse(called.choices[0].message.tool_calls[0].function.arguments), calling: calling.filter(c => c?.delta?.tool_calls).map(c => c.delta.tool_calls[0].function.name), callFinish: calling.at(-1).finish_reason, toldBack: toldBack.choices[0].message.content.length,
                  several: several.choices.map(c => c.message.content), chances: several.choices[0].logprobs.content.map(c => [c.logprob, c.top_logprobs.length]), pattern: pattern.choices[0].message.content, response: response.output_text, streamed, kinds: [...kinds], seen: seen.choices[0].message.content, embedded: embedded.data[0].embedding.length, adapters, wrong }));
                """);
            var run = await Host.RunAsync("node", ["check.mjs", url, Path.Combine(Host.Samples, "photos", "coffee.png")], directory: folder);
            Assert.True(run.ExitCode == 0, run.Error);
            using var said = JsonDocument.Parse(run.Output);
            JsonElement r = said.RootElement;
            Assert.Contains("Paris", r.GetProperty("whole").GetString(), StringComparison.Ordinal);
            Assert.Equal(r.GetProperty("whole").GetString(), r.GetProperty("text").GetString());
            Assert.Equal(("stop", 404, true), (r.GetProperty("finish").GetString(), r.GetProperty("refused").GetInt32(), r.GetProperty("same").GetBoolean()));
            Assert.Equal((404, true), (r.GetProperty("missing").GetInt32(), r.GetProperty("differs").GetBoolean()));
            Assert.StartsWith(" Paris", r.GetProperty("plain").GetString(), StringComparison.Ordinal);
            Assert.NotEmpty(r.GetProperty("shaped").GetProperty("city").GetString()!);
            Assert.True(r.GetProperty("shaped").GetProperty("population").GetInt64() >= 0);
            Assert.Equal("tool_calls", r.GetProperty("call").GetProperty("finish_reason").GetString());
            Assert.True(r.GetProperty("callArguments").GetProperty("city").GetString() is "Paris" or "Rome");
            Assert.Equal(("get_weather", "tool_calls"), (r.GetProperty("calling")[0].GetString(), r.GetProperty("callFinish").GetString()));
            Assert.True(r.GetProperty("toldBack").GetInt32() > 0);
            Assert.Equal(3, r.GetProperty("several").EnumerateArray().Select(s => s.GetString()).Distinct().Count());
            Assert.All(r.GetProperty("chances").EnumerateArray(), c => Assert.True(c[0].GetDouble() <= 0 && c[1].GetInt32() == 2));
            Assert.Matches("^(Paris|Rome), [A-Z][a-z]{3,9}$", r.GetProperty("pattern").GetString()!);
            Assert.Contains("Paris", r.GetProperty("response").GetString(), StringComparison.Ordinal);
            Assert.Equal(r.GetProperty("response").GetString(), r.GetProperty("streamed").GetString());
            Assert.Superset(new HashSet<string?>(["response.created", "response.output_text.done", "response.completed"]), r.GetProperty("kinds").EnumerateArray().Select(k => k.GetString()).ToHashSet());
            Assert.StartsWith("A ", r.GetProperty("seen").GetString(), StringComparison.Ordinal);
            Assert.Equal("[true,true,false,false,false,404]", r.GetProperty("adapters").GetRawText());
            Assert.Equal(24, r.GetProperty("embedded").GetInt32());
            Assert.All(r.GetProperty("wrong").EnumerateArray(), s => Assert.Equal(400, s.GetInt32()));
            Assert.Equal(37, r.GetProperty("usage").GetProperty("prompt_tokens").GetInt32());
            Assert.True(r.GetProperty("usage").GetProperty("prompt_tokens_details").GetProperty("cached_tokens").GetInt32() >= 32);
        }
        finally
        {
            using var stop = System.Diagnostics.Process.Start("kill", ["-TERM", $"{server.Id}"]);
            await server.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(20), TimeProvider.System);
        }
    }

    [Theory]
    [InlineData("llama2-like", null, 0)]
    [InlineData("llama31-like", null, 0)]
    [InlineData("llama31-like", "llama31-like-lora-1", 0)]
    [InlineData("llama4-scout-like", null, 0)]
    [InlineData("llama4-maverick-like", null, 0)]
    [InlineData("clip", null, 0)]
    [InlineData("siglip", null, 0)]
    [InlineData("clip", "llama31-like-lora-1", 1)]
    public async Task A_folder_is_verified_against_its_own_cases(string model, string? adapter, int exitCode)
    {
        string tiny = Shared.Require("golden", "tiny");
        var run = await Host.DiptychAsync(_data, ["models", "verify", Path.Combine(tiny, model), .. adapter is null ? Array.Empty<string>() : ["--adapter", Path.Combine(tiny, adapter)], "--json"]);
        Assert.True(run.ExitCode == exitCode, run.Error + run.Output);
        if (exitCode == 0)
        {
            using var json = JsonDocument.Parse(run.Output);
            Assert.True(json.RootElement.GetProperty("passed").GetBoolean());
            Assert.All(json.RootElement.GetProperty("cases").EnumerateArray(), c => Assert.InRange(c.GetProperty("max_abs_error").GetDouble(), 0, 2e-4));
        }
    }

    [Fact]
    public async Task A_download_resumes_is_checked_and_is_there_whole_or_not_at_all()
    {
        await using var hub = await LocalHub.StartAsync(Shared.Require("golden", "tiny", "clip"));
        Environment.SetEnvironmentVariable("DIPTYCH__HUB", hub.Url);
        try
        {
            hub.Damage = true;
            var damaged = await Host.DiptychAsync(_data, "models", "add", "hf:tiny/clip");
            Assert.True(damaged.ExitCode == 1 && damaged.Error.Contains("SHA-256", StringComparison.Ordinal), damaged.Error);
            Assert.DoesNotContain("tiny", await OkAsync("models", "list"), StringComparison.Ordinal);
            hub.Damage = false;
            hub.CutAfter = 3_000_000;
            await OkAsync("models", "add", "hf:tiny/clip@v4");
            Assert.True(hub.Resumed > 0, "nothing was resumed");
            Assert.Contains("hf:tiny/clip@v4", await OkAsync("models", "list", "--json"), StringComparison.Ordinal);
            await OkAsync("models", "verify", "clip");
            var twice = await Host.DiptychAsync(_data, "models", "add", "hf:tiny/clip");
            Assert.True(twice.ExitCode == 2 && twice.Error.Contains("already", StringComparison.Ordinal), twice.Error);
            string weights = Path.Combine(_data, "models", "clip", "model.safetensors");
            await File.AppendAllTextAsync(weights, "x");
            var changed = await Host.DiptychAsync(_data, "models", "verify", "clip", "--json");
            Assert.True(changed.ExitCode == 1 && changed.Output.Contains("has changed", StringComparison.Ordinal), changed.Output);
            Assert.Equal(1, (await Host.DiptychAsync(_data, "models", "add", "hf:nobody/nothing")).ExitCode);
            Assert.Equal(2, (await Host.DiptychAsync(_data, "models", "add", "hf:nobody")).ExitCode);
            Assert.Equal(2, (await Host.DiptychAsync(_data, "models", "add", Path.Combine(Host.Repository, "docs"), "--name", "x")).ExitCode);
            string broken = Path.Combine(_data, "broken.gguf");
            await File.WriteAllTextAsync(broken, "GGUF, and no more than that");
            var refused = await Host.DiptychAsync(_data, "models", "add", broken);
            Assert.True(refused.ExitCode == 1 && refused.Error.Contains(broken, StringComparison.Ordinal), refused.Error);
            Assert.DoesNotContain(Directory.GetDirectories(Path.Combine(_data, "models")), d => Path.GetFileName(d).StartsWith(".adding", StringComparison.Ordinal));
        }
        finally
        {
            Environment.SetEnvironmentVariable("DIPTYCH__HUB", null);
        }
    }

    private async Task<string> OkAsync(params string[] arguments)
    {
        var run = await Host.DiptychAsync(_data, arguments);
        Assert.True(run.ExitCode == 0, run.Error + run.Output);
        return run.Output;
    }
}
