"use strict";
// Drawing: elements, scales, and a chart of lines that fits its box, tells what is under the pointer and obeys arrow keys.
// Text of the diagnosis goes in as text only (append, textContent): it may be anybody's.

const SVG = "http://www.w3.org/2000/svg";
const RIGHT = 14, TOP = 10, BOTTOM = 42; // pixels around the lines; on the left, as many as the numbers need

function make(name, attributes = {}, ...content) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...content);
  return node;
}

function shape(name, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
}

const named = (name) => (name.trim() ? name : "(blank)");
const bdi = (name) => make("bdi", {class: "name"}, named(name));
const minus = (text) => text.replace("-", "−");
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** 0.00123 -> "0.0012", 1234.5 -> "1,234.50"; a dash where there is no value. */
function number(value, decimals = 2) {
  if (!isNumber(value)) return "–";
  if (value !== 0 && Math.abs(value) < 10 ** -decimals) return minus(String(Number(value.toPrecision(2))));
  return minus(value.toLocaleString("en", {minimumFractionDigits: decimals, maximumFractionDigits: decimals}));
}

// A scale: {title, ticks: [{at, text}], place(value) -> 0..1 or null where the value has no place}.

function roundSteps(low, high, wanted = 5) {
  const rough = (high - low) / wanted, unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough * 0.999);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-6; k++) ticks.push({at: k * step, text: minus((k * step).toFixed(decimals))});
  return ticks;
}

function linear(title, low, high) {
  if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
  return {title, ticks: roundSteps(low, high), place: (value) => (value - low) / (high - low)};
}

function logarithmic(title, low) {
  const decades = Math.min(-1, Math.floor(Math.log10(low)));
  const ticks = [];
  for (let k = 0; k >= decades; k--) ticks.push({at: 10 ** k, text: k > -4 ? String(Number((10 ** k).toPrecision(1))) : `1e${k}`});
  return {title, ticks, place: (value) => (value > 0 ? 1 - Math.log10(value) / decades : null)};
}

/** Ranks 0, 1, 2, 4, 8, ... at about equal distances. */
function doubling(title, high) {
  const ticks = [{at: 0, text: "0"}];
  for (let rank = 1; rank < high * 0.75; rank *= 2) ticks.push({at: rank, text: String(rank)});
  if (high > 0) ticks.push({at: high, text: String(high)});
  return {title, ticks, place: (rank) => Math.log2(rank + 1) / Math.log2(Math.max(high, 1) + 1)};
}

function ordinal(labels) {
  const short = (text) => (text.length > 14 ? text.slice(0, 13) + "…" : text);
  const ticks = labels.map((text, at) => ({at, text: short(text)}));
  return {title: "", ticks, place: (at) => (labels.length > 1 ? at / (labels.length - 1) : 0.5)};
}

/**
 * Lines in a box. `plan()` says what to draw:
 *   x, y: scales;  one: a y value that gets a line across;  empty: what to say if there are no lines;
 *   lines: [{kind: class names, field: index or null, points: [[x, y]], tell(k): nodes and texts about point k,
 *            band: [[x, low, high]], rings: [[x, y]]}], the last one on top;
 *   legend: [[kind, text]].
 * `pick(field)` is called for the field of a line that is clicked.
 */
class Chart {
  constructor(box, label, plan, pick) {
    this.plot = make("div", {class: "plot", tabindex: "0", role: "group", "aria-label": `${label}. Arrow keys: left and right go along a line, up and down to another one, enter selects it.`});
    this.readout = make("p", {class: "readout", "aria-live": "polite"});
    this.legend = make("ul", {class: "legend"});
    box.append(this.plot, this.readout, this.legend);
    this.plan = plan;
    this.at = null;
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.show(null));
    this.plot.addEventListener("blur", () => this.show(null));
    this.plot.addEventListener("click", () => this.choose(pick));
    this.plot.addEventListener("keydown", (event) => this.key(event, pick));
    this.hint = "Point at a line, or use the arrow keys, to read its values.";
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  draw() {
    const width = this.plot.clientWidth, height = this.plot.clientHeight;
    if (!width) return;
    const {x, y, one, lines, legend, empty} = this.plan();
    const right = width - RIGHT, low = height - BOTTOM;
    const left = 26 + 7 * Math.max(...y.ticks.map((tick) => tick.text.length));
    this.across = (value) => left + x.place(value) * (right - left);
    this.up = (value) => (y.place(value) === null ? null : low - y.place(value) * (low - TOP));
    const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true"});
    if (lines.length) this.axes(svg, x, y, left, right, low);
    if (one !== undefined && lines.length) svg.append(shape("line", {x1: left, x2: right, y1: this.up(one), y2: this.up(one), class: "one"}));
    for (const line of lines) this.line(svg, line);
    if (!lines.length) svg.append(shape("text", {x: (left + right) / 2, y: height / 2, class: "middle"}, empty));
    this.lines = lines.filter((line) => line.places.length);
    this.over = svg.appendChild(shape("g"));
    this.plot.classList.toggle("empty", !lines.length);
    this.readout.hidden = this.legend.hidden = !lines.length;
    this.plot.replaceChildren(svg);
    this.legend.replaceChildren(...legend.map(([kind, text]) => {
      const mark = shape("svg", {viewBox: "0 0 26 10", "aria-hidden": "true"});
      mark.append(shape("path", {d: "M0,5 H26", class: kind}));
      return make("li", {}, mark, text);
    }));
    this.show(null);
  }

  axes(svg, x, y, left, right, low) {
    for (const tick of y.ticks) {
      const at = this.up(tick.at);
      svg.append(shape("line", {x1: left, x2: right, y1: at, y2: at, class: "grid"}));
      svg.append(shape("text", {x: left - 6, y: at + 4, class: "end"}, tick.text));
    }
    let free = -Infinity;
    for (const tick of x.ticks) {
      const half = 3.4 * tick.text.length, at = Math.min(this.across(tick.at), right + RIGHT - half);
      if (at - half < free) continue; // no room for this one
      free = at + half + 6;
      svg.append(shape("text", {x: at, y: low + 17, class: "middle"}, tick.text));
    }
    svg.append(shape("text", {x: (left + right) / 2, y: low + 35, class: "middle"}, x.title));
    svg.append(shape("text", {x: 12, y: (TOP + low) / 2, class: "middle", transform: `rotate(-90 12 ${(TOP + low) / 2})`}, y.title));
  }

  line(svg, line) {
    const path = (points) => points.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
    const placed = (points) => points.map(([x, y], k) => [this.across(x), this.up(y), k]).filter((at) => at[1] !== null);
    line.places = placed(line.points);
    if (line.band?.length) {
      const top = placed(line.band.map(([x, , high]) => [x, high])), bottom = placed(line.band.map(([x, low]) => [x, low]));
      svg.append(shape("path", {d: path([...top, ...bottom.reverse()]) + "Z", class: `band ${line.kind}`}));
    }
    if (line.places.length > 1) svg.append(shape("path", {d: path(line.places), class: line.kind}));
    if (line.places.length === 1) svg.append(shape("circle", {cx: line.places[0][0], cy: line.places[0][1], r: 3, class: line.kind}));
    for (const [x, y] of placed(line.rings ?? [])) svg.append(shape("circle", {cx: x, cy: y, r: 6, class: `${line.kind} end-dot`}));
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = 60 ** 2;
    this.lines?.forEach((line, number) => line.places.forEach(([px, py], k) => {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance <= least) [best, least] = [{line: number, place: k}, distance];
    }));
    this.show(best);
  }

  show(at) {
    this.at = at;
    if (!this.over) return;
    this.over.replaceChildren();
    if (!at) return void this.readout.replaceChildren(this.hint);
    const line = this.lines[at.line], [x, y, k] = line.places[at.place];
    const path = line.places.map(([px, py], n) => `${n ? "L" : "M"}${px},${py}`).join("");
    this.over.append(shape("path", {d: path, class: "hover"}), shape("circle", {cx: x, cy: y, r: 4.5, class: "dot"}));
    this.readout.replaceChildren(...line.tell(k));
  }

  choose(pick) {
    const line = this.at && this.lines[this.at.line];
    if (line && line.field !== null) pick(line.field);
  }

  key(event, pick) {
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (event.key === "Enter") return this.choose(pick);
    if (!step || !this.lines?.length) return;
    event.preventDefault();
    const total = this.lines.length, old = this.at ?? {line: total - 1, place: -step[1]};
    const line = (old.line + step[0] + total) % total;
    const place = Math.min(Math.max(old.place + step[1], 0), this.lines[line].places.length - 1);
    this.show({line, place});
  }
}
