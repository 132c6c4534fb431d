'use strict';
// grpc-js reports an error to its application ahead of the messages that came before it, and of
// those then never (`maybeOutputStatus` in subchannel-call.ts). What the server sent and this
// process read is therefore counted where it comes in: in the streams of Node's HTTP/2.

const http2 = require('node:http2');

// The header that says which call a stream is; it does not go out.
const CALL = 'peer-call';
// Compressed flag and length.
const PREFIX = 5;

const calls = new Map();
let keys = 0;

// Counts what `call` receives; `metadata` is then to be that of its stream.
function watch(call, metadata) {
  const key = String(keys++);
  const watched = { call, closed: Promise.resolve(), forget: () => calls.delete(key) };
  calls.set(key, watched);
  metadata.set(CALL, key);
  return watched;
}

function count(stream, call) {
  let head = Buffer.alloc(0);
  // Of the message that is coming in.
  let left = 0;
  stream.on('data', (data) => {
    while (data.length > 0) {
      if (left > 0) {
        const skipped = Math.min(left, data.length);
        left -= skipped;
        data = data.subarray(skipped);
        continue;
      }
      const missing = PREFIX - head.length;
      head = Buffer.concat([head, data.subarray(0, missing)]);
      data = data.subarray(missing);
      if (head.length < PREFIX) return;
      left = head.readUInt32BE(1);
      call.countReceived(left);
      head = Buffer.alloc(0);
    }
  });
}

const { connect } = http2;
http2.connect = (...args) => {
  const session = connect(...args);
  const request = session.request.bind(session);
  session.request = (headers, ...rest) => {
    const key = String(headers[CALL]);
    const watched = calls.get(key);
    // Not a call of grpc-js.
    if (!watched) return request(headers, ...rest);
    delete headers[CALL];
    const stream = request(headers, ...rest);
    const before = watched.closed;
    // A call that is tried again has several streams.
    watched.closed = new Promise((closed) => stream.once('close', closed)).then(() => before);
    count(stream, watched.call);
    return stream;
  };
  return session;
};

module.exports = { watch };
