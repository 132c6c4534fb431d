//! Writes the families of calls, for every schema.

use std::collections::BTreeSet;

use super::{CallFamily, LabelSource, LabelSpec, Spelling, Value};
use crate::metrics::{
    Histogram, Snapshot,
    exposition::{Counter, Distribution, Label, Series, Sink, Value as Published},
    rows::{LabelValues, ProcessLabel, Row, connections, rows},
};
use observer_core::call::{CallProtocol, Code, Direction, Role};
use rustc_hash::FxHashMap;

/// Writes the families of calls in a snapshot.
pub(in crate::metrics) fn write(snapshot: &Snapshot, sink: &mut dyn Sink) {
    let values = LabelValues::new(snapshot);
    let rows = rows(snapshot, &values);
    let connections = connections(snapshot, &values);
    let bounds = snapshot.statistics.buckets().seconds().chain([f64::INFINITY]);
    let bounds: Vec<f64> = bounds.collect();
    let used = used_codes(&rows);
    for family in snapshot.exposition.schemas.families() {
        let of_family = (family.protocol, family.role);
        let start = rows.partition_point(|row| (row.protocol.family(), row.role) < of_family);
        let end = rows.partition_point(|row| (row.protocol.family(), row.role) <= of_family);
        let rows = rows.get(start..end).unwrap_or_default();
        sink.family(&family.family, &mut |series| match family.value {
            Value::Connections => {
                let of_role = connections.iter().filter(|(role, ..)| *role == family.role);
                for (_, process, count) in of_role {
                    let labels: Vec<_> = process.labels().collect();
                    series(&labels, Published::Gauge((*count).into()));
                }
            }
            Value::Service => write_services(&family.labels, rows, series),
            _ => {
                for row in rows {
                    let used = used.get(&(row.protocol, row.role, row.process)).copied();
                    let used = used.filter(|_| row.method.is_known());
                    Writer { family, row, used, bounds: &bounds, to: &mut *series }.write();
                }
            }
        });
    }
}

/// Codes, each by a bit: its place in [`Code::ALL`].
type Codes = u32;

const _: () = assert!(Code::ALL.len() <= Codes::BITS as usize, "each code has a bit");

/// The calls of a process, on one side and of one protocol.
type UsedBy<'a> = (CallProtocol, Role, &'a ProcessLabel);

/// The codes that calls of each process ended with, on each side. Each method has a counter for all of them from its
/// first call on: an increase from a counter that is not there yet does not count for Prometheus.
fn used_codes<'a>(rows: &'a [Row<'_>]) -> FxHashMap<UsedBy<'a>, Codes> {
    let mut used: FxHashMap<_, Codes> = FxHashMap::default();
    for row in rows {
        // Successes may come at any time.
        let codes =
            used.entry((row.protocol, row.role, row.process)).or_insert(1 << Code::Ok as u32);
        for code in row.series.ends().filter_map(|(code, ..)| code) {
            *codes |= 1 << code as u32;
        }
    }
    used
}

/// Writes each service of each process once.
fn write_services(of: &[LabelSpec], rows: &[Row<'_>], series: &mut Series<'_>) {
    let mut written = BTreeSet::new();
    for row in rows {
        if written.insert((row.method.service, row.process)) {
            series(&labels(of, row, Of::AllCalls), Published::Info);
        }
    }
}

/// Writes the series of one row in one family.
struct Writer<'a> {
    family: &'a CallFamily,
    row: &'a Row<'a>,
    /// The codes that the row's process has used; `None` if the row is not a method's, and has no zeros.
    used: Option<Codes>,
    bounds: &'a [f64],
    to: &'a mut Series<'a>,
}

impl Writer<'_> {
    fn write(&mut self) {
        let series = &self.row.series;
        match self.family.value {
            Value::Started => self.counter(series.started),
            Value::Received => self.counter(series.received.count),
            Value::ReceivedBytes => self.counter(series.received.bytes),
            Value::Sent => self.counter(series.sent.count),
            Value::SentBytes => self.counter(series.sent.bytes),
            Value::Handled => self.handled(|_| true),
            Value::Errors => self.handled(|code| code.is_some_and(Code::is_failure)),
            Value::InFlight => {
                let labels = labels(&self.family.labels, self.row, Of::AllCalls);
                (self.to)(&labels, Published::Gauge(series.in_flight().into()));
            }
            Value::Handling => {
                self.histogram(&series.handling, Of::AllCalls, self.used.is_some());
            }
            Value::HandlingByCode => {
                for (code, histogram) in series.by_code() {
                    self.histogram(histogram, Of::EndedWith(*code), false);
                }
            }
            Value::FirstMessage => self.histogram(&series.first_message, Of::AllCalls, false),
            Value::Receiving => self.between_messages(Direction::Received),
            Value::Sending => self.between_messages(Direction::Sent),
            // Not written by row.
            Value::Connections | Value::Service => {}
        }
    }

    fn counter(&mut self, value: u64) {
        let labels = labels(&self.family.labels, self.row, Of::AllCalls);
        let created = Some(self.row.series.created_ns);
        let counter = Counter { value: value.into(), exemplar: None, created };
        (self.to)(&labels, Published::Counter(counter));
    }

    /// Writes a series for each code that `includes` accepts, even if only another method of the process has used it.
    fn handled(&mut self, includes: fn(Option<Code>) -> bool) {
        let Self { row, used, .. } = *self;
        let used = used.unwrap_or_default();
        let known = |code: Option<Code>| code.is_some_and(|code| used & 1 << code as u32 != 0);
        let ends = row.series.ends_with(known);
        for (code, count, exemplar) in ends.filter(|(code, ..)| includes(*code)) {
            let labels = labels(&self.family.labels, self.row, Of::EndedWith(code));
            let created = Some(self.row.series.created_ns);
            let counter = Counter { value: count.into(), exemplar, created };
            (self.to)(&labels, Published::Counter(counter));
        }
    }

    fn between_messages(&mut self, direction: Direction) {
        if let Some(histogram) = self.row.series.between_messages(direction) {
            self.histogram(histogram, Of::AllCalls, false);
        }
    }

    /// Writes a histogram; without observations only if it is to have `zeros`.
    fn histogram(&mut self, histogram: &Histogram, of: Of, zeros: bool) {
        if zeros || histogram.count() > 0 {
            let labels = labels(&self.family.labels, self.row, of);
            let created = Some(self.row.series.created_ns);
            let distribution = Distribution { histogram, bounds: self.bounds, created };
            (self.to)(&labels, Published::Histogram(distribution));
        }
    }
}

/// The calls of a row in a series.
#[derive(Clone, Copy)]
enum Of {
    AllCalls,
    /// Calls that ended with this code; `None` if it was not seen.
    EndedWith(Option<Code>),
}

fn labels<'a>(labels: &[LabelSpec], row: &'a Row<'_>, of: Of) -> Vec<Label<'a>> {
    let of_call = labels.iter().filter_map(|&(name, says)| Some((name, value(says, row, of)?)));
    // Calls of gRPC itself have the labels of its libraries.
    let is_of_relative = row.protocol != row.protocol.family() && !is_of_service(labels);
    let protocol = is_of_relative.then(|| (GRPC_PROTOCOL, row.protocol.as_str()));
    of_call.chain(protocol).chain(row.process.labels()).collect()
}

/// The label of calls that are not gRPC's, but are counted in its families.
const GRPC_PROTOCOL: &str = "grpc_protocol";

/// Whether the labels are those of a service, not of calls.
fn is_of_service(labels: &[LabelSpec]) -> bool {
    labels.iter().all(|(_, says)| *says == LabelSource::Service)
}

fn value<'a>(says: LabelSource, row: &'a Row<'_>, of: Of) -> Option<&'a str> {
    Some(match says {
        LabelSource::Type(spelling) => spelling.of_type(row.grpc_type),
        LabelSource::Service => row.method.service,
        LabelSource::Method => row.method.method,
        LabelSource::Path => row.method.path,
        LabelSource::FullMethod => row.method.path.trim_start_matches('/'),
        LabelSource::Constant(text) => text,
        LabelSource::ErrorType => match of {
            Of::EndedWith(Some(code)) if code.is_error_for(row.role) => {
                Spelling::Python.of_code(code)
            }
            _ => return None,
        },
        LabelSource::Code(spelling) => match of {
            Of::AllCalls => return None,
            Of::EndedWith(None) => "not_seen",
            Of::EndedWith(Some(code)) => spelling.of_code(code),
        },
    })
}
