"""grpcio with a metrics library in it, to be compared with the daemon's metrics.

    instrumented.py server --library NAME --listen ADDRESS --truth FILE --told FILE
    instrumented.py client --library NAME --target ADDRESS --plan FILE --truth FILE --told FILE

Like `server.py` and `client.py` in asyncio mode, except for `--told`: the library's metrics, in the
OpenMetrics text format. Libraries: `python` is py-async-grpc-prometheus, `legacy` that with
`legacy=True`, `requests` a hand-made interceptor of servers as guides show it, `otel` OpenTelemetry's
spans, without an exporter and without metrics.

The client uses the API that the library leaves intact: iterators, no reads and writes.
"""

import argparse
import asyncio
import json
import logging
import signal
import time

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors, aio_server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.openmetrics.exposition import generate_latest
from py_async_grpc_prometheus.prometheus_async_client_interceptor import get_client_interceptors
from py_async_grpc_prometheus.prometheus_async_server_interceptor import PromAsyncServerInterceptor

import echo_pb2_grpc
from client import CONNECT_SECONDS, OPTIONS as CLIENT_OPTIONS, parse, stub
from server import AsyncioEcho, announce
from truth import OPTIONS, Call, Truth

REGISTRY = CollectorRegistry()
# All calls belong to this trace, which is recorded.
METADATA = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)


class Requests(grpc.aio.ServerInterceptor):
    """`grpc_requests_total` and the like, for unary methods: what most services have."""

    def __init__(self):
        self.count = Counter("grpc_requests_total", "Total gRPC requests", ["method", "status"], registry=REGISTRY)
        self.duration = Histogram("grpc_request_duration_seconds", "Request duration", ["method"], registry=REGISTRY)
        self.errors = Counter("grpc_errors_total", "Total gRPC errors", ["method", "error_type"], registry=REGISTRY)
        self.active = Gauge("grpc_active_connections", "Active connections", registry=REGISTRY)
        self.service = Info("grpc_service", "gRPC services called on the process", ["service"], registry=REGISTRY)

    async def intercept_service(self, continuation, handler_call_details):
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or handler.request_streaming or handler.response_streaming:
            return handler
        self.service.labels(method.split("/")[1])

        async def behavior(request, context):
            begun = time.perf_counter()
            self.active.inc()
            try:
                return await handler.unary_unary(request, context)
            finally:
                code = context.code() or 0
                name = next(c.name for c in grpc.StatusCode if code in (c, c.value[0]))
                self.count.labels(method, name).inc()
                if name != "OK":
                    self.errors.labels(method, name).inc()
                self.duration.labels(method).observe(time.perf_counter() - begun)
                self.active.dec()

        return grpc.unary_unary_rpc_method_handler(
            behavior,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def server_interceptor(library):
    if library == "otel":
        return aio_server_interceptor(tracer_provider=TracerProvider())
    if library == "requests":
        return Requests()
    return PromAsyncServerInterceptor(
        enable_handling_time_histogram=True, legacy=library == "legacy", registry=REGISTRY
    )


def client_interceptors(library):
    if library == "otel":
        return aio_client_interceptors(tracer_provider=TracerProvider())
    if library == "requests":
        return []
    return get_client_interceptors(
        enable_client_handling_time_histogram=True,
        enable_client_stream_receive_time_histogram=True,
        enable_client_stream_send_time_histogram=True,
        legacy=library == "legacy",
        registry=REGISTRY,
    )


async def serve(args, truth):
    server = grpc.aio.server(options=OPTIONS, interceptors=[server_interceptor(args.library)])
    echo_pb2_grpc.add_EchoServicer_to_server(AsyncioEcho(truth), server)
    port = server.add_insecure_port(args.listen)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    announce(args.listen, port)
    await stop.wait()
    await server.stop(grace=2)


async def make_call(channel, step, truth):
    truth_of_call = Call(step.method)

    async def requests():
        for _ in range(step.requests):
            yield truth_of_call.send(step.request)

    unary_request = step.rpc in ("Unary", "ServerStream")
    argument = truth_of_call.send(step.request) if unary_request else requests()
    call = stub(channel, step)(argument, timeout=step.timeout, metadata=METADATA)
    try:
        if step.rpc in ("Unary", "ClientStream"):
            truth_of_call.receive(await call)
        else:
            async for message in call:
                truth_of_call.receive(message)
        truth_of_call.code = 0
    except grpc.aio.AioRpcError as error:
        truth_of_call.code = error.code().value[0]
    truth.add(truth_of_call)


async def make_calls(channel, step, truth):
    for _ in range(step.count):
        await make_call(channel, step, truth)


async def carry_out(args, truth):
    with open(args.plan, encoding="utf-8") as plan:
        stages = [[parse(step) for step in stage] for stage in json.load(plan)]
    interceptors = client_interceptors(args.library)
    async with grpc.aio.insecure_channel(args.target, options=CLIENT_OPTIONS, interceptors=interceptors) as channel:
        await asyncio.wait_for(channel.channel_ready(), CONNECT_SECONDS)
        for stage in stages:
            await asyncio.gather(*(make_calls(channel, step, truth) for step in stage))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["server", "client"])
    parser.add_argument("--library", choices=["python", "legacy", "requests", "otel"], required=True)
    parser.add_argument("--listen")
    parser.add_argument("--target")
    parser.add_argument("--plan")
    parser.add_argument("--truth", required=True)
    parser.add_argument("--told", required=True)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    truth = Truth()
    asyncio.run(serve(args, truth) if args.role == "server" else carry_out(args, truth))
    with open(args.told, "wb") as told:
        told.write(generate_latest(REGISTRY))
    truth.write(args.truth)


if __name__ == "__main__":
    main()
