// The table of calls: one row per method and process, kept in order.

import * as text from "./text.js";
import { append, element, set, vector } from "./elements.js";

const SPARK_SECONDS = 60;
const AT_MOST = 200;
const SLOW_SECONDS = 1;

const descending = (figure) => (a, b) => figure(b) - figure(a);
const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const byKey = (a, b) => compare(a.role, b.role) || compare(a.service, b.service)
  || compare(a.method, b.method) || compare(a.process, b.process) || a.pid - b.pid;
const byRate = descending((row) => row.recent.ended);

// As in observer/src/metrics/view/order.rs.
export const ORDERS = {
  process: (a, b) => compare(a.process, b.process) || a.pid - b.pid,
  method: (a, b) => compare(a.service, b.service) || compare(a.method, b.method),
  rate: byRate,
  errors: (a, b) => b.recent.failed - a.recent.failed || byRate(a, b)
    || b.total.failed - a.total.failed,
  "in-flight": descending((row) => row.in_flight),
  p50: descending((row) => row.recent.p50 ?? -1),
  p90: descending((row) => row.recent.p90 ?? -1),
  p99: descending((row) => row.recent.p99 ?? -1),
  calls: descending((row) => row.total.ended),
};

export function admits(words, row) {
  const { process, pid, service_name: of, role, grpc_type: type, service, method } = row;
  const all = `${process}[${pid}] ${role} ${type} ${service}/${method} ${of}`.toLowerCase();
  return words.every((word) => all.includes(word));
}

export class Table {
  #lines = new Map();
  #body;
  #note;

  constructor(place, choose) {
    this.choose = choose;
    this.#body = place.querySelector("tbody");
    this.#body.replaceChildren();
    for (const told of place.querySelectorAll(":scope > p")) told.remove();
    this.#note = append(place, "p");
    this.all = false;
    this.more = append(place, "button", "more");
    this.more.type = "button";
    this.#body.addEventListener("click", (event) => {
      const line = event.target.closest("tr");
      if (line) choose(line.dataset.key);
    });
  }

  // Returns how many rows the filter admits.
  show(model, { order, ascending, words, chosen }, histories) {
    const rows = model.rows.filter((row) => admits(words, row));
    const sign = ascending ? -1 : 1;
    rows.sort((a, b) => sign * ORDERS[order](a, b) || byKey(a, b));
    const shown = this.all ? rows : rows.slice(0, AT_MOST);
    const focused = document.activeElement;
    const lines = new Map();
    shown.forEach((row, at) => {
      const line = this.#lines.get(row.key) ?? new Line(row);
      lines.set(row.key, line);
      line.show(row, model.bounds_seconds, histories.of(row.key));
      line.element.classList.toggle("chosen", row.key === chosen);
      line.element.tabIndex = -1;
      const there = this.#body.children[at];
      if (there !== line.element) this.#body.insertBefore(line.element, there ?? null);
    });
    this.#lines = lines;
    while (this.#body.children.length > shown.length) this.#body.lastChild.remove();
    // A moved element loses the focus.
    if (focused?.isConnected && focused !== document.activeElement) {
      focused.focus({ preventScroll: true });
    }
    const stop = lines.get(chosen)?.element ?? this.#body.firstChild;
    if (stop) stop.tabIndex = 0;
    this.#tell(model, rows.length, shown.length);
    return rows.length;
  }

  #tell(model, admitted, shown) {
    const left = model.rows_left_out;
    let told = "";
    if (model.rows.length === 0) told = "No gRPC call has been seen yet.";
    else if (admitted === 0) told = "No method matches the filter.";
    else if (left > 0) told = `${text.grouped(left)} more rows with fewer calls are in /metrics.`;
    set(this.#note, told);
    this.#note.hidden = told === "";
    this.more.hidden = shown === admitted;
    set(this.more, `Show ${admitted - shown} more`);
  }

  // The row after or before the one that has the focus gets it.
  step(by) {
    const lines = [...this.#body.children];
    const at = lines.indexOf(document.activeElement.closest("tr"));
    const next = at < 0 ? lines[0] : lines[Math.max(0, Math.min(lines.length - 1, at + by))];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  }

  reveal(key) {
    this.#lines.get(key)?.element.scrollIntoView({ block: "nearest" });
  }
}

class Line {
  constructor(row) {
    this.element = element("tr");
    this.element.dataset.key = row.key;
    const process = append(this.element, "td", "process");
    const of = row.service_name ? `, service ${row.service_name}` : "";
    process.title = `${text.process(row)}${of}`;
    set(append(process, "b"), row.process);
    set(append(process, "small"), row.pid === 0 ? row.role : `${row.pid} ${row.role}`);
    const method = append(this.element, "th", "method");
    method.scope = "row";
    method.title = row.service ? `${row.service}/${row.method}` : row.method;
    set(append(method, "b"), row.method);
    set(append(method, "small"), row.service);
    const number = (label) => {
      const cell = append(this.element, "td", "number");
      cell.dataset.label = label;
      return cell;
    };
    this.rate = number("Calls/s");
    this.spark = new Spark(append(this.element, "td", "spark"));
    this.errors = number("Errors");
    this.inFlight = number("In flight");
    this.quantiles = ["p50", "p90", "p99"].map((name) => [name, number(name)]);
    this.calls = number("Calls");
    this.codes = append(this.element, "td", "codes");
  }

  show(row, bounds, history) {
    const { recent, total } = row;
    set(this.rate, text.rate(recent.rate));
    this.rate.classList.toggle("idle", !recent.rate);
    set(this.errors, text.percent(recent.error_ratio));
    this.errors.classList.toggle("bad", recent.failed > 0);
    this.errors.classList.toggle("idle", recent.failed === 0);
    set(this.inFlight, text.count(row.in_flight));
    this.inFlight.classList.toggle("idle", row.in_flight === 0);
    for (const [name, cell] of this.quantiles) {
      set(cell, text.latency(recent[name], bounds));
      cell.classList.toggle("slow", recent[name] >= SLOW_SECONDS);
      cell.classList.toggle("idle", recent[name] === null);
    }
    set(this.calls, text.grouped(total.ended));
    this.#showCodes(total.codes);
    this.spark.show(history);
  }

  #showCodes(codes) {
    const told = codes.map(({ code, calls }) => `${code} ${text.grouped(calls)}`);
    const all = told.join(" · ");
    if (this.codes.title === all) return;
    this.codes.title = all;
    this.codes.replaceChildren();
    const failed = ({ code }) => code !== "OK" && code !== "not_seen";
    // Errors first: there may not be room for all.
    const order = codes.map((_, at) => at).sort((a, b) => failed(codes[b]) - failed(codes[a]));
    for (const at of order) {
      set(append(this.codes, "span", failed(codes[at]) ? "bad" : ""), told[at]);
    }
  }
}

// Calls per second, and under them those that failed.
class Spark {
  constructor(cell) {
    const picture = vector(cell, "svg", {
      viewBox: `0 0 ${SPARK_SECONDS - 1} 20`, preserveAspectRatio: "none", "aria-hidden": "true",
    });
    this.failed = vector(picture, "path", { class: "failed" });
    this.line = vector(picture, "path", { class: "line" });
  }

  show(history) {
    const seconds = history.slice(-SPARK_SECONDS);
    const most = Math.max(1, ...seconds.map((second) => second?.ended ?? 0));
    const begin = SPARK_SECONDS - seconds.length;
    const height = (calls) => (19 - (18 * calls) / most).toFixed(1);
    let line = "";
    let failed = "";
    let pen = "M";
    seconds.forEach((second, at) => {
      if (!second) {
        pen = "M";
        return;
      }
      const x = begin + at;
      line += `${pen}${x} ${height(second.ended)}`;
      pen = "L";
      if (second.failed > 0) failed += `M${x - 0.5} 20V${height(second.failed)}h1V20z`;
    });
    this.line.setAttribute("d", line);
    this.failed.setAttribute("d", failed);
  }
}
