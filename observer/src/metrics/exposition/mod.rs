//! The formats that Prometheus reads, with the text encoders and the protobuf messages of prometheus-client. Two things
//! that it lacks are added here:
//!
//! - `_created` in OpenMetrics text, and exemplars that were not observed through its own metric types: `text` adds them
//!   to the lines that it has encoded.
//! - A protobuf exposition that is not in memory as a whole, with creation times for all metrics and exemplars for native
//!   histograms: `protobuf` fills in the messages, and writes one after the other.

mod format;
mod protobuf;
mod text;

use std::io;

use observer_core::statistics::{Exemplar, Histogram};
use prometheus_client::registry::Unit;

use super::Snapshot;

pub use crate::clock::Clock;
pub use format::Format;
pub(super) use prometheus_client::metrics::MetricType as Kind;

/// A label's name and value. The value is any text.
pub(super) type Label<'a> = (&'a str, &'a str);

/// Nanoseconds of the kernel's monotonic clock.
pub(super) type Time = u64;

/// A metric family's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// The name without the suffix of its type: `_total`, `_info`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

impl Family {
    pub(super) const fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { name, kind, help }
    }

    /// The name without its unit, and the unit, if the name ends with one.
    fn name_and_unit(&self) -> (&'static str, Option<&'static Unit>) {
        static UNITS: [Unit; 2] = [Unit::Seconds, Unit::Bytes];
        let split = |unit: &'static Unit| {
            let name = self.name.strip_suffix(unit.as_str())?.strip_suffix('_')?;
            Some((name, Some(unit)))
        };
        UNITS.iter().find_map(split).unwrap_or((self.name, None))
    }
}

/// A counter's or gauge's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// The value of a series, according to the kind of its family.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Counter(Counter<'a>),
    Gauge(Number),
    Histogram(Distribution<'a>),
    Info,
}

/// A counter, with its last observation in a trace and the time since when it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counter<'a> {
    pub(super) value: Number,
    pub(super) exemplar: Option<&'a Exemplar>,
    pub(super) created: Option<Time>,
}

/// A histogram, with the time since when it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distribution<'a> {
    pub(super) histogram: &'a Histogram,
    /// Upper bounds of its buckets in seconds; the last one is infinity.
    pub(super) bounds: &'a [f64],
    pub(super) created: Option<Time>,
}

/// Takes the series of a family.
pub(super) type Series<'a> = dyn FnMut(&[Label<'_>], Value<'_>) + 'a;

/// Takes an exposition, family by family.
pub(super) trait Sink {
    /// Takes a family, with the series that `write` passes. Calls `write` once. A family without series is left out.
    fn family(&mut self, family: &Family, write: &mut dyn FnMut(&mut Series<'_>));
}

/// The number of bytes that are passed on at once.
const CHUNK: usize = 32 << 10;

/// Passes on what is written in chunks, so that an exposition is never in memory as a whole. After an error it passes on
/// nothing more.
struct Output<'a> {
    chunk: Vec<u8>,
    to: &'a mut dyn io::Write,
    result: io::Result<()>,
}

impl<'a> Output<'a> {
    fn new(to: &'a mut dyn io::Write) -> Self {
        Self { chunk: Vec::with_capacity(2 * CHUNK), to, result: Ok(()) }
    }

    /// Passes on a full chunk. To be called after each short piece.
    fn hand_on(&mut self) {
        if self.chunk.len() >= CHUNK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.result.is_ok() {
            self.result = self.to.write_all(&self.chunk);
        }
        self.chunk.clear();
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush();
        self.result
    }
}

/// Writes a snapshot in a format.
pub(super) fn encode(
    snapshot: &Snapshot,
    format: Format,
    to: &mut dyn io::Write,
) -> io::Result<()> {
    let output = Output::new(to);
    match format {
        Format::OpenMetricsText => text::encode(snapshot, true, output),
        Format::PrometheusText => text::encode(snapshot, false, output),
        Format::Protobuf => protobuf::encode(snapshot, output),
    }
}
