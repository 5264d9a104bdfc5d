namespace Diptych.Inference.Scheduling;

/// <summary>
/// Learns how many requests a server that is not ours takes at a time, from its latency alone: while the latest times stay near the long
/// run the limit grows by its square root, and as they rise it shrinks by their ratio (the gradient of Netflix's concurrency-limits).
/// </summary>
public sealed class ConcurrencyLimit(int initial = 4, int least = 1, int most = 256)
{
    private const double Tolerance = 1.5;
    private const double LongWeight = 0.02;
    private const double ShortWeight = 0.3;
    private const double Smoothing = 0.2;
    private readonly Lock _lock = new();
    private double _limit = initial;
    private double _long, _short;

    public int Limit
    {
        get
        {
            lock (_lock)
            {
                return (int)_limit;
            }
        }
    }

    /// <param name="seconds">Latency of a request that succeeded.</param>
    /// <param name="inFlight">Requests under way as it ended, itself included: a limit that is not used is not raised.</param>
    public void Succeeded(double seconds, int inFlight)
    {
        lock (_lock)
        {
            _long = _long == 0 ? seconds : _long + (LongWeight * (seconds - _long));
            _short = _short == 0 ? seconds : _short + (ShortWeight * (seconds - _short));
            // After a long stretch of overload the long run forgets it quickly.
            _long = _long > 2 * _short ? 0.95 * _long : _long;
            double gradient = Math.Clamp(Tolerance * _long / _short, 0.5, 1);
            if (gradient < 1 || inFlight * 2 >= _limit)
            {
                double next = (_limit * gradient) + (gradient < 1 ? 0 : Math.Sqrt(_limit));
                _limit = Math.Clamp(_limit + (Smoothing * (next - _limit)), least, most);
            }
        }
    }

    /// <summary>The server refused or failed: halve.</summary>
    public void Failed()
    {
        lock (_lock)
        {
            _limit = Math.Max(least, _limit / 2);
        }
    }
}
