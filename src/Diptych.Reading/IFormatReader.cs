using Diptych.Core;

namespace Diptych.Reading;

/// <summary>Understands one family of formats.</summary>
internal interface IFormatReader
{
    /// <exception cref="UnreadableException">The file is damaged, encrypted or too large; the message says which.</exception>
    ReadDocument Read(SourceFile file, CancellationToken cancellation);
}
