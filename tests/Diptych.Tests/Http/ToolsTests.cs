using System.Text.Json;
using Diptych.App.Http;
using Xunit;

namespace Diptych.Tests.Http;

public sealed class ToolsTests
{
    private static readonly Tools Offered = Tools.Of(new ChatRequest
    {
        Model = "m",
        Messages = [],
        Tools = [Function("weather"), Function("news")],
    })!;

    [Theory]
    [InlineData("""{"name": "weather", "arguments": {"city": "Paris"}}""", null, "weather")]
    [InlineData("<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>", null, "weather")]
    [InlineData("Let me look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"news\", \"arguments\": {}}\n</tool_call>", "Let me look.", "weather news")]
    [InlineData("""[TOOL_CALLS][{"name": "news", "arguments": {}, "id": "abcdefghi"}]""", null, "news")]
    [InlineData("""<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "news", "parameters": {}}""", null, "weather news")]
    [InlineData("It is warm.", "It is warm.", "")]
    [InlineData("""{"name": "unknown", "arguments": {}}""", """{"name": "unknown", "arguments": {}}""", "")]
    [InlineData("""{"name": "weather", "arguments": "none"}""", """{"name": "weather", "arguments": "none"}""", "")]
    [InlineData("<tool_call>\n{\"name\": \"weather\", ", "<tool_call>\n{\"name\": \"weather\", ", "")]
    [InlineData("", "", "")]
    public void Calls_are_read_as_each_family_writes_them(string answer, string? text, string names)
    {
        var (said, calls) = Offered.Read(answer);
        Assert.Equal((text, names), (said, string.Join(' ', calls?.Select(c => c.Function.Name) ?? [])));
        Assert.All(calls ?? [], c => Assert.Equal(JsonValueKind.Object, JsonElement.Parse(c.Function.Arguments).ValueKind));
    }

    [Theory]
    [InlineData("", true)]
    [InlineData("{\"na", true)]
    [InlineData("<tool", true)]
    [InlineData("Let me look. <tool_call>", true)]
    [InlineData("Let me", false)]
    public void What_may_become_a_call_is_held_back(string begun, bool held) => Assert.Equal(held, Offered.MayBeCall(begun));

    private static ToolDefinition Function(string name) => new() { Function = new FunctionDefinition { Name = name } };
}
