// All about one method of one process.

import * as text from "./text.js";
import { append, set, vector } from "./elements.js";
import { SECONDS } from "./history.js";

export class Detail {
  constructor(place, close) {
    this.place = place;
    const header = append(place, "header");
    this.heading = append(header, "h3");
    const button = append(header, "button");
    button.type = "button";
    set(button, "Close");
    button.addEventListener("click", close);
    const parts = append(place, "div");
    parts.id = "parts";
    const heat = append(parts, "figure");
    set(append(heat, "figcaption"), "Latency over the last two minutes; a stronger color means more calls");
    this.canvas = append(heat, "canvas");
    this.canvas.setAttribute("role", "img");
    this.histogram = append(parts, "table", "histogram");
    const last = append(parts, "div");
    this.codes = append(last, "table", "of-codes");
    this.facts = append(last, "table", "facts");
  }

  hide() {
    this.place.hidden = true;
  }

  show(row, model, history) {
    this.place.hidden = false;
    const path = row.service ? `${row.service}/${row.method}` : row.method;
    set(this.heading, `${path} · ${text.process(row)} ${row.role}`);
    const bounds = model.bounds_seconds;
    const names = [...bounds.map((bound) => `≤ ${text.duration(bound)}`),
      bounds.length ? `> ${text.duration(bounds[bounds.length - 1])}` : "all"];
    this.#drawHeat(history, names, row);
    this.#showHistogram(row, names);
    rows(this.codes, ["Code", "calls", "share"], row.total.codes.map(({ code, calls }) =>
      [code, text.grouped(calls), text.percent(calls / row.total.ended)]));
    const open = model.connections.filter((of) =>
      of.pid === row.pid && of.process === row.process && of.role === row.role);
    const traffic = ({ messages, bytes }) => `${text.count(messages)}, ${text.bytes(bytes)}`;
    const { p50, p90, p99 } = row.total;
    rows(this.facts, ["Since the start", ""], [
      ["Service", row.service_name || "not known"],
      ["Type", row.grpc_type.replace("_", " ")],
      ["Started", text.grouped(row.total.started)],
      ["In flight", text.grouped(row.in_flight)],
      ["p50, p90, p99", [p50, p90, p99].map((p) => text.latency(p, bounds)).join(", ")],
      ["Messages read", traffic(row.total.received)],
      ["Messages written", traffic(row.total.sent)],
      ["Connections", text.grouped(open.reduce((sum, of) => sum + of.open, 0))],
    ]);
  }

  #showHistogram(row, names) {
    const { total, recent } = row;
    const used = range([total.latency]);
    const most = Math.max(1, ...total.latency);
    const lines = [];
    for (let at = used.last; at >= used.first; at--) {
      lines.push([names[at], total.latency[at] ?? 0, recent.latency[at] ?? 0]);
    }
    rows(this.histogram, ["Time", "", "all", "10 s"], lines.map(([name, all, now]) =>
      [name, { share: all / most }, text.count(all), text.count(now)]));
  }

  #drawHeat(history, names, row) {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const times = history.map((second) => second?.latency ?? []);
    const used = range([...times, row.recent.latency]);
    const count = used.last - used.first + 1;
    const [left, bottom] = [64, 18];
    const cell = [(width - left) / SECONDS, (height - bottom) / count];
    const most = Math.max(1, ...times.map((counts) => Math.max(0, ...counts)));
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = color("--dim");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    const every = Math.ceil(12 / cell[1]);
    for (let row = 0; row < count; row += every) {
      pen.fillText(names[used.last - row], left - 6, (row + 0.5) * cell[1]);
    }
    pen.textBaseline = "alphabetic";
    pen.fillText("now", width, height - 4);
    pen.textAlign = "left";
    pen.fillText("2 min ago", left, height - 4);
    pen.strokeStyle = color("--line");
    pen.strokeRect(left + 0.5, 0.5, width - left - 1, height - bottom - 1);
    const heat = color("--heat");
    times.forEach((counts, at) => {
      const x = left + (SECONDS - times.length + at) * cell[0];
      for (let bucket = used.first; bucket <= used.last; bucket++) {
        if (!counts[bucket]) continue;
        pen.fillStyle = `rgb(${heat}, ${0.15 + 0.85 * Math.sqrt(counts[bucket] / most)})`;
        pen.fillRect(x, (used.last - bucket) * cell[1], Math.max(1, cell[0]), Math.max(1, cell[1] - 1));
      }
    });
    const { p50, p99 } = row.recent;
    canvas.setAttribute("aria-label", p50 === null ? "No calls in the last ten seconds"
      : `Latency: p50 ${text.duration(p50)}, p99 ${text.duration(p99)}`);
  }
}

// The buckets that have something, and at least three.
function range(all) {
  let [first, last] = [Infinity, -1];
  for (const counts of all) {
    counts.forEach((count, at) => {
      if (count > 0) [first, last] = [Math.min(first, at), Math.max(last, at)];
    });
  }
  if (last < 0) [first, last] = [0, 2];
  while (last - first < 2) {
    if (first > 0) first--;
    else last++;
  }
  return { first, last };
}

// A small table, made anew only where it has changed.
function rows(table, headings, lines) {
  const all = JSON.stringify(lines);
  if (table.dataset.all === all) return;
  table.dataset.all = all;
  table.replaceChildren();
  const head = append(append(table, "thead"), "tr");
  headings.forEach((heading, at) => set(append(head, "th", at > 0 ? "number" : ""), heading));
  const body = append(table, "tbody");
  for (const line of lines) {
    const place = append(body, "tr");
    line.forEach((cell, at) => {
      if (typeof cell === "string") {
        set(append(place, at === 0 ? "th" : "td", at > 0 ? "number" : ""), cell);
        return;
      }
      const picture = vector(append(place, "td", "bar"), "svg", { "aria-hidden": "true" });
      vector(picture, "rect", { width: `${100 * cell.share}%`, height: "8" });
    });
  }
}
