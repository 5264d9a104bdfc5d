using System.Globalization;
using System.Text;
using Diptych.Core;

namespace Diptych.Index.Postgres;

/// <summary>A filter as an SQL condition over documents <c>d</c> and passages <c>p</c>; values go as parameters, never into the text.</summary>
internal sealed class FilterSql
{
    private readonly StringBuilder _sql = new();
    private readonly List<object?> _parameters;

    private FilterSql(List<object?> parameters) => _parameters = parameters;

    /// <param name="parameters">Values used so far; the filter's are added.</param>
    /// <returns><c>true</c> for no filter.</returns>
    public static string Of(Filter? filter, List<object?> parameters)
    {
        if (filter is null)
        {
            return "true";
        }
        var sql = new FilterSql(parameters);
        sql.Add(filter);
        return sql._sql.ToString();
    }

    private void Add(Filter filter)
    {
        switch (filter)
        {
            case Filter.And and:
                Join(and.Parts, " AND ", "true");
                break;
            case Filter.Or or:
                Join(or.Parts, " OR ", "false");
                break;
            case Filter.Not not:
                _sql.Append("NOT coalesce(");
                Add(not.Part);
                _sql.Append(", false)");
                break;
            case Filter.OnField leaf:
                OnField(leaf);
                break;
            default:
                throw new InvalidOperationException($"{filter.GetType().Name} has no SQL form.");
        }
    }

    private void Join(IReadOnlyList<Filter> parts, string with, string none)
    {
        _sql.Append('(').Append(parts.Count == 0 ? none : "");
        for (int i = 0; i < parts.Count; i++)
        {
            _sql.Append(i == 0 ? "" : with);
            Add(parts[i]);
        }
        _sql.Append(')');
    }

    private void OnField(Filter.OnField leaf)
    {
        string? column = leaf.Field switch
        {
            "source" => "d.source",
            "title" => "d.title",
            "media_type" => "d.media_type",
            "document" => "d.id::text",
            "modality" => "CASE p.modality WHEN 0 THEN 'text' ELSE 'image' END",
            "page" => "p.page::text",
            _ => null,
        };
        if (column is not null)
        {
            Test(leaf, column);
            return;
        }
        _sql.Append(CultureInfo.InvariantCulture, $"EXISTS (SELECT 1 FROM diptych_values(d.metadata, {Parameter(leaf.Field)}) v WHERE ");
        Test(leaf, "v");
        _sql.Append(')');
    }

    private void Test(Filter.OnField leaf, string value)
    {
        switch (leaf)
        {
            case Filter.In set:
                _sql.Append(CultureInfo.InvariantCulture, $"EXISTS (SELECT 1 FROM unnest({Parameter(set.Values.ToArray())}::text[]) w WHERE diptych_compare({value}, w) = 0)");
                break;
            case Filter.Range range:
                _sql.Append(CultureInfo.InvariantCulture, $"({value} IS NOT NULL");
                foreach (var (bound, op) in (ReadOnlySpan<(string?, string)>)[(range.Gt, ">"), (range.Gte, ">="), (range.Lt, "<"), (range.Lte, "<=")])
                {
                    if (bound is not null)
                    {
                        _sql.Append(CultureInfo.InvariantCulture, $" AND diptych_compare({value}, {Parameter(bound)}) {op} 0");
                    }
                }
                _sql.Append(')');
                break;
            case Filter.Prefix prefix:
                _sql.Append(CultureInfo.InvariantCulture, $"starts_with(upper({value}), upper({Parameter(prefix.Value)}))");
                break;
            case Filter.Exists:
                _sql.Append(CultureInfo.InvariantCulture, $"{value} IS NOT NULL");
                break;
        }
    }

    private string Parameter(object value)
    {
        _parameters.Add(value);
        return $"${_parameters.Count}";
    }
}
