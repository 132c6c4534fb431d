// The last two minutes by second, kept here so that the daemon need not keep them.

export const SECONDS = 120;

const NOTHING = Object.freeze({ ended: 0, failed: 0, latency: [] });

export class Histories {
  #rows = new Map();
  #length = 0;
  #at = null;

  clear() {
    this.#rows.clear();
    this.#length = 0;
    this.#at = null;
  }

  // Takes a sample. Seconds without a sample are null.
  add(rows, now) {
    const missed = this.#at === null ? 0 : Math.round((now - this.#at) / 1000) - 1;
    this.#at = now;
    for (let second = 0; second < Math.min(missed, SECONDS); second++) this.#push(null);
    this.#push(NOTHING);
    for (const row of rows) {
      let history = this.#rows.get(row.key);
      if (!history) this.#rows.set(row.key, (history = new Array(this.#length).fill(NOTHING)));
      if (row.last.ended > 0) history[history.length - 1] = row.last;
    }
    const known = new Set(rows.map((row) => row.key));
    for (const key of this.#rows.keys()) if (!known.has(key)) this.#rows.delete(key);
  }

  // Oldest first.
  of(key) {
    return this.#rows.get(key) ?? [];
  }

  #push(second) {
    this.#length = Math.min(this.#length + 1, SECONDS);
    for (const history of this.#rows.values()) {
      history.push(second);
      if (history.length > SECONDS) history.shift();
    }
  }
}
