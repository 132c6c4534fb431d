//! The daemon's own figures, published as `observer_*` and the standard `process_*`.

mod families;
mod merge;
mod own;

use std::collections::BTreeMap;

use observer_core::{
    pipeline::Connections,
    process::{Comm, LookupCounts},
    protocol::Streams,
};
use serde::{Deserialize, Serialize};

use super::exposition::Clock;
use crate::{
    failures::Dropped,
    otlp::{DeliveryFigures, OtlpFigures},
};

pub(super) use families::write;
pub use own::OwnProcess;

/// The daemon's own figures, read for each scrape. Counters count since the daemon's start.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// The name of the backend in use.
    pub backend: String,
    /// When the daemon started to count, in nanoseconds of the kernel's monotonic clock.
    pub started_ns: Option<u64>,
    /// The difference between the wall clock and that clock.
    pub clock: Clock,
    /// Number of records read from the rings.
    pub records: u64,
    /// Bytes of those records.
    pub ring_bytes: u64,
    /// Gaps and dropped records by cause; each cause once.
    pub gaps: Vec<Gap>,
    /// Dropped records by process, for the processes with most of them.
    pub dropped_records: Vec<DroppedRecords>,
    /// Number of open connections.
    pub connections: Connections,
    /// Number of connections seen, by protocol.
    pub connections_seen: ConnectionsByProtocol,
    /// References to HPACK table entries from before the connection was watched.
    pub hpack_unknown_references: u64,
    /// Field blocks that could not be decoded.
    pub hpack_errors: u64,
    /// Number of open HTTP/2 streams.
    pub streams: u64,
    /// Streams that are in no series, by reason.
    pub unmeasured: Streams,
    /// Times that a process found no room in the table of processes.
    pub processes_overflow: u64,
    /// Calls that are in the service graph under other methods or services; `None` without it.
    pub edges_overflow: Option<u64>,
    /// Lookups of processes, by outcome.
    pub lookups: LookupCounts,
    /// The memory limit of the daemon's cgroup.
    pub memory_limit_bytes: Option<u64>,
    /// Whether the daemon takes nothing new because memory is near the limit.
    pub memory_is_short: bool,
    /// The figures of the BPF programs.
    pub programs: Vec<Program>,
    /// Requests for the names of pods; `None` without `--kubernetes`.
    pub pod_requests: Option<PodRequests>,
    /// Failed calls without a line; `None` without `--log-errors`.
    pub log_errors_dropped: Option<Dropped>,
    /// The figures of the export of spans by OTLP; `None` without it.
    pub otlp: Option<OtlpFigures>,
    /// The figures of the export of metrics by OTLP; `None` without it.
    pub otlp_metrics: Option<DeliveryFigures>,
    /// Files that were searched for TLS libraries; `None` without `--tls auto`.
    pub tls_files: Option<TlsFiles>,
    /// The figures of the HTTP server; `None` without one.
    pub http: Option<HttpFigures>,
    /// The figures of the daemon's own process.
    pub own: OwnProcess,
}

/// Requests for the names of pods, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodRequests {
    /// Requests that returned a list.
    pub answered: u64,
    /// Requests that did not.
    pub failed: u64,
}

/// Number of files that were searched for TLS libraries, by library and result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles(pub BTreeMap<(&'static str, &'static str), u64>);

/// The figures of the HTTP server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpFigures {
    /// Number of passwords that were hashed.
    pub password_checks: u64,
    /// Refused connections and requests, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// The gaps of one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// The value of the label `cause`: `ring_full`.
    pub cause: &'static str,
    /// Number of events.
    pub events: u64,
    /// Number of bytes that were missed; 0 if it is not known.
    pub bytes: u64,
}

/// Dropped records of a process: they found the ring full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedRecords {
    /// The pid of the process.
    pub pid: u32,
    /// The name of its main thread at that time; empty if it is not known.
    pub comm: Comm,
    /// Number of records.
    pub records: u64,
}

/// Number of connections, by protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsByProtocol {
    /// gRPC over HTTP/2.
    pub grpc: u64,
    /// HTTP/2 without a gRPC call.
    pub http2: u64,
    /// HTTP/1.
    pub http1: u64,
    /// TLS.
    pub tls: u64,
    /// Thrift, if it is watched.
    #[serde(default)]
    pub thrift: u64,
    /// yamux.
    #[serde(default)]
    pub yamux: u64,
    /// Other protocols.
    pub other: u64,
}

/// The figures that the kernel keeps of a BPF program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The name of the program.
    pub name: String,
    /// Number of invocations, while `kernel.bpf_stats_enabled` is 1.
    pub runs: u64,
    /// Number of invocations that the kernel skipped because a program was already running on that CPU.
    pub misses: u64,
    /// CPU time, while `kernel.bpf_stats_enabled` is 1.
    pub run_time_ns: u64,
}
