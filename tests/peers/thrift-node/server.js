// The Thrift server of the end-to-end tests, in Node. It takes the arguments of ../thrift/server.py.
'use strict';

const thrift = require('thrift');
const {
  APPLICATION_EXCEPTION, DECLARED_EXCEPTION, OK, ONEWAY, Type, add, args, options, readStruct,
  writeStruct, writeTruth,
} = require('./common.js');

const { MessageType, TApplicationException, TApplicationExceptionType } = thrift.Thrift;

// The result of a method: its fields and the outcome.
function handle(method, values) {
  switch (method) {
    case 'add': return [[[Type.I32, 0, values[0][2] + values[1][2]]], OK];
    case 'ping': return [[], OK];
    case 'echo':
    case 'order': return [[[values[0][0], 0, values[0][2]]], OK];
    case 'first': {
      const numbers = values[0][2].elements;
      if (numbers.length > 0) return [[[Type.I32, 0, numbers[0]]], OK];
      return [[[Type.STRUCT, 1, [[Type.STRING, 1, 'no numbers']]]], DECLARED_EXCEPTION];
    }
    case 'note': return [null, ONEWAY];
    case 'crash': {
      const { INTERNAL_ERROR } = TApplicationExceptionType;
      return [new TApplicationException(INTERNAL_ERROR, 'Internal error'), APPLICATION_EXCEPTION];
    }
    default: {
      const { UNKNOWN_METHOD } = TApplicationExceptionType;
      return [new TApplicationException(UNKNOWN_METHOD, `Unknown function ${method}`), null];
    }
  }
}

// What the generator writes, for all methods but `missing`.
const processor = {
  process(input, output) {
    const { fname, rseqid } = input.readMessageBegin();
    const values = readStruct(input);
    input.readMessageEnd();
    const [result, outcome] = handle(fname, values);
    if (outcome !== null) add(fname, outcome);
    if (result === null) return;
    const isException = result instanceof TApplicationException;
    output.writeMessageBegin(fname, isException ? MessageType.EXCEPTION : MessageType.REPLY, rseqid);
    if (isException) result.write(output);
    else writeStruct(output, result);
    output.writeMessageEnd();
    output.flush();
  },
};

let served = processor;
if (args.multiplexed) {
  served = new thrift.MultiplexedProcessor();
  served.registerProcessor('Shop', processor);
}
const server = thrift.createMultiplexServer(served, options);
// Clients may be gone.
server.on('error', (error) => console.error(error));
const isUnix = args.listen.startsWith('unix:');
const at = isUnix ? { path: args.listen.slice(5) } : { host: '127.0.0.1', port: 0 };
server.listen(at, () => {
  const address = isUnix ? args.listen : `127.0.0.1:${server.address().port}`;
  console.log(JSON.stringify({ pid: process.pid, address }));
});
process.on('SIGTERM', () => {
  writeTruth();
  process.exit(0);
});
