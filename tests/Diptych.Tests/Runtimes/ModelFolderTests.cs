using Diptych.Core;
using Diptych.Runtimes.Store;
using Xunit;

namespace Diptych.Tests.Runtimes;

/// <summary>A model that cannot be run is refused when it is added, or told of with its reason; it never hides the others.</summary>
public sealed class ModelFolderTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-models-").FullName;

    private string Models => Path.Combine(_folder, "models");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void What_cannot_be_run_is_refused_when_it_is_added_and_leaves_nothing()
    {
        var file = new TinyGguf();
        file.Metadata["general.alignment"] = 0u;
        string path = Path.Combine(_folder, "zero.gguf");
        File.WriteAllBytes(path, file.Bytes());
        Assert.Contains("general.alignment", Assert.Throws<InvalidDataException>(() => new ModelFolder(Models).Add(path, null, TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
        string adapter = Path.Combine(_folder, "adapter");
        Directory.CreateDirectory(adapter);
        File.WriteAllText(Path.Combine(adapter, "adapter_config.json"), """{"peft_type":"LORA","r":4,"lora_alpha":8,"use_dora":true}""");
        File.WriteAllText(Path.Combine(adapter, "adapter_model.safetensors"), new string(' ', 40));
        Assert.Contains("use_dora", Assert.Throws<InvalidDataException>(() => new ModelFolder(Models).Add(adapter, null, TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
        Assert.Empty(new ModelFolder(Models).List());
        Assert.Empty(new ModelFolder(Models).Broken());
    }

    [Theory]
    [InlineData("{", "damaged")]
    [InlineData("null", "damaged")]
    [InlineData("{\"name\":\"../sound\",\"kind\":\"decoder\",\"source\":\"\",\"files\":{}}", "not this folder's")]
    [InlineData("{\"name\":\"bad\",\"kind\":\"decoder\",\"source\":\"\",\"files\":{\"../sound/diptych.json\":\"\"}}", "not this folder's")]
    [InlineData("{\"name\":\"bad\",\"kind\":\"of tomorrow\",\"source\":\"\",\"files\":{}}", "damaged")]
    public void A_damaged_manifest_is_told_of_and_hides_no_other_model(string manifest, string reason)
    {
        ModelFolder models = WithSound();
        string bad = Path.Combine(Models, "bad");
        Directory.CreateDirectory(bad);
        File.WriteAllText(Path.Combine(bad, "diptych.json"), manifest);
        Assert.Equal(["sound"], models.List().Select(m => m.Name));
        Assert.Contains(reason, Assert.Single(models.Broken()).Value, StringComparison.Ordinal);
        Assert.Contains("broken", Assert.Throws<InvalidDataException>(() => models.Verify("bad")).Message, StringComparison.Ordinal);
        Assert.Throws<NotFoundException>(() => models.Remove("../models"));
        models.Remove("bad");
        Assert.Empty(models.Broken());
    }

    [Fact]
    public void A_model_whose_files_are_gone_cut_or_changed_is_told_of_with_its_reason()
    {
        ModelFolder models = WithSound();
        Assert.Empty(models.Broken());
        string path = Path.Combine(Models, "sound", "sound.gguf");
        byte[] bytes = File.ReadAllBytes(path);
        File.WriteAllBytes(path, bytes[..^100]);
        Assert.Contains("bytes", models.Broken()["sound"], StringComparison.Ordinal);
        byte[] changed = [.. bytes];
        changed.AsSpan(8, 8).Fill(0xFF);
        File.WriteAllBytes(path, changed);
        Assert.Contains("number of tensors", models.Broken()["sound"], StringComparison.Ordinal);
        File.Delete(path);
        Assert.Contains("sound.gguf is missing", models.Broken()["sound"], StringComparison.Ordinal);
        File.WriteAllBytes(path, bytes);
        Assert.Empty(models.Broken());
    }

    private ModelFolder WithSound()
    {
        string path = Path.Combine(_folder, "sound.gguf");
        File.WriteAllBytes(path, new TinyGguf().Bytes());
        var models = new ModelFolder(Models);
        models.Add(path, null, TestContext.Current.CancellationToken);
        return models;
    }
}
