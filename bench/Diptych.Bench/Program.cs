using Diptych.Bench;
using Diptych.Bench.Index;
using Diptych.Bench.Serving;

// Every figure that the docs quote: dotnet run -c Release --project bench/Diptych.Bench -- [quality|ingest|decode|readers|fuzz|requests|scan|start|index|wear|growth|million|lexical|postgres|serve|simulate|ledger|llm|answers|tune|all]
string what = args.FirstOrDefault() ?? "all";
var benches = new Dictionary<string, Func<Report, Task>>
{
    ["quality"] = Quality.RunAsync,
    ["ingest"] = IngestSpeed.RunAsync,
    ["decode"] = DecodeSpeed.RunAsync,
    ["readers"] = ReaderSpeed.RunAsync,
    ["fuzz"] = ReaderFuzzing.RunAsync,
    ["requests"] = RequestFuzzing.RunAsync,
    ["scan"] = ScanSpeed.RunAsync,
    ["start"] = StartTime.RunAsync,
    ["index"] = IndexSpeed.RunAsync,
    ["wear"] = IndexSpeed.WearAsync,
    ["growth"] = GrowthSpeed.RunAsync,
    ["million"] = MillionPassages.RunAsync,
    ["lexical"] = LexicalSpeed.RunAsync,
    ["postgres"] = PostgresSpeed.RunAsync,
    ["serve"] = ServeSpeed.RunAsync,
    ["simulate"] = ServeSpeed.SimulateAsync,
    ["ledger"] = LedgerSoak.RunAsync,
    ["llm"] = LlmSpeed.RunAsync,
    ["answers"] = LlmFeatures.RunAsync,
    ["tune"] = TuneQuality.RunAsync,
};
if (what != "all" && !benches.ContainsKey(what))
{
    await Console.Error.WriteLineAsync($"Choose one of {string.Join(", ", benches.Keys)}, all.");
    return 2;
}
var report = new Report();
foreach (var (name, run) in benches)
{
    if (what == "all" || what == name)
    {
        await run(report);
    }
}
return report.Missed == 0 ? 0 : 1;
