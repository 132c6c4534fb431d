'use strict';
// Calls of gRPC-Web over HTTP/2: unary ones, and those with a stream of responses. grpc-js has none.

const http2 = require('node:http2');
const { status } = require('@grpc/grpc-js');
const { Call } = require('./truth');

// Flags and length.
const PREFIX = 5;
// The flag of the trailers.
const TRAILERS = 0x80;

function connect(target) {
  return new Promise((resolve, reject) => {
    const session = http2.connect(`http://${target}`);
    session.once('connect', () => resolve(session));
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
function makeWebCall(session, step, kind) {
  const truth = new Call(step.method);
  const type = kind === 'text' ? 'application/grpc-web-text+proto' : 'application/grpc-web+proto';
  const stream = session.request({
    ':method': 'POST',
    ':path': step.method,
    'content-type': type,
    accept: type,
    'x-grpc-web': '1',
  });
  const body = prefixed(step.bytes);
  stream.end(kind === 'text' ? body.toString('base64') : body);
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
    stream.on('response', (headers) => {
      if (headers['grpc-status'] !== undefined) code = Number(headers['grpc-status']);
    });
    stream.on('data', (data) => {
      if (kind !== 'text') {
        take(data);
        return;
      }
      const [bytes, left] = decode(characters + data.toString('latin1'));
      characters = left;
      take(bytes);
    });
    stream.on('error', () => {});
    stream.on('close', () => {
      truth.code = code ?? status.UNKNOWN;
      resolve(truth);
    });
  });
}

// Each of `concurrency` workers makes one call after the other.
async function carryOutWeb(target, kind, step, truth) {
  const sessions = await Promise.all(Array.from({ length: step.connections }, () => connect(target)));
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
