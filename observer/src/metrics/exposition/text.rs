//! The text formats: OpenMetrics 1.0.0, and Prometheus' own version 0.0.4, which has neither units, creation times nor
//! exemplars.
//!
//! prometheus-client encodes both. For OpenMetrics it has no `_created`, and only its own metric types can have
//! exemplars. It buffers its output, so nothing can be written between two of its lines. But each sample is one line. So
//! for each line the missing part is kept, and added when the line comes out of the buffer.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex},
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
        prometheus_text, text,
    },
    registry::Registry,
};

use super::{
    Clock, Counter, Distribution, Family, Label, Number, Output, Series, Sink, Snapshot, Time,
    Value,
};
use crate::{metrics::write_families, sync::lock};
use observer_core::statistics::Exemplar;

pub(super) fn encode(
    snapshot: &Snapshot,
    open_metrics: bool,
    output: Output<'_>,
) -> io::Result<()> {
    let endings = Arc::new(Endings::default());
    let mut lines = Lines { output, endings: Arc::clone(&endings) };
    let mut registry = Registry::default();
    let exposition = Exposition { snapshot: snapshot.clone(), open_metrics, endings };
    registry.register_collector(Box::new(exposition));
    let encoded = if open_metrics {
        text::encode(&mut lines, &registry)
    } else {
        prometheus_text::encode(&mut lines, &registry)
    };
    lines.output.finish()?;
    encoded.map_err(io::Error::other)
}

/// The text to add at the end of each line that was encoded and is still in the encoder's buffer.
type Endings = Mutex<VecDeque<String>>;

/// Takes the lines of the encoder, several at once.
struct Lines<'a> {
    output: Output<'a>,
    endings: Arc<Endings>,
}

impl fmt::Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut endings = lock(&self.endings);
        let chunk = &mut self.output.chunk;
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => {
                    chunk.extend_from_slice(line.as_bytes());
                    chunk.extend_from_slice(endings.pop_front().unwrap_or_default().as_bytes());
                    chunk.push(b'\n');
                }
                None => chunk.extend_from_slice(line.as_bytes()),
            }
        }
        self.output.hand_on();
        if self.output.result.is_ok() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Encodes a snapshot.
#[derive(Debug)]
struct Exposition {
    snapshot: Snapshot,
    open_metrics: bool,
    endings: Arc<Endings>,
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families { encoder, exposition: self, result: Ok(()) };
        write_families(&self.snapshot, &mut families);
        families.result
    }
}

struct Families<'a, 'e> {
    encoder: DescriptorEncoder<'e>,
    exposition: &'a Exposition,
    result: fmt::Result,
}

impl Sink for Families<'_, '_> {
    fn family(&mut self, family: &Family, write: &mut dyn FnMut(&mut Series<'_>)) {
        let Self { encoder, exposition, result } = self;
        let (mut encoder, mut metric) = (Some(encoder), None);
        let (name, unit) = family.name_and_unit();
        let mut series = |labels: &[Label<'_>], value: Value<'_>| {
            if let Some(encoder) = encoder.take() {
                exposition.lines(if unit.is_some() { 3 } else { 2 });
                metric = Some(encoder.encode_descriptor(name, family.help, unit, family.kind)?);
            }
            let labels = Labels::new(labels);
            exposition.complete(family.name, &labels, value);
            metric.as_mut().map_or(Ok(()), |metric| encode_series(metric, &labels, value))
        };
        write(&mut |labels, value| {
            if result.is_ok() {
                *result = series(labels, value);
            }
        });
    }
}

fn encode_series(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    value: Value<'_>,
) -> fmt::Result {
    let mut metric = metric.encode_family(labels)?;
    match value {
        Value::Counter(Counter { value: Number::Whole(value), .. }) => {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        }
        Value::Counter(Counter { value: Number::Real(value), .. }) => {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        }
        Value::Gauge(Number::Whole(value)) => metric.encode_gauge(&value),
        Value::Gauge(Number::Real(value)) => metric.encode_gauge(&value),
        Value::Histogram(Distribution { histogram, bounds, .. }) => {
            let (sum, count) = (histogram.sum_seconds(), histogram.count());
            let buckets = bounds.iter().copied().zip(histogram.counts().iter().copied());
            let buckets: Vec<(f64, u64)> = buckets.collect();
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
        Value::Info => metric.encode_info(&[("", ""); 0]),
    }
}

impl Exposition {
    /// Adds nothing to the next `count` lines.
    fn lines(&self, count: usize) {
        if self.open_metrics {
            lock(&self.endings).extend((0..count).map(|_| String::new()));
        }
    }

    /// Keeps the endings of a series' lines, before they are encoded.
    fn complete(&self, name: &str, labels: &Labels<'_>, value: Value<'_>) {
        if !self.open_metrics {
            return;
        }
        let clock = self.snapshot.daemon.clock;
        let created = |time| self.created(name, labels, time);
        match value {
            Value::Counter(Counter { exemplar, created: time, value: _ }) => {
                let exemplar = exemplar_text(clock, exemplar, 1.0);
                lock(&self.endings).push_back(exemplar + &created(time));
            }
            Value::Gauge(_) | Value::Info => self.lines(1),
            Value::Histogram(Distribution { histogram, bounds, created: time }) => {
                // Its sum and its count.
                self.lines(2);
                let mut endings = lock(&self.endings);
                let buckets = bounds.iter().zip(histogram.counts()).enumerate();
                endings.extend(buckets.map(|(bucket, _)| {
                    let exemplar = histogram.exemplar(bucket);
                    exemplar_text(clock, exemplar, exemplar.map_or(0.0, Exemplar::seconds))
                }));
                if let Some(last) = endings.back_mut() {
                    last.push_str(&created(time));
                }
            }
        }
    }

    /// The `_created` line after another line; empty if there is none.
    fn created(&self, name: &str, labels: &Labels<'_>, time: Option<Time>) -> String {
        let Some(time) = time.filter(|_| self.snapshot.exposition.created) else {
            return String::new();
        };
        let time = self.snapshot.daemon.clock.unix_seconds(time);
        let (open, close) = if labels.text.is_empty() { ("", "") } else { ("{", "}") };
        format!("\n{name}_created{open}{}{close} {time:.3}", labels.text)
    }
}

fn exemplar_text(clock: Clock, exemplar: Option<&Exemplar>, value: f64) -> String {
    exemplar.map_or_else(String::new, |Exemplar { trace, span, time_ns, .. }| {
        let time = clock.unix_seconds(*time_ns);
        let span = span.map_or_else(String::new, |span| format!(",span_id=\"{span}\""));
        format!(" # {{trace_id=\"{trace}\"{span}}} {value:?} {time:.3}")
    })
}

/// The labels of a series, escaped once: a histogram repeats them on each of its lines.
struct Labels<'a> {
    text: String,
    /// The length of the text before the last value.
    key: usize,
    last: &'a str,
}

impl<'a> Labels<'a> {
    fn new(labels: &[Label<'a>]) -> Self {
        let mut this = Self { text: String::new(), key: 0, last: "" };
        for (name, value) in labels {
            if !this.text.is_empty() {
                this.text.push(',');
            }
            this.text.push_str(name);
            (this.key, this.last) = (this.text.len(), value);
            this.text.push_str("=\"");
            escape(&mut this.text, value);
            this.text.push('"');
        }
        this
    }
}

/// Encodes the labels as one label: names are not escaped, so its name is the text before the last value.
impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        match self.text.get(..self.key) {
            None | Some("") => Ok(()),
            Some(key) => (key, self.last).encode(encoder.encode_label()),
        }
    }
}

fn escape(to: &mut String, text: &str) {
    if !text.contains(['"', '\\', '\n']) {
        to.push_str(text);
        return;
    }
    for c in text.chars() {
        match c {
            '"' | '\\' => to.extend(['\\', c]),
            '\n' => to.push_str("\\n"),
            _ => to.push(c),
        }
    }
}
