//! That of py-async-grpc-prometheus 0.2.0, its texts to the letter.
//!
//! What it calls receiving and sending of a message is not on the wire: how long an application waits
//! for a message, or a library for its being taken. What is told instead, of each message of a client,
//! is the time from the one before it that went the same way, or from the request headers, to its end:
//! how long the stream was without one.

use super::{
    CallFamily, LabelOf,
    Says::{Code, Method, Service, Type},
    Spelling::Python,
    Value::{Handled, Handling, Received, Receiving, Sending, Sent, Started},
};
use crate::{
    grpc::Role::{Client, Server},
    metrics::exposition::{
        Family,
        Kind::{Counter, Histogram},
    },
};

const METHOD: &[LabelOf] =
    &[("grpc_type", Type(Python)), ("grpc_service", Service), ("grpc_method", Method)];

const METHOD_AND_CODE: &[LabelOf] = &[
    ("grpc_type", Type(Python)),
    ("grpc_service", Service),
    ("grpc_method", Method),
    ("grpc_code", Code(Python)),
];

pub(super) static FAMILIES: &[CallFamily] = &[
    CallFamily::new(Server, Started, METHOD, Family::new(Counter, "grpc_server_started", "Total number of RPCs started on the server.")),
    CallFamily::new(Server, Handled, METHOD_AND_CODE, Family::new(Counter, "grpc_server_handled", "Total number of RPCs completed on the server, regardless of success or failure.")),
    CallFamily::new(Server, Received, METHOD, Family::new(Counter, "grpc_server_msg_received", "Total number of RPC stream messages received on the server.")),
    CallFamily::new(Server, Sent, METHOD, Family::new(Counter, "grpc_server_msg_sent", "Total number of gRPC stream messages sent by the server.")),
    CallFamily::new(Server, Handling, METHOD, Family::new(Histogram, "grpc_server_handling_seconds", "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.").in_unit("seconds")),
    CallFamily::new(Client, Started, METHOD, Family::new(Counter, "grpc_client_started", "Total number of RPCs started on the client")),
    CallFamily::new(Client, Handled, METHOD_AND_CODE, Family::new(Counter, "grpc_client_handled", "Total number of RPCs completed on the client, regardless of success or failure.")),
    CallFamily::new(Client, Received, METHOD, Family::new(Counter, "grpc_client_msg_received", "Total number of RPC stream messages received by the client.")),
    CallFamily::new(Client, Sent, METHOD, Family::new(Counter, "grpc_client_msg_sent", "Total number of gRPC stream messages sent by the client.")),
    CallFamily::new(Client, Handling, METHOD, Family::new(Histogram, "grpc_client_handling_seconds", "Histogram of response latency (seconds) of the gRPC untilit is finished by the application.").in_unit("seconds")),
    CallFamily::new(Client, Receiving, METHOD, Family::new(Histogram, "grpc_client_msg_recv_handling_seconds", "Histogram of response latency (seconds) of the gRPC single message receive.").in_unit("seconds")),
    CallFamily::new(Client, Sending, METHOD, Family::new(Histogram, "grpc_client_msg_send_handling_seconds", "Histogram of response latency (seconds) of the gRPC single message send.").in_unit("seconds")),
];
