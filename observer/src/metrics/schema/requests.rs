//! A few names that services in Python often give their metrics, by hand: of what the process serves.
//! What it calls itself is not told, as a method that is served by one process and called by another
//! would be counted twice.

use super::{
    CallFamily, LabelOf,
    Says::{Code, Path, Service},
    Spelling::Python,
    Value::{self, Connections, Errors, Handled, Handling},
};
use crate::{
    grpc::Role::Server,
    metrics::exposition::{
        Family,
        Kind::{Counter, Gauge, Histogram, Info},
    },
};

const METHOD: &[LabelOf] = &[("method", Path)];

pub(super) static FAMILIES: &[CallFamily] = &[
    CallFamily::new(
        Server,
        Handled,
        &[("method", Path), ("status", Code(Python))],
        Family::new(Counter, "grpc_requests", "Total gRPC requests"),
    ),
    CallFamily::new(
        Server,
        Handling,
        METHOD,
        Family::new(Histogram, "grpc_request_duration_seconds", "Request duration")
            .in_unit("seconds"),
    ),
    CallFamily::new(
        Server,
        Errors,
        &[("method", Path), ("error_type", Code(Python))],
        Family::new(Counter, "grpc_errors", "Total gRPC errors"),
    ),
    CallFamily::new(
        Server,
        Connections,
        &[],
        Family::new(Gauge, "grpc_active_connections", "Active connections"),
    ),
    CallFamily::new(
        Server,
        Value::Service,
        &[("service", Service)],
        Family::new(Info, "grpc_service", "gRPC services that the process has been called for"),
    ),
];
