using System.Runtime.InteropServices;

namespace Diptych.Reading.Processes;

/// <summary>How a process that reads is started.</summary>
public sealed record ReaderCommand(string File, IReadOnlyList<string> Arguments)
{
    /// <summary>The product's own executable, as a reader: it is a program of its own, or an assembly that dotnet runs.</summary>
    /// <param name="assembly">Path of the product's assembly; empty where it lies within the executable.</param>
    public static ReaderCommand Of(string assembly, string argument)
    {
        string process = Environment.ProcessPath ?? "";
        string program = Path.ChangeExtension(assembly, OperatingSystem.IsWindows() ? ".exe" : null);
        return assembly.Length == 0 ? new ReaderCommand(process, [argument])
            : string.Equals(process, program, StringComparison.Ordinal) ? new ReaderCommand(process, [argument])
            : new ReaderCommand(Host(process), [assembly, argument]);
    }

    /// <summary>The dotnet that runs this process; else the one that its runtime belongs to.</summary>
    private static string Host(string process)
    {
        string name = OperatingSystem.IsWindows() ? "dotnet.exe" : "dotnet";
        if (Path.GetFileName(process) == name)
        {
            return process;
        }
        // …/shared/Microsoft.NETCore.App/10.0.0/
        string beside = Path.GetFullPath(Path.Combine(RuntimeEnvironment.GetRuntimeDirectory(), "..", "..", "..", name));
        return Path.Exists(beside) ? beside : name;
    }
}
