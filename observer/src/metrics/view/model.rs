//! The model, with the names of its JSON.

use std::borrow::Cow;

use observer_core::{call::Role, pipeline::Connections, statistics::CallsSeen};
use serde::{Deserialize, Serialize};

use crate::metrics::ConnectionsByProtocol;

/// The figures of a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The number of the sample, from 1 on. After a while without viewers, sampling starts again from 1.
    pub sample: u64,
    /// The length of the window of recent figures, up to ten seconds; `None` in the first sample, when they are not known.
    pub window_seconds: Option<f64>,
    /// Upper bounds of the latency buckets, ascending. One more bucket, without a bound, follows the last.
    pub bounds_seconds: Vec<f64>,
    /// A summary of all rows.
    pub summary: Summary,
    /// Rows, sorted by side, method and process.
    pub rows: Vec<Row>,
    /// Number of rows that were left out for lack of room: those with the fewest calls.
    pub rows_left_out: usize,
    /// Calls between services, sorted by their names; `None` without `--service-graph`.
    #[serde(default)]
    pub edges: Option<Vec<Edge>>,
    /// Number of edges that were left out for lack of room: those with the fewest calls.
    #[serde(default)]
    pub edges_left_out: usize,
    /// Open connections by process.
    pub connections: Vec<ConnectionsOf>,
    /// The daemon's own figures.
    pub daemon: DaemonFigures,
}

/// The summary of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Calls per second that the processes of this node serve; `None` in the first sample.
    pub server_rate: Option<f64>,
    /// Calls per second that they make; `None` in the first sample.
    pub client_rate: Option<f64>,
    /// Calls in flight at servers.
    pub server_in_flight: u64,
    /// Calls in flight at clients.
    pub client_in_flight: u64,
    /// Number of rows with calls that failed in the last seconds.
    pub failing_rows: usize,
    /// The row with most failed calls in the last seconds, by its index in [`Model::rows`].
    pub most_failing: Option<usize>,
    /// The row of a unary method with the highest p99, by its index in [`Model::rows`].
    pub slowest_unary: Option<usize>,
}

/// The calls of a method at one side: at a process that serves it, or at one that calls it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The name of the process; with `--by service` that of the service.
    pub process: String,
    /// The pid of the process; 0 for a service.
    pub pid: u32,
    /// The name of the process's service; empty if it is not known.
    #[serde(default)]
    pub service_name: String,
    /// The side of the process.
    pub role: Role,
    /// The value of the label `grpc_service`.
    pub service: String,
    /// The value of the label `grpc_method`.
    pub method: String,
    /// The value of the label `grpc_type`.
    pub grpc_type: Cow<'static, str>,
    /// Calls that have started and not ended.
    pub in_flight: u64,
    /// Figures since the daemon's start.
    pub total: Totals,
    /// Figures of the last [`Model::window_seconds`].
    pub recent: Recent,
    /// Calls that ended since the previous sample.
    pub last: Counts,
}

impl Row {
    /// The key of the row.
    pub fn key(&self) -> (Role, &str, &str, &str, u32) {
        (self.role, &self.service, &self.method, &self.process, self.pid)
    }

    /// Service and method in one text, as in the request, without the first slash.
    pub fn path(&self) -> String {
        let Self { service, method, .. } = self;
        if service.is_empty() { method.clone() } else { format!("{service}/{method}") }
    }
}

/// The calls of one service to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// The service that makes the calls, with its namespace.
    pub client: String,
    /// The service that answers them, with its namespace.
    pub server: String,
    /// Whether both ends are watched, here or by another daemon.
    pub is_watched: bool,
    /// Calls since the daemon's start.
    pub calls: u64,
    /// Those of them with a code other than OK.
    pub failed: u64,
    /// Calls in the last [`Model::window_seconds`].
    pub recent_calls: u64,
    /// Those of them with a code other than OK.
    pub recent_failed: u64,
    /// Calls per second; `None` in the first sample.
    pub rate: Option<f64>,
    /// The share of failed calls among the recent ones whose code was seen; `None` without such calls.
    pub error_ratio: Option<f64>,
    /// Estimated quantiles of the recent durations, in seconds: those that the client's end has seen, or the server's if
    /// the client is not watched here.
    pub p50: Option<f64>,
    /// As above.
    pub p95: Option<f64>,
    /// As above.
    pub p99: Option<f64>,
}

/// Calls that ended in a period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Number of calls.
    pub ended: u64,
    /// Calls with a code other than OK.
    pub failed: u64,
    /// Calls whose code was not seen.
    pub code_not_seen: u64,
    /// Calls by handling time, one number for each bucket, not cumulative; empty if all are 0.
    pub latency: Vec<u64>,
}

/// The calls with one status code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsOfCode {
    /// The value of the label `grpc_code`.
    pub code: Cow<'static, str>,
    /// Number of calls.
    pub calls: u64,
}

/// Figures of a row since the daemon's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Calls whose start was seen.
    pub started: u64,
    /// Calls that ended.
    #[serde(flatten)]
    pub counts: Counts,
    /// Calls by code; codes without calls are left out.
    pub codes: Vec<CallsOfCode>,
    /// Quantiles of [`Counts::latency`].
    #[serde(flatten)]
    pub quantiles: Quantiles,
    /// Messages that the process received.
    pub received: Traffic,
    /// Messages that the process sent.
    pub sent: Traffic,
}

/// Messages in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Number of messages.
    pub messages: u64,
    /// Their bytes, as encoded on the wire.
    pub bytes: u64,
}

/// Estimated quantiles of handling times in seconds; `None` without calls. A time at the last bound may be longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
}

/// Figures of a row in the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    /// Calls that ended.
    #[serde(flatten)]
    pub counts: Counts,
    /// Ended calls per second; `None` in the first sample.
    pub rate: Option<f64>,
    /// The share of failed calls among those whose code was seen; `None` without such calls.
    pub error_ratio: Option<f64>,
    /// Quantiles of [`Counts::latency`].
    #[serde(flatten)]
    pub quantiles: Quantiles,
}

/// Open connections of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsOf {
    /// The name of the process, or of the service.
    pub process: String,
    /// The pid of the process; 0 for a service.
    pub pid: u32,
    /// The side of the process.
    pub role: Role,
    /// Number of open connections.
    pub open: u64,
}

/// The daemon's own figures. Counters count since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DaemonFigures {
    /// A random number that differs after a restart.
    pub instance: u32,
    /// The daemon's version.
    pub version: Cow<'static, str>,
    /// The name of the backend in use.
    pub backend: String,
    /// Start time since the Unix epoch.
    pub start_time_seconds: Option<f64>,
    /// User and system CPU time.
    pub cpu_seconds: Option<f64>,
    /// Number of CPUs in use, in the last seconds.
    pub cpu_ratio: Option<f64>,
    /// Resident memory.
    pub resident_memory_bytes: Option<u64>,
    /// Number of records read from the kernel.
    pub records: u64,
    /// Number of open HTTP/2 streams.
    pub streams: u64,
    /// Number of open connections.
    pub connections: Connections,
    /// Number of connections seen, by protocol.
    pub connections_seen: ConnectionsByProtocol,
    /// Ended calls, by what is known about them.
    pub calls: CallsSeen,
    /// Gaps by cause; causes that did not occur are left out.
    pub losses: Vec<Loss>,
}

/// Events in which the daemon missed something, of one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The label `cause` of `observer_gaps_total`, or a metric's name without `observer_`.
    pub cause: Cow<'static, str>,
    /// Number of events.
    pub events: u64,
    /// Number of events in the last seconds.
    pub recent: u64,
    /// Number of bytes that were missed, as far as it is known.
    pub bytes: u64,
}
