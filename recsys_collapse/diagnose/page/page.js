// What this diagnosis has: the selected field, the charts, and the table that can be sorted, filtered and opened.

const MOST_LINES = 200; // of fields that are not selected; with more, every n-th of the ranking is drawn

const diagnosis = JSON.parse(document.getElementById("diagnosis").textContent);
const fields = diagnosis.fields;
const against = diagnosis.against ?? [], models = diagnosis.truncation ?? [];
const state = {field: Math.max(0, fields.findIndex((field) => field.spectrum?.length)), byRank: false, log: false, change: false};
const charts = [];

function select(index) {
  state.field = index;
  mark();
  for (const chart of charts) chart.draw();
}

/** Show the selection in the list, the table and the overview. */
function mark() {
  for (const node of document.querySelectorAll(".chosen")) node.classList.remove("chosen");
  for (const node of document.querySelectorAll(`[data-field="${state.field}"]`)) node.closest("tr, .bars li")?.classList.add("chosen");
  const list = document.querySelector("#spectra-controls select");
  if (list) list.value = String(state.field);
}

/** The fields that are drawn thin: all, or every n-th of the ranking; never the selected one. */
function others(has) {
  const all = fields.map((field, index) => index).filter((index) => index !== state.field && has(index));
  const step = Math.ceil(all.length / MOST_LINES);
  return {chosen: all.filter((index, k) => k % step === 0), step};
}

function thinLegend(step) {
  return step > 1 ? `other fields (every ${step}th of the ranking, to keep it readable)` : "other fields";
}

// Spectra

function spectrumLine(spectrum, kind, field, label) {
  if (!(spectrum?.[0] > 0)) return {kind, field, points: [], tell: () => []};
  const points = spectrum.map((sigma, k) => [state.byRank ? k + 1 : (k + 0.5) / spectrum.length, sigma / spectrum[0]]);
  const tell = (k) => [make("strong", {}, bdi(label)), ` σ`, make("sub", {}, `${k + 1}`), ` / σ`, make("sub", {}, "1"),
    ` = ${number(points[k][1], 3)} (${k + 1} of ${spectrum.length}; σ = ${number(spectrum[k], 3)})`];
  return {kind, field, points, tell};
}

function spectra() {
  const {chosen, step} = others((index) => fields[index].spectrum?.length);
  const own = fields[state.field], sets = own?.per_set ?? [];
  const lines = chosen.map((index) => spectrumLine(fields[index].spectrum, "thin", index, fields[index].field));
  const legend = chosen.length ? [["thin", thinLegend(step)]] : [];
  if (own) {
    for (const part of sets) lines.push(spectrumLine(part.spectrum, "set", null, `${own.field}, set ${part.embedding_set}`));
    lines.push(spectrumLine(own.random_spectrum, "random", null, `${own.field}, random`));
    lines.push(spectrumLine(own.spectrum, "bold", state.field, own.field));
    legend.push(["bold", bdi(own.field)]);
    if (own.random_spectrum?.length) legend.push(["random", "random table of the same shape"]);
    if (sets.length) legend.push(["set", `its ${sets.length} sets`]);
  }
  const drawn = lines.filter((line) => line.points.length);
  const longest = Math.max(1, ...drawn.map((line) => line.points.length));
  const positive = drawn.flatMap((line) => line.points.map((at) => at[1])).filter((value) => value > 0);
  const lowest = positive.reduce((least, value) => Math.min(least, value), 1);
  const y = state.log ? logarithmic("σₖ / σ₁ (log)", Math.max(lowest, 1e-8)) : linear("σₖ / σ₁", 0, 1);
  const shown = (value) => !state.log || value >= 1e-8;
  for (const line of drawn) line.points = line.points.map(([at, value]) => [at, shown(value) ? value : 0]);
  const x = state.byRank ? linear("k", 1, longest) : linear("k / number of singular values", 0, 1);
  if (state.byRank) x.ticks = x.ticks.filter((tick) => Number.isInteger(tick.at));
  return {x, y, lines: drawn, legend, empty: "no singular values"};
}

function toggle(words, isOn, set) {
  const button = make("button", {type: "button", "aria-pressed": isOn()}, words);
  button.addEventListener("click", () => {
    set(!isOn());
    button.setAttribute("aria-pressed", isOn());
    for (const chart of charts) chart.draw();
  });
  return button;
}

function spectraControls() {
  const list = make("select");
  fields.forEach((field, index) => list.append(make("option", {value: index, dir: "auto"}, named(field.field))));
  list.addEventListener("change", () => select(Number(list.value)));
  document.getElementById("spectra-controls").append(
    make("label", {}, "Field ", list),
    toggle("log σ", () => state.log, (on) => (state.log = on)),
    toggle("x: k itself", () => state.byRank, (on) => (state.byRank = on)),
  );
}

// Checkpoints

function relatives(index) {
  const name = fields[index].field;
  const before = against.map((other) => (other.fields && Object.hasOwn(other.fields, name) ? other.fields[name]?.relative : null));
  return [...before, fields[index].relative];
}

function median(values) {
  const sorted = values.filter(isNumber).sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : sorted.length ? (sorted[half - 1] + sorted[half]) / 2 : null;
}

function checkpoints() {
  const labels = [...against.map((other) => other.label ?? "?"), diagnosis.checkpoint?.label ?? "this checkpoint"];
  const all = fields.map((field, index) => relatives(index));
  const line = (values, kind, field, label) => {
    const points = values.map((value, k) => [k, value]).filter((at) => isNumber(at[1]));
    return {kind, field, points, tell: (k) => [make("strong", {}, bdi(label)), ` ${number(points[k][1])} at `, bdi(labels[points[k][0]])]};
  };
  const {chosen, step} = others((index) => all[index].some(isNumber));
  const lines = chosen.map((index) => line(all[index], "thin", index, fields[index].field));
  lines.push(line(labels.map((label, k) => median(all.map((values) => values[k]))), "median", null, "median of all fields"));
  if (fields.length) lines.push(line(all[state.field], "bold", state.field, fields[state.field].field));
  const high = all.flat().filter(isNumber).reduce((most, value) => Math.max(most, value), 1.05);
  const legend = [["median", "median of all fields"], ["thin", thinLegend(step)]];
  if (fields.length) legend.push(["bold", bdi(fields[state.field].field)]);
  const y = linear("IA / random", 0, high);
  return {x: ordinal(labels), y, one: 1, lines: lines.filter((each) => each.points.length), legend, empty: "no values"};
}

// Truncation

function curveLine(model, number_, curve, kind, label) {
  const full = state.change ? 0 : model.auc;
  const points = curve.points.filter((point) => isNumber(point.auc)).map((point) => [point.rank, state.change ? point.change : point.auc]);
  const band = curve.points.filter((point) => isNumber(point.low) && isNumber(point.high)).map((point) => [point.rank, full + point.low, full + point.high]);
  const kept = curve.points.filter((point) => isNumber(point.auc));
  const tell = (k) => [make("strong", {}, bdi(label)), ` rank ${kept[k].rank}: AUC ${number(kept[k].auc, 5)}, change ${number(kept[k].change, 5)}`,
    isNumber(kept[k].low) ? ` (95%: ${number(kept[k].low, 5)} to ${number(kept[k].high, 5)})` : ""];
  const rings = points.filter((point) => point[0] === curve.needed);
  return {kind: `${kind} m${number_ % 6}`, field: null, points, band, rings, tell};
}

function truncated(wanted, empty) {
  const lines = [], legend = [];
  models.forEach((model, number_) => (model.curves ?? []).filter(wanted).forEach((curve) => {
    const what = curve.curve === "field" ? curve.field : curve.curve;
    const line = curveLine(model, number_, curve, curve.curve === "each set" ? "sets" : "model", `${model.label}, ${what}`);
    if (!line.points.length) return;
    lines.push(line);
    const needed = isNumber(curve.needed) ? `needs rank ${curve.needed}${isNumber(curve.certain) ? ` (certain: ${curve.certain})` : ""}` : "no rank found that is enough";
    legend.push([line.kind, make("span", {}, bdi(`${model.label}, ${what}`), `: ${needed}`)]);
  }));
  const ranks = lines.flatMap((line) => line.points.map((point) => point[0]));
  const values = lines.flatMap((line) => [...line.points.map((point) => point[1]), ...line.band.flatMap((part) => part.slice(1))]);
  const low = Math.min(...values), high = Math.max(...values), room = 0.05 * (high - low) || 0.01;
  const y = lines.length ? linear(state.change ? "change in AUC" : "AUC", low - room, high + room) : linear("AUC", 0, 1);
  const x = doubling("rank that is kept", Math.max(1, ...ranks));
  const allowed = -models[0].tolerance; // one line for all: the command has one tolerance
  const one = state.change && allowed < 0 && allowed > low - room ? allowed : undefined;
  if (one !== undefined) legend.push(["random", `change of ${number(one, 5)}`]);
  return {x, y, one, lines, legend, empty};
}

// The table of fields

const rows = [...document.querySelectorAll("#field-table > tbody > tr")];
const details = new Map(); // row -> the row below it with its details, while it is open

function detail(field) {
  const centred = field.centred ?? {};
  const facts = [`IA of a random table: ${number(field.random)}`, `numerical rank: ${field.numerical_rank ?? "–"}`, `stored as ${field.dtype ?? "–"}`,
    `with the mean row taken off: IA ${number(centred.information_abundance)}, random ${number(centred.random)}`];
  const box = make("div", {}, make("p", {}, field.reason ?? ""), make("p", {class: "note"}, facts.join(" · ")));
  if (field.per_set?.length) {
    const line = (cell, words) => make("tr", {}, ...words.map((word) => make(cell, {}, word)));
    const sets = field.per_set.map((part) => line("td", [String(part.embedding_set), number(part.information_abundance), number(part.random), number(part.relative)]));
    box.append(make("table", {}, make("thead", {}, line("th", ["set", "IA", "IA of random", "IA / random"])), make("tbody", {}, ...sets)));
  }
  return make("tr", {class: "detail"}, make("td", {colspan: rows[0].cells.length}, box));
}

function open(row) {
  const button = row.querySelector("button"), old = details.get(row);
  button.setAttribute("aria-expanded", String(!old));
  if (old) {
    old.remove();
    details.delete(row);
  } else {
    details.set(row, detail(fields[row.dataset.field]));
    row.after(details.get(row));
    details.get(row).firstChild.firstChild.style.maxWidth = `${document.querySelector("#fields .scroll").clientWidth}px`;
  }
  select(Number(row.dataset.field));
}

function sort(heading) {
  const column = heading.cellIndex, down = heading.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
  const key = (row) => (column < 2 ? row.cells[column].textContent : row.cells[column].dataset.v);
  const compare = (a, b) => (column < 2 ? a.localeCompare(b) : a - b);
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = rows.map((row) => [key(row), row]);
  keyed.sort(([a], [b]) => (a === undefined || b === undefined ? (a === undefined) - (b === undefined) : sign * compare(a, b)));
  const sorted = keyed.flatMap(([, row]) => (details.has(row) ? [row, details.get(row)] : [row]));
  document.querySelector("#field-table > tbody").replaceChildren(...sorted);
}

function filter(text) {
  for (const row of rows) {
    const field = fields[row.dataset.field];
    row.hidden = ![field.field, field.verdict ?? ""].some((word) => word.toLowerCase().includes(text.toLowerCase()));
    if (details.has(row)) details.get(row).hidden = row.hidden;
  }
}

function tableControls() {
  for (const heading of document.querySelectorAll("[data-sort]")) {
    const button = make("button", {type: "button"}, heading.textContent);
    button.addEventListener("click", () => sort(heading));
    heading.replaceChildren(button);
  }
  for (const row of rows) row.querySelector("button").addEventListener("click", () => open(row));
  const box = make("input", {type: "search", placeholder: "part of a name, or a verdict"});
  box.addEventListener("input", () => filter(box.value));
  document.getElementById("table-controls").append(make("label", {}, "Filter ", box));
}

function start() {
  const add = (id, label, plan) => charts.push(new Chart(document.getElementById(id), label, plan, select));
  spectraControls();
  tableControls();
  add("spectra-chart", "Singular spectra of all fields", spectra);
  if (against.length) add("checkpoints-chart", "IA relative to random over checkpoints", checkpoints);
  if (models.length) {
    const change = toggle("change instead of AUC", () => state.change, (on) => (state.change = on));
    document.getElementById("truncation-controls").append(change);
    add("truncation-chart", "AUC against rank, all fields", () => truncated((curve) => curve.curve !== "field", "no curve of all fields"));
    const own = (curve) => curve.curve === "field" && curve.field === fields[state.field]?.field;
    add("truncation-field-chart", "AUC against rank, the selected field", () => truncated(own, "the selected field was not truncated by itself: choose one below"));
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-field]");
    if (link) select(Number(link.dataset.field));
  });
  mark();
}

start();
