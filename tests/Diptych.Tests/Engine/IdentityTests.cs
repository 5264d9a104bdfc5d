using System.Security.Cryptography;
using Diptych.App;
using Diptych.Core;
using Diptych.Engine.Ingestion;
using Xunit;

namespace Diptych.Tests.Engine;

/// <summary>Which document a file is, whatever was done to the folder between two runs.</summary>
public sealed class IdentityTests : IAsyncLifetime
{
    private static readonly CancellationToken None = CancellationToken.None;
    private readonly string _data = Directory.CreateTempSubdirectory("diptych-identity-").FullName;
    private readonly string _folder = Directory.CreateTempSubdirectory("diptych-tree-").FullName;
    private Product _product = null!;

    public async ValueTask InitializeAsync() =>
        _product = await Product.OpenAsync(new DiptychOptions { Data = _data, StarterModel = Shared.Starter }, TimeProvider.System, None);

    public async ValueTask DisposeAsync()
    {
        await _product.DisposeAsync();
        Directory.Delete(_data, recursive: true);
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task A_renamed_file_is_the_same_document_and_nothing_is_embedded_again()
    {
        Write("a.txt", "The ferry leaves at seven.");
        await IngestAsync();
        Document before = Assert.Single(Documents());
        long passage = Assert.Single(_product.Store.Passages(before.Id)).Id, embedded = Embedded();
        Move("a.txt", "b.txt");
        IngestTotals totals = await IngestAsync(prune: true);
        Document after = Assert.Single(Documents());
        Assert.Equal((before.Id, Full("b.txt"), "b"), (after.Id, after.Source, after.Title));
        Assert.Equal(passage, Assert.Single(_product.Store.Passages(after.Id)).Id);
        Assert.Equal((1, 0, 0), (totals.Moved, totals.Pruned, totals.Added));
        Assert.Equal(embedded, Embedded());
        Assert.Equal(Full("b.txt"), Assert.Single(_product.Store.SearchLexical("tree", "ferry", 5, null, Modality.Text)).Key.Document.Source);
        Assert.Equal(after.Id, Assert.Single(_product.Store.SearchLexical("tree", "ferry", 5, Filter.Parse($"source={Full("b.txt")}"), Modality.Text)).Key.Document.Id);
    }

    [Fact]
    public async Task A_renamed_folder_keeps_its_documents()
    {
        Write("old/one.txt", "First.");
        Write("old/deep/two.txt", "Second.");
        await IngestAsync();
        long[] ids = [.. Documents().Select(d => d.Id).Order()];
        Directory.Move(Full("old"), Full("new"));
        IngestTotals totals = await IngestAsync(prune: true);
        Assert.Equal((2, 0), (totals.Moved, totals.Pruned));
        Assert.Equal(ids, Documents().Select(d => d.Id).Order());
        Assert.All(Documents(), d => Assert.StartsWith(Full("new"), d.Source, StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_name_that_differs_by_case_alone_moves_its_document()
    {
        Write("Notes.txt", "The heron stands in the reeds.");
        await IngestAsync();
        long id = Assert.Single(Documents()).Id;
        Move("Notes.txt", "notes.txt");
        await IngestAsync(prune: true);
        Document after = Assert.Single(Documents());
        Assert.Equal((id, Full("notes.txt")), (after.Id, after.Source));
    }

    [Fact]
    public async Task Copies_are_documents_of_their_own_and_outlive_each_other()
    {
        Write("a.txt", "The kingfisher dives.");
        Write("b.txt", "The kingfisher dives.");
        IngestTotals first = await IngestAsync();
        Assert.Equal((1, 1), (first.Added, first.Duplicates));
        Document kept = Documents().Single(d => d.Source == Full("b.txt"));
        Assert.Single((await _product.Searcher.SearchAsync(new Query { Collection = "tree", Parts = [new QueryPart { Text = "kingfisher" }] }, None)).Hits);
        File.Delete(Full("a.txt"));
        await IngestAsync(prune: true, all: true);
        Assert.Equal(kept.Id, Assert.Single(Documents()).Id);
        Assert.Single(_product.Store.SearchLexical("tree", "kingfisher", 5, null, Modality.Text));
        Assert.Equal("The kingfisher dives.", _product.Store.DocumentText(kept.Id).Trim());
    }

    [Fact]
    public async Task Files_that_change_places_keep_their_ids_and_nothing_is_embedded_again()
    {
        Write("a.txt", "Walrus.");
        Write("b.txt", "Boiler.");
        Write("c.txt", "Heron.");
        await IngestAsync();
        var before = Documents().ToDictionary(d => d.Source, d => d.Id);
        long embedded = Embedded();
        Move("a.txt", "x");
        Move("b.txt", "a.txt");
        Move("c.txt", "b.txt");
        Move("x", "c.txt");
        IngestTotals totals = await IngestAsync(prune: true);
        Assert.Equal(3, totals.Replaced);
        Assert.Equal(before, Documents().ToDictionary(d => d.Source, d => d.Id));
        Assert.Equal(embedded, Embedded());
        Assert.Equal(["Boiler.", "Heron.", "Walrus."], new[] { "a", "b", "c" }.Select(n => _product.Store.DocumentText(before[Full($"{n}.txt")]).Trim()));
        Assert.Equal(before[Full("c.txt")], Assert.Single(_product.Store.SearchLexical("tree", "walrus", 5, null, Modality.Text)).Key.Document.Id);
    }

    [Fact]
    public async Task A_changed_file_keeps_its_id_also_where_its_new_bytes_are_elsewhere()
    {
        Write("a.txt", "Walrus.");
        Write("b.txt", "Boiler.");
        await IngestAsync();
        var before = Documents().ToDictionary(d => d.Source, d => d.Id);
        Write("a.txt", "Boiler.");
        await IngestAsync(prune: true);
        Assert.Equal(before, Documents().ToDictionary(d => d.Source, d => d.Id));
        Assert.Empty(_product.Store.SearchLexical("tree", "walrus", 5, null, Modality.Text));
        Assert.Equal(2, _product.Store.SearchLexical("tree", "boiler", 5, null, Modality.Text).Count);
    }

    [Fact]
    public async Task Reading_again_keeps_ids()
    {
        Write("a.txt", "Walrus.");
        await IngestAsync();
        long id = Assert.Single(Documents()).Id;
        await IngestAsync(again: true);
        Assert.Equal(id, Assert.Single(Documents()).Id);
        Assert.Single(_product.Store.Passages(id));
    }

    [Fact]
    public async Task A_folder_that_lost_much_or_all_is_not_pruned_unless_it_is_named()
    {
        for (int i = 0; i < 6; i++)
        {
            Write($"sub/{i}.txt", $"Number {i} is a number.");
        }
        await IngestAsync();
        for (int i = 0; i < 3; i++)
        {
            File.Delete(Full($"sub/{i}.txt"));
        }
        IngestTotals refused = await IngestAsync(prune: true);
        Assert.Equal(0, refused.Pruned);
        Assert.Contains("3 of 6 documents", Assert.Single(refused.PruneRefused), StringComparison.Ordinal);
        Assert.Equal(6, Documents().Count);
        Directory.Delete(Full("sub"), recursive: true);
        Assert.Single((await IngestAsync(prune: true)).PruneRefused);
        Assert.Equal(6, Documents().Count);
        Assert.Equal(6, (await IngestAsync(prune: true, all: true)).Pruned);
        Assert.Empty(Documents());
    }

    [Fact]
    public async Task Two_of_six_are_a_third_and_may_be_pruned()
    {
        for (int i = 0; i < 6; i++)
        {
            Write($"{i}.txt", $"Number {i} is a number.");
        }
        await IngestAsync();
        File.Delete(Full("0.txt"));
        File.Delete(Full("1.txt"));
        Assert.Equal(2, (await IngestAsync(prune: true)).Pruned);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task After_any_changes_the_store_equals_the_tree_and_only_new_bytes_are_embedded(int seed)
    {
        var random = new Random(seed);
        int fresh = 0;
        string[] folders = ["", "a/", "b/", "b/c/"];
        string Name() => $"{folders[random.Next(folders.Length)]}{(char)('f' + random.Next(6))}{random.Next(3)}{(random.Next(4) == 0 ? ".TXT" : ".txt")}";
        string Text() => random.Next(3) > 0 ? $"Sentence number {fresh++} of the tree." : $"Known sentence {random.Next(4)}.";
        var seen = new HashSet<string>(StringComparer.Ordinal);
        var before = new Dictionary<string, (long Id, string Hash)>(StringComparer.Ordinal);
        for (int round = 0; round < 12; round++)
        {
            for (int step = 0; step < 5; step++)
            {
                string[] files = [.. Files()];
                string? some = files.Length == 0 ? null : files[random.Next(files.Length)];
                string name = Full(Name());
                Directory.CreateDirectory(Path.GetDirectoryName(name)!);
                switch (random.Next(6))
                {
                    case 0 when some is not null:
                        File.Move(some, name, overwrite: true);
                        break;
                    case 1 when some is not null && some != name:
                        File.Copy(some, name, overwrite: true);
                        break;
                    case 2 when some is not null:
                        File.Delete(some);
                        break;
                    case 3 when files.Length > 1:
                        string other = files[random.Next(files.Length)];
                        File.Move(some!, Full("aside"));
                        if (other != some)
                        {
                            File.Move(other, some!);
                        }
                        File.Move(Full("aside"), other);
                        break;
                    case 4 when some is not null:
                        File.WriteAllText(some, Text());
                        break;
                    default:
                        File.WriteAllText(name, Text());
                        break;
                }
            }
            long embedded = Embedded();
            var tree = Files().ToDictionary(f => f, f => Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(f))));
            int unseen = tree.Values.Distinct(StringComparer.Ordinal).Count(h => !before.Values.Any(b => b.Hash == h));
            await IngestAsync(prune: true, all: true);
            var after = Documents().ToDictionary(d => d.Source, d => (d.Id, Hash: d.ContentHash));
            Assert.Equal(tree.OrderBy(t => t.Key, StringComparer.Ordinal), after.Select(a => KeyValuePair.Create(a.Key, a.Value.Hash)).OrderBy(t => t.Key, StringComparer.Ordinal));
            Assert.Equal(embedded + unseen, Embedded());
            Assert.All(before.Where(b => tree.ContainsKey(b.Key)), b => Assert.Equal(b.Value.Id, after[b.Key].Id));
            foreach (var arrived in after.Where(a => !before.ContainsKey(a.Key)).GroupBy(a => a.Value.Hash))
            {
                long[] gone = [.. before.Where(b => b.Value.Hash == arrived.Key && !tree.ContainsKey(b.Key)).Select(b => b.Value.Id)];
                Assert.Equal(Math.Min(gone.Length, arrived.Count()), arrived.Count(a => gone.Contains(a.Value.Id)));
            }
            Assert.Equal(after.Count, after.Values.Select(a => a.Id).Distinct().Count());
            foreach (var (source, (id, _)) in after)
            {
                Assert.Equal(File.ReadAllText(source), _product.Store.DocumentText(id).Trim());
                Assert.Equal(id, Assert.Single(_product.Store.Passages(id)).DocumentId);
            }
            Assert.Empty(_product.Store.CheckIntegrity());
            before = after;
        }
    }

    private string Full(string name) => Path.Combine(_folder, name);

    private IEnumerable<string> Files() => Directory.EnumerateFiles(_folder, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal);

    private IReadOnlyList<Document> Documents() => _product.Store.Documents("tree");

    private void Write(string name, string text)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Full(name))!);
        File.WriteAllText(Full(name), text);
    }

    private void Move(string from, string to) => File.Move(Full(from), Full(to));

    /// <summary>Texts embedded so far.</summary>
    private long Embedded() => _product.Snapshot().Lanes.Sum(l => l.Offered);

    private Task<IngestTotals> IngestAsync(bool prune = false, bool all = false, bool again = false) => _product.Ingestor.RunAsync(
        FileSources.Find([_folder], [], []),
        new IngestOptions { Collection = "tree", PruneUnder = prune ? [_folder] : [], PruneAll = all ? [_folder] : [], Again = again },
        null,
        None);
}
