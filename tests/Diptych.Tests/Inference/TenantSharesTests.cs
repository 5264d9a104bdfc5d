using Diptych.Inference;
using Diptych.Inference.Scheduling;
using Xunit;

namespace Diptych.Tests.Inference;

public sealed class TenantSharesTests
{
    [Fact]
    public void Accounts_are_those_of_a_plain_table()
    {
        var random = new Random(11);
        var shares = new TenantShares();
        double[,] served = new double[40, 3];
        var waiting = new List<double>[40, 3];
        for (int tenant = 0; tenant < 40; tenant++)
        {
            for (int lane = 0; lane < 3; lane++)
            {
                waiting[tenant, lane] = [];
            }
        }
        for (int step = 0; step < 20_000; step++)
        {
            int tenant = random.Next(40), index = shares.IndexOf($"t{tenant}");
            var lane = (Lane)random.Next(3);
            List<double> own = waiting[tenant, (int)lane];
            switch (random.Next(3))
            {
                case 0:
                    double[] others = [.. Enumerable.Range(0, 40).Where(t => waiting[t, (int)lane].Count > 0).Select(t => served[t, (int)lane])];
                    if (own.Count == 0 && others.Length > 0)
                    {
                        served[tenant, (int)lane] = Math.Max(served[tenant, (int)lane], others.Min());
                    }
                    own.Add(random.Next(1, 9));
                    shares.Enter(index, lane, own[^1]);
                    break;
                case 1 when own.Count > 0:
                    shares.Leave(index, lane, own[0]);
                    own.RemoveAt(0);
                    break;
                default:
                    served[tenant, (int)lane]++;
                    shares.Charge(index, lane, 1);
                    break;
            }
            double before = own.Sum() + Enumerable.Range(0, 40).Where(t => t != tenant).Sum(t => Math.Min(waiting[t, (int)lane].Sum(), own.Sum() + 3));
            Assert.Equal((served[tenant, (int)lane], own.Sum(), before), (shares.Served(index, lane), shares.Waiting(index, lane), shares.Ahead(index, lane, 3)));
        }
    }
}
