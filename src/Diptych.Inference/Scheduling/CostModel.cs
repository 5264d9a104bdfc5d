namespace Diptych.Inference.Scheduling;

/// <summary>What a cost model has learned, to be kept on disk: seconds = (fixed + perUnit * padded units) * high.</summary>
/// <param name="High">The 90th percentile of measured over predicted.</param>
/// <param name="Error">Mean absolute relative error of the line.</param>
public sealed record CostProfile(double FixedSeconds, double PerUnitSeconds, double High, double Error);

/// <summary>
/// Predicts a batch's time. A line over padded units is fitted by least squares with exponential forgetting; on top of it lies a high
/// percentile of measured over predicted, so that a neighbour's noise widens the margin and does not tilt the line. Reading takes no lock.
/// </summary>
public sealed class CostModel
{
    private const double Forget = 0.98;
    private const double Percentile = 0.9;
    private const int Bins = 96;
    private const double LowestRatio = 0.25;

    /// <summary>Measurements this far off the line are a disturbance, unless they keep coming.</summary>
    private const double OutlierRatio = 3;
    private const int OutliersThatAreNews = 8;

    private static readonly double LogStep = Math.Log(64) / Bins;
    private readonly Lock _lock = new();
    private readonly double[] _ratios = new double[Bins];
    private double _n, _x, _y, _xx, _xy, _ratioWeight;
    private int _outliers;
    private volatile CostProfile _profile;

    /// <param name="perUnitSeconds">The guess before the first measurement.</param>
    public CostModel(double perUnitSeconds) => _profile = new CostProfile(0.002, perUnitSeconds, 1, 0);

    /// <summary>Goes on from what was learned before. It is trusted as some ten measurements would be.</summary>
    public CostModel(CostProfile profile)
    {
        _profile = profile;
        foreach (double units in (ReadOnlySpan<double>)[1, 64, 256, 1024])
        {
            Sum(units, profile.FixedSeconds + (profile.PerUnitSeconds * units), 2.5);
        }
    }

    public CostProfile Profile => _profile;

    /// <summary>True once something was measured here or before.</summary>
    public bool IsMeasured => _n > 0;

    /// <summary>Measurements made in this process.</summary>
    public int Observed { get; private set; }

    /// <returns>Seconds that nine of ten such batches do not exceed.</returns>
    public double Predict(int paddedUnits)
    {
        CostProfile p = _profile;
        return (p.FixedSeconds + (p.PerUnitSeconds * paddedUnits)) * p.High;
    }

    /// <returns>Seconds that such a batch is expected to take: what admission reckons with, where a refusal and a miss cost the same.</returns>
    public double Expect(int paddedUnits)
    {
        CostProfile p = _profile;
        return p.FixedSeconds + (p.PerUnitSeconds * paddedUnits);
    }

    /// <returns>Seconds that units are expected to add to a batch which runs anyway.</returns>
    public double ExpectShare(int units) => _profile.PerUnitSeconds * units;

    public void Observe(int paddedUnits, double seconds)
    {
        lock (_lock)
        {
            CostProfile p = _profile;
            Observed++;
            double line = Math.Max(p.FixedSeconds + (p.PerUnitSeconds * paddedUnits), 1e-7);
            double ratio = seconds / line;
            bool known = _n > 3;
            if (known)
            {
                int bin = Math.Clamp((int)(Math.Log(ratio / LowestRatio) / LogStep), 0, Bins - 1);
                for (int i = 0; i < Bins; i++)
                {
                    _ratios[i] *= Forget;
                }
                _ratios[bin]++;
                _ratioWeight = (_ratioWeight * Forget) + 1;
            }
            _outliers = known && ratio is > OutlierRatio or < 1 / OutlierRatio ? _outliers + 1 : 0;
            double fixedSeconds = p.FixedSeconds, perUnit = p.PerUnitSeconds;
            if (_outliers is 0 or >= OutliersThatAreNews)
            {
                Sum(paddedUnits, seconds, 1);
                (fixedSeconds, perUnit) = Line();
            }
            double error = known ? (0.95 * p.Error) + (0.05 * Math.Abs(ratio - 1)) : p.Error;
            _profile = new CostProfile(fixedSeconds, perUnit, known ? High() : p.High, error);
        }
    }

    private void Sum(double units, double seconds, double weight)
    {
        _n = (_n * Forget) + weight;
        _x = (_x * Forget) + (weight * units);
        _y = (_y * Forget) + (weight * seconds);
        _xx = (_xx * Forget) + (weight * units * units);
        _xy = (_xy * Forget) + (weight * units * seconds);
    }

    private (double Fixed, double PerUnit) Line()
    {
        double spread = (_n * _xx) - (_x * _x);
        double slope = spread > 1e-6 * _n * _xx ? ((_n * _xy) - (_x * _y)) / spread : 0;
        // All batches of one size so far, or noise beyond a line: the ratio through the origin is the safe estimate.
        return slope > 0 && _y - (slope * _x) >= 0 ? ((_y - (slope * _x)) / _n, slope) : (0, _y / _x);
    }

    private double High()
    {
        double below = 0, wanted = Percentile * _ratioWeight;
        for (int i = 0; i < Bins; i++)
        {
            if (below + _ratios[i] >= wanted)
            {
                double within = _ratios[i] > 0 ? (wanted - below) / _ratios[i] : 1;
                return Math.Max(1, LowestRatio * Math.Exp((i + within) * LogStep));
            }
            below += _ratios[i];
        }
        return 1;
    }
}
