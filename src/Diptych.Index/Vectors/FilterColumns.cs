using System.Globalization;
using System.Runtime.InteropServices;
using Diptych.Core;

namespace Diptych.Index.Vectors;

/// <summary>
/// Metadata by column: for each field and value the slots that have it, as bits. A predicate becomes a bitmap by uniting and
/// intersecting these, at a cost that grows with the values it names, not with the rows.
/// </summary>
internal sealed class FilterColumns
{
    private readonly ReaderWriterLockSlim _lock = new();
    private readonly Dictionary<string, Dictionary<string, (string Value, SlotSet Slots)>> _fields = new(StringComparer.OrdinalIgnoreCase);

    /// <summary>What a document says of all its passages alike is asked once a document.</summary>
    private readonly Dictionary<long, (Document Document, List<int> Slots)> _documents = [];

    public void Add(int slot, PassageKey key) => Change(slot, key, (slots, s) => slots.Add(s), added: true);

    public void Remove(int slot, PassageKey key) => Change(slot, key, (slots, s) => slots.Remove(s), added: false);

    /// <param name="bitmap">A bit for each slot; receives the filter's.</param>
    public void Evaluate(Filter filter, Modality modality, Span<ulong> bitmap)
    {
        _lock.EnterReadLock();
        try
        {
            bitmap.Clear();
            Unite(filter, modality, bitmap);
        }
        finally
        {
            _lock.ExitReadLock();
        }
    }

    private void Change(int slot, PassageKey key, Action<SlotSet, int> change, bool added)
    {
        _lock.EnterWriteLock();
        try
        {
            foreach (var (field, values) in key.Document.Metadata)
            {
                foreach (string value in values)
                {
                    change(SlotsOf(field, value), slot);
                }
            }
            if (key.Page is { } page)
            {
                change(SlotsOf("page", page.ToString(CultureInfo.InvariantCulture)), slot);
            }
            ref var document = ref CollectionsMarshal.GetValueRefOrAddDefault(_documents, key.Document.Id, out bool known);
            document = known ? document : (key.Document, []);
            if (added)
            {
                document.Slots.Add(slot);
            }
            else if (document.Slots.Remove(slot) && document.Slots.Count == 0)
            {
                _documents.Remove(key.Document.Id);
            }
        }
        finally
        {
            _lock.ExitWriteLock();
        }
    }

    private SlotSet SlotsOf(string field, string value)
    {
        ref var column = ref CollectionsMarshal.GetValueRefOrAddDefault(_fields, field, out _);
        column ??= new(StringComparer.OrdinalIgnoreCase);
        ref var cell = ref CollectionsMarshal.GetValueRefOrAddDefault(column, Normal(value), out bool known);
        cell = known ? cell : (value, new SlotSet());
        return cell.Slots;
    }

    /// <summary>Sets the bits of what matches; leaves others as they are.</summary>
    private void Unite(Filter filter, Modality modality, Span<ulong> bitmap)
    {
        switch (filter)
        {
            case Filter.Or or:
                foreach (Filter part in or.Parts)
                {
                    Unite(part, modality, bitmap);
                }
                break;
            case Filter.And and:
                ulong[] both = new ulong[bitmap.Length];
                both.AsSpan().Fill(ulong.MaxValue);
                foreach (Filter part in and.Parts)
                {
                    ulong[] one = new ulong[bitmap.Length];
                    Unite(part, modality, one);
                    System.Numerics.Tensors.TensorPrimitives.BitwiseAnd<ulong>(both, one, both);
                }
                System.Numerics.Tensors.TensorPrimitives.BitwiseOr<ulong>(bitmap, both, bitmap);
                break;
            case Filter.Not not:
                ulong[] inner = new ulong[bitmap.Length];
                Unite(not.Part, modality, inner);
                System.Numerics.Tensors.TensorPrimitives.OnesComplement<ulong>(inner, inner);
                System.Numerics.Tensors.TensorPrimitives.BitwiseOr<ulong>(bitmap, inner, bitmap);
                break;
            case Filter.OnField { Field: "source" or "title" or "media_type" or "document" } leaf:
                var any = new Passage { Modality = modality };
                foreach (var (document, slots) in _documents.Values)
                {
                    if (leaf.Matches(document, any))
                    {
                        foreach (int slot in slots)
                        {
                            bitmap[slot >> 6] |= 1UL << slot;
                        }
                    }
                }
                break;
            case Filter.OnField { Field: "modality" } leaf:
                if (leaf.Passes(modality == Modality.Text ? "text" : "image"))
                {
                    bitmap.Fill(ulong.MaxValue);
                }
                break;
            case Filter.In set when _fields.TryGetValue(set.Field, out var column):
                foreach (string value in set.Values)
                {
                    if (column.TryGetValue(Normal(value), out var cell))
                    {
                        cell.Slots.Unite(bitmap);
                    }
                }
                break;
            case Filter.OnField leaf when _fields.TryGetValue(leaf.Field, out var column):
                foreach (var (value, slots) in column.Values)
                {
                    if (leaf.Passes(value))
                    {
                        slots.Unite(bitmap);
                    }
                }
                break;
        }
    }

    /// <summary>One form for values that compare equal: numbers by their value.</summary>
    private static string Normal(string value) =>
        double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out double number) ? number.ToString("R", CultureInfo.InvariantCulture) : value;

    /// <summary>A set of slots: words of 64 that have a member, by number.</summary>
    private sealed class SlotSet
    {
        private readonly Dictionary<int, ulong> _words = [];

        public void Add(int slot)
        {
            ref ulong word = ref CollectionsMarshal.GetValueRefOrAddDefault(_words, slot >> 6, out _);
            word |= 1UL << slot;
        }

        public void Remove(int slot)
        {
            if (_words.TryGetValue(slot >> 6, out ulong word) && (word &= ~(1UL << slot)) == 0)
            {
                _words.Remove(slot >> 6);
            }
            else if (word != 0)
            {
                _words[slot >> 6] = word;
            }
        }

        public void Unite(Span<ulong> bitmap)
        {
            foreach (var (at, word) in _words)
            {
                if (at < bitmap.Length)
                {
                    bitmap[at] |= word;
                }
            }
        }
    }
}
