//! The formats in which Prometheus reads the figures, by prometheus-client: its encoders of text, and its
//! messages. What it lacks is added here, in as few lines as may be:
//!
//! - `_created` in OpenMetrics text, and exemplars that were not observed through its own metric types:
//!   `text` adds them to the lines that it has encoded;
//! - a protobuf exposition that is not in memory as a whole, creation times of what is no native histogram,
//!   and exemplars of what is: `protobuf` fills in the messages, and writes one after the other.

mod format;
mod protobuf;
mod text;

use std::io;

use observer_core::statistics::{Exemplar, Histogram};
use prometheus_client::{metrics::MetricType, registry::Unit};

use super::Snapshot;

pub use crate::clock::Clock;
pub use format::Format;

/// A label's name and value. The value is any text.
pub(super) type Label<'a> = (&'a str, &'a str);

/// Nanoseconds of the kernel's monotonic clock.
pub(super) type Time = u64;

/// A metric family's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// Without what its type appends: `_total`, `_info`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

/// The type of a family's series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// A gauge that is always 1: what it tells is in its labels.
    Info,
}

impl Family {
    pub(super) const fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { name, kind, help }
    }

    /// The name without its unit, and what it ends with, if that is a unit.
    fn name_and_unit(&self) -> (&'static str, Option<&'static Unit>) {
        static UNITS: [Unit; 2] = [Unit::Seconds, Unit::Bytes];
        let split = |unit: &'static Unit| {
            let name = self.name.strip_suffix(unit.as_str())?.strip_suffix('_')?;
            Some((name, Some(unit)))
        };
        UNITS.iter().find_map(split).unwrap_or((self.name, None))
    }

    fn metric_type(&self) -> MetricType {
        match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        }
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

/// A series: what it is of is its family's kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Counter(Counter<'a>),
    Gauge(Number),
    Histogram(Distribution<'a>),
    Info,
}

/// A counter, its last observation that belongs to a trace, and since when it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counter<'a> {
    pub(super) value: Number,
    pub(super) exemplar: Option<&'a Exemplar>,
    pub(super) created: Option<Time>,
}

/// A histogram, and since when it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distribution<'a> {
    pub(super) histogram: &'a Histogram,
    /// Upper bounds of its buckets in seconds; infinity is the last.
    pub(super) bounds: &'a [f64],
    pub(super) created: Option<Time>,
}

/// Takes the series of a family.
pub(super) type Series<'a> = dyn FnMut(&[Label<'_>], Value<'_>) + 'a;

/// Takes an exposition, family by family.
pub(super) trait Sink {
    /// Takes a family with the series that `write` gives, which is called once. A family without series is
    /// left out.
    fn family(&mut self, family: &Family, write: &mut dyn FnMut(&mut Series<'_>));
}

/// Handed on at a time.
const CHUNK: usize = 32 << 10;

/// Hands on what is written, in chunks, so that no exposition is in memory as a whole. After a failure it takes
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

    /// To be called after what is short.
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

/// Writes a snapshot in this format.
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
