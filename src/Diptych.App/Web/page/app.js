// The page: search, ask, add files, and a viewer that opens a document at a place. Plain modules, no build step.

const $ = id => document.getElementById(id);
const state = { image: null, hits: 0, searchRun: 0, askRun: null, job: null };
const pageSize = 10;

// ---- Talking to the API

async function api(path, options = {}) {
  const response = await fetch(path, options);
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const wait = response.headers.get("retry-after");
    throw new Error((problem.detail ?? `${response.status} ${response.statusText}`) + (wait ? ` Try again in ${wait} s.` : ""));
  }
  return response;
}

const post = (path, body, signal) =>
  api(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const lines = buffer.slice(0, end).split("\n");
      buffer = buffer.slice(end + 2);
      const field = name => lines.find(l => l.startsWith(name + ": "))?.slice(name.length + 2);
      yield { event: field("event"), data: JSON.parse(field("data")) };
    }
  }
}

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children.filter(c => c != null));
  return node;
}

function fail(status, error) {
  if (error.name === "AbortError") return;
  status.replaceChildren(element("span", { className: "error", textContent: error.message }));
}

// ---- Tabs and collections

const tabs = ["search", "ask", "add"];

function show(tab) {
  for (const name of tabs) {
    const chosen = name === tab;
    $(`tab-${name}`).setAttribute("aria-selected", chosen);
    $(`tab-${name}`).tabIndex = chosen ? 0 : -1;
    $(`panel-${name}`).hidden = !chosen;
  }
  ({ search: $("search-text"), ask: $("ask-text"), add: $("files") })[tab].focus();
}

for (const name of tabs) {
  $(`tab-${name}`).addEventListener("click", () => show(name));
  $(`tab-${name}`).addEventListener("keydown", e => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (step) {
      const next = tabs[(tabs.indexOf(name) + step + tabs.length) % tabs.length];
      show(next);
      $(`tab-${next}`).focus();
    }
  });
}

document.addEventListener("keydown", e => {
  if (e.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName) && !$("viewer").open) {
    e.preventDefault();
    show("search");
  }
});

async function loadCollections(wanted) {
  const collections = await (await api("/v1/collections")).json();
  const names = collections.map(c => c.name);
  if (!names.includes("default")) names.push("default");
  // The fullest is the likeliest to be meant.
  const fullest = [...collections].sort((a, b) => b.documents - a.documents)[0]?.name;
  const current = wanted ?? ($("collection").value || fullest || "default");
  $("collection").replaceChildren(...names.map(n => element("option", { value: n, textContent: n, selected: n === current })));
}

// ---- Search

function attach(file) {
  if (!file?.type.startsWith("image/")) return;
  const reader = new FileReader();
  reader.onload = () => {
    state.image = reader.result;
    const remove = element("button", { type: "button", textContent: "×", ariaLabel: "Remove the image", onclick: detach });
    $("search-image").replaceChildren(element("img", { src: state.image, alt: "Image to search with" }), remove);
    $("search-image").hidden = false;
    show("search");
    search();
  };
  reader.readAsDataURL(file);
}

function detach() {
  state.image = null;
  $("search-image").hidden = true;
  $("search-file").value = "";
}

function parseFilter(text) {
  const parts = text.split(",").map(p => p.trim()).filter(Boolean).map(part => {
    if (part.startsWith("has:")) return { field: part.slice(4), exists: true };
    const match = part.match(/^(.+?)(>=|<=|!=|\^=|>|<|=)(.*)$/);
    if (!match) throw new Error(`'${part}' is not a filter. Write field=value, field>=value, field^=prefix or has:field.`);
    const [field, value] = [match[1].trim(), match[3].trim()];
    const test = { ">=": { gte: value }, "<=": { lte: value }, ">": { gt: value }, "<": { lt: value }, "^=": { prefix: value } }[match[2]] ?? { eq: value };
    return match[2] === "!=" ? { not: { field, ...test } } : { field, ...test };
  });
  return parts.length === 0 ? undefined : parts.length === 1 ? parts[0] : { and: parts };
}

async function search(offset = 0) {
  const text = $("search-text").value.trim();
  const parts = [];
  if (text) parts.push({ text });
  if (state.image) parts.push({ image: state.image });
  if (parts.length === 0) {
    $("search-status").textContent = "Type what to look for, or drop an image.";
    return;
  }
  const run = ++state.searchRun;
  $("search-status").textContent = "Searching…";
  try {
    const began = performance.now();
    const result = await (await post("/v1/search", {
      collection: $("collection").value, parts, offset, limit: pageSize,
      modality: $("modality").value || undefined, filter: parseFilter($("filter").value),
      group_by_document: $("group").checked, min_confidence: Number($("min-confidence").value) / 100,
    })).json();
    if (run !== state.searchRun) return;
    const items = result.hits.map(renderHit);
    offset ? $("hits").append(...items) : $("hits").replaceChildren(...items);
    state.hits = offset + result.hits.length;
    $("more").hidden = state.hits >= result.total;
    $("search-status").textContent = result.total === 0
      ? "Nothing here matches. A lower “at least” shows what comes nearest."
      : `${result.total} hits in ${Math.round(performance.now() - began)} ms`;
  } catch (error) {
    if (run === state.searchRun) {
      $("hits").replaceChildren();
      $("more").hidden = true;
      fail($("search-status"), error);
    }
  }
}

function highlighted(snippet) {
  const nodes = [];
  let at = 0;
  for (const { start, end } of snippet.highlights) {
    nodes.push(snippet.text.slice(at, start), element("mark", { textContent: snippet.text.slice(start, end) }));
    at = end;
  }
  return [...nodes, snippet.text.slice(at)];
}

const place = (anchor, headings) => [anchor.label ?? (anchor.page ? `page ${anchor.page}` : null), headings].filter(Boolean).join(" · ");
const percent = share => `${Math.round(share * 100)} %`;
const name = source => source.split(/[\\/]/).pop().replace(/^(upload|stdin):/, "") || source;

function renderHit(hit) {
  const item = element("li", { className: hit.thumbnail_url ? "hit" : "hit plain" });
  if (hit.thumbnail_url) {
    item.append(element("img", { src: hit.thumbnail_url, alt: hit.text || hit.document.title, loading: "lazy", onclick: () => { location.hash = hit.view_url.slice(1); } }));
  }
  const where = element("div", { className: "where" },
    element("a", { href: hit.view_url.slice(1), textContent: hit.document.title }),
    element("span", { className: `kind ${hit.modality}`, textContent: hit.modality }),
    element("span", { className: "score", textContent: percent(hit.confidence), title: "Calibrated confidence" }),
    element("span", { textContent: [name(hit.document.source), place(hit.anchor, hit.heading_path)].filter(Boolean).join(" · ") }));
  item.append(where);
  if (hit.snippet) item.append(element("p", { className: "text" }, ...highlighted(hit.snippet)));
  const rows = hit.evidence.map(e => element("tr", {},
    ...[e.channel, `rank ${e.rank}`, `score ${e.score.toFixed(3)}`, `calibrated ${e.calibrated.toFixed(2)}`, e.plan ?? ""].map(t => element("td", { textContent: t }))));
  item.append(element("details", {}, element("summary", { textContent: "Why this" }), element("table", {}, element("tbody", {}, ...rows))));
  return item;
}

$("search-form").addEventListener("submit", e => { e.preventDefault(); search(); });
$("more").addEventListener("click", () => search(state.hits));
$("search-file").addEventListener("change", e => attach(e.target.files[0]));
for (const id of ["modality", "filter", "group", "min-confidence", "collection"]) {
  $(id).addEventListener("change", () => ($("search-text").value || state.image) && !$("panel-search").hidden && search());
}
document.addEventListener("paste", e => {
  const file = [...e.clipboardData.files].find(f => f.type.startsWith("image/"));
  if (file) { e.preventDefault(); attach(file); }
});

// ---- Ask

$("ask-form").addEventListener("submit", async e => {
  e.preventDefault();
  state.askRun?.abort();
  const run = state.askRun = new AbortController();
  $("answer").replaceChildren();
  $("citations").replaceChildren();
  $("ask-status").textContent = "Reading…";
  try {
    const response = await post("/v1/answers", { collection: $("collection").value, question: $("ask-text").value, stream: true }, run.signal);
    for await (const { event, data } of serverEvents(response)) {
      if (event === "delta") $("answer").append(data.text);
      else if (event === "answer") renderAnswer(data);
    }
  } catch (error) {
    fail($("ask-status"), error);
  }
});

function renderAnswer(answer) {
  const urls = new Map(answer.citations.map(c => [String(c.number), c.view_url]));
  $("answer").replaceChildren(...answer.text.split(/(\[\d+\])/).map(part => {
    const number = part.match(/^\[(\d+)\]$/)?.[1];
    return urls.has(number) ? element("a", { href: urls.get(number).slice(1), textContent: number, title: "Open the source" }) : part;
  }));
  $("citations").replaceChildren(...answer.citations.map(c => {
    const item = element("li", { className: c.thumbnail_url ? "hit" : "hit plain" });
    if (c.thumbnail_url) item.append(element("img", { src: c.thumbnail_url, alt: c.document.title, onclick: () => { location.hash = c.view_url.slice(1); } }));
    item.append(element("div", { className: "where" },
      element("span", { textContent: `[${c.number}]` }),
      element("a", { href: c.view_url.slice(1), textContent: c.document.title }),
      element("span", { textContent: [name(c.document.source), place(c.anchor)].filter(Boolean).join(" · ") })));
    if (c.quote) item.append(element("p", { className: "text", textContent: c.quote }));
    return item;
  }));
  $("ask-status").textContent = [
    { extractive: "In the words of your documents", generated: "Written by the language model over your documents", abstained: "No answer" }[answer.kind],
    `confidence ${percent(answer.confidence)}`, ...answer.degraded].join(" · ");
}

// ---- Add files

async function upload(files) {
  if (files.length === 0) return;
  const form = new FormData();
  for (const file of files) form.append("file", file);
  show("add");
  await follow(() => api(`/v1/collections/${encodeURIComponent($("collection").value)}/documents`, { method: "POST", body: form }));
}

async function follow(start) {
  $("job").hidden = false;
  $("job-files").replaceChildren();
  $("job-text").textContent = "Sending…";
  $("job-progress").removeAttribute("value");
  try {
    const job = state.job = await (await start()).json();
    for await (const { event, data } of serverEvents(await api(`/v1/jobs/${job.id}/events`))) {
      const totals = data.totals;
      $("job-progress").value = event === "end" ? 1 : totals.done / Math.max(1, totals.found);
      $("job-text").textContent = event === "end"
        ? `${data.state}: ${totals.added} added, ${totals.replaced} replaced, ${totals.unchanged} there already, ${totals.duplicates} with known content, ${totals.failed} failed`
        : `${totals.done} of ${totals.found}`;
      if (event === "file") {
        const { source, outcome, reason } = data.file;
        $("job-files").append(element("li", { className: outcome === "failed" ? "error" : "", textContent: `${name(source)}: ${outcome}${reason ? ` (${reason})` : ""}` }));
      }
    }
    await loadCollections($("collection").value);
  } catch (error) {
    $("job-progress").value = 0;
    fail($("job-text"), error);
  }
}

$("files").addEventListener("change", e => upload([...e.target.files]));
$("url-form").addEventListener("submit", e => {
  e.preventDefault();
  follow(() => post(`/v1/collections/${encodeURIComponent($("collection").value)}/urls`, { urls: [$("url").value] }));
});
$("job-cancel").addEventListener("click", () => state.job && api(`/v1/jobs/${state.job.id}`, { method: "DELETE" }).catch(e => fail($("job-text"), e)));
document.addEventListener("dragover", e => { e.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", e => {
  e.preventDefault();
  $("drop").classList.remove("over");
  const files = [...e.dataTransfer.files];
  // One image dropped on the search is a query; anything else is to be added.
  if (!$("panel-search").hidden && files.length === 1 && files[0].type.startsWith("image/")) attach(files[0]);
  else upload(files);
});

// ---- The viewer: a document at a passage

async function openFromHash() {
  const target = new URLSearchParams(location.hash.slice(1));
  if (!target.has("doc")) {
    if ($("viewer").open) $("viewer").close();
    return;
  }
  $("viewer-title").textContent = "…";
  $("viewer-body").replaceChildren();
  if (!$("viewer").open) $("viewer").showModal();
  try {
    const id = target.get("doc");
    const shown = await (await api(`/v1/documents/${id}`)).json();
    const passage = target.has("passage") ? await (await api(`/v1/passages/${target.get("passage")}`)).json() : null;
    $("viewer-title").textContent = [shown.title, passage && place(passage.anchor, passage.heading_path)].filter(Boolean).join(" · ");
    $("viewer-original").href = shown.original_url;
    if (shown.media_type === "application/pdf") await viewPdf(shown, passage);
    else if (passage?.modality === "image") viewImage(passage);
    else await viewText(shown, target);
  } catch (error) {
    fail($("viewer-body"), error);
  }
}

function viewImage(passage) {
  const image = element("img", { src: `/v1/passages/${passage.id}/image`, alt: passage.text });
  image.onerror = () => { image.onerror = null; image.src = passage.thumbnail_url; };
  $("viewer-body").replaceChildren(element("div", { className: "page" }, image), element("p", { className: "text", textContent: passage.text }));
}

async function viewText(shown, target) {
  const text = await (await api(`/v1/documents/${shown.id}/text`)).text();
  const [start, end] = [Number(target.get("start") ?? 0), Number(target.get("end") ?? 0)];
  const cited = element("mark", { textContent: text.slice(start, end), id: "cited" });
  $("viewer-body").replaceChildren(element("pre", { className: "source" }, text.slice(0, start), cited, text.slice(end)));
  cited.scrollIntoView({ block: "center" });
}

async function viewPdf(shown, passage) {
  const pdfjs = await import("/vendor/pdfjs/pdf.min.mjs");
  pdfjs.GlobalWorkerOptions.workerSrc = "/vendor/pdfjs/pdf.worker.min.mjs";
  const pdf = await pdfjs.getDocument({ url: shown.original_url, isEvalSupported: false }).promise;
  const number = passage?.anchor.page ?? 1;
  const body = $("viewer-body");
  const draw = async n => {
    const page = await pdf.getPage(n);
    const natural = page.getViewport({ scale: 1 });
    const viewport = page.getViewport({ scale: Math.min(2, (body.clientWidth - 32) / natural.width) * (window.devicePixelRatio || 1) });
    const canvas = element("canvas", { width: viewport.width, height: viewport.height });
    canvas.style.width = `${viewport.width / (window.devicePixelRatio || 1)}px`;
    await page.render({ canvas, canvasContext: canvas.getContext("2d"), viewport }).promise;
    const frame = element("div", { className: "page" }, canvas);
    const box = passage?.anchor.box;
    if (n === number && box) {
      const mark = element("div", { className: "box" });
      Object.assign(mark.style, { left: `${box.x * 100}%`, top: `${box.y * 100}%`, width: `${box.width * 100}%`, height: `${box.height * 100}%` });
      frame.append(mark);
    }
    return frame;
  };
  const frame = await draw(number);
  const pager = element("p", {},
    element("button", { textContent: "← Page", disabled: number <= 1, onclick: () => turn(-1) }),
    ` page ${number} of ${pdf.numPages} `,
    element("button", { textContent: "Page →", disabled: number >= pdf.numPages, onclick: () => turn(1) }));
  const turn = step => viewPdf(shown, { anchor: { page: number + step, box: number + step === passage?.anchor.page ? passage.anchor.box : null } });
  body.replaceChildren(pager, frame);
  frame.querySelector(".box")?.scrollIntoView({ block: "center" });
}

$("viewer-close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("close", () => { if (location.hash) history.pushState(null, "", location.pathname); });
window.addEventListener("hashchange", openFromHash);

loadCollections().then(openFromHash, error => fail($("search-status"), error));
$("search-text").focus();
