//! The schema of go-grpc-prometheus and of its successor, the Prometheus provider of go-grpc-middleware, so that
//! dashboards and alerts for them work.

use super::{
    CallFamily,
    LabelSource::{Code, Method, Service, Type},
    LabelSpec,
    Spelling::Go,
    Value::{self, Handled, Handling, Received, Sent, Started},
};
use observer_core::call::Role;

const METHOD: &[LabelSpec] =
    &[("grpc_type", Type(Go)), ("grpc_service", Service), ("grpc_method", Method)];

const METHOD_AND_CODE: &[LabelSpec] = &[
    ("grpc_type", Type(Go)),
    ("grpc_service", Service),
    ("grpc_method", Method),
    ("grpc_code", Code(Go)),
];

pub(super) static FAMILIES: &[CallFamily] = &[
    server(Started, "grpc_server_started", "Total number of RPCs started on the server."),
    server(
        Handled,
        "grpc_server_handled",
        "Total number of RPCs completed on the server, regardless of success or failure.",
    ),
    server(
        Received,
        "grpc_server_msg_received",
        "Total number of RPC stream messages received on the server.",
    ),
    server(
        Sent,
        "grpc_server_msg_sent",
        "Total number of gRPC stream messages sent by the server.",
    ),
    server(
        Handling,
        "grpc_server_handling_seconds",
        "Histogram of response latency (seconds) of gRPC that had been application-level handled \
         by the server.",
    ),
    client(Started, "grpc_client_started", "Total number of RPCs started on the client."),
    client(
        Handled,
        "grpc_client_handled",
        "Total number of RPCs completed by the client, regardless of success or failure.",
    ),
    client(
        Received,
        "grpc_client_msg_received",
        "Total number of RPC stream messages received by the client.",
    ),
    client(
        Sent,
        "grpc_client_msg_sent",
        "Total number of gRPC stream messages sent by the client.",
    ),
    client(
        Handling,
        "grpc_client_handling_seconds",
        "Histogram of response latency (seconds) of the gRPC until it is finished by the \
         application.",
    ),
];

const fn server(value: Value, name: &'static str, help: &'static str) -> CallFamily {
    CallFamily::new(Role::Server, value, labels(value), name, help)
}

const fn client(value: Value, name: &'static str, help: &'static str) -> CallFamily {
    CallFamily::new(Role::Client, value, labels(value), name, help)
}

const fn labels(value: Value) -> &'static [LabelSpec] {
    match value {
        Handled => METHOD_AND_CODE,
        _ => METHOD,
    }
}
