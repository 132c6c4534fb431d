"""The grpcio server of the end-to-end tests: does what each request asks for.

    server.py --mode asyncio|threaded --listen ADDRESS --truth FILE [--max-connection-age-ms N]
              [--compression gzip] [--computes-ms N] [--sleeps-ms N]
              [--tls-cert FILE --tls-key FILE [--tls-ca FILE]]

Prints one JSON line {"pid", "address"} when it listens; at SIGTERM it stops and
writes its record to FILE.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import threading
import time
from concurrent import futures

import grpc

import echo_pb2
import echo_pb2_grpc
import tls
from truth import GZIP, OPTIONS, Call, Truth

CODES = {code.value[0]: code for code in grpc.StatusCode}
SERVICE = "/observer.test.v1.Echo/"


def response(call, request):
    return call.send(echo_pb2.Response(payload=b"\xcd" * request.response_size))


class Block:
    """The time that each handler computes or sleeps first."""

    computes_ms = 0
    sleeps_ms = 0


def begin(method):
    until = time.monotonic() + Block.computes_ms / 1000
    while time.monotonic() < until:
        pass
    time.sleep(Block.sleeps_ms / 1000)
    return Call(SERVICE + method)


def raise_if_told(call, request):
    if request.raises:
        call.code = grpc.StatusCode.UNKNOWN.value[0]
        raise RuntimeError("the request said so")


class AsyncioEcho(echo_pb2_grpc.EchoServicer):
    """A handler that is cancelled ends with CancelledError and no code."""

    def __init__(self, truth):
        self._truth = truth

    async def Unary(self, request, context):
        call = begin("Unary")
        try:
            call.receive(request)
            await asyncio.sleep(request.sleep_ms / 1000)
            return await self._answer(call, request, context)
        finally:
            self._truth.add(call)

    async def ServerStream(self, request, context):
        call = begin("ServerStream")
        try:
            call.receive(request)
            for turn in range(request.responses):
                await asyncio.sleep((request.sleep_between_ms if turn else request.sleep_ms) / 1000)
                yield response(call, request)
            await self._end(call, request, context)
        finally:
            self._truth.add(call)

    async def ClientStream(self, request_iterator, context):
        call = begin("ClientStream")
        try:
            request = await self._read_all(call, request_iterator)
            await asyncio.sleep(request.sleep_ms / 1000)
            return await self._answer(call, request, context)
        finally:
            self._truth.add(call)

    async def Bidi(self, request_iterator, context):
        call = begin("Bidi")
        try:
            turn, request = 0, None
            async for request in request_iterator:
                call.receive(request)
                for _ in range(request.responses):
                    await asyncio.sleep((request.sleep_between_ms if turn else request.sleep_ms) / 1000)
                    yield response(call, request)
                    turn += 1
            await self._whole(call, request)
            await self._end(call, request, context)
        finally:
            self._truth.add(call)

    async def _read_all(self, call, request_iterator):
        request = None
        async for request in request_iterator:
            call.receive(request)
        await self._whole(call, request)
        return request

    @staticmethod
    async def _whole(call, request):
        if request is None or call.received < request.requests:
            # A reset that looked like a half-close: the cancellation is on its way.
            await asyncio.sleep(60)

    async def _answer(self, call, request, context):
        await self._end(call, request, context)
        return response(call, request)

    @staticmethod
    async def _end(call, request, context):
        raise_if_told(call, request)
        call.code = request.code
        if request.code:
            await context.abort(CODES[request.code], request.detail)


class Cut(Exception):
    """The call ended under the handler."""


class ThreadedEcho(echo_pb2_grpc.EchoServicer):
    """Handlers sleep on an event that the end of the call sets, so a cut call frees its thread."""

    def __init__(self, truth):
        self._truth = truth

    def Unary(self, request, context):
        call, ended = self._begin("Unary", context)
        try:
            call.receive(request)
            self._sleep(ended, request.sleep_ms)
            return self._answer(call, request, context)
        finally:
            self._truth.add(call)

    def ServerStream(self, request, context):
        call, ended = self._begin("ServerStream", context)
        try:
            call.receive(request)
            for turn in range(request.responses):
                self._sleep(ended, request.sleep_between_ms if turn else request.sleep_ms)
                yield response(call, request)
            self._end(call, request, context)
        finally:
            self._truth.add(call)

    def ClientStream(self, request_iterator, context):
        call, ended = self._begin("ClientStream", context)
        try:
            request = None
            for request in request_iterator:
                call.receive(request)
            self._whole(call, request, ended)
            self._sleep(ended, request.sleep_ms)
            return self._answer(call, request, context)
        finally:
            self._truth.add(call)

    def Bidi(self, request_iterator, context):
        call, ended = self._begin("Bidi", context)
        try:
            turn, request = 0, None
            for request in request_iterator:
                call.receive(request)
                for _ in range(request.responses):
                    self._sleep(ended, request.sleep_between_ms if turn else request.sleep_ms)
                    yield response(call, request)
                    turn += 1
            self._whole(call, request, ended)
            self._end(call, request, context)
        finally:
            self._truth.add(call)

    @staticmethod
    def _begin(method, context):
        ended = threading.Event()
        if not context.add_callback(ended.set):
            ended.set()
        return begin(method), ended

    @staticmethod
    def _sleep(ended, millis):
        if millis and ended.wait(millis / 1000):
            raise Cut

    @staticmethod
    def _whole(call, request, ended):
        if request is None or call.received < request.requests:
            # A half-close that a reset follows: what is answered in between would go out.
            ended.wait(60)
            raise Cut

    def _answer(self, call, request, context):
        self._end(call, request, context)
        return response(call, request)

    @staticmethod
    def _end(call, request, context):
        raise_if_told(call, request)
        call.code = request.code
        if request.code:
            context.abort(CODES[request.code], request.detail)


def announce(listen, port):
    address = listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
    print(json.dumps({"pid": os.getpid(), "address": address}), flush=True)


async def serve_asyncio(args, options, truth):
    server = grpc.aio.server(options=options)
    echo_pb2_grpc.add_EchoServicer_to_server(AsyncioEcho(truth), server)
    port = tls.add_port(server, args.listen, args)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    announce(args.listen, port)
    await stop.wait()
    await server.stop(grace=2)


def serve_threaded(args, options, truth):
    pool = futures.ThreadPoolExecutor(max_workers=64)
    server = grpc.server(pool, options=options)
    echo_pb2_grpc.add_EchoServicer_to_server(ThreadedEcho(truth), server)
    port = tls.add_port(server, args.listen, args)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server.start()
    announce(args.listen, port)
    stop.wait()
    server.stop(grace=2).wait()
    pool.shutdown()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["asyncio", "threaded"], required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--max-connection-age-ms", type=int)
    parser.add_argument("--compression", choices=["gzip"])
    parser.add_argument("--computes-ms", type=int, default=0)
    parser.add_argument("--sleeps-ms", type=int, default=0)
    tls.add_arguments(parser)
    args = parser.parse_args()
    Block.computes_ms, Block.sleeps_ms = args.computes_ms, args.sleeps_ms
    # Handlers that raise are part of the plan; their tracebacks are expected.
    logging.disable(logging.CRITICAL)
    options = OPTIONS
    if args.max_connection_age_ms:
        options = [*options, ("grpc.max_connection_age_ms", args.max_connection_age_ms)]
    if args.compression:
        options = [*options, GZIP]
    truth = Truth()
    if args.mode == "asyncio":
        asyncio.run(serve_asyncio(args, options, truth))
    else:
        serve_threaded(args, options, truth)
    truth.write(args.truth)


if __name__ == "__main__":
    main()
