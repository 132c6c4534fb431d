// Keeps the page up to date while it is looked at.

import * as text from "./text.js";
import { append, element, set } from "./elements.js";
import { Detail } from "./detail.js";
import { Histories } from "./history.js";
import { ServiceMap } from "./map.js";
import { ORDERS, Table } from "./table.js";

const TRY_AGAIN_MS = 5000;

const place = (id) => document.getElementById(id);
const histories = new Histories();
const settings = { order: "errors", ascending: false, filter: "", words: [], chosen: null, map: false };
let model = null;
let paused = false;
let source = null;
let restarted = false;

// The settings are in the address, so that they are there after a reload, and can be sent.
function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  settings.order = said.get("sort") in ORDERS ? said.get("sort") : "errors";
  settings.ascending = said.has("ascending");
  settings.chosen = said.get("row");
  settings.map = said.has("map");
  setFilter(said.get("filter") ?? "");
}

function writeAddress() {
  const said = new URLSearchParams();
  if (settings.order !== "errors") said.set("sort", settings.order);
  if (settings.ascending) said.set("ascending", "");
  if (settings.filter) said.set("filter", settings.filter);
  if (settings.chosen) said.set("row", settings.chosen);
  if (settings.map) said.set("map", "");
  const words = said.toString();
  history.replaceState(null, "", words ? `#${words}` : location.pathname + location.search);
}

function setFilter(filter) {
  settings.filter = filter;
  settings.words = filter.toLowerCase().split(/\s+/).filter(Boolean);
}

function changed() {
  writeAddress();
  render();
}

function sortBy(order) {
  settings.ascending = settings.order === order && !settings.ascending;
  settings.order = order;
  changed();
}

function choose(key) {
  settings.chosen = settings.chosen === key ? null : key;
  changed();
  if (settings.chosen) table.reveal(settings.chosen);
}

function switchMap() {
  if (!model?.edges) return;
  settings.map = !settings.map;
  changed();
}

function pause() {
  paused = !paused;
  pauseButton.setAttribute("aria-pressed", String(paused));
  set(pauseButton, paused ? "Resume" : "Pause");
  render();
}

// The tools above the table, which do nothing without script.

function label(words, control) {
  const made = element("label");
  made.append(words, " ", control);
  return made;
}

const tools = element("div");
tools.id = "tools";
const filterInput = append(tools, "input");
filterInput.id = "filter";
filterInput.type = "search";
filterInput.placeholder = "Filter: process, method, client, server …";
filterInput.setAttribute("aria-label", "Filter");
filterInput.addEventListener("input", () => {
  setFilter(filterInput.value);
  changed();
});
const sortSelect = element("select");
sortSelect.id = "sort";
for (const heading of document.querySelectorAll("th[data-order]")) {
  const option = append(sortSelect, "option");
  option.value = heading.dataset.order;
  set(option, heading.textContent);
  const button = element("button");
  button.type = "button";
  set(button, heading.textContent);
  button.addEventListener("click", () => sortBy(heading.dataset.order));
  heading.replaceChildren(button);
}
sortSelect.addEventListener("change", () => {
  settings.ascending = false;
  settings.order = sortSelect.value;
  changed();
});
tools.append(label("Sort by", sortSelect));
const pauseButton = append(tools, "button");
pauseButton.type = "button";
pauseButton.id = "pause";
set(pauseButton, "Pause");
pauseButton.addEventListener("click", pause);
const mapButton = append(tools, "button");
mapButton.type = "button";
mapButton.id = "to-map";
mapButton.hidden = true;
set(mapButton, "Map");
mapButton.addEventListener("click", switchMap);
const countPlace = append(tools, "span");
countPlace.id = "count";
countPlace.setAttribute("role", "status");
const keys = append(tools, "span");
keys.id = "keys";
for (const [key, what] of [["/", "filter"], ["↑↓", "rows"], ["Enter", "details"], ["p", "pause"],
  ["g", "map"]]) {
  set(append(keys, "kbd"), key);
  keys.append(` ${what}  `);
}
place("calls").before(tools);

const table = new Table(place("calls"), choose);
table.more.addEventListener("click", () => {
  table.all = true;
  render();
});
const detailPlace = element("section");
detailPlace.id = "detail";
detailPlace.setAttribute("aria-label", "Details");
place("calls").after(detailPlace);
const detail = new Detail(detailPlace, () => choose(settings.chosen));
detail.hide();
const map = new ServiceMap(place("map"));
place("map").hidden = true;

for (const id of ["tile-failing", "tile-slowest"]) {
  const tile = place(id);
  tile.setAttribute("role", "button");
  tile.tabIndex = 0;
  const open = () => {
    if (tile.dataset.key && settings.chosen !== tile.dataset.key) choose(tile.dataset.key);
  };
  tile.addEventListener("click", open);
  tile.addEventListener("keydown", (event) => event.key === "Enter" && open());
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (shows()) map.choose(null);
    else if (settings.chosen) choose(settings.chosen);
    return;
  }
  if (typing) return;
  const line = event.target.closest("tbody tr[data-key]");
  const node = event.target.closest("g.node");
  const onMap = {
    j: () => map.step(0, 1),
    k: () => map.step(0, -1),
    ArrowDown: () => map.step(0, 1),
    ArrowUp: () => map.step(0, -1),
    ArrowRight: () => map.step(1, 0),
    ArrowLeft: () => map.step(-1, 0),
    Enter: node && (() => map.choose(node.dataset.name)),
    " ": node && (() => map.choose(node.dataset.name)),
  };
  const act = (shows() && onMap[event.key]) || {
    g: switchMap,
    "/": () => filterInput.focus(),
    p: pause,
    j: () => table.step(1),
    k: () => table.step(-1),
    ArrowDown: () => table.step(1),
    ArrowUp: () => table.step(-1),
    Enter: line && (() => choose(line.dataset.key)),
  }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

// The state of the view.

function tile(id, value, note, bad = false, row = null) {
  const made = place(`tile-${id}`);
  set(made.querySelector("strong"), value);
  const words = made.querySelector("span");
  set(words, note);
  words.title = note;
  made.classList.toggle("bad", bad);
  if (row) made.dataset.key = row.key;
  else delete made.dataset.key;
}

const named = (row) => (row ? `${row.method} · ${text.process(row)}` : "");

function showSummary() {
  const { summary, daemon, rows, bounds_seconds: bounds } = model;
  tile("rate", `${text.rate(summary.server_rate)} served`, `${text.rate(summary.client_rate)} made`);
  const failing = rows[summary.most_failing];
  tile("failing", failing ? text.percent(failing.recent.error_ratio) : "no errors", named(failing),
    Boolean(failing), failing);
  const slow = rows[summary.slowest_unary];
  tile("slowest", text.latency(slow?.recent.p99 ?? null, bounds), named(slow), false, slow);
  tile("in-flight", `${text.count(summary.server_in_flight)} served`,
    `${text.count(summary.client_in_flight)} made`);
  const { complete, joined_late: late, gaps, undecodable } = daemon.connections;
  const others = [[late, "joined late"], [gaps, "with gaps"], [undecodable, "undecodable"]]
    .filter(([count]) => count > 0).map(([count, what]) => `${text.count(count)} ${what}`);
  tile("connections", `${text.count(complete + late + gaps + undecodable)} open`,
    others.join(", ") || "seen from the first byte");
  const recent = daemon.losses.reduce((sum, loss) => sum + loss.recent, 0);
  const ever = daemon.losses.reduce((sum, loss) => sum + loss.events, 0);
  const missed = ever > 0 ? `missed: ${daemon.losses.map((loss) => loss.cause).join(", ")}` : "nothing missed";
  tile("daemon", recent > 0 ? "losses" : `${text.percent(daemon.cpu_ratio)} CPU`,
    `${memory(daemon)}, ${missed}`, recent > 0);
}

function memory({ resident_memory_bytes: bytes }) {
  return bytes === null ? text.NONE : text.bytes(bytes);
}

function showHealth() {
  const { daemon } = model;
  const { connections, connections_seen: seen, calls } = daemon;
  const missed = daemon.losses.map(({ cause, events, bytes }) =>
    `${cause} ${text.count(events)}${bytes > 0 ? ` (${text.bytes(bytes)})` : ""}`);
  const told = [
    `${daemon.version}, backend ${daemon.backend}`,
    `${text.percent(daemon.cpu_ratio)} CPU, ${memory(daemon)}`,
    `${text.count(daemon.records)}; ${daemon.streams} streams open`,
    `${connections.complete} complete, ${connections.joined_late} joined late, `
      + `${connections.gaps} with gaps, ${connections.undecodable} undecodable`,
    `${seen.grpc} gRPC, ${seen.http2} other HTTP/2, ${seen.http1} HTTP/1, ${seen.tls} TLS, ${seen.thrift} Thrift, `
      + `${seen.yamux} yamux, ${seen.other} other`,
    `${text.count(calls.complete)} complete, ${text.count(calls.no_method)} without method, `
      + `${text.count(calls.no_code)} without code, ${text.count(calls.nothing)} without either`,
    missed.join(", ") || "nothing",
  ];
  document.querySelectorAll("#health dd").forEach((line, at) => set(line, told[at]));
}

function render() {
  if (!model) return;
  showSummary();
  showHealth();
  mapButton.hidden = !model.edges;
  mapButton.setAttribute("aria-pressed", String(shows()));
  place("map").hidden = !shows();
  place("calls").hidden = shows();
  if (shows()) {
    const shown = map.show(model, settings.words);
    const all = model.edges.length;
    set(countPlace, shown === all ? `${shown} edges` : `${shown} of ${all} edges`);
    detail.hide();
    return;
  }
  const shown = table.show(model, settings, histories);
  set(countPlace, shown === model.rows.length ? `${shown} rows` : `${shown} of ${model.rows.length} rows`);
  const chosen = model.rows.find((row) => row.key === settings.chosen);
  if (chosen) detail.show(chosen, model, histories.of(chosen.key));
  else detail.hide();
  for (const heading of document.querySelectorAll("th[data-order]")) {
    if (heading.dataset.order !== settings.order) heading.removeAttribute("aria-sort");
    else heading.setAttribute("aria-sort", descends() ? "descending" : "ascending");
  }
  sortSelect.value = settings.order;
  if (document.activeElement !== filterInput) filterInput.value = settings.filter;
}

// Whether the map is there instead of the table.
function shows() {
  return settings.map && Boolean(model?.edges);
}

// Names are in their own order, numbers begin with the largest; clicking again turns that round.
function descends() {
  return ["process", "method"].includes(settings.order) === settings.ascending;
}

// The source of samples.

function say(state, words) {
  const told = place("state");
  told.className = state;
  set(told, words);
}

function take(sample) {
  if (model && sample.daemon.instance !== model.daemon.instance) {
    histories.clear();
    restarted = true;
  } else if (model && sample.sample === model.sample) {
    return;
  }
  for (const row of sample.rows) {
    row.key = JSON.stringify([row.role, row.process, row.pid, row.service, row.method]);
  }
  histories.add(sample.rows, performance.now());
  if (paused && model && !restarted) return;
  model = sample;
  const backend = `${model.daemon.backend}, up ${since(model.daemon.start_time_seconds)}`;
  say("live", `live · ${backend}${restarted ? " · the daemon was restarted, counters started at zero" : ""}`);
  render();
}

function since(began) {
  if (began === null) return text.NONE;
  const seconds = Math.max(0, Math.round(Date.now() / 1000 - began));
  const [minutes, hours, days] = [seconds / 60, seconds / 3600, seconds / 86400].map(Math.floor);
  if (days > 0) return `${days} d ${hours % 24} h`;
  if (hours > 0) return `${hours} h ${minutes % 60} min`;
  return minutes > 0 ? `${minutes} min` : `${seconds} s`;
}

function listen() {
  source?.close();
  source = new EventSource("events");
  source.onmessage = (event) => {
    document.body.classList.add("live");
    take(JSON.parse(event.data));
  };
  source.addEventListener("trouble", (event) => say("lost", `the daemon reports a problem: ${event.data}`));
  source.onerror = () => {
    say("lost", "connection to the daemon lost, trying again");
    // It tries again by itself unless it was refused.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, TRY_AGAIN_MS);
  };
}

// A hidden page requests nothing: browsers have few connections to one server.
function visibility() {
  if (document.visibilityState === "visible") {
    listen();
  } else {
    source?.close();
    source = null;
  }
}

readAddress();
window.addEventListener("hashchange", () => {
  readAddress();
  render();
});
document.addEventListener("visibilitychange", visibility);
visibility();
