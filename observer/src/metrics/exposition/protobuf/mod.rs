//! Prometheus' protobuf format: `MetricFamily` messages, each after its length.
//!
//! The messages are prometheus-client's. Its encoder collects all of them before it writes the first (106 MB for 10,000
//! methods). It has creation times only for native histograms, and no exemplars for these. So the messages are filled in
//! here.

use std::{io, vec};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    self as message, Bucket, BucketSpan, LabelPair, Metric, MetricFamily, MetricType,
};
use prost::{
    Message as _,
    encoding::{self, encode_varint},
};
use prost_types::Timestamp;

use super::{
    Clock, Counter, Distribution, Family, Kind, Label, Number, Output, Series, Sink, Snapshot,
    Time, Value,
};
use crate::metrics::write_families;
use observer_core::statistics::{Exemplar, Exponential, Histogram};

/// The field number of `metric` in a `MetricFamily`.
const METRIC: u32 = 4;

/// Writes a snapshot. The length of a family comes before its metrics, which may be a hundred thousand. So that they are
/// not all in memory, they are encoded twice: first only their lengths are added up.
pub(super) fn encode(snapshot: &Snapshot, output: Output<'_>) -> io::Result<()> {
    let clock = snapshot.daemon.clock;
    let mut lengths = Lengths { clock, families: Vec::new() };
    write_families(snapshot, &mut lengths);
    let mut families = Families { clock, output, lengths: lengths.families.into_iter() };
    write_families(snapshot, &mut families);
    families.output.finish()
}

/// Adds up the length of each family.
struct Lengths {
    clock: Clock,
    /// `None` for a family without series.
    families: Vec<Option<usize>>,
}

impl Sink for Lengths {
    fn family(&mut self, family: &Family, write: &mut dyn FnMut(&mut Series<'_>)) {
        let [begin, end] = parts(family).map(|part| part.encoded_len());
        let mut length = None;
        write(&mut |labels, value| {
            let metric = encoding::message::encoded_len(METRIC, &metric(self.clock, labels, value));
            length = Some(length.unwrap_or(begin + end) + metric);
        });
        self.families.push(length);
    }
}

/// Writes the families.
struct Families<'a> {
    clock: Clock,
    output: Output<'a>,
    /// The lengths of the remaining families.
    lengths: vec::IntoIter<Option<usize>>,
}

impl Sink for Families<'_> {
    fn family(&mut self, family: &Family, write: &mut dyn FnMut(&mut Series<'_>)) {
        let Self { clock, output, lengths } = self;
        let Some(length) = lengths.next().flatten() else { return };
        let [begin, end] = parts(family);
        encode_varint(length as u64, &mut output.chunk);
        begin.encode_raw(&mut output.chunk);
        write(&mut |labels, value| {
            encoding::message::encode(METRIC, &metric(*clock, labels, value), &mut output.chunk);
            output.hand_on();
        });
        end.encode_raw(&mut output.chunk);
    }
}

/// The parts of a family's message before and after its metrics.
fn parts(family: &Family) -> [MetricFamily; 2] {
    let Family { name, kind, help } = family;
    let (suffix, kind) = match kind {
        Kind::Counter => ("_total", MetricType::Counter),
        Kind::Gauge | Kind::Unknown => ("", MetricType::Gauge),
        Kind::Histogram => ("", MetricType::Histogram),
        Kind::Info => ("_info", MetricType::Gauge),
    };
    let begin = MetricFamily {
        name: format!("{name}{suffix}"),
        help: (*help).into(),
        r#type: kind.into(),
        ..MetricFamily::default()
    };
    let unit = family.name_and_unit().1.map_or("", |unit| unit.as_str());
    [begin, MetricFamily { unit: unit.into(), ..MetricFamily::default() }]
}

fn metric(clock: Clock, labels: &[Label<'_>], value: Value<'_>) -> Metric {
    let metric = Metric { label: pairs(labels), ..Metric::default() };
    match value {
        Value::Counter(Counter { value, exemplar: of, created }) => {
            let counter = message::Counter {
                value: real(value),
                exemplar: of.map(|of| exemplar(clock, of, 1.0)),
                start_timestamp: created.map(|time| timestamp(clock, time)),
            };
            Metric { counter: Some(counter), ..metric }
        }
        Value::Gauge(value) => {
            Metric { gauge: Some(message::Gauge { value: real(value) }), ..metric }
        }
        Value::Info => Metric { gauge: Some(message::Gauge { value: 1.0 }), ..metric },
        Value::Histogram(distribution) => {
            Metric { histogram: Some(histogram(clock, distribution)), ..metric }
        }
    }
}

fn histogram(clock: Clock, distribution: Distribution<'_>) -> message::Histogram {
    let Distribution { histogram, bounds, created } = distribution;
    let mut message = message::Histogram {
        sample_count: histogram.count(),
        sample_sum: histogram.sum_seconds(),
        bucket: buckets(clock, histogram, bounds),
        start_timestamp: created.map(|time| timestamp(clock, time)),
        ..message::Histogram::default()
    };
    if let Some(exponential) = histogram.exponential() {
        let exemplars = histogram.exemplars();
        message.exemplars = exemplars.map(|of| exemplar(clock, of, of.seconds())).collect();
        add_exponential(&mut message, exponential);
    }
    message
}

fn buckets(clock: Clock, histogram: &Histogram, bounds: &[f64]) -> Vec<Bucket> {
    let mut cumulative_count = 0;
    let buckets = bounds.iter().zip(histogram.counts()).enumerate();
    let bucket = |(position, (bound, in_bucket)): (usize, (&f64, &u64))| {
        cumulative_count += in_bucket;
        let of = histogram.exemplar(position);
        Bucket {
            cumulative_count,
            upper_bound: *bound,
            exemplar: of.map(|of| exemplar(clock, of, of.seconds())),
            ..Bucket::default()
        }
    };
    buckets.map(bucket).collect()
}

/// Adds exponential buckets: runs of adjacent buckets (spans), and each count as the difference from the one before.
fn add_exponential(message: &mut message::Histogram, exponential: &Exponential) {
    message.schema = exponential.resolution().into();
    // The threshold of client_golang: Prometheus adds up histograms with the same threshold without conversion.
    message.zero_threshold = (-128_f64).exp2();
    message.zero_count = exponential.zeros();
    let (mut next, mut before) = (0, 0);
    for &(index, count) in exponential.buckets() {
        let index = i32::from(index);
        match message.positive_span.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => message.positive_span.push(BucketSpan { offset: index - next, length: 1 }),
        }
        message.positive_delta.push(count as i64 - before);
        (next, before) = (index + 1, count as i64);
    }
}

fn exemplar(clock: Clock, exemplar: &Exemplar, value: f64) -> message::Exemplar {
    let trace = exemplar.trace.to_string();
    let span = exemplar.span.map(|span| span.to_string());
    let labels = [("trace_id", Some(&trace)), ("span_id", span.as_ref())];
    let labels = labels.into_iter().filter_map(|(name, value)| Some((name, value?.as_str())));
    message::Exemplar {
        label: pairs(&labels.collect::<Vec<_>>()),
        value,
        timestamp: Some(timestamp(clock, exemplar.time_ns)),
    }
}

fn timestamp(clock: Clock, time: Time) -> Timestamp {
    let nanoseconds = clock.unix_ns(time);
    Timestamp {
        seconds: (nanoseconds / 1_000_000_000) as i64,
        nanos: (nanoseconds % 1_000_000_000) as i32,
    }
}

fn real(number: Number) -> f64 {
    match number {
        Number::Whole(value) => value as f64,
        Number::Real(value) => value,
    }
}

fn pairs(labels: &[Label<'_>]) -> Vec<LabelPair> {
    let pair = |&(name, value): &Label<'_>| LabelPair { name: name.into(), value: value.into() };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests;
