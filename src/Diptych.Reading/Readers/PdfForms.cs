using UglyToad.PdfPig;
using UglyToad.PdfPig.Core;
using UglyToad.PdfPig.Tokens;

namespace Diptych.Reading.Readers;

/// <summary>
/// Forms are content streams that pages and other forms draw by name (PDF 32000-1, section 8.10). The library follows them without
/// noticing that it has come round; here a name that leads back to a form being drawn is made to lead nowhere.
/// </summary>
internal sealed class PdfForms(PdfDocument pdf)
{
    /// <summary>An object that no file has: what names it is skipped.</summary>
    private static readonly IndirectReferenceToken Nowhere = new(new IndirectReference(int.MaxValue, 0));

    private readonly HashSet<IndirectReference> _done = [];

    /// <summary>Opens the circles among the forms that the pages draw, so that a form is drawn once within itself.</summary>
    public void OpenCircles()
    {
        var nodes = new Queue<DictionaryToken>([pdf.Structure.Catalog.CatalogDictionary]);
        var seen = new HashSet<IndirectReference>();
        while (nodes.TryDequeue(out DictionaryToken? node))
        {
            if (Resolve<DictionaryToken>(node, NameToken.Resources) is { } resources)
            {
                Visit(resources);
            }
            IEnumerable<IToken> below = Resolve<ArrayToken>(node, NameToken.Kids)?.Data ?? [];
            foreach (IndirectReferenceToken next in below.Append(node.Data.GetValueOrDefault(NameToken.Pages.Data)).OfType<IndirectReferenceToken>())
            {
                if (seen.Add(next.Data) && Get(next.Data) is DictionaryToken dictionary)
                {
                    nodes.Enqueue(dictionary);
                }
            }
        }
    }

    /// <summary>Depth first, with the way kept aside, since a file may nest without end.</summary>
    private void Visit(DictionaryToken resourcesOfPage)
    {
        var open = new HashSet<IndirectReference>();
        var way = new Stack<(IndirectReference? Form, Queue<KeyValuePair<string, IndirectReference>> Left)>();
        way.Push((null, Drawn(resourcesOfPage)));
        while (way.TryPeek(out var top))
        {
            if (!top.Left.TryDequeue(out var drawn))
            {
                way.Pop();
                if (top.Form is { } form)
                {
                    open.Remove(form);
                    _done.Add(form);
                }
            }
            else if (open.Contains(drawn.Value))
            {
                LeadNowhere(top.Form!.Value, drawn.Key);
            }
            else if (!_done.Contains(drawn.Value) && Form(drawn.Value) is { } next)
            {
                open.Add(drawn.Value);
                way.Push((drawn.Value, Resolve<DictionaryToken>(next.StreamDictionary, NameToken.Resources) is { } resources ? Drawn(resources) : []));
            }
        }
    }

    private void LeadNowhere(IndirectReference form, string name) => pdf.Advanced.ReplaceIndirectObject(form, token =>
    {
        var stream = (StreamToken)token;
        DictionaryToken resources = Resolve<DictionaryToken>(stream.StreamDictionary, NameToken.Resources)!;
        DictionaryToken objects = Resolve<DictionaryToken>(resources, NameToken.Xobject)!;
        return new StreamToken(stream.StreamDictionary.With(NameToken.Resources, resources.With(NameToken.Xobject, objects.With(name, Nowhere))), stream.Data);
    });

    private Queue<KeyValuePair<string, IndirectReference>> Drawn(DictionaryToken resources) => new(
        (Resolve<DictionaryToken>(resources, NameToken.Xobject)?.Data ?? new Dictionary<string, IToken>())
            .Where(o => o.Value is IndirectReferenceToken).Select(o => KeyValuePair.Create(o.Key, ((IndirectReferenceToken)o.Value).Data)));

    private StreamToken? Form(IndirectReference reference) =>
        Get(reference) is StreamToken stream
            && stream.StreamDictionary.TryGet(NameToken.Subtype, out IToken? type) && type is NameToken name && name == NameToken.Form ? stream : null;

    private T? Resolve<T>(DictionaryToken dictionary, NameToken key)
        where T : class, IToken =>
        !dictionary.TryGet(key, out IToken? token) ? null
        : token is IndirectReferenceToken reference ? Get(reference.Data) as T
        : token as T;

    private IToken? Get(IndirectReference reference)
    {
        try
        {
            return pdf.Structure.TokenScanner.Get(reference)?.Data;
        }
        catch (Exception error) when (error is not OutOfMemoryException)
        {
            // What is damaged may be drawn by no page; the page that draws it says what is wrong.
            return null;
        }
    }
}
