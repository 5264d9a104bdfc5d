using Diptych.Inference.Scheduling;

namespace Diptych.Inference;

/// <summary>What models take, measured.</summary>
public sealed partial class InferenceService
{
    /// <summary>
    /// Measures a model that was never measured on this machine: a few sizes of item and batch are enough for a line. All workers run at
    /// once, as they do under load: cores share caches, memory and, with hyper-threading, themselves.
    /// </summary>
    private async Task ProbeAsync(ILoadedModel loaded, ModelDescription model, CostModel cost, int workers, CancellationToken cancellation)
    {
        int longest = Math.Min(model.MaxUnits, 256);
        (int Items, int Units)[] sizes = model.Input == InputKind.Tokens
            ? [(1, Math.Min(8, longest)), (1, Math.Max(1, longest / 4)), (8, Math.Min(8, longest)), (4, Math.Max(1, longest / 4)), (1, longest)]
            : model.ProbeWidth is null ? [(1, 1), (2, 1), (4, 1)] : [(1, Math.Max(1, model.MaxUnits / 64)), (1, Math.Max(1, model.MaxUnits / 16)), (1, Math.Max(1, model.MaxUnits * 9 / 64))];
        for (int round = 0; round < 3; round++)
        {
            foreach (var (items, units) in sizes)
            {
                int[] offsets = [.. Enumerable.Range(0, items + 1).Select(i => i * (model.Input == InputKind.Tokens ? units : units * model.UnitBytes))];
                int[]? widths = model.ProbeWidth is { } width ? [.. Enumerable.Repeat(width(units), items)] : null;
                var batch = model.Input == InputKind.Tokens ? new Batch(new int[offsets[^1]], [], offsets) : new Batch([], new byte[offsets[^1]], offsets, widths);
                bool warm = round > 0;
                await Task.WhenAll(Enumerable.Range(0, workers).Select(_ => Task.Run(
                    async () =>
                    {
                        double start = Now();
                        await loaded.ExecuteAsync(batch, cancellation).ConfigureAwait(false);
                        if (warm)
                        {
                            cost.Observe(items * units, Math.Max(Now() - start, 1e-6));
                        }
                    },
                    cancellation))).ConfigureAwait(false);
            }
        }
    }
}
