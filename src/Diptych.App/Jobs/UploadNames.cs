using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Jobs;

namespace Diptych.App.Jobs;

/// <summary>What to do with an upload whose name a document has already.</summary>
internal enum OnConflict
{
    /// <summary>It is the document's new version.</summary>
    Replace,

    /// <summary>It becomes a document of its own, under a name with a number.</summary>
    KeepBoth,

    /// <summary>The request is refused.</summary>
    Refuse,
}

/// <summary>
/// The identity of uploads: <c>upload:</c> and the relative path that a file was sent with, so that <c>a/README.md</c> and
/// <c>b/README.md</c> are two documents. Files of one request that have the same path are told apart by a number.
/// </summary>
internal sealed class UploadNames(OnConflict onConflict, string collection, IDocumentStore store, IJobQueue queue)
{
    private readonly HashSet<string> _taken = new(StringComparer.Ordinal);

    /// <param name="onConflict">replace, keep_both or refuse; replace where nothing is said.</param>
    /// <exception cref="InvalidRequestException">It is none of these.</exception>
    public static UploadNames For(string? onConflict, string collection, IDocumentStore store, IJobQueue queue) => new(
        onConflict switch
        {
            null or "" or "replace" => OnConflict.Replace,
            "keep_both" => OnConflict.KeepBoth,
            "refuse" => OnConflict.Refuse,
            _ => throw new InvalidRequestException("on_conflict is replace, keep_both or refuse."),
        },
        collection,
        store,
        queue);

    /// <param name="fileName">As it was sent.</param>
    /// <param name="hash">Of the file's bytes.</param>
    /// <returns>The source.</returns>
    /// <exception cref="ConflictException">There is a document of this name with other content, or about to be one, and that is to be refused.</exception>
    public async Task<string> TakeAsync(string fileName, string hash, CancellationToken cancellation)
    {
        string path = Relative(fileName), source = $"upload:{path}";
        for (int number = 2; ; number++)
        {
            if (_taken.Add(source))
            {
                if (onConflict == OnConflict.Replace)
                {
                    return source;
                }
                bool waits = await queue.IsWaitedForAsync(collection, source, cancellation);
                Document? there = store.Document(collection, source);
                if (!waits && (there is null || there.ContentHash == hash))
                {
                    return source;
                }
                if (onConflict == OnConflict.Refuse)
                {
                    throw new ConflictException((waits ? $"A file for {source} is being ingested." : $"There is a document {source} with other content (id {there!.Id}).") + " Send on_conflict=replace or on_conflict=keep_both.");
                }
            }
            string extension = Path.GetExtension(path);
            source = $"upload:{path[..^extension.Length]} ({number}){extension}";
        }
    }

    /// <summary>The path with forward slashes, without drive, root and steps upwards.</summary>
    internal static string Relative(string fileName)
    {
        string[] parts = [.. fileName.Split('/', '\\').Where(p => p is not ("" or "." or "..") && !(p.Length == 2 && p[1] == ':'))];
        string path = string.Concat(string.Join('/', parts).Where(c => !char.IsControl(c)));
        return path.Length switch
        {
            0 => "unnamed",
            > 1000 => throw new InvalidRequestException("A file's path has more than 1,000 characters."),
            _ => path,
        };
    }
}
