//! What no library has: told beside whichever schema is chosen, in the words of `go`.
//!
//! `grpc_type` is on none of them: it may change when a method turns out to be a stream, or none, and a
//! gauge or a byte count need not break for that.

use super::{
    CallFamily,
    LabelSource::{Method, Service},
    LabelSpec,
    Value::{Connections, FirstMessage, InFlight, ReceivedBytes, SentBytes},
};
use observer_core::call::Role::{Client, Server};

const METHOD: &[LabelSpec] = &[("grpc_service", Service), ("grpc_method", Method)];

pub(super) static FAMILIES: &[CallFamily] = &[
    CallFamily::new(
        Server,
        InFlight,
        METHOD,
        "grpc_server_in_flight",
        "RPCs started on the server that have not ended.",
    ),
    CallFamily::new(
        Server,
        FirstMessage,
        METHOD,
        "grpc_server_first_message_seconds",
        "Histogram of the time from the request headers to the end of the first message sent \
         by the server.",
    ),
    CallFamily::new(
        Server,
        ReceivedBytes,
        METHOD,
        "grpc_server_msg_received_bytes",
        "Total bytes of messages received on the server, as encoded on the wire.",
    ),
    CallFamily::new(
        Server,
        SentBytes,
        METHOD,
        "grpc_server_msg_sent_bytes",
        "Total bytes of messages sent by the server, as encoded on the wire.",
    ),
    CallFamily::new(
        Server,
        Connections,
        &[],
        "grpc_server_connections",
        "Open connections to the server.",
    ),
    CallFamily::new(
        Client,
        InFlight,
        METHOD,
        "grpc_client_in_flight",
        "RPCs started on the client that have not ended.",
    ),
    CallFamily::new(
        Client,
        FirstMessage,
        METHOD,
        "grpc_client_first_message_seconds",
        "Histogram of the time from the request headers to the end of the first message \
         received by the client.",
    ),
    CallFamily::new(
        Client,
        ReceivedBytes,
        METHOD,
        "grpc_client_msg_received_bytes",
        "Total bytes of messages received by the client, as encoded on the wire.",
    ),
    CallFamily::new(
        Client,
        SentBytes,
        METHOD,
        "grpc_client_msg_sent_bytes",
        "Total bytes of messages sent by the client, as encoded on the wire.",
    ),
    CallFamily::new(
        Client,
        Connections,
        &[],
        "grpc_client_connections",
        "Open connections from the client.",
    ),
];
