using System.Text.Json;
using Diptych.Core;
using Diptych.Runtimes.Chat;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>
/// Chat templates beside what Jinja 3.1 makes of them as transformers runs it (blocks trimmed, loop controls, tojson without escapes):
/// templates.json holds the templates, a conversation, and the texts.
/// </summary>
public sealed class TemplateTests
{
    public static TheoryData<string> Cases() => [.. Data().GetProperty("expected").EnumerateObject().Select(e => e.Name)];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Conversations_are_written_as_Jinja_writes_them(string name)
    {
        JsonElement data = Data();
        var format = new ChatFormat(data.GetProperty("templates").GetProperty(name.Split('.')[0]).GetString()!, "<s>", "</s>", new FixedTime());
        string text = format.Write([.. data.GetProperty("conv").EnumerateArray().Select(Turn)], name.EndsWith(".with", StringComparison.Ordinal) ? data.GetProperty("tools") : null);
        Assert.Equal(data.GetProperty("expected").GetProperty(name).GetString(), text);
    }

    [Theory]
    [InlineData("{{ raise_exception('No system turns.') }}", "No system turns.")]
    [InlineData("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "without end")]
    [InlineData("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "without end")]
    [InlineData("{{ messages.nothing.more }}", "'more'")]
    [InlineData("{{ 1 / 0 }}", "zero")]
    [InlineData("{{ 'a' + 1 }}", "'a'")]
    [InlineData("{{ messages[0].content() }}", "no function")]
    public void A_template_that_fails_says_why(string template, string why)
    {
        var error = Assert.Throws<InvalidRequestException>(() => new ChatFormat(template, "", "", TimeProvider.System).Write([new ChatTurn("user", "hi")]));
        Assert.Contains(why, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("{{ 'open }}", "line 1")]
    [InlineData("a\n{% if x %}b", "line 2")]
    [InlineData("{% include 'other' %}", "'include'")]
    [InlineData("{{ x | shout }}", "'shout'")]
    [InlineData("{{ x is loud }}", "'loud'")]
    [InlineData("{% endfor %}", "alone")]
    [InlineData("{{ a b }}", "'b'")]
    [InlineData("{{", "not closed")]
    [InlineData("{# never", "not closed")]
    public void What_is_no_template_is_refused_by_its_line(string template, string why) =>
        Assert.Contains(why, Assert.Throws<InvalidDataException>(() => Template.Parse(template)).Message, StringComparison.Ordinal);

    [Fact]
    public void Broken_templates_never_bring_the_process_down()
    {
        JsonElement data = Data();
        string[] templates = [.. data.GetProperty("templates").EnumerateObject().Select(t => t.Value.GetString()!)];
        ChatTurn[] turns = [.. data.GetProperty("conv").EnumerateArray().Select(Turn)];
        var random = new Random(9);
        int written = 0;
        for (int i = 0; i < 4000; i++)
        {
            string template = templates[random.Next(templates.Length)];
            for (int edits = random.Next(1, 4); edits > 0; edits--)
            {
                int at = random.Next(template.Length), length = Math.Min(random.Next(1, 40), template.Length - at), from = random.Next(template.Length);
                template = random.Next(3) switch
                {
                    0 => template.Remove(at, length),
                    1 => template.Insert(at, template.Substring(from, Math.Min(length, template.Length - from))),
                    _ => template.Insert(at, "{}%|.([])'~-"[random.Next(12)].ToString()),
                };
            }
            try
            {
                _ = new ChatFormat(template, "", "", TimeProvider.System).Write(turns, data.GetProperty("tools"));
                written++;
            }
            catch (Exception error) when (error is InvalidDataException or InvalidRequestException)
            {
            }
        }
        Assert.InRange(written, 200, 3800);
        foreach (string deep in new[] { new string('(', 100_000), string.Concat(Enumerable.Repeat("{% if x %}", 100_000)), $"{{{{ {new string('-', 100_000)}1 }}}}", $"{{{{ 1{string.Concat(Enumerable.Repeat("+1", 100_000))} }}}}" })
        {
            Assert.Throws<InvalidDataException>(() => Template.Parse(deep.StartsWith('(') ? $"{{{{ {deep} }}}}" : deep));
        }
    }

    private static JsonElement Data()
    {
        using Stream stream = typeof(TemplateTests).Assembly.GetManifestResourceStream("templates.json")!;
        using var json = JsonDocument.Parse(stream);
        return json.RootElement.Clone();
    }

    private static ChatTurn Turn(JsonElement turn) => new(
        turn.GetProperty("role").GetString()!, turn.GetProperty("content").GetString()!, null,
        turn.TryGetProperty("tool_calls", out JsonElement calls) ? [.. calls.EnumerateArray().Select(c => new ChatCall(c.GetProperty("id").GetString()!, c.GetProperty("function").GetProperty("name").GetString()!, c.GetProperty("function").GetProperty("arguments")))] : null,
        turn.TryGetProperty("tool_call_id", out JsonElement id) ? id.GetString() : null);

    private sealed class FixedTime : TimeProvider
    {
        public override DateTimeOffset GetUtcNow() => new(2026, 3, 9, 14, 5, 0, TimeSpan.Zero);

        public override TimeZoneInfo LocalTimeZone => TimeZoneInfo.Utc;
    }
}
