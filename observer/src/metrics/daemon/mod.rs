//! The daemon's own figures, published as `observer_*` and the standard `process_*`.

mod families;
mod merge;
mod own;

use observer_core::{
    pipeline::Connections,
    process::{Comm, LookupCounts},
    protocol::Streams,
};
use serde::{Deserialize, Serialize};

use super::exposition::Clock;
use crate::failures::Dropped;

pub(super) use families::write;
pub use own::OwnProcess;

/// The daemon's own figures, filled in for each scrape. Counters are since its start.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// The backend in use: `tracepoint`, `fentry` or `kprobe`.
    pub backend: String,
    /// When the daemon began to count, in nanoseconds of the kernel's monotonic clock.
    pub started_ns: Option<u64>,
    /// What that clock says now.
    pub clock: Clock,
    /// Records read from the rings.
    pub records: u64,
    /// Bytes of those records.
    pub ring_bytes: u64,
    /// What was not seen, by cause; each cause once.
    pub gaps: Vec<Gap>,
    /// Records that found no room, by process: those that lost most.
    pub dropped_records: Vec<DroppedRecords>,
    /// Connections open now.
    pub connections: Connections,
    /// Connections seen.
    pub connections_seen: ConnectionsByProtocol,
    /// References to HPACK table entries that were inserted before the connection was seen.
    pub hpack_unknown_references: u64,
    /// Header blocks that could not be decoded.
    pub hpack_errors: u64,
    /// Streams open now.
    pub streams: u64,
    /// Streams so far, by what became of them.
    pub unmeasured: Streams,
    /// Times that a process found no room in the table of them.
    pub processes_overflow: u64,
    /// Lookups of processes, by their outcome.
    pub lookups: LookupCounts,
    /// What the daemon's control group allows it.
    pub memory_limit_bytes: Option<u64>,
    /// Whether nothing new is taken, as memory is near the limit.
    pub memory_is_short: bool,
    /// The kernel programs.
    pub programs: Vec<Program>,
    /// How often the names of pods were asked for; `None` if they never are.
    pub pod_requests: Option<PodRequests>,
    /// Failed calls without a line; `None` without `--log-errors`.
    pub log_errors_dropped: Option<Dropped>,
    /// The HTTP server; `None` where there is none.
    pub http: Option<HttpFigures>,
    /// The daemon as a process.
    pub own: OwnProcess,
}

/// Requests for the names of pods, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodRequests {
    /// A list came.
    pub answered: u64,
    /// None did.
    pub failed: u64,
}

/// What the HTTP server refused, and what passwords cost it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpFigures {
    /// Passwords that were hashed.
    pub password_checks: u64,
    /// Connections and requests that were not served, by the reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// What was not seen for one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// The cause, as the label says it: `ring_full`.
    pub cause: &'static str,
    /// How often.
    pub events: u64,
    /// How many bytes were not seen; 0 where nobody knows.
    pub bytes: u64,
}

/// Records of a process that found no room in a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedRecords {
    /// The process.
    pub pid: u32,
    /// Its name; empty if that is not known.
    pub comm: Comm,
    /// How many.
    pub records: u64,
}

/// Connections by what is spoken on them.
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
    /// Anything else.
    pub other: u64,
}

/// A kernel program's own figures, as in its `bpf_prog_info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// How often it ran; the kernel counts it only while its BPF statistics are on.
    pub runs: u64,
    /// How often it did not run because it was running already on that CPU.
    pub misses: u64,
    /// How long it ran, likewise counted.
    pub run_time_ns: u64,
}
