using System.Numerics.Tensors;
using Diptych.Core;
using Diptych.Index;
using Diptych.Index.Exact;

namespace Diptych.Bench;

/// <summary>Exact search over 100,000 vectors of 384 on one core, against reading the same memory.</summary>
internal static class ScanSpeed
{
    private const int Rows = 100_000, Dimensions = 384, Rounds = 25;

    public static Task RunAsync(Report report)
    {
        var random = new Random(1);
        var table = new VectorTable(Dimensions);
        var document = new Document { Collection = "", Source = "", ContentHash = "", MediaType = "", Title = "" };
        float[] vector = new float[Dimensions];
        for (int row = 0; row < Rows; row++)
        {
            for (int i = 0; i < Dimensions; i++)
            {
                vector[i] = random.NextSingle() - 0.5f;
            }
            TensorPrimitives.Divide(vector, TensorPrimitives.Norm(vector), vector);
            table.Add(new PassageKey(row, document, Modality.Text, null), vector);
        }
        table.Publish();
        float[] memory = new float[Rows * Dimensions];
        Array.Fill(memory, 1f);
        float sink = 0;
        var scan = new List<double>();
        var read = new List<double>();
        for (int round = -5; round < Rounds; round++)
        {
            double reading = Report.Time(() => sink += TensorPrimitives.Sum<float>(memory));
            double scanning = Report.Time(() => sink += table.Snapshot.Search(vector, 10, null, cores: 1).Length);
            if (round >= 0)
            {
                scan.Add(scanning * 1000);
                read.Add(reading * 1000);
            }
        }
        double ratio = Report.Median(scan) / Report.Median(read);
        report.Row("Exact search, 100,000 x 384, one core, ms", $"{Report.Number(Report.Median(scan), "0.0")} ({Report.Number(ratio, "0.00")} x the limit)",
            $"<= 1.5 x reading the same bytes, {Report.Number(Report.Median(read), "0.0")}{(float.IsNaN(sink) ? "!" : "")}", ratio <= 1.5);
        return Task.CompletedTask;
    }
}
