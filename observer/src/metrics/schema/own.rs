//! What no library has: told beside whichever schema is chosen, in the words of `go`.
//!
//! `grpc_type` is on none of them: it may change when a method turns out to be a stream, or none, and a
//! gauge or a byte count need not break for that.

use super::{
    CallFamily, LabelOf,
    Says::{Method, Service},
    Value::{Connections, FirstMessage, InFlight, ReceivedBytes, SentBytes},
};
use crate::{
    grpc::Role::{Client, Server},
    metrics::exposition::{
        Family,
        Kind::{Counter, Gauge, Histogram},
    },
};

const METHOD: &[LabelOf] = &[("grpc_service", Service), ("grpc_method", Method)];

pub(super) static FAMILIES: &[CallFamily] = &[
    CallFamily::new(
        Server,
        InFlight,
        METHOD,
        Family::new(
            Gauge,
            "grpc_server_in_flight",
            "RPCs that have begun on the server and not ended.",
        ),
    ),
    CallFamily::new(
        Server,
        FirstMessage,
        METHOD,
        Family::new(
            Histogram,
            "grpc_server_first_message_seconds",
            "Histogram of the time from the request headers to the end of the first message sent \
             by the server.",
        )
        .in_unit("seconds"),
    ),
    CallFamily::new(
        Server,
        ReceivedBytes,
        METHOD,
        Family::new(
            Counter,
            "grpc_server_msg_received_bytes",
            "Total length of the messages received on the server, as on the wire.",
        )
        .in_unit("bytes"),
    ),
    CallFamily::new(
        Server,
        SentBytes,
        METHOD,
        Family::new(
            Counter,
            "grpc_server_msg_sent_bytes",
            "Total length of the messages sent by the server, as on the wire.",
        )
        .in_unit("bytes"),
    ),
    CallFamily::new(
        Server,
        Connections,
        &[],
        Family::new(Gauge, "grpc_server_connections", "Connections open to the server."),
    ),
    CallFamily::new(
        Client,
        InFlight,
        METHOD,
        Family::new(
            Gauge,
            "grpc_client_in_flight",
            "RPCs that have begun on the client and not ended.",
        ),
    ),
    CallFamily::new(
        Client,
        FirstMessage,
        METHOD,
        Family::new(
            Histogram,
            "grpc_client_first_message_seconds",
            "Histogram of the time from the request headers to the end of the first message \
             received by the client.",
        )
        .in_unit("seconds"),
    ),
    CallFamily::new(
        Client,
        ReceivedBytes,
        METHOD,
        Family::new(
            Counter,
            "grpc_client_msg_received_bytes",
            "Total length of the messages received by the client, as on the wire.",
        )
        .in_unit("bytes"),
    ),
    CallFamily::new(
        Client,
        SentBytes,
        METHOD,
        Family::new(
            Counter,
            "grpc_client_msg_sent_bytes",
            "Total length of the messages sent by the client, as on the wire.",
        )
        .in_unit("bytes"),
    ),
    CallFamily::new(
        Client,
        Connections,
        &[],
        Family::new(Gauge, "grpc_client_connections", "Connections open from the client."),
    ),
];
