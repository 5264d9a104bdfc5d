using System.CommandLine;
using Diptych.Core;
using Diptych.Index.Sqlite;
using Spectre.Console;

namespace Diptych.App.Commands;

/// <summary><c>diptych backup FILE</c>: a verified copy of the live store.</summary>
internal static class BackupCommand
{
    public static Command Build()
    {
        var file = new Argument<FileInfo>("FILE") { Description = "The copy to write" };
        var force = new Option<bool>("--force") { Description = "Replace the file that is there" };
        var command = new Command("backup", "Copy the live database to a file, and verify the copy") { file, force };
        command.SetAction(async (parsed, cancellation) =>
        {
            DiptychOptions options = CommandLine.Options(parsed);
            if (options.Store is not null)
            {
                throw new InvalidRequestException(
                    "A PostgreSQL store is backed up with PostgreSQL's own tools: pg_dump, or pg_basebackup with WAL archiving.");
            }
            // Neither waits for what is under way when it is stopped: both may end at any moment.
            string digest = await Task.Run(
                () => SqliteBackup.Make(options.Database, parsed.GetValue(file)!.FullName, parsed.GetValue(force)), CancellationToken.None)
                .WaitAsync(cancellation);
            Tell(parsed, "Backed up to", parsed.GetValue(file)!, digest);
            return ExitCode.Success;
        });
        return command;
    }

    internal static void Tell(ParseResult parsed, string what, FileInfo file, string digest)
    {
        if (parsed.GetValue(CommandLine.AsJson))
        {
            Output.Json(new { file = file.FullName, sha256 = digest });
        }
        else
        {
            AnsiConsole.MarkupLine($"{what} {file.FullName.EscapeMarkup()}, content verified: {digest}");
        }
    }
}

/// <summary><c>diptych restore FILE</c>: a backup in the place of the store.</summary>
internal static class RestoreCommand
{
    public static Command Build()
    {
        var file = new Argument<FileInfo>("FILE") { Description = "What backup wrote" };
        var force = new Option<bool>("--force") { Description = "Replace the database that is there" };
        var command = new Command("restore", "Put a backup in the place of the database; no diptych may have it open") { file, force };
        command.SetAction(async (parsed, cancellation) =>
        {
            DiptychOptions options = CommandLine.Options(parsed);
            if (options.Store is not null)
            {
                throw new InvalidRequestException("A PostgreSQL store is restored with PostgreSQL's own tools.");
            }
            string digest = await Task.Run(
                () => SqliteBackup.Restore(parsed.GetValue(file)!.FullName, options.Database, parsed.GetValue(force)),
                CancellationToken.None)
                .WaitAsync(cancellation);
            BackupCommand.Tell(parsed, "Restored from", parsed.GetValue(file)!, digest);
            return ExitCode.Success;
        });
        return command;
    }
}
