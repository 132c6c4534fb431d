//! What the daemon tells about itself: `observer_*`, and the standard `process_*`.

use procfs::{
    ProcResult,
    process::{LimitValue, Process},
};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabel, EncodeLabelSet,
        LabelSetEncoder, NoLabelSet,
    },
    metrics::MetricType,
    registry::Unit,
};

use super::{CallsBySight, CallsSeen, Snapshot, family::Family};
use crate::grpc::Sight;

type Result = std::result::Result<(), std::fmt::Error>;

/// The daemon's own figures, filled in for each scrape. Counters are since its start.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// The backend in use: `tracepoint`, `fentry` or `kprobe`.
    pub backend: String,
    /// Records read from the rings.
    pub records: u64,
    /// Bytes of those records.
    pub ring_bytes: u64,
    /// What was not seen, by cause; each cause once.
    pub gaps: Vec<Gap>,
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
    /// Streams of which nothing says whether they are gRPC calls.
    pub unclear_streams: u64,
    /// The kernel programs.
    pub programs: Vec<Program>,
    /// The daemon as a process.
    pub own: OwnProcess,
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

/// Renders the daemon's own figures of a snapshot.
#[derive(Debug)]
pub(super) struct Figures {
    snapshot: Snapshot,
}

impl Figures {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self { snapshot }
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result {
        let Snapshot { statistics, daemon, paths: _, processes: _, descriptors: _ } =
            &self.snapshot;
        let encoder = &mut encoder;
        let Daemon {
            backend,
            records,
            ring_bytes,
            gaps,
            connections,
            connections_seen,
            hpack_unknown_references,
            hpack_errors,
            streams,
            unclear_streams,
            programs,
            own,
        } = daemon.as_ref();
        encode_build_info(encoder, backend)?;
        counter(encoder, &RECORDS, *records)?;
        counter(encoder, &RING_BYTES, *ring_bytes)?;
        counters(encoder, &GAPS, "cause", gaps.iter().map(|gap| (gap.cause, gap.events)))?;
        counters(encoder, &GAP_BYTES, "cause", gaps.iter().map(|gap| (gap.cause, gap.bytes)))?;
        encode_connections(encoder, *connections)?;
        encode_connections_seen(encoder, *connections_seen)?;
        encode_calls(encoder, statistics.calls())?;
        counter(encoder, &HPACK_UNKNOWN_REFERENCES, *hpack_unknown_references)?;
        counter(encoder, &HPACK_ERRORS, *hpack_errors)?;
        gauge(encoder, &STREAMS, *streams)?;
        counter(encoder, &UNCLEAR_STREAMS, *unclear_streams)?;
        gauge(encoder, &SERIES, statistics.len() as u64)?;
        counter(encoder, &SERIES_OVERFLOW, statistics.overflow())?;
        counter(encoder, &SERIES_LATE_EVENTS, statistics.late())?;
        encode_programs(encoder, programs)?;
        encode_own_process(encoder, own)
    }
}

static BUILD: Family = Family::new("observer_build", "The daemon's version and backend.");
static RECORDS: Family = Family::new("observer_records", "Records read from the kernel.");
static RING_BYTES: Family =
    Family::with_unit("observer_ring", Unit::Bytes, "Length of the records read from the kernel.");
static GAPS: Family = Family::new("observer_gaps", "Times that something was not seen, by cause.");
static GAP_BYTES: Family = Family::with_unit(
    "observer_gap",
    Unit::Bytes,
    "Bytes of watched connections that were not seen, by cause, where the number is known.",
);
static CONNECTIONS: Family =
    Family::new("observer_connections", "Open connections by what can be told of their calls.");
// Not `observer_connections_total`: a counter's family has the name without `_total`, which is the
// gauge's, and OpenMetrics wants a name to be one family's.
static CONNECTIONS_SEEN: Family =
    Family::new("observer_connections_seen", "Connections seen by what is spoken on them.");
static CALLS: Family = Family::new(
    "observer_calls",
    "Ended calls by what was seen of them, and of the connection that they were on.",
);
static HPACK_UNKNOWN_REFERENCES: Family = Family::new(
    "observer_hpack_unknown_references",
    "Header fields that refer to a table entry from before the connection was seen.",
);
static HPACK_ERRORS: Family =
    Family::new("observer_hpack_errors", "Header blocks that could not be decoded.");
static STREAMS: Family = Family::new("observer_streams", "HTTP/2 streams open now.");
// Not `observer_streams_unclear`: what begins like the gauge's name is not to be another family.
static UNCLEAR_STREAMS: Family = Family::new(
    "observer_unclear_streams",
    "Streams of which nothing that was seen says whether they are gRPC calls; not measured.",
);
static SERIES: Family =
    Family::new("observer_series", "Series of calls: one per method, process and role.");
static SERIES_OVERFLOW: Family = Family::new(
    "observer_series_overflow",
    "Calls counted as method other because a bound on methods was reached.",
);
static SERIES_LATE_EVENTS: Family = Family::new(
    "observer_series_late_events",
    "Events of calls whose process had been dropped; they are counted nowhere else.",
);
static PROGRAM_RUNS: Family =
    Family::new("observer_program_runs", "Runs of a kernel program, while the kernel counts them.");
static PROGRAM_MISSES: Family = Family::new(
    "observer_program_misses",
    "Runs of a kernel program that the kernel skipped because it was running already.",
);
static PROGRAM_RUN_TIME: Family = Family::with_unit(
    "observer_program_run",
    Unit::Seconds,
    "Time spent in a kernel program, while the kernel counts it.",
);
static CPU: Family =
    Family::with_unit("process_cpu", Unit::Seconds, "Total user and system CPU time spent.");
static RESIDENT_MEMORY: Family =
    Family::with_unit("process_resident_memory", Unit::Bytes, "Resident memory size.");
static VIRTUAL_MEMORY: Family =
    Family::with_unit("process_virtual_memory", Unit::Bytes, "Virtual memory size.");
static OPEN_FDS: Family = Family::new("process_open_fds", "Number of open file descriptors.");
static MAX_FDS: Family = Family::new("process_max_fds", "Maximum number of open file descriptors.");
static START_TIME: Family = Family::with_unit(
    "process_start_time",
    Unit::Seconds,
    "Start time of the process since the Unix epoch.",
);
static THREADS: Family = Family::new("process_threads", "Number of threads.");

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    value: impl EncodeCounterValue + Copy,
) -> Result {
    family
        .describe(encoder, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    value: impl EncodeGaugeValue + Copy,
) -> Result {
    family.describe(encoder, MetricType::Gauge)?.encode_gauge(&value)
}

/// A gauge that the system may not have told.
fn gauge_if_known(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    value: Option<impl EncodeGaugeValue + Copy>,
) -> Result {
    value.map_or(Ok(()), |value| gauge(encoder, family, value))
}

/// A label whose values are few and ours.
struct Label<'a>(&'static str, &'a str);

impl EncodeLabelSet for Label<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result {
        let Self(name, value) = self;
        (*name, *value).encode(encoder.encode_label())
    }
}

/// A counter by a label; left out when there is nothing to count.
fn counters<'a, V: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    label: &'static str,
    values: impl IntoIterator<Item = (&'a str, V)>,
) -> Result {
    let mut values = values.into_iter().peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let mut encoder = family.describe(encoder, MetricType::Counter)?;
    for (value, count) in values {
        encoder
            .encode_family(&Label(label, value))?
            .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

/// The labels of `observer_build_info`.
struct Build<'a> {
    version: &'static str,
    backend: &'a str,
}

impl EncodeLabelSet for Build<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result {
        let Self { version, backend } = self;
        ("version", *version).encode(encoder.encode_label())?;
        ("backend", *backend).encode(encoder.encode_label())
    }
}

fn encode_build_info(encoder: &mut DescriptorEncoder<'_>, backend: &str) -> Result {
    let build = Build { version: env!("CARGO_PKG_VERSION"), backend };
    BUILD.describe(encoder, MetricType::Info)?.encode_info(&build)
}

fn encode_connections(encoder: &mut DescriptorEncoder<'_>, connections: Connections) -> Result {
    let Connections { complete, joined_late, gaps, undecodable } = connections;
    let mut encoder = CONNECTIONS.describe(encoder, MetricType::Gauge)?;
    for (state, count) in [
        (Sight::Complete.as_str(), complete),
        (Sight::JoinedLate.as_str(), joined_late),
        (Sight::Gaps.as_str(), gaps),
        ("undecodable", undecodable),
    ] {
        encoder.encode_family(&Label("state", state))?.encode_gauge(&count)?;
    }
    Ok(())
}

fn encode_connections_seen(
    encoder: &mut DescriptorEncoder<'_>,
    seen: ConnectionsByProtocol,
) -> Result {
    let ConnectionsByProtocol { grpc, http2, http1, tls, other } = seen;
    let seen = [("grpc", grpc), ("http2", http2), ("http1", http1), ("tls", tls), ("other", other)];
    counters(encoder, &CONNECTIONS_SEEN, "protocol", seen)
}

/// The labels of `observer_calls_total`.
struct Seen {
    connection: Sight,
    seen: &'static str,
}

impl EncodeLabelSet for Seen {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result {
        let Self { connection, seen } = self;
        ("connection", connection.as_str()).encode(encoder.encode_label())?;
        ("seen", *seen).encode(encoder.encode_label())
    }
}

fn encode_calls(encoder: &mut DescriptorEncoder<'_>, calls: &CallsBySight) -> Result {
    let mut encoder = CALLS.describe(encoder, MetricType::Counter)?;
    for connection in Sight::ALL {
        let CallsSeen { complete, no_method, no_code, nothing } = calls.of(connection);
        for (seen, count) in [
            ("complete", complete),
            ("no_method", no_method),
            ("no_code", no_code),
            ("nothing", nothing),
        ] {
            encoder
                .encode_family(&Seen { connection, seen })?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn encode_programs(encoder: &mut DescriptorEncoder<'_>, programs: &[Program]) -> Result {
    let runs = programs.iter().map(|program| (program.name.as_str(), program.runs));
    counters(encoder, &PROGRAM_RUNS, "program", runs)?;
    let misses = programs.iter().map(|program| (program.name.as_str(), program.misses));
    counters(encoder, &PROGRAM_MISSES, "program", misses)?;
    let run_time =
        programs.iter().map(|program| (program.name.as_str(), program.run_time_ns as f64 / 1e9));
    counters(encoder, &PROGRAM_RUN_TIME, "program", run_time)
}

fn encode_own_process(encoder: &mut DescriptorEncoder<'_>, own: &OwnProcess) -> Result {
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
        counter(encoder, &CPU, cpu_seconds)?;
    }
    gauge_if_known(encoder, &RESIDENT_MEMORY, resident_memory_bytes)?;
    gauge_if_known(encoder, &VIRTUAL_MEMORY, virtual_memory_bytes)?;
    gauge_if_known(encoder, &OPEN_FDS, open_fds)?;
    gauge_if_known(encoder, &MAX_FDS, max_fds)?;
    gauge_if_known(encoder, &START_TIME, start_time_seconds)?;
    gauge_if_known(encoder, &THREADS, threads)
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
