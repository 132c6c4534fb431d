//! A few names that services in Python often give their metrics, by hand: of what the process serves.
//! What it calls itself is not told, as a method that is served by one process and called by another
//! would be counted twice.

use super::{
    CallFamily,
    LabelSource::{Code, Path, Service},
    Spelling::Python,
    Value::{self, Connections, Errors, Handled, Handling},
};
use observer_core::call::Role::Server;

pub(super) static FAMILIES: &[CallFamily] = &[
    CallFamily::new(
        Server,
        Handled,
        &[("method", Path), ("status", Code(Python))],
        "grpc_requests",
        "Total gRPC requests",
    ),
    CallFamily::new(
        Server,
        Handling,
        &[("method", Path)],
        "grpc_request_duration_seconds",
        "Request duration",
    ),
    CallFamily::new(
        Server,
        Errors,
        &[("method", Path), ("error_type", Code(Python))],
        "grpc_errors",
        "Total gRPC errors",
    ),
    CallFamily::new(Server, Connections, &[], "grpc_active_connections", "Active connections"),
    CallFamily::new(
        Server,
        Value::Service,
        &[("service", Service)],
        "grpc_service",
        "gRPC services called on the process",
    ),
];
