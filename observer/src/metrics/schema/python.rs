//! The schemas of py-async-grpc-prometheus 0.2.0, with its exact texts.
//!
//! Its times of receiving and sending a message are not on the wire: how long an application waits for a message, or a
//! library until its message is taken. Instead, for each message of a client, the time since the previous message in the
//! same direction (or since the request headers) is published: how long the stream was without a message.

use super::{
    CallFamily,
    LabelSource::{Method, Service, Type},
    LabelSpec,
    Spelling::Python,
    Value::{Receiving, Sending},
    rename::Rules,
};
use observer_core::call::Role::Client;

pub(super) static RULES: Rules = Rules {
    spelling: Python,
    labels: &[],
    families: &[
        CLIENT_STARTED,
        ("grpc_client_handled", "grpc_client_handled", CLIENT_HANDLED),
        (
            "grpc_client_handling_seconds",
            "grpc_client_handling_seconds",
            "Histogram of response latency (seconds) of the gRPC untilit is finished by the \
             application.",
        ),
    ],
    more: &[
        CallFamily::new(
            Client,
            Receiving,
            METHOD,
            "grpc_client_msg_recv_handling_seconds",
            "Histogram of response latency (seconds) of the gRPC single message receive.",
        ),
        CallFamily::new(
            Client,
            Sending,
            METHOD,
            "grpc_client_msg_send_handling_seconds",
            "Histogram of response latency (seconds) of the gRPC single message send.",
        ),
    ],
};

/// The schema with `legacy=True`.
pub(super) static LEGACY_RULES: Rules = Rules {
    spelling: Python,
    labels: &[("grpc_code", "code")],
    families: &[
        (
            "grpc_server_handling_seconds",
            "grpc_server_handled_latency_seconds",
            "Histogram of response latency (seconds) of gRPC that had been application-level \
             handled by the server",
        ),
        CLIENT_STARTED,
        ("grpc_client_handled", "grpc_client_completed", CLIENT_HANDLED),
        (
            "grpc_client_handling_seconds",
            "grpc_client_completed_latency_seconds",
            "Histogram of rpc response latency (in seconds) for completed rpcs.",
        ),
    ],
    more: &[],
};

const CLIENT_STARTED: (&str, &str, &str) =
    ("grpc_client_started", "grpc_client_started", "Total number of RPCs started on the client");

const CLIENT_HANDLED: &str =
    "Total number of RPCs completed on the client, regardless of success or failure.";

const METHOD: &[LabelSpec] =
    &[("grpc_type", Type(Python)), ("grpc_service", Service), ("grpc_method", Method)];
