'use strict';
// connect-node as a server of Connect, gRPC-Web and gRPC, and as a client of Connect and gRPC-Web, over HTTP/2
// or HTTP/1.1.

const http = require('node:http');
const http2 = require('node:http2');
const { create, createFileRegistry, toBinary } = require('@bufbuild/protobuf');
const { FileDescriptorProtoSchema } = require('@bufbuild/protobuf/wkt');
const { Code, ConnectError, createClient } = require('@connectrpc/connect');
const {
  Http2SessionManager,
  connectNodeAdapter,
  createConnectTransport,
  createGrpcWebTransport,
} = require('@connectrpc/connect-node');
const { Call } = require('./truth');

const PACKAGE = 'observer.test.v1';
// Types of fields, and the level of methods without side effects, in descriptor.proto.
const [STRING, BYTES, UINT32, BOOL] = [9, 12, 13, 8];
const NO_SIDE_EFFECTS = 1;

function field([name, type], at) {
  const jsonName = name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
  return { name, jsonName, number: at + 1, type, label: 1 };
}

// As in tests/peers/proto/echo.proto.
const REQUEST = [
  ['payload', BYTES],
  ['requests', UINT32],
  ['response_size', UINT32],
  ['responses', UINT32],
  ['code', UINT32],
  ['detail', STRING],
  ['raises', BOOL],
  ['sleep_ms', UINT32],
  ['sleep_between_ms', UINT32],
];

function method(name, clientStreaming, serverStreaming) {
  const [inputType, outputType] = ['Request', 'Response'].map((type) => `.${PACKAGE}.${type}`);
  const options = { idempotencyLevel: NO_SIDE_EFFECTS };
  return { name, inputType, outputType, clientStreaming, serverStreaming, options };
}

const FILE = create(FileDescriptorProtoSchema, {
  name: 'echo.proto',
  syntax: 'proto3',
  package: PACKAGE,
  messageType: [
    { name: 'Request', field: REQUEST.map(field) },
    { name: 'Response', field: [field(['payload', BYTES], 0)] },
  ],
  service: [
    {
      name: 'Echo',
      method: [
        method('Unary', false, false),
        method('ServerStream', false, true),
        method('ClientStream', true, false),
        method('Bidi', true, true),
        // Which the server does not have.
        method('Missing', false, false),
      ],
    },
  ],
});

const REGISTRY = createFileRegistry(FILE, () => undefined);
const SERVICE = REGISTRY.getService(`${PACKAGE}.Echo`);
const [REQUEST_TYPE, RESPONSE_TYPE] = ['Request', 'Response'].map((type) => REGISTRY.getMessage(`${PACKAGE}.${type}`));

function sizeOf(type, message) {
  return toBinary(type, message).length;
}

// Begins a call, lets `handler` carry it out, and adds it to the truth however that ends.
async function handled(truth, name, handler) {
  const call = new Call(`/${PACKAGE}.Echo/${name}`);
  try {
    return await handler(call);
  } finally {
    truth.add(call);
  }
}

function received(call, request) {
  call.countReceived(sizeOf(REQUEST_TYPE, request));
  return request;
}

function response(call, { responseSize }) {
  const message = create(RESPONSE_TYPE, { payload: new Uint8Array(responseSize).fill(0xcd) });
  call.countSent(sizeOf(RESPONSE_TYPE, message));
  return message;
}

function end(call, { code, detail, raises }) {
  call.code = raises ? Code.Unknown : code;
  if (raises) throw new Error('the request said so');
  if (code) throw new ConnectError(detail, code);
}

// Ends when the call does, if that is earlier.
function sleep(millis, signal) {
  if (!millis) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, millis);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function routes(truth) {
  return (router) => {
    router.rpc(SERVICE.method.unary, (request, { signal }) =>
      handled(truth, 'Unary', async (call) => {
        received(call, request);
        await sleep(request.sleepMs, signal);
        end(call, request);
        return response(call, request);
      }),
    );
    router.rpc(SERVICE.method.serverStream, async function* serverStream(request, { signal }) {
      const call = new Call(`/${PACKAGE}.Echo/ServerStream`);
      try {
        received(call, request);
        for (let turn = 0; turn < request.responses; turn++) {
          await sleep(turn ? request.sleepBetweenMs : request.sleepMs, signal);
          yield response(call, request);
        }
        end(call, request);
      } finally {
        truth.add(call);
      }
    });
    router.rpc(SERVICE.method.clientStream, (requests) =>
      handled(truth, 'ClientStream', async (call) => {
        let last = create(REQUEST_TYPE);
        for await (const request of requests) last = received(call, request);
        end(call, last);
        return response(call, last);
      }),
    );
    router.rpc(SERVICE.method.bidi, async function* bidi(requests) {
      const call = new Call(`/${PACKAGE}.Echo/Bidi`);
      try {
        let last = create(REQUEST_TYPE);
        for await (const request of requests) {
          last = received(call, request);
          for (let turn = 0; turn < request.responses; turn++) yield response(call, request);
        }
        end(call, last);
      } finally {
        truth.add(call);
      }
    });
  };
}

// Serves until SIGTERM; prints one JSON line when it listens.
function serveConnect(listen, kind, truth, truthFile) {
  const { createServer } = kind.includes('http1') ? http : http2;
  const server = createServer(connectNodeAdapter({ routes: routes(truth) }));
  const sessions = new Set();
  server.on('session', (session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
  });
  process.once('SIGTERM', () => {
    server.close();
    for (const session of sessions) session.close();
    truth.write(truthFile);
  });
  const [, host, port] = /^(.*):([0-9]+)$/.exec(listen);
  server.listen(Number(port), host.replace(/^\[|\]$/g, ''), () => {
    const address = `${host}:${server.address().port}`;
    console.log(JSON.stringify({ pid: process.pid, address }));
  });
}

// Connections of HTTP/2, one for each, or of HTTP/1.1, as many as there are calls at the same time.
function connection(target, kind) {
  const baseUrl = `http://${target}`;
  if (kind.includes('http1')) {
    const agent = new http.Agent({ keepAlive: true });
    const end = () => agent.destroy();
    return { options: { baseUrl, httpVersion: '1.1', nodeOptions: { agent } }, end };
  }
  const sessionManager = new Http2SessionManager(baseUrl);
  return { options: { baseUrl, httpVersion: '2', sessionManager }, end: () => sessionManager.abort() };
}

function transport(connection, kind) {
  const options = { ...connection.options, useBinaryFormat: !kind.includes('json') };
  if (kind.includes('plain')) options.acceptCompression = [];
  if (kind.includes('grpc-web')) return createGrpcWebTransport(options);
  return createConnectTransport({ ...options, useHttpGet: kind.includes('get') });
}

// Carries out a step: calls of a kind, as "connect", "connect-json", "connect-get" or "grpc-web", with "-plain" for
// responses that are not compressed, and "-http1" for HTTP/1.1.
async function carryOutConnect(target, kind, step, truth) {
  const connections = Array.from({ length: step.connections }, () => connection(target, kind));
  const clients = connections.map((connection) => createClient(SERVICE, transport(connection, kind)));
  let turns = 0;
  const worker = async () => {
    while (turns < step.count) {
      const turn = turns++;
      truth.add(await makeConnectCall(clients[turn % clients.length], step));
    }
  };
  await Promise.all(Array.from({ length: step.concurrency }, worker));
  for (const { end } of connections) end();
}

async function makeConnectCall(client, step) {
  const call = new Call(step.method);
  const request = create(REQUEST_TYPE, {
    payload: new Uint8Array(step.payload).fill(0xab),
    requests: step.requests,
    responseSize: step.response_size,
    responses: step.responses,
    code: step.code,
    detail: step.detail,
    raises: step.raises,
    sleepMs: step.sleep_ms,
    sleepBetweenMs: step.sleep_between_ms,
  });
  const options = step.deadline_ms === null ? {} : { timeoutMs: step.deadline_ms };
  const sent = () => {
    call.countSent(sizeOf(REQUEST_TYPE, request));
    return request;
  };
  async function* requests() {
    for (let turn = 0; turn < step.requests; turn++) yield sent();
  }
  const got = (message) => call.countReceived(sizeOf(RESPONSE_TYPE, message));
  try {
    if (step.unknown_method) got(await client.missing(sent(), options));
    else if (step.rpc === 'Unary') got(await client.unary(sent(), options));
    else if (step.rpc === 'ClientStream') got(await client.clientStream(requests(), options));
    else if (step.rpc === 'ServerStream') for await (const one of client.serverStream(sent(), options)) got(one);
    else for await (const one of client.bidi(requests(), options)) got(one);
    call.code = 0;
  } catch (error) {
    call.code = ConnectError.from(error).code;
  }
  return call;
}

module.exports = { carryOutConnect, serveConnect };
