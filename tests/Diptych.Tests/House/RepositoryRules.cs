using System.Reflection;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using Xunit;

namespace Diptych.Tests.House;

/// <summary>The rules of the repository, as tests.</summary>
public sealed partial class RepositoryRules
{
    private static readonly Dictionary<string, string[]> AllowedReferences = new()
    {
        ["Diptych.Core"] = [],
        ["Diptych.Inference"] = ["Diptych.Core"],
        ["Diptych.Index"] = ["Diptych.Core"],
        ["Diptych.Reading"] = ["Diptych.Core"],
        ["Diptych.Runtimes"] = ["Diptych.Inference"],
        ["Diptych.Engine"] = ["Diptych.Index", "Diptych.Inference", "Diptych.Reading"],
        ["Diptych.App"] = ["Diptych.Engine", "Diptych.Runtimes"],
    };

    [Fact]
    public void Projects_reference_downward_only()
    {
        foreach (var (project, allowed) in AllowedReferences)
        {
            var xml = XDocument.Load(Path.Combine(Shared.Repository, "src", project, $"{project}.csproj"));
            var references = xml.Descendants("ProjectReference").Select(r => Path.GetFileNameWithoutExtension(r.Attribute("Include")!.Value.Replace('\\', '/')));
            Assert.Equal(allowed.Order(), references.Order());
        }
        Assert.Equal(AllowedReferences.Keys.Order(), Directory.GetDirectories(Path.Combine(Shared.Repository, "src")).Select(d => Path.GetFileName(d)!).Order());
    }

    [Fact]
    public void Core_and_inference_have_no_packages()
    {
        foreach (string project in new[] { "Diptych.Core", "Diptych.Inference" })
        {
            Assert.Empty(XDocument.Load(Path.Combine(Shared.Repository, "src", project, $"{project}.csproj")).Descendants("PackageReference"));
        }
    }

    [Fact]
    public void A_source_file_is_one_idea_of_at_most_400_lines()
    {
        foreach (string file in Sources())
        {
            int lines = File.ReadLines(file).Count();
            Assert.True(lines <= 400, $"{file} has {lines} lines");
        }
    }

    [Fact]
    public void No_folder_is_named_after_a_kind_of_class()
    {
        string[] banned = ["Common", "Utils", "Helpers", "Abstractions", "Constants", "Managers", "Services", "Interfaces", "Models", "Shared"];
        Assert.DoesNotContain(
            Sources().SelectMany(f => Path.GetDirectoryName(Path.GetRelativePath(Shared.Repository, f))!.Split(Path.DirectorySeparatorChar)),
            folder => banned.Contains(folder, StringComparer.OrdinalIgnoreCase));
    }

    [Fact]
    public void Every_public_type_is_documented()
    {
        foreach (Assembly assembly in new[] { typeof(Core.Document), typeof(Diptych.Inference.Lane), typeof(Diptych.Index.Collection), typeof(Diptych.Reading.MediaTypes), typeof(Diptych.Runtimes.StarterModel), typeof(Diptych.Engine.Search.Searcher), typeof(App.Product) }.Select(t => t.Assembly))
        {
            var documented = XDocument.Load(Path.ChangeExtension(assembly.Location, ".xml")).Descendants("member").Select(m => m.Attribute("name")!.Value).ToHashSet();
            Assert.All(
                assembly.GetExportedTypes().Where(t => !t.IsNested && t.Namespace?.StartsWith("Diptych", StringComparison.Ordinal) == true),
                t => Assert.Contains($"T:{t.FullName}", documented));
        }
    }

    [Fact]
    public void Every_package_that_ships_is_in_the_notices_with_a_permissive_licence()
    {
        string notices = File.ReadAllText(Path.Combine(Shared.Repository, "THIRD-PARTY-NOTICES.md"));
        var listed = NoticeRow().Matches(notices).DistinctBy(m => m.Groups[1].Value).ToDictionary(m => m.Groups[1].Value, m => m.Groups[3].Value, StringComparer.OrdinalIgnoreCase);
        var shipped = Directory.GetFiles(Path.Combine(Shared.Repository, "src"), "project.assets.json", SearchOption.AllDirectories)
            .SelectMany(f => System.Text.Json.JsonDocument.Parse(File.ReadAllText(f)).RootElement.GetProperty("libraries").EnumerateObject())
            .Where(l => l.Value.GetProperty("type").GetString() == "package").Select(l => l.Name.Split('/')[0])
            .Where(n => !BuildOnly.Contains(n)).Distinct(StringComparer.OrdinalIgnoreCase);
        foreach (string package in shipped)
        {
            Assert.True(listed.ContainsKey(package), $"{package} ships and is not in THIRD-PARTY-NOTICES.md");
            Assert.Contains(listed[package], Permissive);
        }
    }

    private static readonly string[] BuildOnly = ["Meziantou.Analyzer", "Roslynator.Analyzers", "Microsoft.CodeAnalysis.BannedApiAnalyzers"];

    private static readonly string[] Permissive = ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "Public domain", "BSD-3-Clause (XMP)", "PostgreSQL"];

    private static IEnumerable<string> Sources() => Directory.EnumerateFiles(Path.Combine(Shared.Repository, "src"), "*.cs", SearchOption.AllDirectories)
        .Where(f => !f.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}", StringComparison.Ordinal) && !f.Contains($"{Path.DirectorySeparatorChar}bin{Path.DirectorySeparatorChar}", StringComparison.Ordinal));

    [GeneratedRegex(@"^\| ([\w.\-]+) \| ([^|]+) \| ([^|]+?) \|", RegexOptions.Multiline | RegexOptions.CultureInvariant, 1000)]
    private static partial Regex NoticeRow();
}
