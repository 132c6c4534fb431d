"""Server and client of Apache Thrift, with the classes that its generator would write for shop.thrift."""

import ssl

from thrift.protocol.TBinaryProtocol import TBinaryProtocolFactory
from thrift.protocol.TCompactProtocol import TCompactProtocolFactory
from thrift.protocol.THeaderProtocol import THeaderProtocolFactory
from thrift.protocol.TMultiplexedProtocol import TMultiplexedProtocol
from thrift.protocol.TProtocol import TProtocolException
from thrift.protocol.TBase import TBase, TExceptionBase
from thrift.server.TServer import TThreadedServer
from thrift.Thrift import TApplicationException, TMessageType, TProcessor, TType
from thrift.TMultiplexedProcessor import TMultiplexedProcessor
from thrift.transport.THeaderTransport import THeaderClientType, THeaderSubprotocolID
from thrift.transport.TSocket import TServerSocket, TSocket
from thrift.transport.TSSLSocket import TSSLServerSocket, TSSLSocket
from thrift.transport.TTransport import (
    TBufferedTransport,
    TBufferedTransportFactory,
    TFramedTransport,
    TFramedTransportFactory,
    TTransportException,
)

from truth import APPLICATION_EXCEPTION

ApplicationException = TApplicationException
TransportException = TTransportException

# What happens if a method raises an exception that it does not declare.
UNDECLARED = APPLICATION_EXCEPTION


class Fields:
    """The fields of a struct, by their specification."""

    def __init__(self, *values, **named):
        names = [field[2] for field in self.thrift_spec if field]
        for name in names:
            setattr(self, name, None)
        for name, value in [*zip(names, values), *named.items()]:
            setattr(self, name, value)

    def __eq__(self, other):
        return self.__dict__ == other.__dict__


def spec(number, kind, name, more=None):
    return (number, kind, name, more, None)


STRING = "UTF8"


class Struct(Fields, TBase):
    pass


class Item(Struct):
    thrift_spec = (
        None,
        spec(1, TType.I32, "number"),
        spec(2, TType.STRING, "name", STRING),
        spec(3, TType.LIST, "prices", (TType.DOUBLE, None, False)),
        spec(4, TType.BOOL, "sold"),
    )


ITEM = [Item, Item.thrift_spec]


class Order(Struct):
    thrift_spec = (
        None,
        spec(1, TType.LIST, "items", (TType.STRUCT, ITEM, False)),
        spec(
            2,
            TType.MAP,
            "places",
            (TType.STRING, STRING, TType.LIST, (TType.I32, None, False), False),
        ),
        spec(3, TType.SET, "tags", (TType.STRING, STRING, False)),
        spec(4, TType.MAP, "by_number", (TType.I32, None, TType.STRUCT, ITEM, False)),
        spec(5, TType.I64, "total"),
        spec(6, TType.I16, "small"),
        spec(7, TType.BYTE, "tiny"),
    )


class Empty(TExceptionBase):
    thrift_spec = (None, spec(1, TType.STRING, "message", STRING))

    def __init__(self, message=None):
        super().__init__(message)
        self.message = message


ORDER = [Order, Order.thrift_spec]
EMPTY = [Empty, Empty.thrift_spec]
NUMBERS = (TType.I32, None, False)

# The fields of the arguments and of the result of each method. A oneway method has no result.
METHODS = {
    "add": ([spec(1, TType.I32, "a"), spec(2, TType.I32, "b")], [spec(0, TType.I32, "success")]),
    "ping": ([], []),
    "echo": (
        [spec(1, TType.STRING, "text", STRING)],
        [spec(0, TType.STRING, "success", STRING)],
    ),
    "order": (
        [spec(1, TType.STRUCT, "order", ORDER)],
        [spec(0, TType.STRUCT, "success", ORDER)],
    ),
    "first": (
        [spec(1, TType.LIST, "numbers", NUMBERS)],
        [spec(0, TType.I32, "success"), spec(1, TType.STRUCT, "empty", EMPTY)],
    ),
    "note": ([spec(1, TType.STRING, "text", STRING)], None),
    "crash": ([], [spec(0, TType.I32, "success")]),
    "missing": ([], [spec(0, TType.I32, "success")]),
}


def struct(name, fields):
    by_number = {field[0]: field for field in fields}
    last = max(by_number, default=-1)
    fields = tuple(by_number.get(number) for number in range(last + 1))
    return type(name, (Struct,), {"thrift_spec": fields})


ARGUMENTS = {name: struct(f"{name}_args", fields) for name, (fields, _) in METHODS.items()}
RESULTS = {name: struct(f"{name}_result", fields or []) for name, (_, fields) in METHODS.items()}


def order(size):
    items = [Item(number=n, name="i" * 7, prices=[1.5, 2.5], sold=True) for n in range(size)]
    return Order(
        items=items,
        places={"a": [1, 2, 3], "b": []},
        tags={"x", "y"},
        by_number={item.number: item for item in items},
        total=1 << 40,
        small=-5,
        tiny=7,
    )


class Processor(TProcessor):
    """What the generator writes, for all methods but `missing`."""

    def __init__(self, handler):
        self.handler = handler

    def process(self, iprot, oprot):
        name, _, sequence = iprot.readMessageBegin()
        if name not in METHODS or name == "missing":
            iprot.skip(TType.STRUCT)
            iprot.readMessageEnd()
            unknown = TApplicationException(
                TApplicationException.UNKNOWN_METHOD, f"Unknown function {name}"
            )
            return self.reply(oprot, name, TMessageType.EXCEPTION, sequence, unknown)
        arguments = ARGUMENTS[name]()
        arguments.read(iprot)
        iprot.readMessageEnd()
        fields = [field[2] for field in arguments.thrift_spec if field]
        values = [getattr(arguments, field) for field in fields]
        result, kind = RESULTS[name](), TMessageType.REPLY
        try:
            success = getattr(self.handler, name)(*values)
            if METHODS[name][1]:
                result.success = success
        except Empty as error:
            result.empty = error
        except Exception:
            kind = TMessageType.EXCEPTION
            result = TApplicationException(TApplicationException.INTERNAL_ERROR, "Internal error")
        if METHODS[name][1] is None:
            return True
        return self.reply(oprot, name, kind, sequence, result)

    @staticmethod
    def reply(oprot, name, kind, sequence, result):
        oprot.writeMessageBegin(name, kind, sequence)
        result.write(oprot)
        oprot.writeMessageEnd()
        oprot.trans.flush()
        return True


class Announcing:
    def __init__(self, listens, **address):
        super().__init__(**address)
        self.listens = listens

    def listen(self):
        super().listen()
        self.listens(self.handle.getsockname())


class Listening(Announcing, TServerSocket):
    pass


class ListeningOverTls(Announcing, TSSLServerSocket):
    pass


def protocols(name, transport):
    if transport == "header":
        inner = {"binary": THeaderSubprotocolID.BINARY, "compact": THeaderSubprotocolID.COMPACT}
        return THeaderProtocolFactory([THeaderClientType.HEADERS], inner[name])
    if name == "compact":
        return TCompactProtocolFactory()
    is_strict = name != "unversioned"
    return TBinaryProtocolFactory(strictRead=is_strict, strictWrite=is_strict)


def server(handler, listen, protocol, transport, multiplexed, listens, certificate=None):
    """Returns a function that serves."""
    kind, _, path = listen.partition(":")
    if kind == "unix":
        socket = Listening(lambda _: listens(listen), unix_socket=path)
    else:
        address = {"host": "127.0.0.1", "port": 0}
        kind = Listening
        if certificate:
            kind = ListeningOverTls
            address["ssl_context"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            address["ssl_context"].load_cert_chain(*certificate)
        socket = kind(lambda name: listens(f"{name[0]}:{name[1]}"), **address)
    processor = Processor(handler)
    if multiplexed:
        several = TMultiplexedProcessor()
        several.registerProcessor("Shop", processor)
        processor = several
    factory = TFramedTransportFactory() if transport == "framed" else TBufferedTransportFactory()
    server = TThreadedServer(processor, socket, factory, protocols(protocol, transport), daemon=True)
    return server.serve


class Client:
    """What the generator writes. It sends the sequence id 0 with each call; this one counts."""

    def __init__(self, target, protocol, transport, multiplexed, authority=None):
        kind, _, path = target.partition(":")
        if kind == "unix":
            socket = TSocket(unix_socket=path)
        else:
            host, _, port = target.rpartition(":")
            socket = TSocket(host, int(port))
            if authority:
                context = ssl.create_default_context(cafile=authority)
                socket = TSSLSocket(host, int(port), ssl_context=context)
        wrap = TFramedTransport if transport == "framed" else TBufferedTransport
        self.transport = wrap(socket)
        self.transport.open()
        self.protocol = protocols(protocol, transport).getProtocol(self.transport)
        self.out = TMultiplexedProtocol(self.protocol, "Shop") if multiplexed else self.protocol
        self.sequence = 0

    def call(self, method, *values):
        self.sequence += 1
        is_oneway = METHODS[method][1] is None
        kind = TMessageType.ONEWAY if is_oneway else TMessageType.CALL
        self.out.writeMessageBegin(method, kind, self.sequence)
        ARGUMENTS[method](*values).write(self.out)
        self.out.writeMessageEnd()
        self.protocol.trans.flush()
        if is_oneway:
            return None
        name, kind, sequence = self.protocol.readMessageBegin()
        if (name, sequence) != (method, self.sequence):
            raise TProtocolException(TProtocolException.INVALID_DATA, f"{name} {sequence}")
        if kind == TMessageType.EXCEPTION:
            error = TApplicationException()
            error.read(self.protocol)
            self.protocol.readMessageEnd()
            raise error
        result = RESULTS[method]()
        result.read(self.protocol)
        self.protocol.readMessageEnd()
        if getattr(result, "empty", None) is not None:
            raise result.empty
        return getattr(result, "success", None)

    def close(self):
        self.transport.close()
