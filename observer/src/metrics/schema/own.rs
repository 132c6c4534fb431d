//! The families that no library has, named like those of `go`. They are published with every schema.
//!
//! They have no label `grpc_type`: it changes when a method turns out to be a stream, and a gauge or a number of bytes
//! should not start again for that.

use super::{
    CallFamily,
    LabelSource::{Method, Service},
    LabelSpec,
    Value::{self, Connections, FirstMessage, InFlight, ReceivedBytes, SentBytes},
};
use observer_core::call::Role::{self, Client, Server};

const METHOD: &[LabelSpec] = &[("grpc_service", Service), ("grpc_method", Method)];

pub(super) static FAMILIES: &[CallFamily] = &[
    family(
        Server,
        InFlight,
        "grpc_server_in_flight",
        "RPCs started on the server that have not ended.",
    ),
    family(
        Server,
        FirstMessage,
        "grpc_server_first_message_seconds",
        "Histogram of the time from the request headers to the end of the first message sent \
         by the server.",
    ),
    family(
        Server,
        ReceivedBytes,
        "grpc_server_msg_received_bytes",
        "Total bytes of messages received on the server, as encoded on the wire.",
    ),
    family(
        Server,
        SentBytes,
        "grpc_server_msg_sent_bytes",
        "Total bytes of messages sent by the server, as encoded on the wire.",
    ),
    family(Server, Connections, "grpc_server_connections", "Open connections to the server."),
    family(
        Client,
        InFlight,
        "grpc_client_in_flight",
        "RPCs started on the client that have not ended.",
    ),
    family(
        Client,
        FirstMessage,
        "grpc_client_first_message_seconds",
        "Histogram of the time from the request headers to the end of the first message \
         received by the client.",
    ),
    family(
        Client,
        ReceivedBytes,
        "grpc_client_msg_received_bytes",
        "Total bytes of messages received by the client, as encoded on the wire.",
    ),
    family(
        Client,
        SentBytes,
        "grpc_client_msg_sent_bytes",
        "Total bytes of messages sent by the client, as encoded on the wire.",
    ),
    family(Client, Connections, "grpc_client_connections", "Open connections from the client."),
];

const fn family(role: Role, value: Value, name: &'static str, help: &'static str) -> CallFamily {
    let labels = if matches!(value, Connections) { &[] } else { METHOD };
    CallFamily::new(role, value, labels, name, help)
}
