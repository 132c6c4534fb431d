//! The families of Thrift calls, with every schema if `--protocol` names Thrift. They are named like those of `go`.

use super::{
    CallFamily,
    LabelSource::{Code, Method, Path, Service},
    LabelSpec,
    Spelling::Thrift,
    Value::{self, Errors, Handled, Handling, InFlight, Started},
};
use observer_core::call::Role::{self, Client, Server};

const METHOD: &[LabelSpec] = &[("thrift_service", Service), ("thrift_method", Method)];

const METHOD_AND_OUTCOME: &[LabelSpec] =
    &[("thrift_service", Service), ("thrift_method", Method), ("thrift_outcome", Code(Thrift))];

pub(super) static FAMILIES: &[CallFamily] = &[
    family(Server, Started, "thrift_server_started", "Total Thrift calls started on the server."),
    family(
        Server,
        Handled,
        "thrift_server_handled",
        "Total Thrift calls completed on the server, by outcome.",
    ),
    family(
        Server,
        Handling,
        "thrift_server_handling_seconds",
        "Histogram of the time from the start of a Thrift call to the end of its reply, on the \
         server.",
    ),
    family(
        Server,
        InFlight,
        "thrift_server_in_flight",
        "Thrift calls started on the server that have not ended.",
    ),
    family(Client, Started, "thrift_client_started", "Total Thrift calls started on the client."),
    family(
        Client,
        Handled,
        "thrift_client_handled",
        "Total Thrift calls completed by the client, by outcome.",
    ),
    family(
        Client,
        Handling,
        "thrift_client_handling_seconds",
        "Histogram of the time from the start of a Thrift call to the end of its reply, on the \
         client.",
    ),
    family(
        Client,
        InFlight,
        "thrift_client_in_flight",
        "Thrift calls started on the client that have not ended.",
    ),
];

/// The families of the schema `requests`, for calls that a process serves.
pub(super) static REQUESTS: &[CallFamily] = &[
    CallFamily::new(
        Server,
        Handled,
        &[("method", Path), ("status", Code(Thrift))],
        "thrift_requests",
        "Total Thrift requests",
    )
    .of_thrift(),
    CallFamily::new(
        Server,
        Handling,
        &[("method", Path)],
        "thrift_request_duration_seconds",
        "Request duration",
    )
    .of_thrift(),
    CallFamily::new(
        Server,
        Errors,
        &[("method", Path), ("error_type", Code(Thrift))],
        "thrift_errors",
        "Total Thrift errors",
    )
    .of_thrift(),
];

const fn family(role: Role, value: Value, name: &'static str, help: &'static str) -> CallFamily {
    let labels = match value {
        Handled => METHOD_AND_OUTCOME,
        _ => METHOD,
    };
    CallFamily::new(role, value, labels, name, help).of_thrift()
}
