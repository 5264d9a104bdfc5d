using System.Text;
using Diptych.App;
using Diptych.Core;
using Diptych.Engine.Evaluation;
using Diptych.Inference;

string shared = Environment.GetEnvironmentVariable("DIPTYCH_SHARED") ?? "../shared";
string dir = Path.Combine(Path.GetTempPath(), "dbench" + Environment.ProcessId);
await using var p = await Product.OpenAsync(new DiptychOptions { Data = dir }, TimeProvider.System, default);
var sw = System.Diagnostics.Stopwatch.StartNew();
if (args.Length == 0 || args[0] == "text")
{
var t = await p.Evaluator.TextAsync($"{shared}/data/cranfield/cran.all.1400", $"{shared}/data/cranfield/cran.qry", $"{shared}/data/cranfield/cranqrel", default);
Console.WriteLine($"text {sw.Elapsed}");
foreach (var (n, m) in new[] { ("dense", t.Dense), ("lexical", t.Lexical), ("default", t.Default) })
    Console.WriteLine(n + " " + string.Join(" ", m.Values.Select(v => $"{v.Key}={v.Value.Mean:0.0000}")));
return;
}
var caps = TestCollections.Captions($"{shared}/data/flickr8k-dev/captions.tsv");
var cran = TestCollections.Corpus($"{shared}/data/cranfield/cran.all.1400");
var qs = TestCollections.Queries($"{shared}/data/cranfield/cran.qry");
var qrels = TestCollections.Qrels($"{shared}/data/cranfield/cranqrel");
await p.Evaluator.IngestTextsAsync("mixed", cran, default);
Console.WriteLine($"cran {sw.Elapsed}"); sw.Restart();

var o = new StringBuilder();
await Parallel.ForEachAsync(qs, async (q, c) =>
{
    var e = await p.Embedder.EmbedTextAsync(q.Text, Lane.Interactive, c);
    var tx0 = p.Store.SearchText("mixed", e.Text, 200, null, Modality.Text);
    var lx0 = p.Store.SearchLexical("mixed", q.Text, 200, null, Modality.Text);
    var w = new Diptych.Engine.Search.WordWeights(p.Store, "mixed", q.Text);
    foreach (bool removed in new[] { false, true })
    {
        bool Keep(Diptych.Index.Candidate x) => !removed || !qrels[q.Id].Contains(x.Key.Document.Source[5..]);
        var tx = tx0.Where(Keep).ToList(); var lx = lx0.Where(Keep).ToList();
        var fused = Diptych.Index.Fusion.RankFusion.ReciprocalRank([([.. tx.Select(x => (x.Key.Id, x.Score))], 1), ([.. lx.Select(x => (x.Key.Id, x.Score))], 1)]).Take(8).ToList();
        var ps = p.Store.PassagesById(fused.Select(f => f.Id)); var vs = p.Store.Vectors(fused.Select(f => f.Id));
        var keys = tx.Concat(lx).GroupBy(x => x.Key.Id).ToDictionary(g => g.Key, g => g.First().Key);
        var hits = new List<string>();
        foreach (var (id, sc) in fused)
        {
            double cos = vs[id].Text!.Zip(e.Text, (a, b) => a * b).Sum();
            double cov = w.Coverage(ps[id], keys[id].Document);
            int tr = tx.FindIndex(x => x.Key.Id == id), lr = lx.FindIndex(x => x.Key.Id == id);
            double bm = lr < 0 ? 0 : lx[lr].Score;
            var sents = Diptych.Engine.Ingestion.Sentences.Split(ps[id].Text).Select(r => ps[id].Text[r.Start..r.End]).Where(t => t.Length > 12).Take(10).ToList();
            var se = await Task.WhenAll(sents.Select(t => p.Embedder.EmbedTextAsync(t, Lane.Bulk, c)));
            double sc1 = se.Length == 0 ? 0 : se.Max(x => x.Text.Zip(e.Text, (a, b) => a * b).Sum());
            double scov = sents.Count == 0 ? 0 : sents.Max(t => w.Coverage(new Passage { Modality = Modality.Text, Text = t }, keys[id].Document));
            hits.Add(FormattableString.Invariant($"{cos:0.0000},{cov:0.000},{tr},{lr},{bm:0.00},{sc1:0.0000},{scov:0.000},{sc:0.00000}"));
        }
        var line = FormattableString.Invariant($"{q.Id}\t{(removed ? 0 : 1)}\t{tx[99].Score:0.0000}\t{lx[0].Score:0.00}\t{lx[Math.Min(99,lx.Count-1)].Score:0.00}\t{string.Join(';', hits)}\t{q.Text.Replace('\n', ' ')}");
        lock (o) o.AppendLine(line);
    }
});
File.WriteAllText("/tmp/feat2.tsv", o.ToString());
Console.WriteLine($"queries {sw.Elapsed}");
