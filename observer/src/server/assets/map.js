// Who calls whom: services as nodes, the calls between them as edges, and a table of the same.

import * as text from "./text.js";
import { append, element, set, vector } from "./elements.js";

const [WIDTH, HEIGHT] = [160, 42];
const DOWN = 14;
const MARGIN = 12;
// With more edges, only those of one service have their figures in the picture.
const LABELLED = 24;
const across = (edges) => (edges <= LABELLED ? 190 : 90);
const NAME_AT_MOST = 22;

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const byTrouble = (a, b) => b.recent_failed - a.recent_failed || b.recent_calls - a.recent_calls
  || b.calls - a.calls || compare(a.client, b.client) || compare(a.server, b.server);
const figures = (edge, bounds) =>
  `${text.rate(edge.rate)}/s · ${text.percent(edge.error_ratio)} · p95 ${text.latency(edge.p95, bounds)}`;

export class ServiceMap {
  #layout = { key: null, nodes: new Map(), edges: [] };
  #chosen = null;
  #pointed = null;
  #model = null;

  constructor(place) {
    this.place = place;
    place.replaceChildren();
    this.note = append(place, "p");
    const frame = append(place, "div", "picture");
    this.picture = vector(frame, "svg", { role: "group", "aria-label": "Services, and who calls whom" });
    this.body = this.#makeTable();
  }

  #makeTable() {
    const table = append(this.place, "table");
    table.setAttribute("aria-label", "Calls between services");
    const head = append(append(table, "thead"), "tr");
    for (const [heading, kind] of [["Client", ""], ["Server", ""], ["Calls/s", "number"],
      ["Errors", "number"], ["p50", "number"], ["p95", "number"], ["p99", "number"], ["Calls", "number"]]) {
      set(append(head, "th", kind), heading);
    }
    return append(table, "tbody");
  }

  show(model, words) {
    this.#model = model;
    const all = model.edges ?? [];
    const edges = all.filter(({ client, server }) =>
      words.every((word) => `${client} → ${server}`.toLowerCase().includes(word)));
    const key = JSON.stringify(edges.map(({ client, server }) => [client, server]));
    if (this.#layout.key !== key) this.#lay(key, edges);
    for (const drawn of this.#layout.edges) {
      drawn.edge = edges.find(({ client, server }) => client === drawn.from.name && server === drawn.to.name);
    }
    this.#draw();
    this.#showTable(edges);
    const left = model.edges_left_out;
    let said = "";
    if (all.length === 0) said = "No call between services has been seen yet.";
    else if (edges.length === 0) said = "No service matches the filter.";
    else if (left > 0) said = `${text.grouped(left)} more pairs of services with fewer calls are in /metrics.`;
    set(this.note, said);
    this.note.hidden = said === "";
    return edges.length;
  }

  // The place of each node: callers to the left of those that they call.
  #lay(key, edges) {
    const focused = document.activeElement?.closest?.("g.node")?.dataset.name;
    const nodes = new Map();
    const node = (name) => {
      if (!nodes.has(name)) nodes.set(name, { name, out: [], in: [], rank: 0 });
      return nodes.get(name);
    };
    const drawn = [];
    // Two edges differ only in whether both ends are watched: one line stands for both.
    const seen = new Set();
    for (const { client, server } of edges) {
      const pair = JSON.stringify([client, server]);
      if (seen.has(pair)) continue;
      seen.add(pair);
      const line = { from: node(client), to: node(server) };
      line.from.out.push(line);
      line.to.in.push(line);
      drawn.push(line);
    }
    rank(nodes);
    const ranks = [];
    for (const it of nodes.values()) (ranks[it.rank] ??= []).push(it);
    const columns = ranks.filter(Boolean);
    order(columns);
    const tallest = Math.max(1, ...columns.map((column) => column.length));
    const space = WIDTH + across(drawn.length);
    columns.forEach((column, at) => {
      const above = (tallest - column.length) * (HEIGHT + DOWN) / 2;
      column.forEach((it, row) => {
        it.column = at;
        it.x = MARGIN + at * space;
        it.y = MARGIN + above + row * (HEIGHT + DOWN);
      });
    });
    for (const it of nodes.values()) {
      it.out.sort((a, b) => a.to.y - b.to.y).forEach((line, at) => {
        line.start = it.y + HEIGHT * (at + 1) / (it.out.length + 1);
      });
      it.in.sort((a, b) => a.from.y - b.from.y).forEach((line, at) => {
        line.end = it.y + HEIGHT * (at + 1) / (it.in.length + 1);
      });
    }
    this.#layout = { key, nodes, columns, edges: drawn };
    if (!nodes.has(this.#chosen)) this.#chosen = null;
    this.#pointed = null;
    this.#make(columns.length, tallest);
    if (focused) nodes.get(focused)?.group.focus({ preventScroll: true });
  }

  // The elements of the picture.
  #make(columns, down) {
    const { nodes, edges } = this.#layout;
    const between = across(edges.length);
    const width = 2 * MARGIN + columns * (WIDTH + between) - between;
    const height = 2 * MARGIN + down * (HEIGHT + DOWN) - DOWN;
    this.picture.replaceChildren();
    // Lines back to a caller leave the columns.
    const side = edges.some((line) => line.to.column <= line.from.column) ? 70 : 0;
    const view = [-side, -24, Math.max(1, width) + 2 * side, height + 48];
    this.picture.setAttribute("viewBox", view.join(" "));
    this.picture.setAttribute("class", columns <= 6 ? "fits" : "");
    this.picture.setAttribute("width", view[2]);
    this.picture.setAttribute("height", view[3]);
    const marks = vector(this.picture, "defs", {});
    for (const kind of ["tip", "bad-tip"]) {
      const mark = vector(marks, "marker", { id: kind, viewBox: "0 0 8 8", refX: 7, refY: 4,
        markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" });
      vector(mark, "path", { d: "M0 0L8 4L0 8z" });
    }
    const lines = vector(this.picture, "g", {});
    const boxes = vector(this.picture, "g", {});
    const words = vector(this.picture, "g", { "aria-hidden": "true" });
    for (const line of edges) {
      line.curve = curve(line);
      line.path = vector(lines, "path", { class: "edge", d: path(line.curve) });
      line.label = vector(words, "text", { class: "figures", "text-anchor": "middle" });
    }
    for (const it of nodes.values()) {
      const group = vector(boxes, "g", { class: "node", role: "button", tabindex: "-1",
        transform: `translate(${it.x} ${it.y})` });
      group.dataset.name = it.name;
      vector(group, "rect", { width: WIDTH, height: HEIGHT, rx: 8 });
      const name = vector(group, "text", { class: "name", x: 10, y: 18 });
      set(name, it.name.length > NAME_AT_MOST ? `${it.name.slice(0, NAME_AT_MOST - 1)}…` : it.name);
      set(vector(group, "title", {}), it.name);
      it.rate = vector(group, "text", { class: "rate", x: 10, y: 33 });
      it.group = group;
      group.addEventListener("click", () => this.choose(it.name));
      group.addEventListener("pointerenter", () => this.#point(it.name));
      group.addEventListener("pointerleave", () => this.#point(null));
      group.addEventListener("focus", () => this.#point(it.name));
      group.addEventListener("blur", () => this.#point(null));
    }
  }

  #point(name) {
    this.#pointed = name;
    this.#draw();
  }

  get hasChosen() {
    return this.#chosen !== null;
  }

  // A service whose edges stand out; again, or null, for none.
  choose(name) {
    this.#chosen = this.#chosen === name ? null : name;
    if (this.#model) this.#draw();
    this.#markTable();
  }

  // Moves the focus to the next node of a column, or of the next column.
  step(across, down) {
    const { columns, nodes } = this.#layout;
    const at = nodes.get(document.activeElement?.closest?.("g.node")?.dataset.name);
    let next = columns?.[0]?.[0];
    if (at && down) {
      const column = columns[at.column];
      next = column[column.indexOf(at) + down] ?? at;
    } else if (at) {
      const column = columns[at.column + across] ?? [at];
      const far = (it) => Math.abs(it.y - at.y);
      next = column.reduce((best, it) => (far(it) < far(best) ? it : best));
    }
    next?.group.focus();
    next?.group.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  #draw() {
    const { nodes, edges } = this.#layout;
    const bounds = this.#model.bounds_seconds;
    const shown = this.#pointed ?? this.#chosen;
    const most = Math.max(1e-9, ...edges.map(({ edge }) => edge?.rate ?? 0));
    const taken = [];
    for (const { edge, from, to, path: line, label, curve: of } of edges) {
      const isOf = shown === null || from.name === shown || to.name === shown;
      const isBad = edge?.recent_failed > 0;
      line.setAttribute("class", `edge${isBad ? " bad" : ""}${isOf ? "" : " faint"}${edge?.rate ? "" : " idle"}`);
      line.setAttribute("stroke-width", (1 + 3 * Math.sqrt((edge?.rate ?? 0) / most)).toFixed(2));
      line.setAttribute("marker-end", isBad ? "url(#bad-tip)" : "url(#tip)");
      const isLabelled = isOf && (shown !== null || edges.length <= LABELLED);
      set(label, isLabelled && edge ? figures(edge, bounds) : "");
      label.setAttribute("class", isBad ? "figures bad" : "figures");
      if (isLabelled) put(label, of, shown === from.name ? 0.6 : shown === to.name ? 0.4 : 0.5, taken);
    }
    const first = nodes.has(this.#chosen) ? this.#chosen : nodes.keys().next().value;
    for (const it of nodes.values()) {
      const served = it.in.reduce((sum, { edge }) => sum + (edge?.rate ?? 0), 0);
      const made = it.out.reduce((sum, { edge }) => sum + (edge?.rate ?? 0), 0);
      const failed = it.in.reduce((sum, { edge }) => sum + (edge?.recent_failed ?? 0), 0);
      const words = it.in.length ? `serves ${text.rate(served)}/s` : `calls ${text.rate(made)}/s`;
      set(it.rate, words);
      const near = (it.in.some(({ from }) => from.name === shown) || it.out.some(({ to }) => to.name === shown));
      const isOf = shown === null || it.name === shown || near;
      it.group.setAttribute("class", `node${failed ? " bad" : ""}${isOf ? "" : " faint"}${it.name === this.#chosen ? " chosen" : ""}`);
      it.group.setAttribute("aria-label", `${it.name}, ${words}${failed ? `, ${text.count(failed)} errors` : ""}`);
      it.group.setAttribute("aria-pressed", String(it.name === this.#chosen));
      it.group.setAttribute("tabindex", it.name === first ? "0" : "-1");
    }
  }

  #showTable(edges) {
    const bounds = this.#model.bounds_seconds;
    const sorted = [...edges].sort(byTrouble);
    while (this.body.children.length > sorted.length) this.body.lastChild.remove();
    sorted.forEach((edge, at) => {
      const line = this.body.children[at] ?? this.#makeLine();
      line.dataset.ends = JSON.stringify([edge.client, edge.server]);
      const cells = [edge.client, edge.server, text.rate(edge.rate), text.percent(edge.error_ratio),
        ...["p50", "p95", "p99"].map((name) => text.latency(edge[name], bounds)), text.grouped(edge.calls)];
      cells.forEach((words, cell) => set(line.children[cell], words));
      line.children[3].classList.toggle("bad", edge.recent_failed > 0);
    });
    this.#markTable();
  }

  #makeLine() {
    const line = append(this.body, "tr");
    for (let cell = 0; cell < 8; cell++) append(line, "td", cell < 2 ? "service" : "number");
    line.addEventListener("click", () => this.choose(JSON.parse(line.dataset.ends)[1]));
    return line;
  }

  #markTable() {
    for (const line of this.body.children) {
      line.classList.toggle("chosen", this.hasChosen && JSON.parse(line.dataset.ends).includes(this.#chosen));
    }
  }
}

// The column of each node: one more than that of its callers. In a cycle, one edge goes back.
function rank(nodes) {
  const done = new Map();
  const visit = (it) => {
    if (done.has(it)) return;
    done.set(it, false);
    for (const line of it.out) {
      // Not to one that is being visited: that edge closes a cycle.
      if (done.get(line.to) === false) line.goesBack = true;
      else visit(line.to);
    }
    done.set(it, true);
    sorted.unshift(it);
  };
  const sorted = [];
  const roots = [...nodes.values()].sort((a, b) => a.in.length - b.in.length || compare(a.name, b.name));
  roots.forEach(visit);
  for (const it of sorted) {
    for (const line of it.out) {
      if (!line.goesBack) line.to.rank = Math.max(line.to.rank, it.rank + 1);
    }
  }
  // A caller that nothing calls stands next to what it calls.
  for (const it of sorted) {
    const next = it.out.filter((line) => !line.goesBack).map((line) => line.to.rank);
    if (it.in.length === 0 && next.length) it.rank = Math.min(...next) - 1;
  }
}

// The order within columns: near those that a node calls or is called by, so that few lines cross.
function order(columns) {
  for (const column of columns) column.sort((a, b) => compare(a.name, b.name));
  const place = (column) => column.forEach((it, at) => { it.at = (at + 0.5) / column.length; });
  columns.forEach(place);
  const mean = (its, otherwise) => (its.length ? its.reduce((sum, it) => sum + it.at, 0) / its.length : otherwise);
  for (let sweep = 0; sweep < 8; sweep++) {
    const forward = sweep % 2 === 0;
    for (const column of forward ? columns : [...columns].reverse()) {
      for (const it of column) {
        it.wish = mean(forward ? it.in.map((line) => line.from) : it.out.map((line) => line.to), it.at);
      }
      column.sort((a, b) => a.wish - b.wish || compare(a.name, b.name));
      place(column);
    }
  }
}

// The four points of a curve from the right of a caller to the left of what it calls.
function curve({ from, to, start, end }) {
  const [x1, x2] = [from.x + WIDTH, to.x - 2];
  const bend = Math.min(90, (x2 - x1) / 2);
  if (x2 > x1) return [[x1, start], [x1 + bend, start], [x2 - bend, end], [x2, end]];
  const above = Math.min(from.y, to.y) - 20;
  return [[x1, start], [x1 + 60, above], [x2 - 60, above], [x2, end]];
}

function path([[x1, y1], [x2, y2], [x3, y3], [x4, y4]]) {
  return `M${x1} ${y1}C${x2} ${y2} ${x3} ${y3} ${x4} ${y4}`;
}

// Puts a label on its curve, below those that are there already.
function put(label, points, t, taken) {
  const at = (axis) => {
    const [a, b, c, d] = points.map((point) => point[axis]);
    const s = 1 - t;
    return s * s * s * a + 3 * s * s * t * b + 3 * s * t * t * c + t * t * t * d;
  };
  const x = at(0);
  let y = at(1) - 4;
  const covers = (other) => Math.abs(other.x - x) < 150 && Math.abs(other.y - y) < 13;
  for (let moved = 0; moved < 40 && taken.some(covers); moved++) y += 4;
  taken.push({ x, y });
  label.setAttribute("x", x.toFixed(1));
  label.setAttribute("y", y.toFixed(1));
}
