using Diptych.Core;

namespace Diptych.Reading;

/// <summary>Understands one family of formats.</summary>
internal interface IFormatReader
{
    /// <param name="limits">What may come out: for formats in which a few bytes stand for many.</param>
    /// <exception cref="UnreadableException">The file is damaged, encrypted or too large; the message says which.</exception>
    ReadDocument Read(SourceFile file, ReaderLimits limits, CancellationToken cancellation);
}
