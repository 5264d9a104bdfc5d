using Diptych.Core;

namespace Diptych.Reading;

/// <summary>
/// Reads what a file carries as files of their own, each within its own limits: one that cannot be read is a warning, and the file that
/// carries it is read all the same.
/// </summary>
internal static class Attachments
{
    /// <summary>Files within files within files.</summary>
    private const int MaxDepth = 8;

    private const int MaxFiles = 1_000;

    /// <summary>Attachments that went beyond a limit of their reader; after so many the rest is left unread, since each takes its time.</summary>
    private const int MaxExhausting = 3;

    /// <param name="read">Reads one file without its attachments.</param>
    public static IEnumerable<ReadPart> Read(
        Func<SourceFile, string, IEnumerable<ReadPart>> read, SourceFile file, string mediaType, CancellationToken cancellation) =>
        Read(new Reading(read, cancellation), file, mediaType, 0);

    private static IEnumerable<ReadPart> Read(Reading reading, SourceFile file, string mediaType, int depth)
    {
        var attachments = new List<Attachment>();
        ReadPart.End? end = null;
        foreach (ReadPart part in reading.One(file, mediaType))
        {
            if (part is ReadPart.Attached attached)
            {
                attachments.Add(attached.Attachment);
            }
            else if (part is ReadPart.End last)
            {
                end = last;
            }
            else
            {
                yield return part;
            }
        }
        // The file itself is done with: what it carries may need the reader that it had.
        foreach (Attachment attachment in attachments)
        {
            reading.Cancellation.ThrowIfCancellationRequested();
            string label = $"attachment {attachment.Name}";
            foreach (ReadPart inner in Contained(reading, attachment, label, depth + 1))
            {
                switch (inner)
                {
                    case ReadPart.Content { Block: var b }:
                        yield return new ReadPart.Content(b with { Label = b.Label is null ? label : $"{label}, {b.Label}", Page = null, Box = null });
                        break;
                    case ReadPart.Warning { Text: var text }:
                        yield return new ReadPart.Warning(text.StartsWith(label, StringComparison.Ordinal) ? text : $"{label}: {text}");
                        break;
                }
            }
        }
        if (end is not null)
        {
            yield return end;
        }
    }

    /// <summary>The parts of an attachment as far as they come, and a warning where they end early.</summary>
    private static IEnumerable<ReadPart> Contained(Reading reading, Attachment attachment, string label, int depth)
    {
        if (reading.Refuses(depth) is { } refusal)
        {
            yield return new ReadPart.Warning($"{label}: {refusal}");
            yield break;
        }
        IEnumerator<ReadPart>? parts = null;
        try
        {
            while (true)
            {
                ReadPart part;
                try
                {
                    parts ??= Read(reading, new SourceFile(attachment.Name, attachment.Bytes), MediaTypes.Detect(attachment.Name, attachment.Bytes, attachment.MediaType), depth)
                        .GetEnumerator();
                    if (!parts.MoveNext())
                    {
                        break;
                    }
                    part = parts.Current;
                }
                catch (UnreadableException error)
                {
                    reading.Failed(error);
                    part = new ReadPart.Warning($"{label}: {error.Message}");
                }
                yield return part;
                if (part is ReadPart.Warning && parts is null)
                {
                    break;
                }
            }
        }
        finally
        {
            parts?.Dispose();
        }
    }

    private sealed class Reading(Func<SourceFile, string, IEnumerable<ReadPart>> one, CancellationToken cancellation)
    {
        private int _files;
        private int _exhausting;

        public Func<SourceFile, string, IEnumerable<ReadPart>> One => one;

        public CancellationToken Cancellation => cancellation;

        public string? Refuses(int depth) =>
            depth > MaxDepth ? $"not read, since it lies more than {MaxDepth} files deep."
            : ++_files > MaxFiles ? $"not read, since it is one of more than {MaxFiles}."
            : _exhausting >= MaxExhausting ? $"not read, since {MaxExhausting} others exhausted their readers."
            : null;

        public void Failed(UnreadableException error) => _exhausting += error.Failure == ReadFailure.Content ? 0 : 1;
    }
}
