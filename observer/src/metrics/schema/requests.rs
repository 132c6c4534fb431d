//! A few names that are common in Python services that write their metrics by hand, for the calls that a process serves.
//! The calls that it makes are left out: a call between two processes would be counted twice.

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
