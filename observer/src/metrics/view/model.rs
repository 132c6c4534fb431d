//! The model, as it is in JSON.

use std::borrow::Cow;

use observer_core::{call::Role, pipeline::Connections, statistics::CallsSeen};
use serde::{Deserialize, Serialize};

use crate::metrics::ConnectionsByProtocol;

/// The figures of a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Which sample of those that were taken one after the other, from 1 on. After a while in which
    /// nobody looked they begin anew.
    pub sample: u64,
    /// What the recent figures are of, up to ten seconds; none in the first sample, when they are not
    /// known.
    pub window_seconds: Option<f64>,
    /// Upper bounds of the latency buckets, ascending; one more, without bound, follows the last.
    pub bounds_seconds: Vec<f64>,
    /// All rows at a glance.
    pub summary: Summary,
    /// By role, method and process, sorted by them.
    pub rows: Vec<Row>,
    /// Rows that there was no room for: of those that did least.
    pub rows_left_out: usize,
    /// Open connections by process.
    pub connections: Vec<ConnectionsOf>,
    /// The daemon itself.
    pub daemon: DaemonFigures,
}

/// What one should know first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Calls per second that the processes of this node serve; none in the first sample.
    pub server_rate: Option<f64>,
    /// Calls per second that they make.
    pub client_rate: Option<f64>,
    /// Calls that they are serving.
    pub server_in_flight: u64,
    /// Calls that they wait for.
    pub client_in_flight: u64,
    /// How many rows have calls that failed in the last seconds.
    pub failing_rows: usize,
    /// The row with most of those, by its index in [`Model::rows`].
    pub most_failing: Option<usize>,
    /// The unary method with the highest p99, likewise.
    pub slowest_unary: Option<usize>,
}

/// The calls of a method at one end: at a process that serves it, or at one that calls it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The process's name.
    pub process: String,
    /// Its number.
    pub pid: u32,
    /// Which end it is.
    pub role: Role,
    /// As in the label `grpc_service`.
    pub service: String,
    /// As in the label `grpc_method`.
    pub method: String,
    /// As in the label `grpc_type`.
    pub grpc_type: Cow<'static, str>,
    /// Calls that have begun and not ended.
    pub in_flight: u64,
    /// Since the daemon's start.
    pub total: Totals,
    /// Of the last seconds: [`Model::window_seconds`].
    pub recent: Recent,
    /// Since the sample before this one.
    pub last: Counts,
}

impl Row {
    /// What tells rows apart.
    pub fn key(&self) -> (Role, &str, &str, &str, u32) {
        (self.role, &self.service, &self.method, &self.process, self.pid)
    }

    /// Service and method in one, as in the request, without its first slash.
    pub fn path(&self) -> String {
        let Self { service, method, .. } = self;
        if service.is_empty() { method.clone() } else { format!("{service}/{method}") }
    }
}

/// Calls that ended in some time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All.
    pub ended: u64,
    /// With another code than OK.
    pub failed: u64,
    /// With a code that was not seen.
    pub code_not_seen: u64,
    /// By handling time, one number per bucket, not cumulative; empty if all are 0.
    pub latency: Vec<u64>,
}

/// Calls of one code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsOfCode {
    /// As in the label `grpc_code`; `not_seen` if it was not.
    pub code: Cow<'static, str>,
    /// How many.
    pub calls: u64,
}

/// Since the daemon's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Calls whose beginning was seen.
    pub started: u64,
    /// Calls that ended.
    #[serde(flatten)]
    pub counts: Counts,
    /// By code, those without calls left out.
    pub codes: Vec<CallsOfCode>,
    /// Of [`Counts::latency`].
    #[serde(flatten)]
    pub quantiles: Quantiles,
    /// Messages that the process read.
    pub received: Traffic,
    /// Messages that it wrote.
    pub sent: Traffic,
}

/// Messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// How many.
    pub messages: u64,
    /// Their lengths on the wire.
    pub bytes: u64,
}

/// Estimates of handling times in seconds; none without calls. A time at the last bound may be longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
}

/// Of the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    /// Calls that ended.
    #[serde(flatten)]
    pub counts: Counts,
    /// Of them, per second; none in the first sample.
    pub rate: Option<f64>,
    /// The share of calls with another code than OK among those whose code was seen; none without.
    pub error_ratio: Option<f64>,
    /// Of [`Counts::latency`].
    #[serde(flatten)]
    pub quantiles: Quantiles,
}

/// Open connections of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsOf {
    /// The process's name.
    pub process: String,
    /// Its number.
    pub pid: u32,
    /// Which end it is.
    pub role: Role,
    /// How many.
    pub open: u64,
}

/// The daemon itself; counts are since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DaemonFigures {
    /// Another number in each daemon, so that a restart is seen.
    pub instance: u32,
    /// Its version.
    pub version: Cow<'static, str>,
    /// How its programs are attached to the kernel.
    pub backend: String,
    /// When it started, since the Unix epoch.
    pub start_time_seconds: Option<f64>,
    /// CPU time, user and system.
    pub cpu_seconds: Option<f64>,
    /// Of one processor, in the last seconds.
    pub cpu_ratio: Option<f64>,
    /// Resident memory.
    pub resident_memory_bytes: Option<u64>,
    /// Records read from the kernel.
    pub records: u64,
    /// HTTP/2 streams open now.
    pub streams: u64,
    /// Connections open now.
    pub connections: Connections,
    /// Connections seen.
    pub connections_seen: ConnectionsByProtocol,
    /// Ended calls by what was seen of them.
    pub calls: CallsSeen,
    /// What was not seen, by cause; causes that did not occur are left out.
    pub losses: Vec<Loss>,
}

/// Something that was not seen, or not told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// As in the label `cause` of `observer_gaps_total`, or a metric's name without `observer_`.
    pub cause: Cow<'static, str>,
    /// How often.
    pub events: u64,
    /// Of them, in the last seconds.
    pub recent: u64,
    /// Bytes, as far as they are known.
    pub bytes: u64,
}
