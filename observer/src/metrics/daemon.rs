//! What the daemon tells about itself: `observer_*`, and the standard `process_*`.

use super::{
    CallsBySight, CallsSeen, Snapshot,
    exposition::{self, Clock, Family, Kind, Number, Sink},
};
use crate::{
    escape::escape,
    failures::Dropped,
    grpc::Sight,
    process::{Comm, Lookups},
};
use procfs::{
    ProcResult,
    process::{LimitValue, Process},
};

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
    /// Streams that are not measured.
    pub unmeasured: Unmeasured,
    /// Times that a process found no room in the table of them.
    pub processes_overflow: u64,
    /// Questions about processes, by what became of them.
    pub lookups: Lookups,
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

impl Daemon {
    /// Adds what another worker counted; what is of the whole daemon stays.
    pub(super) fn merge(&mut self, other: &Self) {
        // Taken apart so that a new figure cannot be forgotten.
        let Self {
            backend: _,
            started_ns: _,
            clock: _,
            records,
            ring_bytes,
            gaps,
            dropped_records: _,
            connections,
            connections_seen,
            hpack_unknown_references,
            hpack_errors,
            streams,
            unmeasured,
            processes_overflow: _,
            lookups: _,
            memory_limit_bytes: _,
            memory_is_short: _,
            programs: _,
            pod_requests: _,
            log_errors_dropped: _,
            http: _,
            own: _,
        } = other;
        self.records += records;
        self.ring_bytes += ring_bytes;
        for gap in gaps {
            match self.gaps.iter_mut().find(|of| of.cause == gap.cause) {
                Some(of) => {
                    of.events += gap.events;
                    of.bytes += gap.bytes;
                }
                None => self.gaps.push(*gap),
            }
        }
        let Connections { complete, joined_late, gaps, undecodable } = connections;
        self.connections.complete += complete;
        self.connections.joined_late += joined_late;
        self.connections.gaps += gaps;
        self.connections.undecodable += undecodable;
        let ConnectionsByProtocol { grpc, http2, http1, tls, other } = connections_seen;
        let seen = &mut self.connections_seen;
        seen.grpc += grpc;
        // As it was when the kernel programs counted the connection, before its first call.
        seen.http2 = (seen.http2 + http2).saturating_sub(*grpc);
        seen.http1 += http1;
        seen.tls += tls;
        seen.other += other;
        self.hpack_unknown_references += hpack_unknown_references;
        self.hpack_errors += hpack_errors;
        self.streams += streams;
        let Unmeasured { not_grpc, unclear, unconfirmed, too_many } = unmeasured;
        self.unmeasured.not_grpc += not_grpc;
        self.unmeasured.unclear += unclear;
        self.unmeasured.unconfirmed += unconfirmed;
        self.unmeasured.too_many += too_many;
    }
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

/// Open connections by what can be told of their calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Seen from their first byte.
    pub complete: u64,
    /// Seen from some frame on: some methods may not be known.
    pub joined_late: u64,
    /// Seen from their first byte, but not all bytes since: some methods may not be known any more.
    pub gaps: u64,
    /// Not readable at the moment, in one direction at least: no frame boundary is known.
    pub undecodable: u64,
}

/// Streams that clients began and that are in no series, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmeasured {
    /// Their content type says that they are not gRPC.
    pub not_grpc: u64,
    /// Nothing that was seen says whether they are gRPC calls.
    pub unclear: u64,
    /// What looked like their frames may have been content of a message: the other end did not confirm them.
    pub unconfirmed: u64,
    /// More were open on their connection than are followed.
    pub too_many: u64,
}

/// Connections by what is spoken on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// The standard figures of a process; those that the system does not tell are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnProcess {
    /// User and system CPU time.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_memory_bytes: Option<u64>,
    /// Virtual memory.
    pub virtual_memory_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// The most that may be open; none if there is no limit.
    pub max_fds: Option<u64>,
    /// When it started, since the Unix epoch.
    pub start_time_seconds: Option<f64>,
    /// Threads.
    pub threads: Option<u64>,
}

impl OwnProcess {
    /// Reads the figures of this process from `/proc`.
    pub fn read() -> Self {
        let mut own = Self::default();
        // Without /proc there is nothing to tell, and a scrape is not the place to complain.
        if let Ok(process) = Process::myself() {
            let _ = own.read_stat(&process);
            own.open_fds = process.fd_count().ok().map(|count| count as u64);
            own.max_fds = match process.limits().map(|limits| limits.max_open_files.soft_limit) {
                Ok(LimitValue::Value(value)) => Some(value),
                Ok(LimitValue::Unlimited) | Err(_) => None,
            };
        }
        own
    }

    fn read_stat(&mut self, process: &Process) -> ProcResult<()> {
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second() as f64;
        self.cpu_seconds = Some((stat.utime + stat.stime) as f64 / ticks);
        self.resident_memory_bytes = Some(stat.rss * procfs::page_size());
        self.virtual_memory_bytes = Some(stat.vsize);
        self.threads = u64::try_from(stat.num_threads).ok();
        let boot_time = procfs::boot_time_secs()? as f64;
        self.start_time_seconds = Some(boot_time + stat.starttime as f64 / ticks);
        Ok(())
    }
}

/// Writes the daemon's own figures of a snapshot.
pub(super) fn write(snapshot: &Snapshot, sink: &mut dyn Sink) {
    let Snapshot { statistics, daemon, .. } = snapshot;
    let Daemon {
        backend,
        started_ns,
        clock: _,
        records,
        ring_bytes,
        gaps,
        dropped_records,
        connections,
        connections_seen,
        hpack_unknown_references,
        hpack_errors,
        streams,
        unmeasured,
        processes_overflow,
        lookups: Lookups { answered, gone, late },
        memory_limit_bytes,
        memory_is_short,
        programs,
        pod_requests,
        log_errors_dropped,
        http,
        own,
    } = daemon.as_ref();
    let mut writer = Writer { sink, created: *started_ns };
    writer.info(&BUILD, &[("version", env!("CARGO_PKG_VERSION")), ("backend", backend)]);
    writer.counter(&RECORDS, *records);
    writer.counter(&RING_BYTES, *ring_bytes);
    writer.counters(&GAPS, "cause", gaps.iter().map(|gap| (gap.cause, gap.events)));
    writer.counters(&GAP_BYTES, "cause", gaps.iter().map(|gap| (gap.cause, gap.bytes)));
    writer.dropped_records(dropped_records);
    writer.connections(*connections);
    writer.connections_seen(*connections_seen);
    writer.calls(statistics.calls());
    writer.counter(&HPACK_UNKNOWN_REFERENCES, *hpack_unknown_references);
    writer.counter(&HPACK_ERRORS, *hpack_errors);
    writer.gauge(&STREAMS, *streams);
    writer.unmeasured(*unmeasured);
    writer.gauge(&SERIES, statistics.len() as u64);
    writer.counter(&SERIES_OVERFLOW, statistics.overflow());
    writer.counter(&SERIES_LATE_EVENTS, statistics.late());
    writer.counter(&PROCESSES_OVERFLOW, *processes_overflow);
    let by_outcome = [("answered", *answered), ("gone", *gone), ("late", *late)];
    writer.counters(&PROCESS_LOOKUPS, "outcome", by_outcome);
    writer.gauge_if_known(&MEMORY_LIMIT, *memory_limit_bytes);
    writer.gauge(&MEMORY_IS_SHORT, u64::from(*memory_is_short));
    writer.programs(programs);
    if let Some(PodRequests { answered, failed }) = *pod_requests {
        let by_outcome = [("answered", answered), ("failed", failed)];
        writer.counters(&POD_REQUESTS, "outcome", by_outcome);
    }
    if let Some(Dropped { rate_limit, output }) = *log_errors_dropped {
        let by_reason = [("rate_limit", rate_limit), ("output", output)];
        writer.counters(&LOG_ERRORS_DROPPED, "reason", by_reason);
    }
    if let Some(HttpFigures { password_checks, refused }) = http {
        writer.counter(&PASSWORD_CHECKS, *password_checks);
        writer.counters(&HTTP_REFUSED, "reason", refused.iter().copied());
    }
    writer.own_process(own);
}

static BUILD: Family =
    Family::new(Kind::Info, "observer_build", "The daemon's version and backend.");
static RECORDS: Family =
    Family::new(Kind::Counter, "observer_records", "Records read from the kernel.");
static RING_BYTES: Family = Family::new(
    Kind::Counter,
    "observer_ring_bytes",
    "Length of the records read from the kernel.",
);
static GAPS: Family =
    Family::new(Kind::Counter, "observer_gaps", "Times that something was not seen, by cause.");
static GAP_BYTES: Family = Family::new(
    Kind::Counter,
    "observer_gap_bytes",
    "Bytes of watched connections that were not seen, by cause, where the number is known.",
);
static DROPPED_RECORDS: Family = Family::new(
    Kind::Counter,
    "observer_dropped_records",
    "Records that found the ring full, for the ten processes that lost most.",
);
static CONNECTIONS: Family = Family::new(
    Kind::Gauge,
    "observer_connections",
    "Open connections by what can be told of their calls.",
);
// Not `observer_connections_total`: a counter's family has the name without `_total`, which is the
// gauge's, and OpenMetrics wants a name to be one family's.
static CONNECTIONS_SEEN: Family = Family::new(
    Kind::Counter,
    "observer_connections_seen",
    "Connections seen by what is spoken on them.",
);
static CALLS: Family = Family::new(
    Kind::Counter,
    "observer_calls",
    "Ended calls by what was seen of them, and of the connection that they were on.",
);
static HPACK_UNKNOWN_REFERENCES: Family = Family::new(
    Kind::Counter,
    "observer_hpack_unknown_references",
    "Header fields that refer to a table entry from before the connection was seen.",
);
static HPACK_ERRORS: Family =
    Family::new(Kind::Counter, "observer_hpack_errors", "Header blocks that could not be decoded.");
static STREAMS: Family = Family::new(Kind::Gauge, "observer_streams", "HTTP/2 streams open now.");
// Not `observer_streams_unmeasured`: what begins like the gauge's name is not to be another family.
static UNMEASURED_STREAMS: Family = Family::new(
    Kind::Counter,
    "observer_unmeasured_streams",
    "Streams that are in no series: no gRPC, or nothing says that they are, or that they are streams \
     at all, or too many at once.",
);
static SERIES: Family = Family::new(
    Kind::Gauge,
    "observer_series",
    "Series of calls: one per method, process and role.",
);
static SERIES_OVERFLOW: Family = Family::new(
    Kind::Counter,
    "observer_series_overflow",
    "Calls counted as method other because a bound on methods was reached.",
);
static SERIES_LATE_EVENTS: Family = Family::new(
    Kind::Counter,
    "observer_series_late_events",
    "Events of calls whose process had been dropped; they are counted nowhere else.",
);
static PROCESSES_OVERFLOW: Family = Family::new(
    Kind::Counter,
    "observer_processes_overflow",
    "Times that a process was counted as process other because a bound on processes, or on the \
     names of one, was reached.",
);
static PROCESS_LOOKUPS: Family = Family::new(
    Kind::Counter,
    "observer_process_lookups",
    "Processes looked up in /proc: answered, gone before they were, or published before (late), with empty \
     labels.",
);
static MEMORY_LIMIT: Family = Family::new(
    Kind::Gauge,
    "observer_memory_limit_bytes",
    "Memory limit of the daemon's control group.",
);
static MEMORY_IS_SHORT: Family = Family::new(
    Kind::Gauge,
    "observer_memory_short",
    "1 while memory is near the limit, and no new method, process or connection is taken.",
);
static PROGRAM_RUNS: Family = Family::new(
    Kind::Counter,
    "observer_program_runs",
    "Runs of a kernel program, while the kernel counts them.",
);
static PROGRAM_MISSES: Family = Family::new(
    Kind::Counter,
    "observer_program_misses",
    "Runs of a kernel program that the kernel skipped because it was running already.",
);
static PROGRAM_RUN_TIME: Family = Family::new(
    Kind::Counter,
    "observer_program_run_seconds",
    "Time spent in a kernel program, while the kernel counts it.",
);
static POD_REQUESTS: Family = Family::new(
    Kind::Counter,
    "observer_pod_requests",
    "Requests for the names of pods, by what became of them.",
);
static LOG_ERRORS_DROPPED: Family = Family::new(
    Kind::Counter,
    "observer_log_errors_dropped",
    "Failed calls without a line of --log-errors: more than its rate, or stdout took no more.",
);
static PASSWORD_CHECKS: Family = Family::new(
    Kind::Counter,
    "observer_http_password_checks",
    "Passwords that the HTTP server hashed, right ones and wrong ones; known ones are not hashed again.",
);
static HTTP_REFUSED: Family = Family::new(
    Kind::Counter,
    "observer_http_refused",
    "HTTP connections and requests that were not served, by reason.",
);
static CPU: Family =
    Family::new(Kind::Counter, "process_cpu_seconds", "Total user and system CPU time spent.");
static RESIDENT_MEMORY: Family =
    Family::new(Kind::Gauge, "process_resident_memory_bytes", "Resident memory size.");
static VIRTUAL_MEMORY: Family =
    Family::new(Kind::Gauge, "process_virtual_memory_bytes", "Virtual memory size.");
static OPEN_FDS: Family =
    Family::new(Kind::Gauge, "process_open_fds", "Number of open file descriptors.");
static MAX_FDS: Family =
    Family::new(Kind::Gauge, "process_max_fds", "Maximum number of open file descriptors.");
static START_TIME: Family = Family::new(
    Kind::Gauge,
    "process_start_time_seconds",
    "Start time of the process since the Unix epoch.",
);
static THREADS: Family = Family::new(Kind::Gauge, "process_threads", "Number of threads.");

/// Writes families of the daemon.
struct Writer<'a> {
    sink: &'a mut dyn Sink,
    /// Since when its counters count, if that is known.
    created: Option<u64>,
}

impl Writer<'_> {
    fn info(&mut self, family: &Family, labels: &[exposition::Label<'_>]) {
        self.sink.family(family);
        self.sink.info(labels);
    }

    fn counter(&mut self, family: &Family, value: impl Into<Number>) {
        self.sink.family(family);
        self.count(&[], value.into());
    }

    /// A counter by a label; left out when there is nothing to count.
    fn counters<'a, V: Into<Number>>(
        &mut self,
        family: &Family,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, V)>,
    ) {
        self.sink.family(family);
        for (value, count) in values {
            self.count(&[(label, value)], count.into());
        }
    }

    fn count(&mut self, labels: &[exposition::Label<'_>], value: Number) {
        let counter = exposition::Counter { value, exemplar: None, created: self.created };
        self.sink.counter(labels, counter);
    }

    fn gauge(&mut self, family: &Family, value: impl Into<Number>) {
        self.sink.family(family);
        self.sink.gauge(&[], value.into());
    }

    /// A gauge that the system may not have told.
    fn gauge_if_known(&mut self, family: &Family, value: Option<impl Into<Number>>) {
        if let Some(value) = value {
            self.gauge(family, value);
        }
    }

    fn dropped_records(&mut self, dropped: &[DroppedRecords]) {
        self.sink.family(&DROPPED_RECORDS);
        for DroppedRecords { pid, comm, records } in dropped {
            let (pid, comm) = (pid.to_string(), escape(comm.as_bytes()));
            self.count(&[("pid", &pid), ("process", &comm)], (*records).into());
        }
    }

    fn connections(&mut self, connections: Connections) {
        let Connections { complete, joined_late, gaps, undecodable } = connections;
        self.sink.family(&CONNECTIONS);
        for (state, count) in [
            (Sight::Complete.as_str(), complete),
            (Sight::JoinedLate.as_str(), joined_late),
            (Sight::Gaps.as_str(), gaps),
            ("undecodable", undecodable),
        ] {
            self.sink.gauge(&[("state", state)], count.into());
        }
    }

    fn connections_seen(&mut self, seen: ConnectionsByProtocol) {
        let ConnectionsByProtocol { grpc, http2, http1, tls, other } = seen;
        let seen =
            [("grpc", grpc), ("http2", http2), ("http1", http1), ("tls", tls), ("other", other)];
        self.counters(&CONNECTIONS_SEEN, "protocol", seen);
    }

    fn calls(&mut self, calls: &CallsBySight) {
        self.sink.family(&CALLS);
        for connection in Sight::ALL {
            let CallsSeen { complete, no_method, no_code, nothing } = calls.of(connection);
            for (seen, count) in [
                ("complete", complete),
                ("no_method", no_method),
                ("no_code", no_code),
                ("nothing", nothing),
            ] {
                let labels = [("connection", connection.as_str()), ("seen", seen)];
                self.count(&labels, count.into());
            }
        }
    }

    fn unmeasured(&mut self, streams: Unmeasured) {
        let Unmeasured { not_grpc, unclear, unconfirmed, too_many } = streams;
        let reasons = [
            ("not_grpc", not_grpc),
            ("unclear", unclear),
            ("unconfirmed", unconfirmed),
            ("too_many", too_many),
        ];
        self.counters(&UNMEASURED_STREAMS, "reason", reasons);
    }

    fn programs(&mut self, programs: &[Program]) {
        let runs = programs.iter().map(|program| (program.name.as_str(), program.runs));
        self.counters(&PROGRAM_RUNS, "program", runs);
        let misses = programs.iter().map(|program| (program.name.as_str(), program.misses));
        self.counters(&PROGRAM_MISSES, "program", misses);
        let seconds = |program: &Program| program.run_time_ns as f64 / 1e9;
        let run_time = programs.iter().map(|program| (program.name.as_str(), seconds(program)));
        self.counters(&PROGRAM_RUN_TIME, "program", run_time);
    }

    fn own_process(&mut self, own: &OwnProcess) {
        let OwnProcess {
            cpu_seconds,
            resident_memory_bytes,
            virtual_memory_bytes,
            open_fds,
            max_fds,
            start_time_seconds,
            threads,
        } = *own;
        if let Some(cpu_seconds) = cpu_seconds {
            self.counter(&CPU, cpu_seconds);
        }
        self.gauge_if_known(&RESIDENT_MEMORY, resident_memory_bytes);
        self.gauge_if_known(&VIRTUAL_MEMORY, virtual_memory_bytes);
        self.gauge_if_known(&OPEN_FDS, open_fds);
        self.gauge_if_known(&MAX_FDS, max_fds);
        self.gauge_if_known(&START_TIME, start_time_seconds);
        self.gauge_if_known(&THREADS, threads);
    }
}

#[cfg(test)]
mod tests {
    use super::OwnProcess;

    #[test]
    fn reads_its_own_figures() {
        let own = OwnProcess::read();
        assert!(own.cpu_seconds.is_some());
        // Bytes, not pages: a test binary with its runtime takes more than 256 kB.
        let resident = own.resident_memory_bytes.unwrap();
        assert!(resident > 256 << 10, "{resident}");
        assert!(own.virtual_memory_bytes.unwrap() >= resident);
        assert!(own.open_fds.unwrap() >= 3);
        assert!(own.threads.unwrap() >= 1);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let start = own.start_time_seconds.unwrap();
        // Since the epoch, not since boot. The kernel's boot time is in whole seconds.
        assert!((1e9..now + 2.0).contains(&start), "{start}");
    }
}
