using System.Globalization;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Sqlite;

// Writes to a store without end, telling each operation before it begins and when it is acknowledged, until it is killed.
// Arguments: the database, a seed. Or: "restore", a backup, the database; then it puts the backup there, telling when it begins.
if (args is ["restore", var backup, var database])
{
    Console.WriteLine("begin");
    SqliteBackup.Restore(backup, database, replace: true);
    Console.WriteLine("done");
    return;
}
var random = new Random(int.Parse(args[1], CultureInfo.InvariantCulture));
using SqliteStore store = SqliteStore.Open(args[0], new EmbeddingSpace("text", 8, "t", "1"), new EmbeddingSpace("cross", 4, "i", "1"), TimeProvider.System);
Console.WriteLine("open");
for (int step = 0; ; step++)
{
    string source = $"doc{random.Next(20)}";
    if (random.Next(8) == 0)
    {
        Console.WriteLine($"begin {source} -");
        if (store.Document("c", source) is { } document)
        {
            store.Delete(document.Id);
        }
        Console.WriteLine($"done {source} -");
        continue;
    }
    int passages = random.Next(1, 1000), version = random.Next();
    Console.WriteLine($"begin {source} {version}:{passages}");
    store.Commit(
    [
        new IngestedDocument(
            new Document { Collection = "c", Source = source, ContentHash = $"{version}:{passages}", MediaType = "text/plain", Title = source },
            "", null, [.. Enumerable.Range(0, passages).Select(i => new IngestedPassage(
                new Passage { Ordinal = i, Modality = Modality.Text, Text = $"word{i} v{version}" }, Unit(8), Unit(4)))]),
    ]);
    Console.WriteLine($"done {source} {version}:{passages}");
}

float[] Unit(int dimensions)
{
    float[] v = [.. Enumerable.Range(0, dimensions).Select(_ => (float)(random.NextDouble() - 0.5))];
    float norm = MathF.Sqrt(v.Sum(x => x * x));
    return [.. v.Select(x => x / norm)];
}
