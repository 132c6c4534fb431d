//! The formats in which Prometheus is told: whoever has something to tell writes into a [`Sink`],
//! of which each format is one.

mod clock;
mod format;
mod protobuf;
mod text;

use std::io;

use super::{Buckets, exemplar::Exemplar, histogram::Histogram};

pub use clock::Clock;
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

/// What a family's series are.
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

    /// What the name ends with, if that is a unit.
    fn unit(&self) -> Option<&'static str> {
        let (_, last) = self.name.rsplit_once('_')?;
        ["seconds", "bytes"].contains(&last).then_some(last)
    }
}

/// A counter's or gauge's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl Number {
    fn real(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Real(value) => value,
        }
    }
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
    pub(super) bounds: &'a Bounds,
    pub(super) created: Option<Time>,
}

/// Takes an exposition, family by family.
pub(super) trait Sink {
    /// The series that follow are of this family. One without series is left out.
    fn family(&mut self, family: &Family);

    /// A series of a family of this kind.
    fn counter(&mut self, labels: &[Label<'_>], counter: Counter<'_>);

    /// A series of a family of this kind.
    fn gauge(&mut self, labels: &[Label<'_>], value: Number);

    /// A series of a family of this kind.
    fn histogram(&mut self, labels: &[Label<'_>], distribution: Distribution<'_>);

    /// A series of a family of this kind.
    fn info(&mut self, labels: &[Label<'_>]);
}

/// The bounds of histogram buckets, as each format writes them.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Infinity is the last.
    seconds: Vec<f64>,
    /// OpenMetrics: `1.0`.
    real: Vec<String>,
    /// Prometheus: `1`.
    short: Vec<String>,
}

impl Bounds {
    pub(super) fn new(buckets: &Buckets) -> Self {
        let seconds: Vec<f64> = buckets.seconds().chain([f64::INFINITY]).collect();
        let text = |format: fn(f64) -> String| {
            let infinity =
                |bound: f64| if bound.is_finite() { format(bound) } else { "+Inf".into() };
            seconds.iter().copied().map(infinity).collect()
        };
        Self {
            real: text(|bound| format!("{bound:?}")),
            short: text(|bound| bound.to_string()),
            seconds,
        }
    }
}

/// Handed on at a time.
const CHUNK: usize = 32 << 10;

/// Hands on what is written, in chunks, so that no exposition is in memory as a whole. After a failure it takes
/// nothing more.
pub(super) struct Output<'a> {
    chunk: Vec<u8>,
    to: &'a mut dyn io::Write,
    result: io::Result<()>,
}

impl<'a> Output<'a> {
    fn new(to: &'a mut dyn io::Write) -> Self {
        Self { chunk: Vec::with_capacity(2 * CHUNK), to, result: Ok(()) }
    }

    /// To be called between series, which are short.
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

/// Writes what `write` writes, in this format. It may be called twice, and writes the same each time.
///
/// `created` says whether text has the creation times, each of which is a series of its own there.
pub(super) fn encode(
    format: Format,
    clock: Clock,
    created: bool,
    to: &mut dyn io::Write,
    write: impl Fn(&mut dyn Sink),
) -> io::Result<()> {
    let output = Output::new(to);
    match format {
        Format::OpenMetricsText => {
            let mut text = text::Text::open_metrics(output, clock, created);
            write(&mut text);
            text.finish()
        }
        Format::PrometheusText => {
            let mut text = text::Text::prometheus(output, clock);
            write(&mut text);
            text.finish()
        }
        Format::Protobuf => {
            let mut lengths = protobuf::Families::measuring(clock);
            write(&mut lengths);
            let mut families = protobuf::Families::writing(output, clock, lengths);
            write(&mut families);
            families.finish()
        }
    }
}
