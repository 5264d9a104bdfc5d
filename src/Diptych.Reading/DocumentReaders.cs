using Diptych.Core;
using Diptych.Reading.Readers;

namespace Diptych.Reading;

/// <summary>The readers of all formats, by media type.</summary>
internal static class DocumentReaders
{
    private static readonly Dictionary<string, IFormatReader> ByMediaType = new(StringComparer.Ordinal)
    {
        [MediaTypes.Plain] = new PlainTextReader(),
        [MediaTypes.Markdown] = new MarkdownReader(),
        [MediaTypes.Html] = new HtmlReader(),
        [MediaTypes.Pdf] = new PdfReader(),
        [MediaTypes.Docx] = new DocxReader(),
        [MediaTypes.Pptx] = new PptxReader(),
        [MediaTypes.Xlsx] = new XlsxReader(),
        [MediaTypes.Csv] = new CsvReader(),
        ["text/tab-separated-values"] = new CsvReader(),
        [MediaTypes.Json] = new JsonReader(lines: false),
        [MediaTypes.JsonLines] = new JsonReader(lines: true),
        [MediaTypes.Email] = new EmailReader(),
    };

    private static readonly ImageReader Images = new();

    private static IFormatReader? For(string mediaType) => MediaTypes.IsImage(mediaType) ? Images : ByMediaType.GetValueOrDefault(mediaType);

    /// <summary>Reads a file of a type that <see cref="MediaTypes.Detect"/> gave.</summary>
    /// <exception cref="UnreadableException">The file cannot be read; the message says why.</exception>
    public static ReadDocument Read(string mediaType, SourceFile file, ReaderLimits limits, CancellationToken cancellation)
    {
        try
        {
            return For(mediaType)?.Read(file, limits, cancellation) ?? throw new UnreadableException($"There is no reader for {mediaType}.");
        }
        catch (Exception error) when (error is not (UnreadableException or OperationCanceledException or OutOfMemoryException))
        {
            // Parsers of damaged files throw whatever they tripped over. It is one file's failure, told with its cause.
            throw new UnreadableException($"The file is damaged ({error.GetType().Name}: {error.Message.Split('\n')[0]})", error);
        }
    }
}
