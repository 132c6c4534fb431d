//! The text formats: OpenMetrics 1.0.0, and Prometheus' own of version 0.0.4, which has the names of
//! counters in their families', and neither units, creation times nor exemplars.

use std::io::{self, Write as _};

use super::{
    Bounds, Clock, Counter, Distribution, Family, Kind, Label, Number, Output, Sink, Time,
};
use crate::metrics::exemplar::Exemplar;

/// An exposition as text.
pub(super) struct Text<'a> {
    output: Output<'a>,
    style: Style,
    clock: Clock,
    family: Option<Family>,
    /// The family's description is still to be written.
    is_new: bool,
    /// The labels of a series, escaped; kept for its buffer.
    labels: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    OpenMetrics { created: bool },
    Prometheus,
}

impl<'a> Text<'a> {
    pub(super) fn open_metrics(output: Output<'a>, clock: Clock, created: bool) -> Self {
        Self::new(output, clock, Style::OpenMetrics { created })
    }

    pub(super) fn prometheus(output: Output<'a>, clock: Clock) -> Self {
        Self::new(output, clock, Style::Prometheus)
    }

    fn new(output: Output<'a>, clock: Clock, style: Style) -> Self {
        Self { output, style, clock, family: None, is_new: false, labels: Vec::new() }
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.is_open_metrics() {
            self.put(&["# EOF\n"]);
        }
        self.output.finish()
    }

    fn is_open_metrics(&self) -> bool {
        self.style != Style::Prometheus
    }

    /// Begins a series: its labels are taken, its family is described if it is the first.
    fn begin(&mut self, labels: &[Label<'_>]) -> &'static str {
        self.output.hand_on();
        self.labels.clear();
        for (name, value) in labels {
            if !self.labels.is_empty() {
                self.labels.push(b',');
            }
            self.labels.extend_from_slice(name.as_bytes());
            self.labels.extend_from_slice(b"=\"");
            escape(&mut self.labels, value);
            self.labels.push(b'"');
        }
        let Some(family) = self.family else { return "" };
        if std::mem::take(&mut self.is_new) {
            self.describe(&family);
        }
        family.name
    }

    fn describe(&mut self, family: &Family) {
        let Family { name, kind, help } = family;
        let (suffix, kind) = match (kind, self.style) {
            (Kind::Counter, Style::Prometheus) => ("_total", "counter"),
            (Kind::Info, Style::Prometheus) => ("_info", "gauge"),
            (Kind::Counter, _) => ("", "counter"),
            (Kind::Info, _) => ("", "info"),
            (Kind::Gauge, _) => ("", "gauge"),
            (Kind::Histogram, _) => ("", "histogram"),
        };
        self.put(&["# HELP ", name, suffix, " ", help, "\n"]);
        self.put(&["# TYPE ", name, suffix, " ", kind, "\n"]);
        if let Some(unit) = family.unit()
            && self.is_open_metrics()
        {
            self.put(&["# UNIT ", name, " ", unit, "\n"]);
        }
    }

    fn put(&mut self, texts: &[&str]) {
        for text in texts {
            self.output.chunk.extend_from_slice(text.as_bytes());
        }
    }

    /// A line up to its value.
    fn name(&mut self, name: &str, suffix: &str) {
        self.put(&[name, suffix]);
        if !self.labels.is_empty() {
            self.output.chunk.push(b'{');
            self.output.chunk.extend_from_slice(&self.labels);
            self.output.chunk.push(b'}');
        }
        self.output.chunk.push(b' ');
    }

    fn bucket(&mut self, name: &str, bound: &str) {
        self.put(&[name, "_bucket{"]);
        if !self.labels.is_empty() {
            self.output.chunk.extend_from_slice(&self.labels);
            self.output.chunk.push(b',');
        }
        self.put(&["le=\"", bound, "\"} "]);
    }

    fn number(&mut self, number: Number) {
        match number {
            Number::Whole(value) => self.whole(value),
            Number::Real(value) => self.real(value),
        }
    }

    fn whole(&mut self, value: u64) {
        self.output.chunk.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn real(&mut self, value: f64) {
        // Writing to a vector does not fail.
        let _ = match self.style {
            Style::OpenMetrics { .. } => write!(self.output.chunk, "{value:?}"),
            Style::Prometheus => write!(self.output.chunk, "{value}"),
        };
    }

    fn exemplar(&mut self, exemplar: Option<&Exemplar>, value: impl Fn(&Exemplar) -> f64) {
        if let Some(exemplar) = exemplar.filter(|_| self.is_open_metrics()) {
            let (trace, value) = (exemplar.trace, value(exemplar));
            let time = self.clock.unix_seconds(exemplar.time_ns);
            let _ = write!(self.output.chunk, " # {{trace_id=\"{trace}\"}} {value:?} {time:.3}");
        }
    }

    fn created(&mut self, name: &str, time: Option<Time>) {
        if let Some(time) = time
            && self.style == (Style::OpenMetrics { created: true })
        {
            self.name(name, "_created");
            let time = self.clock.unix_seconds(time);
            let _ = writeln!(self.output.chunk, "{time:.3}");
        }
    }

    fn end(&mut self) {
        self.output.chunk.push(b'\n');
    }
}

impl Sink for Text<'_> {
    fn family(&mut self, family: &Family) {
        self.family = Some(*family);
        self.is_new = true;
    }

    fn counter(&mut self, labels: &[Label<'_>], counter: Counter<'_>) {
        let name = self.begin(labels);
        self.name(name, "_total");
        self.number(counter.value);
        self.exemplar(counter.exemplar, |_| 1.0);
        self.end();
        self.created(name, counter.created);
    }

    fn gauge(&mut self, labels: &[Label<'_>], value: Number) {
        let name = self.begin(labels);
        self.name(name, "");
        self.number(value);
        self.end();
    }

    fn histogram(&mut self, labels: &[Label<'_>], distribution: Distribution<'_>) {
        let Distribution { histogram, bounds, created } = distribution;
        let name = self.begin(labels);
        let Bounds { real, short, seconds: _ } = bounds;
        let bounds = if self.is_open_metrics() { real } else { short };
        let mut count = 0;
        for (position, (bound, in_bucket)) in bounds.iter().zip(histogram.counts()).enumerate() {
            count += in_bucket;
            self.bucket(name, bound);
            self.whole(count);
            self.exemplar(histogram.exemplar(position), Exemplar::seconds);
            self.end();
        }
        self.name(name, "_sum");
        self.real(histogram.sum_seconds());
        self.end();
        self.name(name, "_count");
        self.whole(count);
        self.end();
        self.created(name, created);
    }

    fn info(&mut self, labels: &[Label<'_>]) {
        let name = self.begin(labels);
        self.name(name, "_info");
        self.whole(1);
        self.end();
    }
}

fn escape(bytes: &mut Vec<u8>, text: &str) {
    if !text.bytes().any(|byte| matches!(byte, b'"' | b'\\' | b'\n')) {
        bytes.extend_from_slice(text.as_bytes());
        return;
    }
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => bytes.extend_from_slice(&[b'\\', byte]),
            b'\n' => bytes.extend_from_slice(b"\\n"),
            _ => bytes.push(byte),
        }
    }
}
