//! What the fuzz targets share: reading choices out of the input, the BPF programs' driver, and the
//! daemon's user side with what must hold of it at any time.

#![forbid(unsafe_code)]

use std::{sync::Arc, time::Duration};

use observer::failures::{FailureLogConfig, Failures};
use observer::metrics::{self, Buckets, Daemon, Format, Limits, Statistics};
use observer::pipeline::{self, Pipeline};
use observer_core::pipeline::{FAIR_SHARE, MAX_MEMORY};
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

/// The daemon's user side, with room for few of anything.
pub fn pipeline() -> Pipeline {
    let limits = Limits { max_methods: 4, max_series: 16 };
    let buckets: Buckets = Buckets::default();
    let config = FailureLogConfig { per_second: 10_000, omitted: Vec::new() };
    let failures = Some(Failures::new(&config, Box::new(is_line)));
    Pipeline::new(Statistics::new(buckets, limits), failures, Duration::from_secs(1))
}

/// Of what peers chose, nothing moves a terminal's cursor or ends the line.
fn is_line(line: String) -> bool {
    let text = line.strip_suffix('\n').unwrap_or(&line);
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(serde_json::from_str::<Map<String, Value>>(text).is_ok(), "{text:?}");
    true
}

/// What `/metrics` says of calls, after what must always hold was checked.
pub fn exposition(pipeline: &Pipeline) -> String {
    let snapshot = pipeline::snapshot(pipeline, Daemon::default(), Arc::default());
    let open: u64 = snapshot.statistics.series().map(|(_, series)| series.in_flight()).sum();
    assert!(open <= snapshot.daemon.streams, "{open} in flight, {:?}", snapshot.daemon.streams);
    assert!(snapshot.statistics.len() <= 18, "{} series", snapshot.statistics.len());
    const { assert!(FAIR_SHARE < MAX_MEMORY) };
    let text = metrics::render(&snapshot, Format::PrometheusText);
    let text = String::from_utf8(text).expect("labels are text");
    for line in text.lines() {
        assert!(line.starts_with("# ") || is_sample(line), "no sample: {line:?}");
    }
    let _ = snapshot.statistics.types();
    text.lines().filter(|line| line.starts_with("grpc_")).map(|line| format!("{line}\n")).collect()
}

/// `name{labels} value`: quotes only where they begin and end a label's value.
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
