"""Server and client of thriftpy2. Its clients send the sequence id 0 with each call."""

import pathlib

import thriftpy2
from thriftpy2.protocol import (
    TBinaryProtocolFactory,
    TCompactProtocolFactory,
    TMultiplexedProtocolFactory,
)
from thriftpy2.rpc import make_client
from thriftpy2.server import TThreadedServer
from thriftpy2.thrift import TApplicationException, TMultiplexedProcessor, TProcessor
from thriftpy2.transport import (
    TBufferedTransportFactory,
    TFramedTransportFactory,
    TServerSocket,
    TTransportException,
)

from truth import NO_REPLY

idl = thriftpy2.load(str(pathlib.Path(__file__).with_name("shop.thrift")), "shop_thrift")

Empty = idl.Empty
ApplicationException = TApplicationException
TransportException = TTransportException

# What happens if a method raises an exception that it does not declare: the server closes the connection.
UNDECLARED = NO_REPLY


def transports(name):
    return TFramedTransportFactory() if name == "framed" else TBufferedTransportFactory()


def protocols(name):
    if name == "compact":
        return TCompactProtocolFactory()
    is_strict = name != "unversioned"
    return TBinaryProtocolFactory(strict_read=is_strict, strict_write=is_strict)


def order(size):
    items = [idl.Item(number=n, name="i" * 7, prices=[1.5, 2.5], sold=True) for n in range(size)]
    return idl.Order(
        items=items,
        places={"a": [1, 2, 3], "b": []},
        tags={"x", "y"},
        by_number={item.number: item for item in items},
        total=1 << 40,
        small=-5,
        tiny=7,
    )


class Listening(TServerSocket):
    def __init__(self, listens, **address):
        super().__init__(**address)
        self.listens = listens

    def listen(self):
        super().listen()
        self.listens(self.sock.getsockname())


def server(handler, listen, protocol, transport, multiplexed, listens):
    """Returns a function that serves."""
    kind, _, path = listen.partition(":")
    if kind == "unix":
        socket = Listening(lambda _: listens(listen), unix_socket=path)
    else:
        socket = Listening(
            lambda name: listens(f"{name[0]}:{name[1]}"), host="127.0.0.1", port=0
        )
    processor = TProcessor(idl.Shop, handler)
    if multiplexed:
        several = TMultiplexedProcessor()
        several.register_processor("Shop", processor)
        processor = several
    server = TThreadedServer(
        processor,
        socket,
        iprot_factory=protocols(protocol),
        itrans_factory=transports(transport),
        daemon=True,
    )
    return server.serve


class Client:
    def __init__(self, target, protocol, transport, multiplexed):
        factory = protocols(protocol)
        if multiplexed:
            factory = TMultiplexedProtocolFactory(factory, "Shop")
        kind, _, path = target.partition(":")
        if kind == "unix":
            address = {"unix_socket": path}
        else:
            host, _, port = target.rpartition(":")
            address = {"host": host, "port": int(port)}
        self.client = make_client(
            idl.Newer, **address, proto_factory=factory, trans_factory=transports(transport)
        )

    def call(self, method, *arguments):
        return getattr(self.client, method)(*arguments)

    def close(self):
        self.client.close()
