//! The messages, read back.

use std::collections::BTreeMap;

use prost::Message as _;

use observer_core::statistics::Exponential;

use super::{Metric, MetricFamily, MetricType, add_exponential, message::Histogram};
use crate::metrics::{
    Format, Recording, render,
    tests::{self, Scenario, scenario, some_calls},
};

fn families_of(mut bytes: &[u8]) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    while !bytes.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut bytes).unwrap());
    }
    families
}

/// A sample's name and labels.
type Key = (String, BTreeMap<String, String>);

/// A metric's samples, as the text formats have them.
fn samples(family: &MetricFamily, metric: &Metric) -> Vec<(Key, f64)> {
    let name = &family.name;
    let pairs = metric.label.iter().map(|pair| (pair.name.clone(), pair.value.clone()));
    let labels: BTreeMap<_, _> = pairs.collect();
    let sample = |suffix: &str, labels: &BTreeMap<_, _>, value| {
        ((format!("{name}{suffix}"), labels.clone()), value)
    };
    match family.r#type() {
        MetricType::Counter => vec![sample("", &labels, metric.counter.as_ref().unwrap().value)],
        MetricType::Gauge => vec![sample("", &labels, metric.gauge.unwrap().value)],
        MetricType::Histogram => {
            let histogram = metric.histogram.as_ref().unwrap();
            let mut samples = vec![
                sample("_count", &labels, histogram.sample_count as f64),
                sample("_sum", &labels, histogram.sample_sum),
            ];
            for bucket in &histogram.bucket {
                let mut labels = labels.clone();
                let bound = match bucket.upper_bound {
                    f64::INFINITY => "+Inf".to_owned(),
                    bound => format!("{bound:?}"),
                };
                labels.insert("le".into(), bound);
                let count = bucket.cumulative_count;
                samples.push(sample("_bucket", &labels, count as f64));
            }
            samples
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_says_what_the_text_says() {
    let snapshot = scenario().snapshot();
    let families = families_of(&render(&snapshot, Format::Protobuf));
    let mut got: Vec<(Key, f64)> = Vec::new();
    for family in &families {
        assert!(!family.metric.is_empty() && !family.help.is_empty(), "{:?}", family.name);
        got.extend(family.metric.iter().flat_map(|metric| samples(family, metric)));
    }
    let text = String::from_utf8(render(&snapshot, Format::OpenMetricsText)).unwrap();
    let exposition = tests::read(&text);
    let samples = exposition.samples().iter().filter(|((name, _), _)| !name.ends_with("_created"));
    let want: Vec<_> = samples.map(|(key, value)| (key.clone(), *value)).collect();
    got.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(got, want);
}

#[test]
fn times_and_units() {
    let families = families_of(&render(&scenario().snapshot(), Format::Protobuf));
    let family = |name: &str| families.iter().find(|family| family.name == name).unwrap();
    let handling = family("grpc_server_handling_seconds");
    assert_eq!(handling.unit, "seconds");
    let histogram = handling.metric[0].histogram.as_ref().unwrap();
    let created = histogram.start_timestamp.unwrap();
    assert_eq!((created.seconds, created.nanos), (1_700_000_003, 250_000_000));
    let is_native = histogram.zero_threshold != 0.0 || !histogram.positive_span.is_empty();
    assert!(!is_native, "no native histogram unless it is kept");
    let records = &family("observer_records_total").metric[0];
    let created = records.counter.as_ref().unwrap().start_timestamp.unwrap();
    assert_eq!(created.seconds, 1_700_000_002);
}

#[test]
fn native_histograms_count_the_same() {
    let buckets = "0.001,0.25,1".parse().unwrap();
    let recording = Recording { buckets, exponential: true, ..Recording::default() };
    let snapshot = some_calls(Scenario::recording(recording)).snapshot();
    let families = families_of(&render(&snapshot, Format::Protobuf));
    let mut histograms = 0;
    let metrics = families.iter().flat_map(|family| &family.metric);
    for histogram in metrics.filter_map(|metric| metric.histogram.as_ref()) {
        let (mut count, mut in_all) = (0, histogram.zero_count as i64);
        for delta in &histogram.positive_delta {
            count += delta;
            in_all += count;
        }
        assert_eq!(in_all, histogram.sample_count as i64);
        let spanned: u32 = histogram.positive_span.iter().map(|span| span.length).sum();
        assert_eq!(spanned as usize, histogram.positive_delta.len());
        assert_eq!(histogram.schema, 3);
        histograms += 1;
    }
    // One of them is empty.
    assert_eq!(histograms, 4);
}

/// Checked against what client_golang makes of the same observations.
#[test]
fn spans_and_deltas() {
    let mut exponential = Exponential::default();
    for elapsed_ns in [1_000_000_000, 1_000_000_000, 1_050_000_000, 2_000_000_000, 250_000_000, 0] {
        exponential.observe(elapsed_ns);
    }
    let mut message = Histogram::default();
    add_exponential(&mut message, &exponential);
    let spans = message.positive_span.iter();
    let spans: Vec<_> = spans.map(|s| (s.offset, s.length)).collect();
    // 0.25 s is bucket -16, 1 s bucket 0, 1.05 s bucket 1, 2 s bucket 8.
    assert_eq!(spans, [(-16, 1), (15, 2), (6, 1)]);
    assert_eq!(message.positive_delta, [1, 1, -1, 0]);
    assert_eq!((message.schema, message.zero_count), (3, 1));
}
