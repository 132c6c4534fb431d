//! Prometheus' protobuf format: a `MetricFamily` after the other, each behind its length.
//!
//! Source: `io/prometheus/client/metrics.proto` of prometheus/client_model 0.6, as far as it is used
//! here; the names are those of the fields there. It is proto2: what is `None` is not there.

use std::{io, vec};

use prost::{
    Message,
    encoding::{encode_varint, message},
};
use prost_types::Timestamp;

use super::{
    Bounds, Clock, Counter, Distribution, Family, Kind, Label, Number, Output, Sink, Time,
};
use crate::metrics::{exemplar::Exemplar, exponential::Exponential, histogram::Histogram};

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    r#type: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    unit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Value>,
    #[prost(message, optional, tag = "3")]
    counter: Option<CounterMessage>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<HistogramMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// A gauge.
#[derive(Clone, Copy, PartialEq, Message)]
struct Value {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct CounterMessage {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
    #[prost(message, optional, tag = "2")]
    exemplar: Option<ExemplarMessage>,
    #[prost(message, optional, tag = "3")]
    created_timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct ExemplarMessage {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct HistogramMessage {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
    #[prost(message, optional, tag = "15")]
    created_timestamp: Option<Timestamp>,
    #[prost(message, repeated, tag = "16")]
    exemplars: Vec<ExemplarMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<ExemplarMessage>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

/// `metric`, in a `MetricFamily`.
const METRIC: u32 = 4;

/// An exposition as messages.
///
/// A family's length stands in front of it, and it may have a hundred thousand metrics. So that they are not
/// kept until the last of them is known, they are written twice: first only their lengths are added up.
pub(super) struct Families<'a> {
    to: To<'a>,
    clock: Clock,
    /// The one that series are added to, without them, and without what follows them.
    family: MetricFamily,
    /// What follows them.
    end: MetricFamily,
    is_empty: bool,
}

enum To<'a> {
    /// The length of each family that is not empty.
    Lengths(Vec<usize>),
    /// With the lengths of those that are still to come.
    Output(Output<'a>, vec::IntoIter<usize>),
}

impl<'a> Families<'a> {
    /// Takes an exposition to see how long its families are.
    pub(super) fn measuring(clock: Clock) -> Self {
        Self::new(To::Lengths(Vec::new()), clock)
    }

    /// Takes the same one again, and writes it.
    pub(super) fn writing(output: Output<'a>, clock: Clock, measured: Families<'_>) -> Self {
        let lengths = match measured.to {
            To::Lengths(lengths) => lengths,
            To::Output(_, lengths) => lengths.collect(),
        };
        Self::new(To::Output(output, lengths.into_iter()), clock)
    }

    fn new(to: To<'a>, clock: Clock) -> Self {
        let (family, end) = (MetricFamily::default(), MetricFamily::default());
        Self { to, clock, family, end, is_empty: true }
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.end_family();
        match self.to {
            To::Lengths(_) => Ok(()),
            To::Output(output, _) => output.finish(),
        }
    }

    fn end_family(&mut self) {
        if let To::Output(output, _) = &mut self.to
            && !self.is_empty
        {
            self.end.encode_raw(&mut output.chunk);
        }
    }

    fn add(&mut self, labels: &[Label<'_>], metric: Metric) {
        let metric = Metric { label: pairs(labels), ..metric };
        let is_first = std::mem::take(&mut self.is_empty);
        match &mut self.to {
            To::Lengths(lengths) => {
                if is_first {
                    lengths.push(self.family.encoded_len() + self.end.encoded_len());
                }
                if let Some(length) = lengths.last_mut() {
                    *length += message::encoded_len(METRIC, &metric);
                }
            }
            To::Output(output, lengths) => {
                output.hand_on();
                if is_first {
                    let length = lengths.next().unwrap_or_default();
                    encode_varint(length as u64, &mut output.chunk);
                    self.family.encode_raw(&mut output.chunk);
                }
                message::encode(METRIC, &metric, &mut output.chunk);
            }
        }
    }

    fn timestamp(&self, time: Time) -> Timestamp {
        let nanoseconds = self.clock.unix_ns(time);
        Timestamp {
            seconds: (nanoseconds / 1_000_000_000) as i64,
            nanos: (nanoseconds % 1_000_000_000) as i32,
        }
    }

    fn exemplar(&self, exemplar: &Exemplar, value: f64) -> ExemplarMessage {
        ExemplarMessage {
            label: pairs(&[("trace_id", &exemplar.trace.to_string())]),
            value: Some(value),
            timestamp: Some(self.timestamp(exemplar.time_ns)),
        }
    }

    fn buckets(&self, histogram: &Histogram, bounds: &Bounds) -> Vec<Bucket> {
        let mut count = 0;
        let buckets = bounds.seconds.iter().zip(histogram.counts()).enumerate();
        let bucket = |(position, (bound, in_bucket)): (usize, (&f64, &u64))| {
            count += in_bucket;
            let exemplar = histogram.exemplar(position);
            Bucket {
                cumulative_count: Some(count),
                upper_bound: Some(*bound),
                exemplar: exemplar.map(|exemplar| self.exemplar(exemplar, exemplar.seconds())),
            }
        };
        buckets.map(bucket).collect()
    }
}

impl Sink for Families<'_> {
    fn family(&mut self, family: &Family) {
        self.end_family();
        let Family { name, kind, help } = family;
        let (suffix, kind) = match kind {
            Kind::Counter => ("_total", MetricType::Counter),
            Kind::Gauge => ("", MetricType::Gauge),
            Kind::Histogram => ("", MetricType::Histogram),
            Kind::Info => ("_info", MetricType::Gauge),
        };
        self.family = MetricFamily {
            name: Some(format!("{name}{suffix}")),
            help: Some((*help).into()),
            r#type: Some(kind.into()),
            ..MetricFamily::default()
        };
        self.end = MetricFamily { unit: family.unit().map(Into::into), ..MetricFamily::default() };
        self.is_empty = true;
    }

    fn counter(&mut self, labels: &[Label<'_>], counter: Counter<'_>) {
        let Counter { value, exemplar, created } = counter;
        let counter = CounterMessage {
            value: Some(value.real()),
            exemplar: exemplar.map(|exemplar| self.exemplar(exemplar, 1.0)),
            created_timestamp: created.map(|time| self.timestamp(time)),
        };
        self.add(labels, Metric { counter: Some(counter), ..Metric::default() });
    }

    fn gauge(&mut self, labels: &[Label<'_>], value: Number) {
        let gauge = Value { value: Some(value.real()) };
        self.add(labels, Metric { gauge: Some(gauge), ..Metric::default() });
    }

    fn histogram(&mut self, labels: &[Label<'_>], distribution: Distribution<'_>) {
        let Distribution { histogram, bounds, created } = distribution;
        let mut message = HistogramMessage {
            sample_count: Some(histogram.count()),
            sample_sum: Some(histogram.sum_seconds()),
            bucket: self.buckets(histogram, bounds),
            created_timestamp: created.map(|time| self.timestamp(time)),
            ..HistogramMessage::default()
        };
        if let Some(exponential) = histogram.exponential() {
            let exemplars = histogram.exemplars();
            message.exemplars = exemplars.map(|e| self.exemplar(e, e.seconds())).collect();
            add_exponential(&mut message, exponential);
        }
        self.add(labels, Metric { histogram: Some(message), ..Metric::default() });
    }

    fn info(&mut self, labels: &[Label<'_>]) {
        self.gauge(labels, Number::Whole(1));
    }
}

/// Its buckets as runs of neighbours (spans), each count as the difference to the one before.
fn add_exponential(message: &mut HistogramMessage, exponential: &Exponential) {
    message.schema = Some(exponential.resolution().into());
    // client_golang's: histograms whose thresholds are the same are added up as they are.
    message.zero_threshold = Some((-128_f64).exp2());
    message.zero_count = Some(exponential.zeros());
    let (mut next, mut before) = (0, 0);
    for &(index, count) in exponential.buckets() {
        let index = i32::from(index);
        match message.positive_span.last_mut() {
            Some(span) if index == next => span.length = span.length.map(|length| length + 1),
            _ => message
                .positive_span
                .push(BucketSpan { offset: Some(index - next), length: Some(1) }),
        }
        message.positive_delta.push(count as i64 - before);
        (next, before) = (index + 1, count as i64);
    }
}

fn pairs(labels: &[Label<'_>]) -> Vec<LabelPair> {
    let pair = |&(name, value): &Label<'_>| LabelPair {
        name: Some(name.into()),
        value: Some(value.into()),
    };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests;
