//! A strict reader of the OpenMetrics text format, to hold the exposition against.
//!
//! Takes only what the specification allows of the metric types that are used, and less: one
//! space between tokens, no timestamps, exemplars only with a `trace_id` and a time.

#![expect(clippy::float_cmp, reason = "counts are whole numbers, exact in a double")]

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

/// One line that is not a comment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) value: f64,
    pub(super) exemplar: Option<Exemplar>,
}

/// What follows a sample's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace_id: String,
    pub(super) value: f64,
    pub(super) time: f64,
}

/// What an exposition says.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    pub(super) samples: Vec<Sample>,
}

impl Exposition {
    /// The values of all samples of this name whose labels have these values.
    pub(super) fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let has = |sample: &Sample| {
            labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        let named = self.samples.iter().filter(|sample| sample.name == name);
        named.filter(|sample| has(sample)).map(|sample| sample.value).collect()
    }

    /// Their sum.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(name, labels).iter().sum()
    }
}

#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: String,
    samples: Vec<Sample>,
}

/// Reads an exposition; panics with the line that is not as it should be.
pub(super) fn parse(text: &str) -> Exposition {
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    assert!(body.is_empty() || body.ends_with('\n'), "a line before # EOF is not ended");
    let mut exposition = Exposition::default();
    let mut names = BTreeSet::new();
    let mut sample_names = BTreeSet::new();
    let mut lines = body.lines().peekable();
    while let Some(line) = lines.next() {
        let mut family = Family::default();
        let help = line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("no HELP: {line}"));
        let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("no text: {line}"));
        assert!(!help.is_empty() && !help.contains('\\'), "{line}");
        assert!(is_name(name), "{line}");
        assert!(names.insert(name.to_owned()), "family twice: {line}");
        family.name = name.to_owned();

        let line = lines.next().expect("a TYPE after HELP");
        let kind = line.strip_prefix(&format!("# TYPE {name} "));
        family.kind = kind.unwrap_or_else(|| panic!("no TYPE: {line}")).to_owned();
        if let Some(unit) = lines.next_if(|line| line.starts_with("# UNIT ")) {
            let unit = unit.strip_prefix(&format!("# UNIT {name} ")).expect("the family's unit");
            assert!(!unit.is_empty() && name.ends_with(&format!("_{unit}")), "unit of {name}");
        }
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            family.samples.push(sample(line));
        }
        assert!(!family.samples.is_empty(), "family without samples: {name}");
        let own: BTreeSet<String> = family.samples.iter().map(|s| s.name.clone()).collect();
        for name in own {
            assert!(sample_names.insert(name.clone()), "{name} is of two families");
        }
        check(&family);
        exposition.samples.append(&mut family.samples);
    }
    exposition
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest, line),
        None => (Labels::new(), rest),
    };
    let number = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space: {line}"));
    let (number, exemplar) = match number.split_once(" # {") {
        Some((number, rest)) => (number, Some(exemplar(rest, line))),
        None => (number, None),
    };
    Sample { name: name.to_owned(), labels, value: float(number, line), exemplar }
}

fn float(number: &str, line: &str) -> f64 {
    assert!(!number.contains(' '), "{line}");
    number.parse().unwrap_or_else(|_| panic!("no number: {line}"))
}

/// `trace_id="…"} value time`.
fn exemplar(rest: &str, line: &str) -> Exemplar {
    let (mut labels, rest) = labels(rest, line);
    let trace_id = labels.remove("trace_id").unwrap_or_else(|| panic!("no trace: {line}"));
    assert!(labels.is_empty(), "{line}");
    let hexadecimal = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    assert!(trace_id.len() == 32 && trace_id.chars().all(hexadecimal), "{line}");
    let numbers = rest.strip_prefix(' ').and_then(|numbers| numbers.split_once(' '));
    let (value, time) = numbers.unwrap_or_else(|| panic!("no value and time: {line}"));
    Exemplar { trace_id, value: float(value, line), time: float(time, line) }
}

/// The labels up to `}`, and what follows it.
fn labels<'a>(mut rest: &'a str, line: &str) -> (Labels, &'a str) {
    let mut labels = Labels::new();
    loop {
        let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert!(is_name(key), "label {key}: {line}");
        let (value, after) = quoted(after, line);
        assert!(labels.insert(key.to_owned(), value).is_none(), "{key} twice: {line}");
        match after.split_at_checked(1) {
            Some((",", after)) => rest = after,
            Some(("}", after)) => return (labels, after),
            _ => panic!("labels do not end: {line}"),
        }
    }
}

/// The text up to `"`, unescaped, and what follows it.
fn quoted<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"'))) => value.push(c),
                other => panic!("escape {other:?}: {line}"),
            },
            c => value.push(c),
        }
    }
    panic!("quote not ended: {line}");
}

fn check(family: &Family) {
    let Family { name, kind, samples } = family;
    let mut seen = BTreeSet::new();
    for sample in samples {
        let Sample { name, labels, value, exemplar: _ } = sample;
        assert!(seen.insert((name.clone(), labels.clone())), "twice: {sample:?}");
        assert!(value.is_finite() && *value >= 0.0, "{sample:?}");
    }
    let suffixes: &[&str] = match kind.as_str() {
        "counter" => &["_total", "_created"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_sum", "_count", "_created"],
        kind => panic!("type {kind} of {name}"),
    };
    for sample in samples {
        let suffix = sample.name.strip_prefix(name.as_str());
        let suffix = suffix.filter(|suffix| suffixes.contains(suffix));
        let suffix = suffix.unwrap_or_else(|| panic!("in {name}: {sample:?}"));
        let may_have_exemplar = ["_total", "_bucket"].contains(&suffix);
        assert!(sample.exemplar.is_none() || may_have_exemplar, "in {name}: {sample:?}");
    }
    match kind.as_str() {
        "info" => assert!(samples.iter().all(|sample| sample.value == 1.0), "{name}"),
        "counter" => check_counter(name, samples),
        "histogram" => check_histogram(name, samples),
        _ => {}
    }
}

/// Of each set of labels: the total, and since when it counts.
fn check_counter(name: &str, samples: &[Sample]) {
    let mut samples = samples.iter().peekable();
    while let Some(total) = samples.next() {
        assert_eq!(total.name, format!("{name}_total"));
        if let Some(created) = samples.next_if(|sample| sample.name.ends_with("_created")) {
            assert_eq!(created.labels, total.labels);
        }
    }
}

/// Of each set of labels: the buckets, sum, count, and since when it counts, in one run.
fn check_histogram(name: &str, samples: &[Sample]) {
    let mut samples = samples.iter().peekable();
    while samples.peek().is_some() {
        let mut last = (f64::NEG_INFINITY, 0.0);
        let mut of_all = None;
        while let Some(bucket) = samples.next_if(|sample| sample.name.ends_with("_bucket")) {
            let mut labels = bucket.labels.clone();
            let le = labels.remove("le").unwrap_or_else(|| panic!("no le: {bucket:?}"));
            assert_eq!(of_all.get_or_insert_with(|| labels.clone()), &labels);
            let le: f64 = le.parse().unwrap_or_else(|_| panic!("le: {bucket:?}"));
            assert!(le > last.0 && bucket.value >= last.1, "not cumulative: {bucket:?}");
            if let Some(exemplar) = &bucket.exemplar {
                assert!(exemplar.value > last.0 && exemplar.value <= le, "{bucket:?}");
            }
            last = (le, bucket.value);
        }
        let labels = of_all.unwrap_or_else(|| panic!("{name} without buckets"));
        let sum = samples.next().expect("a sum after the buckets");
        assert_eq!((&sum.name, &sum.labels), (&format!("{name}_sum"), &labels));
        let count = samples.next().expect("a count after the sum");
        assert_eq!((&count.name, &count.labels), (&format!("{name}_count"), &labels));
        assert_eq!(last, (f64::INFINITY, count.value), "{count:?}");
        if let Some(created) = samples.next_if(|sample| sample.name.ends_with("_created")) {
            assert_eq!(created.labels, labels);
        }
    }
}

#[test]
#[should_panic(expected = "twice")]
fn refuses_a_series_that_is_there_twice() {
    parse("# HELP a A.\n# TYPE a gauge\na{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 1\n# EOF\n");
}

#[test]
#[should_panic(expected = "not cumulative")]
fn refuses_buckets_that_go_down() {
    parse(
        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1.0\"} 2\na_bucket{le=\"+Inf\"} 1\n\
         a_sum 1.0\na_count 1\n# EOF\n",
    );
}

#[test]
#[should_panic(expected = "family twice")]
fn refuses_a_gauge_and_a_counter_of_one_name() {
    parse("# HELP a A.\n# TYPE a gauge\na 1\n# HELP a A.\n# TYPE a counter\na_total 1\n# EOF\n");
}
