using System.Numerics.Tensors;
using System.Runtime.InteropServices;

namespace Diptych.Engine.Tuning;

/// <summary>
/// Turns a query's vector q of unit length toward what people meant: q + U (V q), again of unit length, U [n, rank] and V [rank, n].
/// Documents keep their vectors.
/// </summary>
public sealed class LowRankTurn
{
    private readonly float[] _u;
    private readonly float[] _v;

    /// <param name="u">[dimensions, rank]</param>
    /// <param name="v">[rank, dimensions]</param>
    internal LowRankTurn(int dimensions, int rank, float[] u, float[] v) => (Dimensions, Rank, _u, _v) = (dimensions, rank, u, v);

    public int Dimensions { get; }

    public int Rank { get; }

    public float[] Apply(ReadOnlySpan<float> query)
    {
        float[] low = new float[Rank], turned = query.ToArray();
        for (int r = 0; r < Rank; r++)
        {
            low[r] = TensorPrimitives.Dot(_v.AsSpan(r * Dimensions, Dimensions), query);
        }
        for (int d = 0; d < Dimensions; d++)
        {
            turned[d] += TensorPrimitives.Dot<float>(_u.AsSpan(d * Rank, Rank), low);
        }
        TensorPrimitives.Divide(turned, TensorPrimitives.Norm<float>(turned), turned);
        return turned;
    }

    internal void Write(BinaryWriter writer)
    {
        writer.Write(Dimensions);
        writer.Write(Rank);
        writer.Write(MemoryMarshal.AsBytes<float>(_u));
        writer.Write(MemoryMarshal.AsBytes<float>(_v));
    }

    /// <exception cref="InvalidDataException">The bytes are no turn of so many dimensions.</exception>
    internal static LowRankTurn Read(BinaryReader reader)
    {
        int dimensions = reader.ReadInt32(), rank = reader.ReadInt32();
        if (dimensions is < 1 or > 1 << 16 || rank is < 1 or > 1024)
        {
            throw new InvalidDataException("An adapter's shape cannot be.");
        }
        float[] u = new float[dimensions * rank], v = new float[dimensions * rank];
        reader.BaseStream.ReadExactly(MemoryMarshal.AsBytes(u.AsSpan()));
        reader.BaseStream.ReadExactly(MemoryMarshal.AsBytes(v.AsSpan()));
        return new LowRankTurn(dimensions, rank, u, v);
    }
}

/// <summary>What a collection's searches do with a query of words.</summary>
/// <param name="Memory">What helped near queries; null for nothing.</param>
/// <param name="MemoryWeight">Weight of its ranking beside the lexical one's 1.</param>
/// <param name="Text">A turn of the vector in the text space; null leaves it as it is.</param>
/// <param name="Cross">In the space shared with images.</param>
/// <param name="MeaningWeight">Weight of the text channel beside the lexical one's 1.</param>
public sealed record QueryAdapter(FeedbackMemory? Memory, double MemoryWeight, LowRankTurn? Text, LowRankTurn? Cross, double MeaningWeight)
{
    private const int Format = 1;

    public byte[] Write()
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        writer.Write(Format);
        writer.Write(MeaningWeight);
        writer.Write(MemoryWeight);
        writer.Write(Memory is not null);
        Memory?.Write(writer);
        foreach (LowRankTurn? turn in new[] { Text, Cross })
        {
            writer.Write(turn is not null);
            turn?.Write(writer);
        }
        return stream.ToArray();
    }

    /// <exception cref="InvalidDataException">The bytes are no adapter that this program knows.</exception>
    public static QueryAdapter Read(byte[] bytes)
    {
        try
        {
            using var reader = new BinaryReader(new MemoryStream(bytes));
            if (reader.ReadInt32() != Format)
            {
                throw new InvalidDataException("The adapter was written by another version of the program.");
            }
            double meaning = reader.ReadDouble(), weight = reader.ReadDouble();
            FeedbackMemory? memory = reader.ReadBoolean() ? FeedbackMemory.Read(reader) : null;
            LowRankTurn? text = reader.ReadBoolean() ? LowRankTurn.Read(reader) : null;
            return new QueryAdapter(memory, weight, text, reader.ReadBoolean() ? LowRankTurn.Read(reader) : null, meaning);
        }
        catch (EndOfStreamException error)
        {
            throw new InvalidDataException("The adapter is cut short.", error);
        }
    }
}
