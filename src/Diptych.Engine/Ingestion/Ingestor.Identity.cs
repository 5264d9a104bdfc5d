using Diptych.Core;
using Diptych.Index;
using Diptych.Reading;

namespace Diptych.Engine.Ingestion;

/// <summary>
/// Which document a source is. A source that is known keeps its document. A new one whose bytes belong to a document whose file is gone is
/// that document, moved; where the other's file is still there, it is a document of its own with the same content. So what has new bytes
/// under a known name waits until all sources have been seen: its old content may be what others need.
/// </summary>
public sealed partial class Ingestor
{
    /// <summary>Documents that move in one transaction.</summary>
    private const int MoveBatch = 256;

    private bool IsPostponed(IngestSource source, Document? before, string hash, byte[] bytes, Run run)
    {
        bool known = before is not null || run.FirstWith(hash, source.Source) != source.Source || store.DocumentsByHash(run.Options.Collection, hash).Count > 0;
        if (known)
        {
            // What stands in another folder may show other pictures under the same names.
            bool refersOut = source.Directory is not null && MediaTypes.Detect(source.Name, bytes, source.MediaType) is "text/markdown" or "text/html"
                && (bytes.AsSpan().IndexOf("!["u8) >= 0 || bytes.AsSpan().IndexOf("<img"u8) >= 0 || bytes.AsSpan().IndexOf("<IMG"u8) >= 0);
            // Fetched once: only a file is read again when its turn comes.
            run.Postpone(new Postponed(source.Directory is null ? source with { Held = bytes, Read = _ => Task.FromResult(bytes) } : source, hash, !refersOut));
        }
        return known;
    }

    /// <summary>Moves and copies what is there already.</summary>
    /// <returns>What has to be read.</returns>
    private List<IngestSource> Reconcile(IReadOnlyList<Postponed> postponed, Run run)
    {
        var unread = new List<IngestSource>();
        var awaited = new HashSet<string>(StringComparer.Ordinal);
        var moved = new HashSet<long>();
        var moves = new List<(Postponed Postponed, Document From)>();
        var copies = new List<(Postponed Postponed, Document From, bool Replaces)>();
        foreach (Postponed p in postponed.OrderBy(p => p.Source.Source, StringComparer.Ordinal))
        {
            bool replaces = store.Document(run.Options.Collection, p.Source.Source) is not null;
            IReadOnlyList<Document> twins = store.DocumentsByHash(run.Options.Collection, p.Hash);
            if (!replaces && twins.FirstOrDefault(t => !moved.Contains(t.Id) && p.Source.Directory is not null && HasGone(t.Source, p.Source.Source, run)) is { } gone)
            {
                moved.Add(gone.Id);
                moves.Add((p, gone));
            }
            else if (twins.Count > 0 && p.MayCopy)
            {
                copies.Add((p, twins[0], replaces));
            }
            else if (twins.Count == 0 && !awaited.Add(p.Hash))
            {
                // The first with these bytes is about to be read; the others take its content then.
                run.Postpone(p);
            }
            else
            {
                run.Settle(p.Source.Source);
                unread.Add(p.Source);
            }
        }
        foreach (var batch in moves.Chunk(MoveBatch))
        {
            IReadOnlyList<Document?> placed = store.Place(run.Options.Collection, [.. batch.Select(m => ToPlacement(m.Postponed, m.From, moves: true))]);
            unread.AddRange(Tell(run, [.. batch.Select((m, i) => (m.Postponed, placed[i], IngestOutcome.Moved, $"from {m.From.Source}"))]));
        }
        if (copies.Count > 0)
        {
            // In one transaction: files may have changed places among themselves.
            IReadOnlyList<Document?> placed = store.Place(run.Options.Collection, [.. copies.Select(c => ToPlacement(c.Postponed, c.From, moves: false))]);
            unread.AddRange(Tell(run, [.. copies.Select((c, i) =>
                (c.Postponed, placed[i], c.Replaces ? IngestOutcome.Replaced : IngestOutcome.Duplicate, $"same content as {c.From.Source}"))]));
        }
        return unread;
    }

    private Placement ToPlacement(Postponed p, Document from, bool moves) => new(
        p.Source.Source, Path.GetFileNameWithoutExtension(p.Source.Name), from.Id, p.Hash, moves, p.Source.Metadata ?? Metadata.Empty,
        p.Source.KeepOriginal ? p.Source.Held : null, time.GetUtcNow())
    {
        Item = p.Source.Lease,
    };

    /// <returns>What could not be placed after all, to be read.</returns>
    private static IEnumerable<IngestSource> Tell(Run run, IReadOnlyList<(Postponed Postponed, Document? Document, IngestOutcome Outcome, string Reason)> placed)
    {
        foreach (var (postponed, document, outcome, reason) in placed)
        {
            if (document is null)
            {
                run.Settle(postponed.Source.Source);
                yield return postponed.Source;
            }
            else
            {
                run.Say(new IngestEvent(postponed.Source.Source, outcome, reason, document, 0, postponed.Source.Lease));
            }
        }
    }

    /// <summary>Whether a document's file is gone, so that its bytes elsewhere are the same document.</summary>
    private static bool HasGone(string source, string now, Run run)
    {
        if (!Path.IsPathFullyQualified(source) || run.WasFound(source) || !(run.Options.OwnPaths || run.FoundBeside(source)))
        {
            return false;
        }
        // Where names differ by case alone, a file system that does not tell them apart says that both are there.
        return IsMissing(source) || (string.Equals(source, now, StringComparison.OrdinalIgnoreCase) && Path.GetDirectoryName(source) is { } folder
            && !Directory.EnumerateFileSystemEntries(folder).Contains(source, StringComparer.Ordinal));
    }

    /// <summary>False also where that cannot be told, as under a folder that may not be read.</summary>
    private static bool IsMissing(string path)
    {
        try
        {
            File.GetAttributes(path);
            return false;
        }
        catch (Exception error) when (error is FileNotFoundException or DirectoryNotFoundException)
        {
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    private void Prune(Run run)
    {
        foreach (string folder in run.Options.PruneUnder)
        {
            string path = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder)), prefix = path + Path.DirectorySeparatorChar;
            IReadOnlyList<Document> documents = store.Documents(run.Options.Collection, prefix);
            Document[] gone = [.. documents.Where(d => !run.WasFound(d.Source) && (IsMissing(d.Source) || (run.Options.PruneUnlisted && File.Exists(d.Source))))];
            bool told = run.Options.PruneAll.Any(f => Path.TrimEndingDirectorySeparator(Path.GetFullPath(f)) == path);
            if (!told && gone.Length > 0 && (gone.Length * 3 > documents.Count || run.FoundUnder(prefix) == 0))
            {
                run.RefusePrune(
                    $"{path}: {gone.Length} of {documents.Count} documents would be deleted, since their files are not there. Nothing was: is the folder complete and mounted? --prune-all {path} deletes them.");
                continue;
            }
            foreach (Document document in gone)
            {
                if (store.Delete(document.Id))
                {
                    run.Say(new IngestEvent(document.Source, IngestOutcome.Pruned, "no longer there", document, 0));
                }
            }
        }
    }
}
