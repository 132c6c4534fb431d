'use strict';
// The grpc-js client of the end-to-end tests: carries out a plan.
//
//     client.js --target ADDRESS --plan FILE --truth FILE [--web KIND] [--tls-ca FILE [--tls-cert FILE --tls-key FILE]]
//
// Writes its record to the truth file once the plan is done.

// Before grpc-js, whose streams it watches.
const { watch } = require('./wire');
const fs = require('node:fs');
const { parseArgs, promisify } = require('node:util');
const grpc = require('@grpc/grpc-js');
const { NAME, OPTIONS, asBytes, request } = require('./echo');
const { TLS, clientCredentials } = require('./tls');
const { Call, Truth } = require('./truth');
const { carryOutWeb } = require('./web');
const { carryOutConnect } = require('./connect');

// As in tests/peers/python/client.py, which documents them.
const DEFAULTS = {
  rpc: 'Unary',
  count: 1,
  concurrency: 1,
  connections: 1,
  payload: 0,
  requests: 1,
  response_size: 0,
  responses: 1,
  code: 0,
  detail: '',
  raises: false,
  sleep_ms: 0,
  sleep_between_ms: 0,
  lockstep: false,
  deadline_ms: null,
  cancel_after_ms: null,
  // Cancels each call at another time within that: the golden ratio spreads them evenly.
  cancel_within_ms: null,
  cancel_after_messages: null,
  holds: false,
  service_config: null,
  gzip: false,
  unknown_method: false,
};
const GOLDEN_RATIO = 0.618033988749895;
// Time for the server to start.
const CONNECT_MS = 30_000;

function parse(said) {
  const unknown = Object.keys(said).filter((name) => !(name in DEFAULTS));
  if (unknown.length) throw new Error(`the plan's step says ${unknown}, which means nothing`);
  const step = { ...DEFAULTS, ...said };
  const start = STARTS[step.rpc];
  if (!start) throw new Error(`there is no rpc ${step.rpc}`);
  const method = `/${NAME}/${step.unknown_method ? 'Missing' : step.rpc}`;
  return { ...step, start, method, bytes: request({ ...step, payload: Buffer.alloc(step.payload, 0xab) }) };
}

// How a call of each kind is started. A single response and its absence are told by the status too.
const STARTS = {
  Unary: (channel, { method, bytes }, ...rest) =>
    channel.makeUnaryRequest(method, asBytes, asBytes, bytes, ...rest, ignore),
  ServerStream: (channel, { method, bytes }, ...rest) =>
    channel.makeServerStreamRequest(method, asBytes, asBytes, bytes, ...rest),
  ClientStream: (channel, { method }, ...rest) =>
    channel.makeClientStreamRequest(method, asBytes, asBytes, ...rest, ignore),
  Bidi: (channel, { method }, ...rest) => channel.makeBidiStreamRequest(method, asBytes, asBytes, ...rest),
};

function ignore() {}

function options({ service_config, gzip }) {
  if (gzip) return { ...OPTIONS, 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip };
  if (service_config === null) return OPTIONS;
  return { ...OPTIONS, 'grpc.enable_retries': 1, 'grpc.service_config': JSON.stringify(service_config) };
}

// Each of `concurrency` workers makes one call after the other.
async function carryOut(target, credentials, step, truth) {
  const channels = Array.from(
    { length: step.connections },
    () => new grpc.Client(target, credentials, options(step)),
  );
  const until = Date.now() + CONNECT_MS;
  await Promise.all(channels.map((channel) => promisify(channel.waitForReady).call(channel, until)));
  let turns = 0;
  const worker = async () => {
    while (turns < step.count) {
      const turn = turns++;
      truth.add(await makeCall(channels[turn % channels.length], step, cancelAfter(step, turn)));
    }
  };
  await Promise.all(Array.from({ length: step.concurrency }, worker));
  for (const channel of channels) channel.close();
}

function cancelAfter({ cancel_after_ms, cancel_within_ms }, turn) {
  return cancel_within_ms === null ? cancel_after_ms : cancel_within_ms * ((turn * GOLDEN_RATIO) % 1);
}

async function makeCall(channel, step, cancelAfterMs) {
  const truth = new Call(step.method);
  const metadata = new grpc.Metadata();
  const watched = watch(truth, metadata);
  const deadline = step.deadline_ms === null ? undefined : Date.now() + step.deadline_ms;
  const call = step.start(channel, step, metadata, { deadline });
  const ended = new Promise((resolve) => call.on('status', resolve));
  // Told by the status as well.
  call.on('error', ignore);
  let timer;
  if (cancelAfterMs !== null) timer = setTimeout(() => call.cancel(), cancelAfterMs);
  if (call.write) write(call, step, truth);
  else truth.countSent(step.bytes.length);
  if (call.read) read(call, step, truth);
  truth.code = (await ended).code;
  // A reset with CANCEL by the server, which is how grpc-java's ends an expired call, is CANCELLED
  // to grpc-js whatever the time, and DEADLINE_EXCEEDED to the other stacks.
  if (truth.code === grpc.status.CANCELLED && Date.now() >= deadline) truth.code = grpc.status.DEADLINE_EXCEEDED;
  clearTimeout(timer);
  // An error may overtake messages.
  await watched.closed;
  watched.forget();
  return truth;
}

// Sends all requests, or in lockstep the first.
function write(call, step, truth) {
  for (let turn = 0; turn < (step.lockstep ? 1 : step.requests - step.holds); turn++) writeOne(call, step, truth);
  if (!step.lockstep && !step.holds) call.end();
}

function writeOne(call, step, truth) {
  call.write(step.bytes);
  truth.countSent(step.bytes.length);
}

// Reads to the end; in lockstep, the next request goes out when the last one's responses are in.
function read(call, step, truth) {
  let received = 0;
  call.on('data', () => {
    received += 1;
    if (received === step.cancel_after_messages) {
      call.cancel();
    } else if (step.lockstep && received === truth.sent * step.responses) {
      if (truth.sent < step.requests) writeOne(call, step, truth);
      else call.end();
    }
  });
}

async function main() {
  const { values: args } = parseArgs({
    options: { target: { type: 'string' }, plan: { type: 'string' }, truth: { type: 'string' }, web: { type: 'string' }, ...TLS },
  });
  // A list of stages, carried out one after the other, of steps, carried out at the same time.
  const stages = JSON.parse(fs.readFileSync(args.plan, 'utf8')).map((stage) => stage.map(parse));
  const truth = new Truth();
  const credentials = clientCredentials(args);
  for (const stage of stages) {
    const make = (step) => {
      if (!args.web) return carryOut(args.target, credentials, step, truth);
      const other = /^(binary|text)/.test(args.web) ? carryOutWeb : carryOutConnect;
      return other(args.target, args.web, step, truth);
    };
    await Promise.all(stage.map(make));
  }
  truth.write(args.truth);
}

main();
