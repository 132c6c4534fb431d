"""Server and client of thriftpy2 with asyncio. There is no multiplexing."""

import asyncio
import logging

from thriftpy2.contrib.aio.protocol.binary import TAsyncBinaryProtocolFactory
from thriftpy2.contrib.aio.protocol.compact import TAsyncCompactProtocolFactory
from thriftpy2.contrib.aio.processor import TAsyncProcessor
from thriftpy2.contrib.aio.rpc import make_client
from thriftpy2.contrib.aio.server import TAsyncServer
from thriftpy2.contrib.aio.socket import TAsyncServerSocket
from thriftpy2.contrib.aio.transport.buffered import TAsyncBufferedTransportFactory
from thriftpy2.contrib.aio.transport.framed import TAsyncFramedTransportFactory
from thriftpy2.transport import TTransportException

from of_thriftpy2 import UNDECLARED, ApplicationException, Empty, idl, order

__all__ = ["UNDECLARED", "ApplicationException", "Client", "Empty", "order", "server"]

# The end of the stream is an EOFError.
TransportException = (TTransportException, EOFError, ConnectionError)

# The server logs each undeclared exception.
logging.getLogger("thriftpy2").setLevel(logging.CRITICAL)


def protocols(name):
    return TAsyncCompactProtocolFactory() if name == "compact" else TAsyncBinaryProtocolFactory()


def transports(name):
    if name == "framed":
        return TAsyncFramedTransportFactory()
    return TAsyncBufferedTransportFactory()


class Handler:
    """The same methods as coroutines."""

    def __init__(self, handler):
        self.handler = handler

    def __getattr__(self, name):
        async def method(*arguments):
            return getattr(self.handler, name)(*arguments)

        return method


class Listening(TAsyncServerSocket):
    def __init__(self, listens, **address):
        # By default a connection ends after three seconds.
        super().__init__(client_timeout=None, **address)
        self.listens = listens

    def listen(self):
        super().listen()
        self.listens(self.raw_sock.getsockname())


def server(handler, listen, protocol, transport, multiplexed, listens):
    """Returns a function that serves."""
    assert not multiplexed
    kind, _, path = listen.partition(":")
    if kind == "unix":
        socket = Listening(lambda _: listens(listen), unix_socket=path)
    else:
        socket = Listening(lambda name: listens(f"{name[0]}:{name[1]}"), host="127.0.0.1", port=0)
    server = TAsyncServer(
        TAsyncProcessor(idl.Shop, Handler(handler)),
        socket,
        iprot_factory=protocols(protocol),
        itrans_factory=transports(transport),
        loop=asyncio.new_event_loop(),
    )
    return server.serve


class Client:
    def __init__(self, target, protocol, transport, multiplexed):
        assert not multiplexed
        kind, _, path = target.partition(":")
        if kind == "unix":
            address = {"unix_socket": path}
        else:
            host, _, port = target.rpartition(":")
            address = {"host": host, "port": int(port)}
        self.loop = asyncio.new_event_loop()
        factories = {
            "proto_factory": protocols(protocol),
            "trans_factory": transports(transport),
        }
        self.client = self.loop.run_until_complete(
            make_client(idl.Newer, **address, **factories, timeout=None)
        )

    def call(self, method, *arguments):
        return self.loop.run_until_complete(getattr(self.client, method)(*arguments))

    def close(self):
        self.client.close()
        # So that the transport's end is handled.
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
