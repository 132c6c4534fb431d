'use strict';
// The grpc-js server of the end-to-end tests: does what each request asks for.
//
//     server.js --listen ADDRESS --truth FILE [--max-connection-age-ms N] [--compression gzip] [--web KIND]
//         [--tls-cert FILE --tls-key FILE [--tls-ca FILE]]
//
// Prints one JSON line {"pid", "address"} when it listens; at SIGTERM it stops and writes its
// record to FILE.

const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const { NAME, OPTIONS, SERVICE, response } = require('./echo');
const { TLS, serverCredentials } = require('./tls');
const { Call, Truth } = require('./truth');
const { serveConnect } = require('./connect');

// Time for clients to close their connections once the server stops.
const GRACE_MS = 2000;

let computesMs = 0;
let sleepsMs = 0;

// The call ended under the handler: by the client, or by the deadline, at which grpc-js itself sends
// DEADLINE_EXCEEDED.
class Cut extends Error {}

// Begins a call, lets `handler` carry it out, and adds it to the truth however that ends.
function handled(truth, name, handler) {
  return async (stream, callback) => {
    const call = new Call(`/${NAME}/${name}`);
    try {
      await handler(call, stream, callback);
    } catch (error) {
      // Reading a stream that is cut fails in several ways.
      if (!(error instanceof Cut) && !stream.cancelled) throw error;
    } finally {
      truth.add(call);
    }
  };
}

async function unary(call, stream, callback) {
  call.countReceived(stream.request.size);
  await answer(call, stream, stream.request, callback);
}

async function serverStream(call, stream) {
  call.countReceived(stream.request.size);
  await respond(call, stream, stream.request, 0);
  finish(call, stream, stream.request);
}

async function clientStream(call, stream, callback) {
  let last;
  for await (const request of requests(call, stream)) last = request;
  whole(call, last);
  await answer(call, stream, last, callback);
}

async function bidi(call, stream) {
  let last;
  let turn = 0;
  for await (const request of requests(call, stream)) {
    await respond(call, stream, request, turn);
    turn += request.responses;
    last = request;
  }
  whole(call, last);
  finish(call, stream, last);
}

async function* requests(call, stream) {
  // The stream's other half is still to be written when this one has been read.
  for await (const request of stream.iterator({ destroyOnReturn: false })) {
    call.countReceived(request.size);
    yield request;
  }
}

// A reset may look like a half-close.
function whole(call, request) {
  if (!request || call.received < request.requests) throw new Cut();
}

// Sends the responses to a request, which is answered after `turn` others.
async function respond(call, stream, request, turn) {
  for (const end = turn + request.responses; turn < end; turn++) {
    await sleep(stream, turn ? request.sleep_between_ms : request.sleep_ms);
    const bytes = response(request.response_size);
    stream.write(bytes);
    call.countSent(bytes.length);
  }
}

// The only response, unless the request says otherwise.
async function answer(call, stream, request, callback) {
  await sleep(stream, request.sleep_ms);
  const error = end(call, request);
  if (error) return callback(error);
  const bytes = response(request.response_size);
  call.countSent(bytes.length);
  callback(null, bytes);
}

function finish(call, stream, request) {
  const error = end(call, request);
  if (error) stream.emit('error', error);
  else stream.end();
}

// The status that the request asks for, if it is an error. grpc-js lets what an asynchronous
// handler throws take the process with it; its own way to fail unnamed is an error without code.
function end(call, request) {
  call.code = request.raises ? grpc.status.UNKNOWN : request.code;
  if (request.raises) return new Error('the request said so');
  return request.code ? { code: request.code, details: request.detail } : null;
}

// Nothing else runs meanwhile.
function block() {
  const until = Date.now() + computesMs;
  while (Date.now() < until);
  if (sleepsMs) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, sleepsMs);
}

function sleep(stream, millis) {
  block();
  if (stream.cancelled) throw new Cut();
  if (!millis) return undefined;
  return new Promise((resolve, reject) => {
    const cut = () => {
      clearTimeout(timer);
      reject(new Cut());
    };
    const timer = setTimeout(() => {
      stream.off('cancelled', cut);
      resolve();
    }, millis);
    stream.once('cancelled', cut);
  });
}

function main() {
  const { values: args } = parseArgs({
    options: {
      listen: { type: 'string' },
      truth: { type: 'string' },
      'max-connection-age-ms': { type: 'string' },
      // The time that each handler computes or sleeps first.
      'computes-ms': { type: 'string', default: '0' },
      'sleeps-ms': { type: 'string', default: '0' },
      // grpc-js compresses no responses.
      compression: { type: 'string' },
      // With connect-node.
      web: { type: 'string' },
      ...TLS,
    },
  });
  computesMs = Number(args['computes-ms']);
  sleepsMs = Number(args['sleeps-ms']);
  const age = args['max-connection-age-ms'];
  const truth = new Truth();
  if (args.web) {
    serveConnect(args.listen, args.web, truth, args.truth);
    return;
  }
  const server = new grpc.Server(age ? { ...OPTIONS, 'grpc.max_connection_age_ms': Number(age) } : OPTIONS);
  server.addService(SERVICE, {
    Unary: handled(truth, 'Unary', unary),
    ServerStream: handled(truth, 'ServerStream', serverStream),
    ClientStream: handled(truth, 'ClientStream', clientStream),
    Bidi: handled(truth, 'Bidi', bidi),
  });
  process.once('SIGTERM', () => {
    const timer = setTimeout(() => server.forceShutdown(), GRACE_MS);
    server.tryShutdown(() => {
      clearTimeout(timer);
      truth.write(args.truth);
    });
  });
  server.bindAsync(args.listen, serverCredentials(args), (error, port) => {
    if (error) throw error;
    const address = args.listen.startsWith('unix:') ? args.listen : args.listen.replace(/[0-9]+$/, port);
    console.log(JSON.stringify({ pid: process.pid, address }));
  });
}

main();
