// What server and client share: arguments, structs without a generator, and the record of calls.
'use strict';

const fs = require('fs');
const { parseArgs } = require('util');
const thrift = require('thrift');

const Type = thrift.Thrift.Type;

// As in observer-core/src/call/code.rs.
const OK = 0;
const DECLARED_EXCEPTION = 18;
const APPLICATION_EXCEPTION = 19;
const ONEWAY = 20;
const NO_REPLY = 21;

const { values: args } = parseArgs({
  options: {
    listen: { type: 'string' },
    target: { type: 'string' },
    plan: { type: 'string' },
    truth: { type: 'string' },
    protocol: { type: 'string', default: 'binary' },
    transport: { type: 'string', default: 'buffered' },
    multiplexed: { type: 'boolean', default: false },
  },
});

const options = {
  transport: args.transport === 'framed' ? thrift.TFramedTransport : thrift.TBufferedTransport,
  protocol: args.protocol === 'compact' ? thrift.TCompactProtocol : thrift.TBinaryProtocol,
};

// Reads a value: a struct as its fields [type, id, value], a container as its types and elements.
function read(from, type) {
  switch (type) {
    case Type.BOOL: return from.readBool();
    case Type.BYTE: return from.readByte();
    case Type.I16: return from.readI16();
    case Type.I32: return from.readI32();
    case Type.I64: return from.readI64();
    case Type.DOUBLE: return from.readDouble();
    case Type.STRING: return from.readString();
    case Type.STRUCT: return readStruct(from);
    case Type.LIST: {
      const { etype, size } = from.readListBegin();
      const elements = Array.from({ length: size }, () => read(from, etype));
      from.readListEnd();
      return { etype, elements };
    }
    case Type.SET: {
      const { etype, size } = from.readSetBegin();
      const elements = Array.from({ length: size }, () => read(from, etype));
      from.readSetEnd();
      return { etype, elements };
    }
    case Type.MAP: {
      const { ktype, vtype, size } = from.readMapBegin();
      const entry = () => [read(from, ktype), read(from, vtype)];
      const entries = Array.from({ length: size }, entry);
      from.readMapEnd();
      return { ktype, vtype, entries };
    }
    default: throw new Error(`a value of type ${type}`);
  }
}

function readStruct(from) {
  const fields = [];
  from.readStructBegin();
  for (;;) {
    const { ftype, fid } = from.readFieldBegin();
    if (ftype === Type.STOP) break;
    fields.push([ftype, fid, read(from, ftype)]);
    from.readFieldEnd();
  }
  from.readStructEnd();
  return fields;
}

function write(to, type, value) {
  switch (type) {
    case Type.BOOL: return to.writeBool(value);
    case Type.BYTE: return to.writeByte(value);
    case Type.I16: return to.writeI16(value);
    case Type.I32: return to.writeI32(value);
    case Type.I64: return to.writeI64(value);
    case Type.DOUBLE: return to.writeDouble(value);
    case Type.STRING: return to.writeString(value);
    case Type.STRUCT: return writeStruct(to, value);
    case Type.LIST:
      to.writeListBegin(value.etype, value.elements.length);
      for (const element of value.elements) write(to, value.etype, element);
      return to.writeListEnd();
    case Type.SET:
      to.writeSetBegin(value.etype, value.elements.length);
      for (const element of value.elements) write(to, value.etype, element);
      return to.writeSetEnd();
    case Type.MAP:
      to.writeMapBegin(value.ktype, value.vtype, value.entries.length);
      for (const [key, of] of value.entries) {
        write(to, value.ktype, key);
        write(to, value.vtype, of);
      }
      return to.writeMapEnd();
    default: throw new Error(`a value of type ${type}`);
  }
}

function writeStruct(to, fields) {
  to.writeStructBegin('');
  for (const [type, id, value] of fields) {
    to.writeFieldBegin('', type, id);
    write(to, type, value);
    to.writeFieldEnd();
  }
  to.writeFieldStop();
  to.writeStructEnd();
}

const calls = new Map();

// Records the end of a call.
function add(method, code) {
  const row = JSON.stringify([(args.multiplexed ? 'Shop:' : '') + method, code]);
  calls.set(row, (calls.get(row) ?? 0) + 1);
}

// Writes the record. `tests/support/truth.rs` reads it.
function writeTruth() {
  const sums = Object.fromEntries([
    'sent', 'received', 'sent_bytes', 'received_bytes', 'most_sent', 'most_received', 'any_sent',
    'any_received',
  ].map((name) => [name, 0]));
  const rows = [...calls].map(([row, number]) => {
    const [method, code] = JSON.parse(row);
    return { method, code, calls: number, ...sums };
  });
  fs.writeFileSync(args.truth, JSON.stringify({ pid: process.pid, calls: rows }));
}

module.exports = {
  APPLICATION_EXCEPTION, DECLARED_EXCEPTION, NO_REPLY, OK, ONEWAY, Type, add, args, options,
  readStruct, writeStruct, writeTruth,
};
