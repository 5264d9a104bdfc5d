using System.Text;
using System.Text.Json;
using Diptych.Core;
using Diptych.Runtimes.Chat;
using Diptych.Runtimes.Decoding;
using Diptych.Runtimes.Structured;
using NJsonSchema;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>Answers held to a form, by a vocabulary of single bytes and some longer pieces, whatever is chosen among what is allowed.</summary>
[Collection("decoders")]
public sealed class TextConstraintTests
{
    private static readonly byte[][] Vocabulary =
    [
        [], .. Enumerable.Range(0, 256).Select(b => new[] { (byte)b }),
        .. new[] { "{\"", "\": ", "\", \"", "true", "null", "e\"", "name", "123", "\"}", "0.5", "[]", "},{", "gr", "ü", "ß", "\\\"", "日本", "  ", "-0", "[{\"" }.Select(Encoding.UTF8.GetBytes),
    ];

    private static readonly HashSet<int> Ends = [0];

    [Fact]
    public async Task Whatever_is_chosen_the_answer_is_valid_under_its_schema()
    {
        var trie = new TokenTrie(Vocabulary);
        for (int seed = 0; seed < 120; seed++)
        {
            string schema = SchemaSamples.Of(seed);
            JsonSchema validator = await JsonSchema.FromJsonAsync(schema, TestContext.Current.CancellationToken);
            string answer = Walk(TextConstraint.OfSchema(schema, trie), new Random(seed), 700);
            var wrong = validator.Validate(answer);
            Assert.True(wrong.Count == 0, $"{seed}: {answer} is not valid under {schema}: {string.Join("; ", wrong)}");
        }
    }

    [Theory]
    [InlineData("{}", """{"any": [1, {"thing": null}, "x"], "deep": {"a": {"b": true}}}""")]
    [InlineData("""{"type": "object"}""", """{"a": "\"quoted\" \\ and 日本"}""")]
    [InlineData("""{"type": ["string", "null"]}""", "null")]
    [InlineData("""{"type": "integer", "minimum": -17, "exclusiveMaximum": 1005}""", "-17")]
    [InlineData("""{"type": "integer", "minimum": -17, "exclusiveMaximum": 1005}""", "1004")]
    [InlineData("""{"type": "number", "minimum": 0, "maximum": 2}""", "1.999")]
    [InlineData("""{"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": false}""", """["a", true]""")]
    [InlineData("""{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"const": "x y"}}, "required": ["b"]}""", """{"b": 2, "c": "x y"}""")]
    [InlineData("""{"type": "object", "additionalProperties": {"type": "integer"}}""", """{"p": 1, "q": 2}""")]
    [InlineData("""{"type": "string", "pattern": "b+c"}""", "\"aabbcx\"")]
    [InlineData("""{"$ref": "#/$defs/list", "$defs": {"list": {"type": "object", "properties": {"next": {"$ref": "#/$defs/list"}}}}}""", """{"next": {"next": {}}}""")]
    [InlineData("""{"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]}, {"type": "object", "properties": {"kind": {"const": "b"}, "n": {"type": "integer"}}, "required": ["kind"]}]}""", """{"kind": "b", "n": 5}""")]
    public void Every_beginning_of_a_valid_text_is_allowed(string schema, string text) => AssertAllowed(TextConstraint.OfSchema(schema, new TokenTrie(Vocabulary)), text);

    [Theory]
    [InlineData(@"(\d{1,3}\.){3}\d{1,3}", "192.168.0.1", "192.168.0.1.")]
    [InlineData(@"[^\x00-\x7f]+", "日本ü", "日a")]
    [InlineData(@"yes|no|may be", "may be", "maybe")]
    [InlineData(@"(?:ab?)+c*", "aabacc", "bc")]
    [InlineData(@"[a-c\-\]]{2}\u0041", "-]A", "-dA")]
    [InlineData(@"😀.\.", "😀ß.", "😀.ß")]
    public void A_regular_expression_allows_what_matches_it_and_nothing_else(string expression, string matches, string other)
    {
        TextConstraint constraint = TextConstraint.OfRegex(expression, new TokenTrie(Vocabulary));
        AssertAllowed(constraint, matches);
        TextConstraint.Position position = constraint.Begin();
        Assert.Contains(Encoding.UTF8.GetBytes(other).Append((byte)0), b =>
        {
            float[] logits = new float[Vocabulary.Length];
            position.Mask(logits, Ends, 1000);
            bool allowed = b == 0 ? logits[0] == 0 : logits[b + 1] == 0;
            position.Advance([b]);
            return !allowed;
        });
    }

    [Theory]
    [InlineData("""{"type": "string", "contentEncoding": "base64"}""", "contentEncoding")]
    [InlineData("""{"type": "integer", "multipleOf": 3}""", "multipleOf")]
    [InlineData("""{"type": "object", "required": ["x"]}""", "'x'")]
    [InlineData("""{"$ref": "#/nowhere"}""", "nowhere")]
    [InlineData("""{"type": "string", "pattern": "(?=a)b"}""", "look-around")]
    [InlineData("""{"type": "integer", "minimum": 3, "maximum": 2}""", "no integer")]
    [InlineData("""{"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]}""", "without end")]
    [InlineData("""{"type": "string", "maxLength": 100000}""", "maxLength")]
    [InlineData("""{"type": 7}""", "wrong type")]
    [InlineData("nonsense", "no JSON")]
    [InlineData("false", "nothing is valid")]
    public void What_cannot_be_held_to_is_refused_by_name(string schema, string named) =>
        Assert.Contains(named, Assert.Throws<InvalidRequestException>(() => TextConstraint.OfSchema(schema, new TokenTrie(Vocabulary))).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("(a")]
    [InlineData("a)")]
    [InlineData("[a")]
    [InlineData("*a")]
    [InlineData("a{5,2}")]
    [InlineData("a{99999}")]
    [InlineData(@"\b")]
    [InlineData(@"(a)\1")]
    [InlineData("(?i)a")]
    [InlineData("^a|b$")]
    [InlineData("a??+")]
    [InlineData("a{2}{3}")]
    public void What_is_no_regular_expression_is_refused(string expression) =>
        Assert.Throws<InvalidRequestException>(() => TextConstraint.OfRegex(expression, new TokenTrie(Vocabulary)));

    /// <summary>Schemas and expressions whose automata, or whose reading, would have no end: what a request may cost is bounded before it starts.</summary>
    public static TheoryData<string, string> Hostile()
    {
        static string Text(string pattern) => JsonSerializer.Serialize(new { type = "string", pattern });
        static string Members(IEnumerable<KeyValuePair<string, object>> members) => JsonSerializer.Serialize(new Dictionary<string, object>(members));
        static string Referring(Dictionary<string, object> definitions, string first) => JsonSerializer.Serialize(new Dictionary<string, object> { ["$defs"] = definitions, ["$ref"] = $"#/$defs/{first}" });
        static Dictionary<string, object> To(string name) => new() { ["$ref"] = $"#/$defs/{name}" };
        static Dictionary<string, object> ListOf(string name) => new() { ["type"] = "array", ["items"] = To(name) };
        string six = Referring(
            Enumerable.Range(0, 6).ToDictionary(i => $"n{i}", i => (object)new { type = "object", properties = Enumerable.Range(0, 6).ToDictionary(j => $"c{j}", j => To($"n{j}")) }), "n0");
        string chain = Referring(Enumerable.Range(0, 9_000).ToDictionary(i => $"n{i}", i => (object)(i == 8_999 ? true : ListOf($"n{i + 1}"))), "n0");
        string same = Referring(new() { ["a"] = new { anyOf = Enumerable.Repeat(ListOf("a"), 8) } }, "a");
        return new()
        {
            { "six that refer to each other", six },
            { "a chain of 9,000", chain },
            { "choices of the same", same },
            { "a schema that is itself", """{"$ref": "#"}""" },
            { "groups in groups", Text(new string('(', 5_000) + "a" + new string(')', 5_000)) },
            { "question marks", Text("a" + new string('?', 10_000)) },
            { "powers of repetitions", Text("((((a{4096}){4096}){4096}){4096})") },
            { "powers of nothing", Text("((((a?){0,4096}){0,4096}){0,4096})b") },
            { "a long expression", Text(new string('a', 20_000)) },
            { "a large class", Text("[" + string.Concat(Enumerable.Range(0x4E00, 16_000).Where(c => c % 2 == 0).Select(c => (char)c)) + "]") },
            { "states that double", Text("^[ab]*a[ab]{4000}$") },
            { "2,000 members", JsonSerializer.Serialize(new { type = "object", properties = Enumerable.Range(0, 2_000).ToDictionary(i => $"p{i}", _ => new { type = "string" }), additionalProperties = false }) },
            { "200,000 values", Members([new("enum", Enumerable.Range(0, 200_000).Select(i => $"v{i}"))]) },
            { "a megabyte of nothing", Members([new("description", new string('x', 1_100_000))]) },
        };
    }

    [Theory]
    [MemberData(nameof(Hostile))]
    public void A_schema_is_held_or_refused_within_a_bound_of_memory(string name, string schema)
    {
        var trie = new TokenTrie(Vocabulary);
        long before = GC.GetAllocatedBytesForCurrentThread();
        try
        {
            TextConstraint.Position position = TextConstraint.OfSchema(schema, trie).Begin();
            float[] logits = new float[Vocabulary.Length];
            position.Mask(logits, Ends, 1000);
            Assert.Contains(0f, logits);
        }
        catch (InvalidRequestException refused)
        {
            Assert.True(refused.Message.Length < 400, refused.Message);
        }
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.True(allocated < 256 << 20, $"{name}: {allocated >> 20} MiB");
    }

    [Fact]
    [Trait("Needs", "shared")]
    public async Task A_model_writes_what_is_asked_for_in_the_form_that_is_asked_for_even_where_tokens_are_few()
    {
        using var model = LocalModel.Open("smollm2", Shared.Require("models", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"), 64 << 20, TimeProvider.System);
        const string schema = """{"type": "object", "properties": {"city": {"type": "string"}, "country": {"enum": ["France", "Italy"]}, "rivers": {"type": "array", "items": {"type": "string"}, "minItems": 1}}, "required": ["city", "country", "rivers"]}""";
        foreach (var (temperature, tokens) in new[] { (0f, 120), (0f, 40), (1.3f, 60) })
        {
            string answer = await AnswerAsync(model, "What is the capital of France? Answer in JSON.", new Sampling { MaxTokens = tokens, Temperature = temperature, Seed = 5, Constraint = model.SchemaConstraint(schema) });
            using var json = JsonDocument.Parse(answer);
            Assert.True(json.RootElement.GetProperty("country").GetString() is "France" or "Italy");
            Assert.True(json.RootElement.GetProperty("rivers").GetArrayLength() >= 1);
        }
        Assert.Matches("^(yes|no)$", await AnswerAsync(model, "Is water wet?", new Sampling { Constraint = model.RegexConstraint("yes|no") }));
    }

    private static async Task<string> AnswerAsync(LocalModel model, string question, Sampling sampling)
    {
        string text = "";
        await foreach (GeneratedText part in model.GenerateAsync(model.Write([new ChatTurn("user", question)]), sampling, TestContext.Current.CancellationToken))
        {
            text += part.Text;
        }
        return text;
    }

    private static void AssertAllowed(TextConstraint constraint, string text)
    {
        TextConstraint.Position position = constraint.Begin();
        float[] logits = new float[Vocabulary.Length];
        foreach (byte b in Encoding.UTF8.GetBytes(text))
        {
            Array.Clear(logits);
            position.Mask(logits, Ends, 1000);
            Assert.True(logits[b + 1] == 0, $"'{(char)b}' in {text}");
            position.Advance([b]);
        }
        Array.Clear(logits);
        position.Mask(logits, Ends, 1000);
        Assert.Equal(0, logits[0]);
    }

    private static string Walk(TextConstraint constraint, Random random, int tokens)
    {
        TextConstraint.Position position = constraint.Begin();
        var answer = new List<byte>();
        float[] logits = new float[Vocabulary.Length];
        for (int left = tokens; left > 0; left--)
        {
            Array.Clear(logits);
            position.Mask(logits, Ends, left);
            // Characters beyond the first plane are two for the validator, and one for JSON Schema: a length would be judged otherwise.
            int[] allowed = [.. Enumerable.Range(0, logits.Length).Where(t => logits[t] == 0 && (t is < 0xF1 or > 0x100))];
            Assert.All(Enumerable.Range(0, logits.Length).Where(t => position.Allows(t, Ends, left)), t => Assert.Equal(0, logits[t]));
            Assert.True(left < 600 || allowed.All(t => position.Allows(t, Ends, left)));
            int token = allowed[random.Next(allowed.Length)];
            if (token == 0)
            {
                break;
            }
            answer.AddRange(Vocabulary[token]);
            position.Advance(Vocabulary[token]);
            if (position.Complete)
            {
                break;
            }
        }
        return new UTF8Encoding(false, true).GetString([.. answer]);
    }
}
