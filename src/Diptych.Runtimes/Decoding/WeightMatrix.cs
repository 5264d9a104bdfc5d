using System.Runtime.InteropServices;

namespace Diptych.Runtimes.Decoding;

/// <summary>How a matrix is kept in memory.</summary>
public enum WeightFormat
{
    /// <summary>As the file has it: sixteen bits, bytes and nibbles stay what they are.</summary>
    AsStored,

    /// <summary>Single precision.</summary>
    F32,

    /// <summary>Blocks of 32 signed bytes with a scale.</summary>
    Int8,

    /// <summary>Blocks of 32 nibbles with a scale and a minimum.</summary>
    Int4,
}

/// <summary>
/// A matrix [rows, columns] that vectors are multiplied by. Each number of a product is summed in one order: a result never depends on its
/// batchmates.
/// </summary>
internal abstract unsafe class WeightMatrix(int rows, int columns) : IDisposable
{
    /// <summary>Numbers of a row that share a scale.</summary>
    public const int Block = 32;

    public int Rows => rows;

    public int Columns => columns;

    /// <summary>Bytes of memory.</summary>
    public abstract long ByteSize { get; }

    public static WeightMatrix Load(TensorFile file, StoredTensor tensor, WeightFormat format)
    {
        int rows = tensor.Count / tensor.Columns, columns = tensor.Columns;
        bool whole = columns % Block == 0;
        return (format, tensor.Type) switch
        {
            (WeightFormat.AsStored, TensorType.Q4_0 or TensorType.Q4_1 or TensorType.Q4_K) when whole => new NibbleMatrix(file, tensor, rows, columns),
            (WeightFormat.AsStored, TensorType.Q8_0) when whole => new ByteMatrix(file, tensor, rows, columns),
            // Six bits in blocks of sixteen become eight in blocks of thirty-two: what that rounds is a quarter of a step at the most.
            (WeightFormat.AsStored, TensorType.Q6_K) when whole => new ByteMatrix(file.Floats(tensor), rows, columns),
            (WeightFormat.AsStored, TensorType.BF16) => new DenseMatrix<ushort, BrainNumber>(MemoryMarshal.Cast<byte, ushort>(file.Bytes(tensor)), rows, columns),
            (WeightFormat.AsStored, TensorType.F16) => new DenseMatrix<ushort, HalfNumber>(MemoryMarshal.Cast<byte, ushort>(file.Bytes(tensor)), rows, columns),
            _ => Of(file.Floats(tensor), rows, columns, format),
        };
    }

    /// <param name="values">[rows, columns]</param>
    public static WeightMatrix Of(ReadOnlySpan<float> values, int rows, int columns, WeightFormat format = WeightFormat.F32) => (format, columns % Block) switch
    {
        (WeightFormat.Int8, 0) => new ByteMatrix(values, rows, columns),
        (WeightFormat.Int4, 0) => new NibbleMatrix(values, rows, columns),
        _ => new DenseMatrix<float, SingleNumber>(values, rows, columns),
    };

    /// <param name="values">[rows, columns]</param>
    /// <param name="stored">What they were widened from.</param>
    public static WeightMatrix Of(float[] values, int rows, int columns, WeightFormat format, TensorType stored) => (format, stored) switch
    {
        (WeightFormat.AsStored, TensorType.BF16) => new DenseMatrix<ushort, BrainNumber>(Array.ConvertAll(values, v => (ushort)(BitConverter.SingleToInt32Bits(v) >> 16)), rows, columns),
        (WeightFormat.AsStored, TensorType.F16) => new DenseMatrix<ushort, HalfNumber>(Array.ConvertAll(values, v => BitConverter.HalfToUInt16Bits((Half)v)), rows, columns),
        _ => Of(values, rows, columns, format),
    };

    /// <summary>y = x W^T: [n, columns] to [n, rows], the rows shared out over the team.</summary>
    public abstract void Multiply(CoreTeam team, float* x, int n, float* y);

    /// <summary>One row in single precision.</summary>
    public abstract void Unpack(int row, float* target);

    public void Dispose()
    {
        Free();
        GC.SuppressFinalize(this);
    }

    ~WeightMatrix() => Free();

    protected abstract void Free();
}
