//! That of py-async-grpc-prometheus 0.2.0 with `legacy=True`, its texts to the letter.

use super::{
    CallFamily, LabelOf,
    Says::{Code, Method, Service, Type},
    Spelling::Python,
    Value::{Handled, Handling, Received, Sent, Started},
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
    ("code", Code(Python)),
];

pub(super) static FAMILIES: &[CallFamily] = &[
    CallFamily::new(Server, Started, METHOD, Family::new(Counter, "grpc_server_started", "Total number of RPCs started on the server.")),
    CallFamily::new(Server, Handled, METHOD_AND_CODE, Family::new(Counter, "grpc_server_handled", "Total number of RPCs completed on the server, regardless of success or failure.")),
    CallFamily::new(Server, Received, METHOD, Family::new(Counter, "grpc_server_msg_received", "Total number of RPC stream messages received on the server.")),
    CallFamily::new(Server, Sent, METHOD, Family::new(Counter, "grpc_server_msg_sent", "Total number of gRPC stream messages sent by the server.")),
    CallFamily::new(Server, Handling, METHOD, Family::new(Histogram, "grpc_server_handled_latency_seconds", "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server").in_unit("seconds")),
    CallFamily::new(Client, Started, METHOD, Family::new(Counter, "grpc_client_started", "Total number of RPCs started on the client")),
    CallFamily::new(Client, Handled, METHOD_AND_CODE, Family::new(Counter, "grpc_client_completed", "Total number of RPCs completed on the client, regardless of success or failure.")),
    CallFamily::new(Client, Received, METHOD, Family::new(Counter, "grpc_client_msg_received", "Total number of RPC stream messages received by the client.")),
    CallFamily::new(Client, Sent, METHOD, Family::new(Counter, "grpc_client_msg_sent", "Total number of gRPC stream messages sent by the client.")),
    CallFamily::new(Client, Handling, METHOD, Family::new(Histogram, "grpc_client_completed_latency_seconds", "Histogram of rpc response latency (in seconds) for completed rpcs.").in_unit("seconds")),
];
