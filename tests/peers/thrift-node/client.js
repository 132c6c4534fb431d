// The Thrift client of the end-to-end tests, in Node. It takes the arguments of ../thrift/client.py.
'use strict';

const assert = require('assert');
const fs = require('fs');
const thrift = require('thrift');
const {
  APPLICATION_EXCEPTION, DECLARED_EXCEPTION, NO_REPLY, OK, ONEWAY, Type, add, args, options,
  readStruct, writeStruct, writeTruth,
} = require('./common.js');

const { MessageType, TApplicationException } = thrift.Thrift;
const METHODS = ['add', 'ping', 'echo', 'order', 'first', 'note', 'crash', 'missing'];

// What the generator writes.
class Client {
  constructor(output, Protocol) {
    this.output = output;
    this.Protocol = Protocol;
    this.last = 0;
    this._reqs = {};
    for (const method of METHODS) {
      this[`recv_${method}`] = (input, kind, sequence) => this.receive(input, kind, sequence);
    }
  }

  new_seqid() {
    this.last += 1;
    return this.last;
  }

  send(method, fields, callback) {
    const sequence = this.new_seqid();
    const kind = method === 'note' ? MessageType.ONEWAY : MessageType.CALL;
    if (kind === MessageType.CALL) this._reqs[sequence] = callback;
    const output = new this.Protocol(this.output);
    output.writeMessageBegin(method, kind, sequence);
    writeStruct(output, fields);
    output.writeMessageEnd();
    this.output.flush();
    if (kind === MessageType.ONEWAY) callback(null, null);
  }

  receive(input, kind, sequence) {
    const callback = this._reqs[sequence];
    delete this._reqs[sequence];
    if (kind === MessageType.EXCEPTION) {
      const error = new TApplicationException();
      error.read(input);
      input.readMessageEnd();
      return callback(error);
    }
    const result = readStruct(input);
    input.readMessageEnd();
    return callback(null, result);
  }
}

function order(size) {
  const item = (n) => [
    [Type.I32, 1, n],
    [Type.STRING, 2, 'i'.repeat(7)],
    [Type.LIST, 3, { etype: Type.DOUBLE, elements: [1.5, 2.5] }],
    [Type.BOOL, 4, true],
  ];
  const items = Array.from({ length: size }, (_, n) => item(n));
  const numbers = (elements) => ({ etype: Type.I32, elements });
  const places = [['a', numbers([1, 2, 3])], ['b', numbers([])]];
  return [
    [Type.LIST, 1, { etype: Type.STRUCT, elements: items }],
    [Type.MAP, 2, { ktype: Type.STRING, vtype: Type.LIST, entries: places }],
    [Type.SET, 3, { etype: Type.STRING, elements: ['x', 'y'] }],
    [Type.MAP, 4, { ktype: Type.I32, vtype: Type.STRUCT, entries: items.map((it, n) => [n, it]) }],
    [Type.I64, 5, 2 ** 40],
    [Type.I16, 6, -5],
    [Type.BYTE, 7, 7],
  ];
}

function fields(name, size) {
  const numbers = (elements) => [[Type.LIST, 1, { etype: Type.I32, elements }]];
  switch (name) {
    case 'add': return [[Type.I32, 1, 1], [Type.I32, 2, 2]];
    case 'echo': return [[Type.STRING, 1, 'e'.repeat(size)]];
    case 'note': return [[Type.STRING, 1, 'n'.repeat(size)]];
    case 'order': return [[Type.STRUCT, 1, order(size)]];
    case 'first': return numbers([3, 2, 1]);
    case 'none': return numbers([]);
    default: return [];
  }
}

class Connection {
  open() {
    const unix = args.target.startsWith('unix:') && args.target.slice(5);
    const [host, port] = args.target.split(':');
    this.connection = unix
      ? thrift.createUDSConnection(unix, options)
      : thrift.createConnection(host, Number(port), options);
    const isMultiplexed = args.multiplexed;
    this.client = isMultiplexed
      ? new thrift.Multiplexer().createClient('Shop', Client, this.connection)
      : thrift.createClient(Client, this.connection);
    return new Promise((resolve, reject) => {
      this.connection.on('connect', resolve);
      this.connection.on('error', reject);
      this.connection.on('close', () => this.gone?.());
    });
  }

  // Calls the method that a name of the plan stands for, and records the outcome.
  async call(name, size) {
    if (!this.client) await this.open();
    const method = name === 'none' ? 'first' : name;
    const sent = fields(name, size);
    const [error, result, isGone] = await new Promise((resolve) => {
      this.gone = () => resolve([null, null, true]);
      this.client.send(method, sent, (...answer) => resolve(answer));
    });
    if (isGone) {
      this.client = null;
      return add(method, NO_REPLY);
    }
    if (error) return add(method, APPLICATION_EXCEPTION);
    if (name === 'note') return add(method, ONEWAY);
    if (result.length > 0 && result[0][1] !== 0) return add(method, DECLARED_EXCEPTION);
    if (name === 'echo') assert.strictEqual(result[0][2], sent[0][2]);
    // Other languages have an order of their own in sets and maps.
    if (name === 'order') assert.strictEqual(result[0][2].length, sent[0][2].length);
    return add(method, OK);
  }

  close() {
    this.connection?.end();
  }
}

async function carryOut({ calls, size = 10 }) {
  const connection = new Connection();
  for (const [name, times] of calls) {
    for (let n = 0; n < times; n += 1) await connection.call(name, size);
  }
  connection.close();
}

async function main() {
  for (const stage of JSON.parse(fs.readFileSync(args.plan, 'utf8'))) {
    await Promise.all(stage.map(carryOut));
  }
  writeTruth();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
