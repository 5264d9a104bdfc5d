using Diptych.App;
using Diptych.App.Commands;
using Diptych.Reading.Processes;

// A process that reads needs nothing of what a command does, and begins at once.
return args is [Product.ReaderArgument] ? ReaderProgram.Run() : await CommandLine.StartAsync(args);
