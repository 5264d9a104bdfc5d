using System.Globalization;
using Diptych.App.Commands;
using Spectre.Console;

CultureInfo.DefaultThreadCurrentCulture = CultureInfo.InvariantCulture;
CultureInfo.DefaultThreadCurrentUICulture = CultureInfo.InvariantCulture;
CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
if (Console.IsOutputRedirected)
{
    // A pipe has no width: lines stay whole.
    AnsiConsole.Profile.Width = 4096;
}
return await CommandLine.RunAsync(args);
