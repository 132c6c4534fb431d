'use strict';
// The service that all peers share, with messages as bytes: their sizes are part of the truth.

const path = require('node:path');
const { loadSync } = require('@grpc/proto-loader');

const NAME = 'observer.test.v1.Echo';
const LOADED = loadSync(path.join(__dirname, '../proto/echo.proto'), { keepCase: true, defaults: true })[NAME];

function asBytes(bytes) {
  return bytes;
}

// Each request has its size beside what it says; responses are bytes already.
const SERVICE = Object.fromEntries(
  Object.entries(LOADED).map(([name, method]) => [
    name,
    {
      ...method,
      requestDeserialize: (bytes) => ({ ...method.requestDeserialize(bytes), size: bytes.length }),
      responseSerialize: asBytes,
    },
  ]),
);

// protobuf.js writes a field that is set to its default, which other stacks leave out: so do we,
// or the other end's sizes, which are of what it understood, would differ.
function withoutDefaults(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value && value.length !== 0));
}

function request(fields) {
  return LOADED.Unary.requestSerialize(withoutDefaults(fields));
}

function response(size) {
  return LOADED.Unary.responseSerialize(withoutDefaults({ payload: Buffer.alloc(size, 0xcd) }));
}

// No message is too big for the tests; distinct channels are distinct connections; a port is one
// server's; calls fail at once and are not repeated, and by no proxy but the tests' own.
const OPTIONS = {
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.so_reuseport': 0,
  'grpc.enable_retries': 0,
  'grpc.enable_http_proxy': process.env.grpc_proxy ? 1 : 0,
};

module.exports = { NAME, OPTIONS, SERVICE, asBytes, request, response };
