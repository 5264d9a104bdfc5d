namespace Diptych.Index;

/// <summary>What somebody said of a hit.</summary>
/// <param name="Source">Of the hit's document: it outlives the document's versions, ids do not.</param>
/// <param name="Ordinal">Of the hit's passage within the document; -1 for the document as a whole.</param>
/// <param name="Positive">Whether it answered the query.</param>
public sealed record Feedback(DateTimeOffset At, string Query, string Source, int Ordinal, bool Positive);

/// <summary>What was learnt from a collection's feedback: a version of its query adapter.</summary>
/// <param name="Version">From 1, by collection.</param>
/// <param name="Adapter">As <c>Diptych.Engine.Tuning.QueryAdapter</c> writes it.</param>
/// <param name="Before">nDCG@10 on feedback that was held back, without it.</param>
/// <param name="After">The same with it.</param>
/// <param name="IsActive">Whether searches use it; of a collection's versions at most one.</param>
public sealed record Tuning(string Collection, int Version, DateTimeOffset CreatedAt, byte[] Adapter, double Before, double After, bool IsActive);
