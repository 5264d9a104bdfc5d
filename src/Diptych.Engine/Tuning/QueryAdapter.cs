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

/// <summary>What a space's queries go through: what near queries were answered by, then a turn. Either may be missing.</summary>
public sealed record SpaceAdapter(FeedbackMemory? Memory, LowRankTurn? Turn)
{
    public float[] Apply(float[] query)
    {
        float[] moved = Memory?.Apply(query) ?? query;
        return Turn?.Apply(moved) ?? moved;
    }

    internal void Write(BinaryWriter writer)
    {
        writer.Write(Memory is not null);
        Memory?.Write(writer);
        writer.Write(Turn is not null);
        Turn?.Write(writer);
    }

    internal static SpaceAdapter Read(BinaryReader reader)
    {
        FeedbackMemory? memory = reader.ReadBoolean() ? FeedbackMemory.Read(reader) : null;
        return new SpaceAdapter(memory, reader.ReadBoolean() ? LowRankTurn.Read(reader) : null);
    }
}

/// <summary>What a collection's searches do with a query of words: moved vectors, and how much meaning counts beside words.</summary>
/// <param name="Text">In the text space; null leaves it as it is.</param>
/// <param name="Cross">In the space shared with images; null leaves it as it is.</param>
/// <param name="MeaningWeight">Weight of the text channel beside the lexical one's 1.</param>
public sealed record QueryAdapter(SpaceAdapter? Text, SpaceAdapter? Cross, double MeaningWeight)
{
    private const int Format = 1;

    public byte[] Write()
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        writer.Write(Format);
        writer.Write(MeaningWeight);
        foreach (SpaceAdapter? space in new[] { Text, Cross })
        {
            writer.Write(space is not null);
            space?.Write(writer);
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
            double weight = reader.ReadDouble();
            SpaceAdapter? text = reader.ReadBoolean() ? SpaceAdapter.Read(reader) : null;
            return new QueryAdapter(text, reader.ReadBoolean() ? SpaceAdapter.Read(reader) : null, weight);
        }
        catch (EndOfStreamException error)
        {
            throw new InvalidDataException("The adapter is cut short.", error);
        }
    }
}
