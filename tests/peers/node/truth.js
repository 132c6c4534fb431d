'use strict';
// A peer's record: calls, messages and bytes by method and status code.

const fs = require('node:fs');
const { status } = require('@grpc/grpc-js');

// The code of a call that the other end cut, so that its server did not choose one.
const CUT = -1;

// The messages of a running call.
class Call {
  constructor(method) {
    this.method = method;
    this.begun = performance.now();
    this.sent = this.received = this.sent_bytes = this.received_bytes = 0;
    // The code with which the handler ended; without one the call was cut.
    this.code = CUT;
  }

  // Counts a message that goes out, by its size.
  countSent(bytes) {
    this.sent += 1;
    this.sent_bytes += bytes;
  }

  // Counts a message that came in, by its size.
  countReceived(bytes) {
    this.received += 1;
    this.received_bytes += bytes;
  }
}

// The sums of all calls of a peer.
class Truth {
  #rows = new Map();

  add(call) {
    const key = `${call.method} ${call.code}`;
    if (!this.#rows.has(key)) this.#rows.set(key, Truth.#row(call));
    const row = this.#rows.get(key);
    row.calls += 1;
    for (const field of ['sent', 'received', 'sent_bytes', 'received_bytes']) row[field] += call[field];
    row.most_sent = Math.max(row.most_sent, call.sent);
    row.most_received = Math.max(row.most_received, call.received);
    row.any_sent += call.sent > 0;
    row.any_received += call.received > 0;
    row.handling_us.push(Math.floor((performance.now() - call.begun) * 1000));
  }

  static #row({ method, code }) {
    return {
      method,
      code,
      // Whether the requests were written is not known: Node writes a call's headers and its
      // messages apart, and a server that has not the method refuses it by the headers.
      requests_unsure: code === status.UNIMPLEMENTED,
      calls: 0,
      sent: 0,
      received: 0,
      sent_bytes: 0,
      received_bytes: 0,
      // The most in one call.
      most_sent: 0,
      most_received: 0,
      // Calls with at least one message.
      any_sent: 0,
      any_received: 0,
      // The duration of each call.
      handling_us: [],
    };
  }

  // Writes the sums; the file appears whole or not at all.
  write(path) {
    const report = { pid: process.pid, calls: [...this.#rows.values()] };
    fs.writeFileSync(`${path}.part`, JSON.stringify(report));
    fs.renameSync(`${path}.part`, path);
  }
}

module.exports = { Call, Truth };
