namespace Diptych.Inference.Scheduling;

/// <summary>
/// What each tenant was served in each lane, in seconds of model time (virtual token counters: Sheng et al., OSDI 2024).
/// A tenant that comes back after a pause is lifted to the least served of those that wait, so that absence earns no credit.
/// Of tenants without work those that were served last are remembered, so that names cost neither time nor memory without end.
/// </summary>
public sealed class TenantShares
{
    private const int Lanes = 3, MostRemembered = 4096;
    private readonly Dictionary<string, int> _indices = new(StringComparer.Ordinal);
    private readonly List<Tenant> _tenants = [];
    private readonly List<int>[] _withWork = [.. Enumerable.Range(0, Lanes).Select(_ => new List<int>())];

    /// <summary>Tenants without work, the one that was served longest ago first.</summary>
    private readonly LinkedList<int> _idle = new();

    /// <summary>Tenants that are remembered.</summary>
    public int Count => _indices.Count;

    /// <summary>The tenant's index, made at first sight. It is the tenant's while it has work, and for as long after as few others come.</summary>
    public int IndexOf(string tenant)
    {
        if (_indices.TryGetValue(tenant, out int index))
        {
            Touch(_tenants[index]);
            return index;
        }
        if (_idle.Count >= MostRemembered)
        {
            index = _idle.First!.Value;
            _idle.RemoveFirst();
            _indices.Remove(_tenants[index].Name);
            _tenants[index] = new Tenant(tenant, index);
        }
        else
        {
            index = _tenants.Count;
            _tenants.Add(new Tenant(tenant, index));
        }
        _indices.Add(tenant, index);
        _idle.AddLast(_tenants[index].Place);
        return index;
    }

    /// <summary>Seconds of model time served to the tenant in the lane.</summary>
    public double Served(int tenant, Lane lane) => _tenants[tenant].Served[(int)lane];

    /// <summary>Predicted seconds of what the tenant has waiting in the lane.</summary>
    public double Waiting(int tenant, Lane lane) => _tenants[tenant].Waiting[(int)lane];

    /// <summary>Work of a tenant begins to wait.</summary>
    public void Enter(int tenant, Lane lane, double seconds)
    {
        Tenant one = _tenants[tenant];
        List<int> others = _withWork[(int)lane];
        if (one.Count[(int)lane] == 0)
        {
            double least = double.PositiveInfinity;
            foreach (int other in others)
            {
                least = Math.Min(least, _tenants[other].Served[(int)lane]);
            }
            if (!double.IsPositiveInfinity(least))
            {
                one.Served[(int)lane] = Math.Max(one.Served[(int)lane], least);
            }
            one.Position[(int)lane] = others.Count;
            others.Add(tenant);
            if (one.Place.List is not null)
            {
                _idle.Remove(one.Place);
            }
        }
        one.Count[(int)lane]++;
        one.Waiting[(int)lane] += seconds;
    }

    /// <summary>Work of a tenant waits no longer.</summary>
    public void Leave(int tenant, Lane lane, double seconds)
    {
        Tenant one = _tenants[tenant];
        one.Waiting[(int)lane] -= seconds;
        if (--one.Count[(int)lane] > 0)
        {
            return;
        }
        one.Waiting[(int)lane] = 0;
        List<int> others = _withWork[(int)lane];
        int last = others[^1];
        others[one.Position[(int)lane]] = last;
        _tenants[last].Position[(int)lane] = one.Position[(int)lane];
        others.RemoveAt(others.Count - 1);
        if (Array.TrueForAll(one.Count, c => c == 0))
        {
            _idle.AddLast(one.Place);
        }
    }

    /// <summary>Model time that a tenant was served.</summary>
    public void Charge(int tenant, Lane lane, double seconds)
    {
        _tenants[tenant].Served[(int)lane] += seconds;
        Touch(_tenants[tenant]);
    }

    /// <summary>
    /// Predicted model time that goes before new work of a tenant: all of its own, and of every other tenant no more than
    /// the tenant itself would then have had, and <paramref name="burst"/>.
    /// </summary>
    public double Ahead(int tenant, Lane lane, double burst)
    {
        double own = _tenants[tenant].Waiting[(int)lane], sum = own;
        foreach (int other in _withWork[(int)lane])
        {
            if (other != tenant)
            {
                sum += Math.Min(_tenants[other].Waiting[(int)lane], own + burst);
            }
        }
        return sum;
    }

    private void Touch(Tenant tenant)
    {
        if (tenant.Place.List is not null)
        {
            _idle.Remove(tenant.Place);
            _idle.AddLast(tenant.Place);
        }
    }

    private sealed class Tenant(string name, int index)
    {
        public string Name => name;

        /// <summary>Where it stands among those without work.</summary>
        public LinkedListNode<int> Place { get; } = new(index);

        public double[] Served { get; } = new double[Lanes];

        public double[] Waiting { get; } = new double[Lanes];

        public int[] Count { get; } = new int[Lanes];

        /// <summary>Where it stands among those with work.</summary>
        public int[] Position { get; } = new int[Lanes];
    }
}
