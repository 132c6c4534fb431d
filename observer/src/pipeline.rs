//! The pipeline of the daemon, and its snapshot for a scrape.

use std::sync::Arc;

use observer_core::edges::Edges;

use crate::{
    failures::Failures,
    metrics::{Daemon, ExpositionConfig, Gap, PathNames, Snapshot},
    otlp::Spans,
};

/// The outputs of a pipeline: the service graph (`--service-graph`), a line for each failed call (`--log-errors`) and a
/// span for each call (`--otlp-endpoint`).
pub type Outputs = (Option<Edges>, (Option<Failures>, Option<Spans>));

/// The pipeline of one worker.
pub type Pipeline = observer_core::pipeline::Pipeline<Outputs>;

/// Copies the figures of a pipeline for a scrape, without the declared types of methods and the service graph. Adds the pipeline's own figures
/// to `daemon`.
pub fn snapshot(
    pipeline: &Pipeline,
    mut daemon: Daemon,
    exposition: Arc<ExpositionConfig>,
) -> Snapshot {
    let figures = pipeline.figures();
    daemon.records = figures.records;
    daemon.ring_bytes = figures.bytes;
    daemon.hpack_errors = figures.bad_blocks;
    daemon.hpack_unknown_references = figures.unknown_references;
    daemon.connections_seen.grpc = figures.grpc_connections;
    // The BPF programs count a connection as HTTP/2 at its preface, before its first call.
    let http2 = &mut daemon.connections_seen.http2;
    *http2 = http2.saturating_sub(figures.grpc_connections);
    daemon.unmeasured = pipeline.streams();
    let (_, (failures, spans)) = pipeline.output();
    daemon.log_errors_dropped = failures.as_ref().map(Failures::dropped);
    daemon.otlp = spans.as_ref().map(Spans::figures);
    daemon.processes_overflow = pipeline.processes().overflow();
    daemon.lookups = pipeline.processes().lookups();
    let events = figures.forgotten + figures.not_followed;
    daemon.gaps.push(Gap { cause: "memory_limit", events, bytes: 0 });
    daemon.connections = pipeline.connections();
    daemon.streams = pipeline.open_streams();
    let statistics = pipeline.statistics();
    Snapshot {
        paths: Arc::new(PathNames::of(statistics, |path| pipeline.path(path).cloned())),
        statistics: Arc::new(statistics.clone()),
        descriptors: Arc::default(),
        processes: Arc::new(pipeline.processes().names()),
        edges: None,
        daemon: Arc::new(daemon),
        exposition,
    }
}
