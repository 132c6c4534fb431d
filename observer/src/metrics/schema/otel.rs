//! The names of OpenTelemetry's semantic conventions for RPC, release candidate of 1.40, as spelled by its Prometheus
//! exporters.
//!
//! The labels `server.address` and `server.port` of the conventions are not published: a node has many peers, and a server
//! knows only its own address.

use super::{
    CallFamily,
    LabelSource::{Code, Constant, ErrorType, FullMethod},
    LabelSpec,
    Spelling::Python,
    Value::HandlingByCode,
};
use observer_core::call::Role::{Client, Server};

const LABELS: &[LabelSpec] = &[
    ("rpc_system_name", Constant("grpc")),
    ("rpc_method", FullMethod),
    ("rpc_response_status_code", Code(Python)),
    ("error_type", ErrorType),
];

pub(super) static FAMILIES: &[CallFamily] = &[
    CallFamily::new(
        Server,
        HandlingByCode,
        LABELS,
        "rpc_server_call_duration_seconds",
        "Measures the duration of an incoming Remote Procedure Call (RPC).",
    ),
    CallFamily::new(
        Client,
        HandlingByCode,
        LABELS,
        "rpc_client_call_duration_seconds",
        "Measures the duration of an outgoing Remote Procedure Call (RPC).",
    ),
];
