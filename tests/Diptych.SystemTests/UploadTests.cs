using System.Net;
using System.Text;
using System.Text.Json;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>Which document an upload is, and what is given back of a file that has changed.</summary>
[Collection(nameof(StartedServer))]
public sealed class UploadTests(StartedServer server)
{
    private HttpClient Client => server.Client;

    [Fact]
    public async Task Uploads_are_known_by_the_path_they_were_sent_with()
    {
        await UploadAsync("paths", null, ("a/README.md", "The walrus sleeps on the ice."), ("b/README.md", "The boiler is checked in May."), ("..\\up/x.txt", "One."), ("x.txt", "Two."), ("x.txt", "Three."));
        Assert.Equal(["upload:a/README.md", "upload:b/README.md", "upload:up/x.txt", "upload:x (2).txt", "upload:x.txt"], (await DocumentsAsync("paths")).Keys.Order(StringComparer.Ordinal));
        Assert.Equal(HttpStatusCode.NoContent, (await Client.DeleteAsync("/v1/collections/paths")).StatusCode);
    }

    [Fact]
    public async Task A_name_that_is_taken_is_replaced_kept_beside_or_refused_as_the_request_says()
    {
        await UploadAsync("taken", null, ("a.txt", "First version."));
        long id = (await DocumentsAsync("taken"))["upload:a.txt"];
        await UploadAsync("taken", "replace", ("a.txt", "Second version."));
        Assert.Equal(id, (await DocumentsAsync("taken"))["upload:a.txt"]);
        HttpResponseMessage refused = await PostAsync("taken", "refuse", ("a.txt", "Third version."));
        Assert.Equal(HttpStatusCode.Conflict, refused.StatusCode);
        Assert.Contains("on_conflict", await refused.Content.ReadAsStringAsync(), StringComparison.Ordinal);
        await UploadAsync("taken", "refuse", ("a.txt", "Second version."));
        await UploadAsync("taken", "keep_both", ("a.txt", "Third version."));
        var documents = await DocumentsAsync("taken");
        Assert.Equal((2, id), (documents.Count, documents["upload:a.txt"]));
        Assert.Equal("Third version.", (await Client.GetStringAsync($"/v1/documents/{documents["upload:a (2).txt"]}/text")).Trim());
        Assert.Equal(HttpStatusCode.BadRequest, (await PostAsync("taken", "overwrite", ("a.txt", "x"))).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await Client.DeleteAsync("/v1/collections/taken")).StatusCode);
    }

    [Fact]
    public async Task A_file_that_changed_since_is_not_given_out_as_the_document()
    {
        string folder = Directory.CreateTempSubdirectory("diptych-original-").FullName, file = Path.Combine(folder, "note.txt");
        try
        {
            await File.WriteAllTextAsync(file, "The ferry leaves at seven.");
            Assert.Equal(0, (await Host.DiptychAsync(server.Data, "ingest", file, "-c", "originals")).ExitCode);
            using var list = JsonDocument.Parse(await Client.GetStringAsync("/v1/collections/originals/documents"));
            string original = list.RootElement.GetProperty("documents")[0].GetProperty("original_url").GetString()!;
            Assert.Equal("The ferry leaves at seven.", await Client.GetStringAsync(original));
            foreach (string changed in new[] { "The ferry leaves at eight.", "Longer than it was when it was ingested." })
            {
                await File.WriteAllTextAsync(file, changed);
                HttpResponseMessage answer = await Client.GetAsync(original);
                Assert.Equal(HttpStatusCode.Conflict, answer.StatusCode);
                Assert.Contains("has changed", await answer.Content.ReadAsStringAsync(), StringComparison.Ordinal);
            }
            File.Delete(file);
            await File.WriteAllTextAsync(Path.Combine(folder, "secret"), "The ferry leaves at nine!.");
            File.CreateSymbolicLink(file, Path.Combine(folder, "secret"));
            Assert.Equal(HttpStatusCode.Conflict, (await Client.GetAsync(original)).StatusCode);
            File.Delete(file);
            Assert.Equal(HttpStatusCode.NotFound, (await Client.GetAsync(original)).StatusCode);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public async Task Text_of_documents_reaches_a_terminal_without_its_control_characters()
    {
        string folder = Directory.CreateTempSubdirectory("diptych-escapes-").FullName, data = Path.Combine(folder, "data");
        try
        {
            await File.WriteAllTextAsync(Path.Combine(folder, "e.txt"), "kumquat \u001b]0;owned\u0007\u001b[2J \u009b31m \u202e end");
            Assert.Equal(0, (await Host.DiptychAsync(data, "ingest", Path.Combine(folder, "e.txt"))).ExitCode);
            foreach (string[] command in new string[][] { ["search", "kumquat"], ["ask", "kumquat"], ["documents", "show", "1"] })
            {
                var run = await Host.DiptychAsync(data, command);
                Assert.Contains("kumquat", run.Output, StringComparison.Ordinal);
                Assert.DoesNotContain(run.Output + run.Error, c => c is '\u001b' or '\u0007' or '\u009b' or '\u202e');
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private async Task UploadAsync(string collection, string? onConflict, params (string Name, string Text)[] files)
    {
        HttpResponseMessage accepted = await PostAsync(collection, onConflict, files);
        Assert.True(accepted.StatusCode == HttpStatusCode.Accepted, await accepted.Content.ReadAsStringAsync());
        Assert.DoesNotContain("failed", await Client.GetStringAsync($"{accepted.Headers.Location}/events") is var events ? events.Replace("\"failed\":0", "", StringComparison.Ordinal) : "", StringComparison.Ordinal);
    }

    private async Task<HttpResponseMessage> PostAsync(string collection, string? onConflict, params (string Name, string Text)[] files)
    {
        using var form = new MultipartFormDataContent();
        foreach (var (name, text) in files)
        {
            var content = new ByteArrayContent(Encoding.UTF8.GetBytes(text));
            content.Headers.TryAddWithoutValidation("Content-Disposition", $"form-data; name=\"file\"; filename=\"{name}\"");
            form.Add(content);
        }
        if (onConflict is not null)
        {
            form.Add(new StringContent(onConflict), "on_conflict");
        }
        return await Client.PostAsync($"/v1/collections/{collection}/documents", form);
    }

    private async Task<Dictionary<string, long>> DocumentsAsync(string collection)
    {
        using var list = JsonDocument.Parse(await Client.GetStringAsync($"/v1/collections/{collection}/documents"));
        return list.RootElement.GetProperty("documents").EnumerateArray().ToDictionary(d => d.GetProperty("source").GetString()!, d => d.GetProperty("id").GetInt64());
    }
}
