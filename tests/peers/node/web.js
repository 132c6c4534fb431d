'use strict';
// Calls of gRPC-Web over HTTP/2 or HTTP/1.1: unary ones, and those with a stream of responses. grpc-js has none.

const http = require('node:http');
const http2 = require('node:http2');
const { status } = require('@grpc/grpc-js');
const { Call } = require('./truth');

// Flags and length.
const PREFIX = 5;
// The flag of the trailers.
const TRAILERS = 0x80;

// Opens a connection of HTTP/2, or an agent that opens as many of HTTP/1.1 as there are calls at the same time. Either has
// a function that begins a call.
function connect(target, kind) {
  if (kind.includes('http1')) {
    const agent = new http.Agent({ keepAlive: true });
    const [, host, port] = /^(.*):([0-9]+)$/.exec(target);
    const begin = (path, headers) => {
      const request = http.request({ agent, method: 'POST', host: host.replace(/^\[|\]$/g, ''), port, path, headers });
      request.on('response', (response) => {
        request.emit('headers', response.headers);
        response.on('data', (data) => request.emit('data', data));
        response.on('end', () => request.emit('done'));
        response.on('error', () => request.emit('done'));
      });
      request.on('error', () => request.emit('done'));
      return request;
    };
    return Promise.resolve({ begin, close: () => agent.destroy() });
  }
  return new Promise((resolve, reject) => {
    const session = http2.connect(`http://${target}`);
    const begin = (path, headers) => {
      const stream = session.request({ ':method': 'POST', ':path': path, ...headers });
      stream.on('response', (headers) => stream.emit('headers', headers));
      stream.on('close', () => stream.emit('done'));
      return stream;
    };
    session.once('connect', () => resolve({ begin, close: () => session.close() }));
    session.once('error', reject);
  });
}

function prefixed(message) {
  const prefix = Buffer.alloc(PREFIX);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

// Takes what is complete out of base64: parts of it may have padding of their own.
function decode(characters) {
  const whole = characters.length - (characters.length % 4);
  const groups = characters.slice(0, whole).match(/.{4}/g) ?? [];
  return [Buffer.concat(groups.map((group) => Buffer.from(group, 'base64'))), characters.slice(whole)];
}

// Makes a call whose body is `binary` or `text`.
function makeWebCall(connection, step, kind) {
  const truth = new Call(step.method);
  const isText = kind.startsWith('text');
  const type = isText ? 'application/grpc-web-text+proto' : 'application/grpc-web+proto';
  const stream = connection.begin(step.method, { 'content-type': type, accept: type, 'x-grpc-web': '1' });
  const body = prefixed(step.bytes);
  stream.end(isText ? body.toString('base64') : body);
  truth.countSent(step.bytes.length);
  return new Promise((resolve) => {
    let code;
    let characters = '';
    let rest = Buffer.alloc(0);
    const take = (bytes) => {
      rest = Buffer.concat([rest, bytes]);
      while (rest.length >= PREFIX && rest.length >= PREFIX + rest.readUInt32BE(1)) {
        const end = PREFIX + rest.readUInt32BE(1);
        const content = rest.subarray(PREFIX, end);
        if (rest[0] & TRAILERS) code = Number(/grpc-status: *(\d+)/i.exec(content.toString())?.[1]);
        else truth.countReceived(content.length);
        rest = rest.subarray(end);
      }
    };
    stream.on('headers', (headers) => {
      if (headers['grpc-status'] !== undefined) code = Number(headers['grpc-status']);
    });
    stream.on('data', (data) => {
      if (!isText) {
        take(data);
        return;
      }
      const [bytes, left] = decode(characters + data.toString('latin1'));
      characters = left;
      take(bytes);
    });
    stream.on('error', () => {});
    stream.on('done', () => {
      truth.code = code ?? status.UNKNOWN;
      resolve(truth);
    });
  });
}

// Each of `concurrency` workers makes one call after the other.
async function carryOutWeb(target, kind, step, truth) {
  const sessions = await Promise.all(Array.from({ length: step.connections }, () => connect(target, kind)));
  let turns = 0;
  const worker = async () => {
    while (turns < step.count) {
      const turn = turns++;
      truth.add(await makeWebCall(sessions[turn % sessions.length], step, kind));
    }
  };
  await Promise.all(Array.from({ length: step.concurrency }, worker));
  for (const session of sessions) session.close();
}

module.exports = { carryOutWeb };
