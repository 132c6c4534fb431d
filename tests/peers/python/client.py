"""The grpcio client of the end-to-end tests: carries out a plan.

    client.py --mode asyncio|threaded --target ADDRESS --plan FILE --truth FILE
              [--tls-ca FILE [--tls-cert FILE --tls-key FILE]]

Writes its record to the truth file once the plan is done. A plan is a JSON
list of stages, carried out one after the other; a stage is a list of steps, carried out
at the same time. `DEFAULTS` lists what a step can contain.
"""

import argparse
import asyncio
import json
import logging
import threading
from types import SimpleNamespace

import grpc

import echo_pb2
import tls
from truth import GZIP, OPTIONS, Call, Truth

DEFAULTS = {
    "rpc": "Unary",
    "count": 1,
    "concurrency": 1,
    "connections": 1,
    "payload": 0,
    "requests": 1,
    "response_size": 0,
    "responses": 1,
    "code": 0,
    "detail": "",
    "raises": False,
    "sleep_ms": 0,
    "sleep_between_ms": 0,
    # Bidi: the next request goes out when the last one's responses are in.
    "lockstep": False,
    "deadline_ms": None,
    "cancel_after_ms": None,
    # Cancel each call at another time within that: the golden ratio spreads them evenly.
    "cancel_within_ms": None,
    # Streams of responses: cancel when so many are in.
    "cancel_after_messages": None,
    # Streams of requests: the last one never comes, the call is open until it is cancelled.
    "holds": False,
    # As gRPC defines it in JSON: with a policy for retries or hedging.
    "service_config": None,
    # Requests are compressed.
    "gzip": False,
    # Call a method that no server has.
    "unknown_method": False,
    # Each call has this traceparent. Only these clients can do so.
    "traceparent": None,
}
ORDERS = ("requests", "response_size", "responses", "code", "detail", "raises", "sleep_ms", "sleep_between_ms")
GOLDEN_RATIO = 0.618033988749895
# Time for the server to start.
CONNECT_SECONDS = 30
# Without it, the path of a Unix socket becomes an :authority that not every server takes.
OPTIONS = [*OPTIONS, ("grpc.default_authority", "localhost")]


def parse(step):
    unknown = set(step) - set(DEFAULTS)
    if unknown:
        raise SystemExit(f"the plan's step says {sorted(unknown)}, which means nothing")
    step = SimpleNamespace(**{**DEFAULTS, **step})
    step.request = echo_pb2.Request(payload=b"\xab" * step.payload, **{name: getattr(step, name) for name in ORDERS})
    step.method = "/observer.test.v1.Echo/" + ("Missing" if step.unknown_method else step.rpc)
    step.timeout = seconds(step.deadline_ms)
    step.metadata = step.traceparent and (("traceparent", step.traceparent),)
    step.sent = step.requests - step.holds
    step.turns = step.requests if step.lockstep else 1
    return step


def cancel_after(step, turn):
    if step.cancel_within_ms is None:
        return seconds(step.cancel_after_ms)
    return seconds(step.cancel_within_ms * (turn * GOLDEN_RATIO % 1))


def seconds(millis):
    return None if millis is None else millis / 1000


def options(step):
    if step.gzip:
        return [*OPTIONS, GZIP]
    if step.service_config is None:
        return OPTIONS
    known = [option for option in OPTIONS if option[0] != "grpc.enable_retries"]
    return [*known, ("grpc.enable_retries", 1), ("grpc.service_config", json.dumps(step.service_config))]


def stub(channel, step):
    kind = {
        "Unary": channel.unary_unary,
        "ServerStream": channel.unary_stream,
        "ClientStream": channel.stream_unary,
        "Bidi": channel.stream_stream,
    }[step.rpc]
    return kind(
        step.method,
        request_serializer=echo_pb2.Request.SerializeToString,
        response_deserializer=echo_pb2.Response.FromString,
    )


class AsyncioClient:
    """Each of `concurrency` tasks makes one call after the other."""

    def __init__(self, target, open_channel, truth):
        self._target = target
        self._open_channel = open_channel
        self._truth = truth

    async def run(self, step):
        channels = [self._open_channel(self._target, options=options(step)) for _ in range(step.connections)]
        await asyncio.wait_for(asyncio.gather(*(c.channel_ready() for c in channels)), CONNECT_SECONDS)
        turns = iter(range(step.count))
        await asyncio.gather(*(self._worker(step, channels, turns) for _ in range(step.concurrency)))
        await asyncio.gather(*(c.close() for c in channels))

    async def _worker(self, step, channels, turns):
        for turn in turns:
            truth = Call(step.method)
            call = self._start(stub(channels[turn % len(channels)], step), step, truth)
            timer = None
            wait = cancel_after(step, turn)
            if wait is not None:
                timer = asyncio.get_running_loop().call_later(wait, call.cancel)
            try:
                await self._carry_out(call, step, truth)
            except (grpc.RpcError, asyncio.CancelledError):
                pass
            truth.code = (await call.code()).value[0]
            if timer:
                timer.cancel()
            self._truth.add(truth)

    @staticmethod
    def _start(method, step, truth):
        if step.rpc in ("Unary", "ServerStream"):
            return method(truth.send(step.request), timeout=step.timeout, metadata=step.metadata)
        return method(timeout=step.timeout, metadata=step.metadata)

    async def _carry_out(self, call, step, truth):
        if step.rpc == "Unary":
            truth.receive(await call)
        elif step.rpc == "ServerStream":
            await self._read(call, step, truth, None)
        elif step.rpc == "ClientStream":
            await self._write(call, step, truth, step.sent)
            await self._half_close(call, step)
            truth.receive(await call)
        elif step.lockstep:
            for _ in range(step.turns):
                await self._write(call, step, truth, 1)
                await self._read(call, step, truth, step.responses)
            await call.done_writing()
            await self._read(call, step, truth, None)
        else:
            await self._write(call, step, truth, step.sent)
            await self._half_close(call, step)
            await self._read(call, step, truth, None)

    @staticmethod
    async def _half_close(call, step):
        if not step.holds:
            await call.done_writing()

    @staticmethod
    async def _write(call, step, truth, count):
        for _ in range(count):
            await call.write(step.request)
            truth.send(step.request)

    @staticmethod
    async def _read(call, step, truth, count):
        while count is None or count > 0:
            message = await call.read()
            if message is grpc.aio.EOF:
                return
            truth.receive(message)
            if truth.received == step.cancel_after_messages:
                call.cancel()
                raise asyncio.CancelledError
            count = count and count - 1


def run_threads(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class ThreadedClient:
    """Each of `concurrency` threads makes one call after the other."""

    def __init__(self, target, open_channel, truth):
        self._target = target
        self._open_channel = open_channel
        self._truth = truth

    def run(self, step):
        channels = [self._open_channel(self._target, options=options(step)) for _ in range(step.connections)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
        turns = list(range(step.count))
        workers = [threading.Thread(target=self._worker, args=(step, channels, turns)) for _ in range(step.concurrency)]
        run_threads(workers)
        for channel in channels:
            channel.close()

    def _worker(self, step, channels, turns):
        while True:
            try:
                turn = turns.pop()
            except IndexError:
                return
            truth = Call(step.method)
            self._call(stub(channels[turn % len(channels)], step), step, truth, cancel_after(step, turn))
            self._truth.add(truth)

    def _call(self, method, step, truth, wait):
        read = threading.Semaphore(0)
        ended = threading.Event()
        argument = self._requests(step, truth, read, ended)
        if step.rpc in ("Unary", "ServerStream"):
            argument = truth.send(step.request)
        single = step.rpc in ("Unary", "ClientStream")
        call = (method.future if single else method)(argument, timeout=step.timeout, metadata=step.metadata)
        timer = None
        if wait is not None:
            timer = threading.Timer(wait, call.cancel)
            timer.start()
        try:
            if single:
                truth.receive(call.result())
            else:
                for message in call:
                    truth.receive(message)
                    if truth.received == step.cancel_after_messages:
                        call.cancel()
                    read.release()
        except (grpc.RpcError, grpc.FutureCancelledError):
            pass
        truth.code = call.code().value[0]
        ended.set()
        if timer:
            timer.cancel()

    @staticmethod
    def _requests(step, truth, read, ended):
        for turn in range(step.sent):
            if step.lockstep and turn:
                for _ in range(step.responses):
                    read.acquire()
                if truth.received == step.cancel_after_messages:
                    # Cancelled: nothing goes out any more, no half-close either.
                    return
            yield truth.send(step.request)
        if step.holds:
            ended.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["asyncio", "threaded"], required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--truth", required=True)
    tls.add_arguments(parser)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with open(args.plan, encoding="utf-8") as plan:
        stages = [[parse(step) for step in stage] for stage in json.load(plan)]
    truth = Truth()
    if args.mode == "asyncio":
        client = AsyncioClient(args.target, tls.channels(grpc.aio, args), truth)

        async def run():
            for stage in stages:
                await asyncio.gather(*(client.run(step) for step in stage))

        asyncio.run(run())
    else:
        client = ThreadedClient(args.target, tls.channels(grpc, args), truth)
        for stage in stages:
            run_threads([threading.Thread(target=client.run, args=(step,)) for step in stage])
    truth.write(args.truth)


if __name__ == "__main__":
    main()
