using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.VectorData;
using Microsoft.Extensions.VectorData.ProviderServices;

namespace Diptych.Index.VectorData;

/// <summary>What records may consist of.</summary>
internal sealed class RecordModel() : CollectionModelBuilder(new CollectionModelBuildingOptions { SupportsMultipleVectors = true, RequiresAtLeastOneVector = false })
{
    private static readonly Type[] Plain =
    [
        typeof(string), typeof(bool), typeof(int), typeof(long), typeof(short), typeof(byte), typeof(float), typeof(double), typeof(decimal),
        typeof(DateTime), typeof(DateTimeOffset), typeof(DateOnly), typeof(TimeOnly), typeof(Guid),
    ];

    private static readonly Type[] Keys = [typeof(string), typeof(int), typeof(long), typeof(Guid), typeof(object)];

    protected override void ValidateKeyProperty(KeyPropertyModel keyProperty)
    {
        if (!Keys.Contains(keyProperty.Type))
        {
            throw new NotSupportedException($"The key '{keyProperty.ModelName}' must be a string, int, long or Guid.");
        }
    }

    protected override bool IsDataPropertyTypeValid(Type type, [NotNullWhen(false)] out string? supportedTypes)
    {
        supportedTypes = $"{string.Join(", ", Plain.Select(t => t.Name))}, and arrays and lists of them";
        Type inner = type.IsArray ? type.GetElementType()! : type.IsGenericType && type.GetGenericTypeDefinition() == typeof(List<>) ? type.GetGenericArguments()[0] : type;
        return Plain.Contains(Nullable.GetUnderlyingType(inner) ?? inner);
    }

    protected override bool IsVectorPropertyTypeValid(Type type, [NotNullWhen(false)] out string? supportedTypes)
    {
        supportedTypes = "ReadOnlyMemory<float>, float[], Embedding<float>";
        type = Nullable.GetUnderlyingType(type) ?? type;
        return type == typeof(ReadOnlyMemory<float>) || type == typeof(float[]) || type == typeof(Embedding<float>);
    }

    /// <summary>A cosine becomes the score that the property asks for.</summary>
    /// <exception cref="NotSupportedException">The distance function is none of cosine similarity and cosine distance.</exception>
    public static double Score(VectorPropertyModel property, double cosine) => property.DistanceFunction switch
    {
        null or DistanceFunction.CosineSimilarity => cosine,
        DistanceFunction.CosineDistance => 1 - cosine,
        var other => throw new NotSupportedException($"'{property.ModelName}' asks for {other}; this store compares by CosineSimilarity or CosineDistance."),
    };

    /// <returns>The vector of a value, or null when the value is not a vector itself.</returns>
    public static ReadOnlyMemory<float>? Vector(object? value) => value switch
    {
        ReadOnlyMemory<float> memory => memory,
        float[] array => array,
        Embedding<float> embedding => embedding.Vector,
        // With its type: a plain null would become an empty vector.
        _ => (ReadOnlyMemory<float>?)null,
    };
}
