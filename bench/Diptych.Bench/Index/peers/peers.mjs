// Runs one peer over vectors that the bench wrote, and prints a JSON line for each measurement.
// node peers.mjs PEER VECTORS DIMENSIONS ROWS QUERIES TRUTH THREADS [FILTERS]
// FILTERS: a folder of NAME.bits (a byte a row) and NAME.truth.i32, of which each is a filtered search.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { createRequire } from 'node:module';

const require = createRequire(path.join(process.cwd(), 'peers.cjs'));
const K = 10;
const SECONDS = 2;
const EFS = [10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384];

const now = () => Number(process.hrtime.bigint()) / 1e9;

function floats(file, from, count) {
  const fd = fs.openSync(file, 'r');
  const bytes = Buffer.alloc(count * 4);
  fs.readSync(fd, bytes, 0, bytes.length, from * 4);
  fs.closeSync(fd);
  return new Float32Array(bytes.buffer, bytes.byteOffset, count);
}

function recall(found, truth, queries) {
  let hits = 0;
  for (let q = 0; q < queries; q++) {
    const expected = new Set(truth.subarray(q * K, (q + 1) * K));
    for (const id of found[q]) hits += expected.has(Number(id)) ? 1 : 0;
  }
  return hits / (queries * K);
}

// Only the first setting that reaches each level is timed.
const LEVELS = [0.95, 0.99];
function levels() {
  let reached = 0;
  return { due: (r) => { const at = LEVELS.filter((l) => r >= l).length; const due = at > reached; reached = Math.max(reached, at); return due; }, done: () => reached === LEVELS.length };
}

function print(values) {
  console.log(JSON.stringify(values));
}

const args = isMainThread ? process.argv.slice(2) : workerData.args;
const [peer, file] = args;
const [dimensions, rows, queries, , threads] = [args[2], args[3], args[4], 0, args[6]].map(Number);

function data() {
  return { vectors: floats(file, 0, rows * dimensions), asked: floats(file, rows * dimensions, queries * dimensions) };
}

function truths() {
  const bytes = fs.readFileSync(args[5]);
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}

function filters() {
  if (!args[7]) return [];
  return fs.readdirSync(args[7]).filter((f) => f.endsWith('.bits')).map((f) => {
    const name = f.slice(0, -5);
    const truth = fs.readFileSync(path.join(args[7], `${name}.truth.i32`));
    return { name, bits: fs.readFileSync(path.join(args[7], f)), truth: new Int32Array(truth.buffer, truth.byteOffset, truth.length / 4) };
  });
}

// The fastest setting that finds 95 % of what matches, if any does.
async function filtered(peerName, search) {
  for (const { name, bits, truth } of filters()) {
    const asked = Math.min(queries, 50);
    let best = { recall: 0 };
    for (const ef of [32, 64, 128, 256, 512, 1024]) {
      const found = [];
      const start = now();
      for (let q = 0; q < asked; q++) found.push(await search(q, ef, name, bits));
      const qps = asked / (now() - start);
      const r = recall(found, truth, asked);
      if (r > best.recall) best = { ef, recall: r, qps };
      if (r >= 0.95) break;
    }
    print({ peer: peerName, filter: name, ...best });
  }
}

// The resident set's growth while an index is made, less what JavaScript's own heap took.
function native() {
  const m = process.memoryUsage();
  return m.rss - m.heapTotal - m.arrayBuffers;
}

const searches = {
  hnswlib(saved, ef) {
    const { HierarchicalNSW } = require('hnswlib-node');
    const index = new HierarchicalNSW('ip', dimensions);
    index.readIndexSync(saved);
    index.setEf(ef);
    return (q) => index.searchKnn(q, K).neighbors;
  },
};

async function timed(search, asked) {
  const lists = [];
  for (let q = 0; q < queries; q++) lists.push(Array.from(asked.subarray(q * dimensions, (q + 1) * dimensions)));
  for (let q = 0; q < 200; q++) await search(lists[q]);
  let n = 0;
  const start = now();
  while (now() - start < SECONDS) {
    await search(lists[n % queries]);
    n++;
  }
  return n / (now() - start);
}

// Peers whose calls are synchronous use a second core from a worker with the index loaded again.
async function parallelQps(name, saved, ef) {
  const workers = Array.from({ length: threads }, () => new Worker(new URL(import.meta.url), { workerData: { args, name, saved, ef } }));
  const results = await Promise.all(workers.map((w) => new Promise((resolve, reject) => { w.on('message', resolve); w.on('error', reject); })));
  await Promise.all(workers.map((w) => w.terminate()));
  return results.reduce((a, b) => a + b, 0);
}

async function hnswlib() {
  const { HierarchicalNSW } = require('hnswlib-node');
  const { vectors, asked } = data();
  const truth = truths();
  for (const [m, efConstruction] of [[16, 200], [32, 200]]) {
    const before = native();
    const index = new HierarchicalNSW('ip', dimensions);
    index.initIndex(rows, m, efConstruction);
    const start = now();
    for (let i = 0; i < rows; i++) index.addPoint(Array.from(vectors.subarray(i * dimensions, (i + 1) * dimensions)), i);
    const build = now() - start;
    const bytes = (native() - before) / rows;
    const saved = path.join(os.tmpdir(), `hnswlib-${process.pid}.bin`);
    index.writeIndexSync(saved);
    const hnswlibLevels = levels();
    for (const ef of EFS) {
      index.setEf(ef);
      const found = [];
      for (let q = 0; q < queries; q++) found.push(index.searchKnn(Array.from(asked.subarray(q * dimensions, (q + 1) * dimensions)), K).neighbors);
      const r = recall(found, truth, queries);
      if (!hnswlibLevels.due(r)) continue;
      const one = await timed((q) => index.searchKnn(q, K), asked);
      const several = threads > 1 ? await parallelQps('hnswlib', saved, ef) : one;
      print({ peer: 'hnswlib', setting: `M ${m}, efConstruction ${efConstruction}`, build, bytes, ef, recall: r, qps: [one, several] });
      if (hnswlibLevels.done()) break;
    }
    fs.unlinkSync(saved);
    if (m === 16) {
      await filtered('hnswlib', (q, ef, _, bits) => {
        index.setEf(ef);
        return index.searchKnn(Array.from(asked.subarray(q * dimensions, (q + 1) * dimensions)), K, (label) => bits[label] === 1).neighbors;
      });
    }
  }
}

async function usearch() {
  const { Index } = require('usearch');
  const { vectors, asked } = data();
  const truth = truths();
  const keys = BigUint64Array.from({ length: rows }, (_, i) => BigInt(i));
  for (const quantization of ['i8', 'f16', 'f32']) {
    for (const connectivity of [16, 32]) {
      const settings = { dimensions, metric: 'ip', quantization, connectivity, expansion_add: 128, expansion_search: 64, multi: false };
      const before = native();
      const index = new Index(settings);
      const start = now();
      index.add(keys, vectors, threads);
      const build = now() - start;
      const bytes = (native() - before) / rows;
      const saved = path.join(os.tmpdir(), `usearch-${process.pid}.bin`);
      index.save(saved);
      const usearchLevels = levels();
      for (const ef of EFS) {
        const tuned = new Index({ ...settings, expansion_search: ef });
        tuned.load(saved);
        const batch = tuned.search(asked, K, 1);
        const found = Array.from({ length: queries }, (_, q) => batch.keys.subarray(q * K, (q + 1) * K));
        const r = recall(found, truth, queries);
        if (!usearchLevels.due(r)) continue;
        // A call with all the queries at once is the fastest way in.
        const rate = (t) => {
          tuned.search(asked, K, t);
          const begun = now();
          let n = 0;
          while (now() - begun < SECONDS) { tuned.search(asked, K, t); n += queries; }
          return n / (now() - begun);
        };
        print({ peer: 'usearch', setting: `${quantization}, connectivity ${connectivity}`, build, bytes, ef, recall: r, qps: [rate(1), rate(threads)] });
        if (usearchLevels.done()) break;
      }
      fs.unlinkSync(saved);
    }
  }
}

async function lancedb() {
  const lance = require('@lancedb/lancedb');
  const { vectors, asked } = data();
  const truth = truths();
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lancedb-'));
  const db = await lance.connect(folder);
  let table;
  const tags = filters();
  for (let from = 0; from < rows; from += 20000) {
    const part = [];
    for (let i = from; i < Math.min(rows, from + 20000); i++) {
      const row = { id: i, vector: Array.from(vectors.subarray(i * dimensions, (i + 1) * dimensions)) };
      for (const tag of tags) row[tag.name] = tag.bits[i];
      part.push(row);
    }
    if (table) await table.add(part); else table = await db.createTable('t', part);
  }
  const start = now();
  await table.createIndex('vector', { config: lance.Index.hnswSq({ distanceType: 'dot', numPartitions: 1, m: 20, efConstruction: 300 }) });
  const build = now() - start;
  const lancedbLevels = levels();
  for (const ef of [24, 32, 64, 128, 256, 512]) {
    const search = async (q) => (await table.vectorSearch(q).distanceType('dot').ef(ef).refineFactor(2).select(['id']).limit(K).toArray()).map((x) => x.id);
    const found = [];
    for (let q = 0; q < Math.min(queries, 500); q++) found.push(await search(asked.subarray(q * dimensions, (q + 1) * dimensions)));
    const r = recall(found, truth, found.length);
    if (!lancedbLevels.due(r)) continue;
    const one = await timed((q) => search(q), asked);
    let n = 0;
    const begun = now();
    await Promise.all(Array.from({ length: threads * 2 }, async () => {
      while (now() - begun < SECONDS) { const q = n++ % queries; await search(asked.subarray(q * dimensions, (q + 1) * dimensions)); }
    }));
    print({ peer: 'lancedb', setting: 'HNSW_SQ, m 20, efConstruction 300', build, bytes: 0, ef, recall: r, qps: [one, n / (now() - begun)] });
    if (lancedbLevels.done()) break;
  }
  await filtered('lancedb', async (q, ef, name) => (await table.vectorSearch(asked.subarray(q * dimensions, (q + 1) * dimensions))
    .distanceType('dot').where(`${name} = 1`).ef(ef).refineFactor(2).select(['id']).limit(K).toArray()).map((x) => x.id));
  fs.rmSync(folder, { recursive: true });
}

if (isMainThread) {
  await { hnswlib, usearch, lancedb }[peer]();
} else {
  const { asked } = data();
  const rate = await timed(searches[workerData.name](workerData.saved, workerData.ef), asked);
  parentPort.postMessage(rate);
}
