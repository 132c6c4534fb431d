"""A receiver of OTLP for the end-to-end tests, with OpenTelemetry's own messages.

    collector.py --protocol http|grpc --answers ANSWER,... [--port PORT]
                 [--certificate FILE --key FILE --client-ca FILE]

Prints one JSON line {"address"} when it listens, and one for each request: {"answer", "headers", "spans", "points"}. Each
request gets the next answer, and the last one is repeated:

    ok          accepted
    partial     accepted, but for one span
    refuse      refused for good
    later       refused for a second
    busy        refused for a while, without saying how long
    sleep       no answer for 3 s, then accepted
"""

import argparse
import gzip
import http.server
import json
import ssl
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import any_pb2, duration_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_services
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services

PRINTING = threading.Lock()


def say(line):
    with PRINTING:
        print(json.dumps(line), flush=True)


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs):
    found = {pair.key: value(pair.value) for pair in pairs}
    assert len(found) == len(pairs), f"an attribute is there twice: {pairs}"
    return found


def spans(request):
    for resource_spans in request.resource_spans:
        resource = attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield {
                    "schema": resource_spans.schema_url,
                    "scope": scope_spans.scope.name,
                    "resource": resource,
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "state": span.trace_state,
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": type(span).SpanKind.Name(span.kind),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": attributes(span.attributes),
                    "status": type(span.status).StatusCode.Name(span.status.code),
                    "description": span.status.message,
                    "flags": span.flags,
                }


def points(request):
    for resource_metrics in request.resource_metrics:
        resource = attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                for point in data.data_points:
                    yield {
                        "resource": resource,
                        "name": metric.name,
                        "unit": metric.unit,
                        "kind": kind,
                        "temporality": getattr(data, "aggregation_temporality", 0),
                        "monotonic": getattr(data, "is_monotonic", False),
                        "attributes": attributes(point.attributes),
                        "start": point.start_time_unix_nano,
                        "time": point.time_unix_nano,
                        **value_of(kind, point),
                    }


def value_of(kind, point):
    if kind in ("gauge", "sum"):
        return {"count": point.as_int, "sum": 0.0, "buckets": [], "bounds": [], "exemplars": []}
    exemplars = [
        {
            "trace": exemplar.trace_id.hex(),
            "span": exemplar.span_id.hex(),
            "value": exemplar.as_double,
            "time": exemplar.time_unix_nano,
        }
        for exemplar in point.exemplars
    ]
    if kind == "histogram":
        buckets, bounds = list(point.bucket_counts), list(point.explicit_bounds)
        assert len(buckets) == len(bounds) + 1 and sum(buckets) == point.count, point
    else:
        buckets, bounds = list(point.positive.bucket_counts), [point.scale, point.positive.offset]
        assert sum(buckets) + point.zero_count == point.count, point
    values = {"buckets": buckets, "bounds": bounds, "exemplars": exemplars}
    return {"count": point.count, "sum": point.sum, **values}


class Answers:
    def __init__(self, answers):
        self._answers = answers
        self._lock = threading.Lock()

    def next(self, request, headers):
        with self._lock:
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        is_of_traces = isinstance(request, traces.ExportTraceServiceRequest)
        read = {"spans": list(spans(request)) if is_of_traces else []}
        read["points"] = [] if is_of_traces else list(points(request))
        say({"answer": answer, "headers": headers, **read})
        if answer == "sleep":
            time.sleep(3)
        return answer


def accepted(answer, request):
    if isinstance(request, metrics.ExportMetricsServiceRequest):
        return metrics.ExportMetricsServiceResponse()
    response = traces.ExportTraceServiceResponse()
    if answer == "partial":
        response.partial_success.rejected_spans = 1
        response.partial_success.error_message = "one too many"
    return response


def serve_http(answers, port, context):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            is_of_traces = self.path == "/v1/traces"
            kind = traces.ExportTraceServiceRequest
            kind = kind if is_of_traces else metrics.ExportMetricsServiceRequest
            request = kind.FromString(body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = answers.next(request, {**headers, ":path": self.path})
            status = {"refuse": 400, "later": 429, "busy": 503}.get(answer, 200)
            body = accepted(answer, request).SerializeToString() if status == 200 else b""
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(body)))
            if answer == "later":
                self.send_header("retry-after", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    say({"address": f"127.0.0.1:{server.server_address[1]}"})
    server.serve_forever()


def field(number, octets):
    """A field of bytes; their length fits into one octet."""
    return bytes([number << 3 | 2, len(octets)]) + octets


def retry_info():
    """google.rpc.Status with a RetryInfo of one second."""
    delay = duration_pb2.Duration(seconds=1).SerializeToString()
    info = any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=field(1, delay))
    return b"\x08\x08" + field(3, info.SerializeToString())


def serve_grpc(answers, port, credentials):
    class Service(services.TraceServiceServicer):
        def Export(self, request, context):
            answer = answers.next(request, dict(context.invocation_metadata()))
            if answer == "refuse":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this one")
            if answer == "busy":
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            if answer == "later":
                context.set_trailing_metadata([("grpc-status-details-bin", retry_info())])
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
            return accepted(answer, request)

    server = grpc.server(futures.ThreadPoolExecutor(8))
    services.add_TraceServiceServicer_to_server(Service(), server)
    metrics_services.add_MetricsServiceServicer_to_server(Service(), server)
    at = f"127.0.0.1:{port}"
    port = server.add_secure_port(at, credentials) if credentials else server.add_insecure_port(at)
    server.start()
    say({"address": f"127.0.0.1:{port}"})
    server.wait_for_termination()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--protocol", choices=["http", "grpc"], required=True)
    parser.add_argument("--answers", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--client-ca")
    args = parser.parse_args()
    answers = Answers(args.answers.split(","))
    if args.protocol == "http":
        context = None
        if args.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(args.certificate, args.key)
            context.load_verify_locations(args.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        serve_http(answers, args.port, context)
    else:
        credentials = None
        if args.certificate:
            read = lambda path: open(path, "rb").read()
            pair = [(read(args.key), read(args.certificate))]
            credentials = grpc.ssl_server_credentials(pair, read(args.client_ca), True)
        serve_grpc(answers, args.port, credentials)


main()
