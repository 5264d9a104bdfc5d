namespace Diptych.Inference.Scheduling;

/// <summary>
/// What each tenant was served in each lane, in seconds of model time (virtual token counters: Sheng et al., OSDI 2024).
/// A tenant that comes back after a pause is lifted to the least served of those that wait, so that absence earns no credit.
/// </summary>
public sealed class TenantShares
{
    private const int Lanes = 3;
    private readonly Dictionary<string, int> _indices = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];
    private double[] _served = new double[16 * Lanes];
    private double[] _waiting = new double[16 * Lanes];
    private int[] _count = new int[16 * Lanes];

    /// <summary>The tenant's index, made at first sight.</summary>
    public int IndexOf(string tenant)
    {
        if (_indices.TryGetValue(tenant, out int index))
        {
            return index;
        }
        index = _names.Count;
        _names.Add(tenant);
        _indices.Add(tenant, index);
        if (_names.Count * Lanes > _served.Length)
        {
            Array.Resize(ref _served, 2 * _served.Length);
            Array.Resize(ref _waiting, 2 * _waiting.Length);
            Array.Resize(ref _count, 2 * _count.Length);
        }
        return index;
    }

    public int Count => _names.Count;

    public string NameOf(int tenant) => _names[tenant];

    /// <summary>Seconds of model time served to the tenant in the lane.</summary>
    public double Served(int tenant, Lane lane) => _served[(tenant * Lanes) + (int)lane];

    /// <summary>Predicted seconds of what the tenant has waiting in the lane.</summary>
    public double Waiting(int tenant, Lane lane) => _waiting[(tenant * Lanes) + (int)lane];

    /// <summary>Work of a tenant begins to wait.</summary>
    public void Enter(int tenant, Lane lane, double seconds)
    {
        int at = (tenant * Lanes) + (int)lane;
        if (_count[at] == 0)
        {
            double least = double.PositiveInfinity;
            for (int other = (int)lane; other < _names.Count * Lanes; other += Lanes)
            {
                if (_count[other] > 0)
                {
                    least = Math.Min(least, _served[other]);
                }
            }
            if (!double.IsPositiveInfinity(least))
            {
                _served[at] = Math.Max(_served[at], least);
            }
        }
        _count[at]++;
        _waiting[at] += seconds;
    }

    /// <summary>Work of a tenant waits no longer.</summary>
    public void Leave(int tenant, Lane lane, double seconds)
    {
        int at = (tenant * Lanes) + (int)lane;
        _waiting[at] = --_count[at] == 0 ? 0 : _waiting[at] - seconds;
    }

    /// <summary>Model time that a tenant was served.</summary>
    public void Charge(int tenant, Lane lane, double seconds) => _served[(tenant * Lanes) + (int)lane] += seconds;

    /// <summary>
    /// Predicted model time that goes before new work of a tenant: all of its own, and of every other tenant no more than
    /// the tenant itself would then have had, and <paramref name="burst"/>.
    /// </summary>
    public double Ahead(int tenant, Lane lane, double burst)
    {
        double own = _waiting[(tenant * Lanes) + (int)lane], sum = own;
        for (int other = 0; other < _names.Count; other++)
        {
            if (other != tenant)
            {
                sum += Math.Min(_waiting[(other * Lanes) + (int)lane], own + burst);
            }
        }
        return sum;
    }
}
