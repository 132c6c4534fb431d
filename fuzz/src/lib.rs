//! The common part of the fuzz targets: choices from the input, the BPF programs' driver, and the daemon's pipeline
//! with what must hold for it at any time.

#![forbid(unsafe_code)]

use std::{sync::Arc, time::Duration};

use observer::failures::{FailureLogConfig, Failures};
use observer::metrics::{self, Buckets, Daemon, Format, Limits, Recording, Statistics};
use observer::pipeline::{self, Pipeline};
use observer_core::{
    edges::{Edges, Peers},
    pipeline::{FAIR_SHARE, MAX_MEMORY},
};
use serde_json::{Map, Value};

#[path = "../../observer-common/src/scanner/tests/drive.rs"]
pub mod drive;
pub mod fields;
#[path = "../../tests/sim/host.rs"]
pub mod host;
pub mod input;
#[path = "../../tests/sim/kernel.rs"]
pub mod kernel;
#[path = "../../tests/sim/random.rs"]
pub mod random;
#[path = "../../observer-common/src/thrift/tests/drive.rs"]
pub mod thrift;

/// The daemon's pipeline, with low limits.
pub fn pipeline() -> Pipeline {
    let limits = Limits { max_methods: 4, max_series: 16 };
    let config = FailureLogConfig { per_second: 10_000, omitted: Vec::new() };
    let failures = Some(Failures::new(&config, Box::new(is_line)));
    let ttl = Duration::from_secs(1);
    let edges = Edges::new(Recording::default(), limits.max_series, ttl, Peers::default());
    let outputs = (Some(edges), (failures, None));
    Pipeline::new(Statistics::new(Buckets::default(), limits), outputs, ttl)
}

/// Checks a line of failed calls: it is JSON, and names that peers chose have no control characters.
fn is_line(line: String) -> bool {
    let text = line.strip_suffix('\n').unwrap_or(&line);
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(serde_json::from_str::<Map<String, Value>>(text).is_ok(), "{text:?}");
    true
}

/// The lines of `/metrics` about calls. Checks what must always hold.
pub fn exposition(pipeline: &Pipeline) -> String {
    let mut snapshot = pipeline::snapshot(pipeline, Daemon::default(), Arc::default());
    let edges = pipeline.output().0.as_ref().map(|edges| edges.all().sorted()).unwrap_or_default();
    assert!(edges.len() <= 17, "{} edges", edges.len());
    snapshot.edges = Some(Arc::new(edges));
    let open: u64 = snapshot.statistics.series().map(|(_, series)| series.in_flight()).sum();
    assert!(open <= snapshot.daemon.streams, "{open} in flight, {:?}", snapshot.daemon.streams);
    assert!(snapshot.statistics.len() <= 18, "{} series", snapshot.statistics.len());
    const { assert!(FAIR_SHARE < MAX_MEMORY) };
    let text = metrics::render(&snapshot, Format::PrometheusText);
    let text = String::from_utf8(text).expect("labels are text");
    for line in text.lines() {
        assert!(line.starts_with("# ") || is_sample(line), "not a sample: {line:?}");
    }
    let _ = snapshot.statistics.types();
    let is_of_calls = |line: &&str| line.starts_with("grpc_") && !line.starts_with("grpc_edge_");
    text.lines().filter(is_of_calls).map(|line| format!("{line}\n")).collect()
}

/// Whether a line is `name{labels} value`, with unescaped quotes only at the start and end of a label's value.
fn is_sample(line: &str) -> bool {
    let Some((head, value)) = line.rsplit_once(' ') else { return false };
    let (mut in_value, mut escaped) = (false, false);
    for character in head.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_value => escaped = true,
            '"' => in_value = !in_value,
            ' ' if !in_value => return false,
            _ => {}
        }
    }
    !in_value && value.parse::<f64>().is_ok()
}
