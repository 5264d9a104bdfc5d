namespace Diptych.Inference;

/// <summary>
/// Predicts a batch's time as fixed + perUnit * padded units, by least squares over what was measured, with exponential
/// forgetting, so that a slower or busier machine is learned within some tens of batches.
/// </summary>
public sealed class CostModel
{
    private const double Forget = 0.97;
    private readonly Lock _lock = new();
    private double _n, _x, _y, _xx, _xy;
    private double _fixedSeconds = 0.002;
    private double _perUnitSeconds;

    /// <param name="perUnitSeconds">The guess before the first measurement.</param>
    public CostModel(double perUnitSeconds) => _perUnitSeconds = perUnitSeconds;

    /// <summary>Mean absolute relative error of recent predictions.</summary>
    public double Error { get; private set; }

    public double Predict(int paddedUnits)
    {
        lock (_lock)
        {
            return _fixedSeconds + (_perUnitSeconds * paddedUnits);
        }
    }

    public void Observe(int paddedUnits, double seconds)
    {
        lock (_lock)
        {
            double predicted = _fixedSeconds + (_perUnitSeconds * paddedUnits);
            Error = (0.95 * Error) + (0.05 * Math.Abs(predicted - seconds) / seconds);
            _n = (_n * Forget) + 1;
            _x = (_x * Forget) + paddedUnits;
            _y = (_y * Forget) + seconds;
            _xx = (_xx * Forget) + ((double)paddedUnits * paddedUnits);
            _xy = (_xy * Forget) + (paddedUnits * seconds);
            double spread = (_n * _xx) - (_x * _x);
            double slope = spread > 1e-6 * _xx ? ((_n * _xy) - (_x * _y)) / spread : 0;
            if (slope > 0 && _y - (slope * _x) >= 0)
            {
                _perUnitSeconds = slope;
                _fixedSeconds = (_y - (slope * _x)) / _n;
            }
            else
            {
                // All batches of one size so far, or noise beyond a line: the ratio through the origin is the safe estimate.
                _fixedSeconds = 0;
                _perUnitSeconds = _y / _x;
            }
        }
    }
}
