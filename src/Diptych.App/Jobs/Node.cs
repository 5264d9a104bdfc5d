using System.Diagnostics;
using System.Globalization;

namespace Diptych.App.Jobs;

/// <summary>What a process is called as the holder of leases: its machine, its number and when it began.</summary>
internal static class Node
{
    /// <summary>How far apart two readings of one process's beginning may lie, in seconds: the system computes it from a clock that is set now and then.</summary>
    private const int ToleranceSeconds = 5;

    public static string Own()
    {
        using Process process = Process.GetCurrentProcess();
        return FormattableString.Invariant($"{Environment.MachineName}/{process.Id}/{Began(process)}");
    }

    /// <summary>Whether it is a process of this machine that has ended. Of other machines' nothing is known but their leases.</summary>
    public static bool IsGone(string node)
    {
        if (node.Split('/') is not [var machine, var id, var began] || machine != Environment.MachineName)
        {
            return false;
        }
        try
        {
            using Process process = Process.GetProcessById(int.Parse(id, CultureInfo.InvariantCulture));
            return Math.Abs(Began(process) - long.Parse(began, CultureInfo.InvariantCulture)) > ToleranceSeconds;
        }
        catch (Exception error) when (error is ArgumentException or InvalidOperationException)
        {
            return true;
        }
    }

    private static long Began(Process process) => new DateTimeOffset(process.StartTime).ToUnixTimeSeconds();
}
