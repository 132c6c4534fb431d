//! Writes the families of calls, whatever their schema.

use super::{CallFamily, LabelOf, Says, Value, families};
use crate::{
    grpc::Code,
    metrics::{
        Snapshot,
        exposition::{Bounds, Counter, Distribution, Label, Number, Sink},
        histogram::Histogram,
        rows::{LabelValues, ProcessLabel, Row, connections, rows},
    },
};

/// Writes what is told of the calls of a snapshot.
pub(in crate::metrics) fn write(snapshot: &Snapshot, sink: &mut dyn Sink) {
    let values = LabelValues::new(snapshot);
    let rows = rows(snapshot, &values);
    let connections = connections(snapshot, &values);
    let bounds = Bounds::new(snapshot.statistics.buckets());
    for family in families() {
        sink.family(&family.family);
        if family.value == Value::Connections {
            let of_role = connections.iter().filter(|(role, ..)| *role == family.role);
            for (_, process, count) in of_role {
                sink.gauge(&of_process(process), (*count).into());
            }
            continue;
        }
        let start = rows.partition_point(|row| row.role < family.role);
        let end = rows.partition_point(|row| row.role <= family.role);
        for row in rows.get(start..end).unwrap_or_default() {
            Writer { family, row, bounds: &bounds, sink: &mut *sink }.write();
        }
    }
}

/// Writes the series of one row in one family.
struct Writer<'a> {
    family: &'a CallFamily,
    row: &'a Row<'a>,
    bounds: &'a Bounds,
    sink: &'a mut dyn Sink,
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
            Value::Handled => self.handled(),
            Value::InFlight => {
                let labels = labels(&self.family.labels, self.row, Of::AllCalls);
                self.sink.gauge(&labels, series.in_flight().into());
            }
            Value::Handling => self.histogram(&series.handling),
            Value::FirstMessage => self.histogram(&series.first_message),
            Value::Connections => {}
        }
    }

    fn counter(&mut self, value: u64) {
        let labels = labels(&self.family.labels, self.row, Of::AllCalls);
        let created = Some(self.row.series.created_ns);
        let counter = Counter { value: Number::Whole(value), exemplar: None, created };
        self.sink.counter(&labels, counter);
    }

    /// A series per code that was seen.
    fn handled(&mut self) {
        for (code, count, exemplar) in self.row.series.ends() {
            let labels = labels(&self.family.labels, self.row, Of::EndedWith(code));
            let created = Some(self.row.series.created_ns);
            let counter = Counter { value: Number::Whole(count), exemplar, created };
            self.sink.counter(&labels, counter);
        }
    }

    /// None without observations.
    fn histogram(&mut self, histogram: &Histogram) {
        if histogram.count() > 0 {
            let labels = labels(&self.family.labels, self.row, Of::AllCalls);
            let created = Some(self.row.series.created_ns);
            let distribution = Distribution { histogram, bounds: self.bounds, created };
            self.sink.histogram(&labels, distribution);
        }
    }
}

/// Which calls of a row a series tells of.
#[derive(Clone, Copy)]
enum Of {
    AllCalls,
    /// Those that ended with this code; `None`: whose code was not seen.
    EndedWith(Option<Code>),
}

fn labels<'a>(labels: &[LabelOf], row: &'a Row<'_>, of: Of) -> Vec<Label<'a>> {
    let of_call = labels.iter().filter_map(|&(name, says)| Some((name, value(says, row, of)?)));
    of_call.chain(of_process(row.process)).collect()
}

fn value<'a>(says: Says, row: &'a Row<'_>, of: Of) -> Option<&'a str> {
    Some(match says {
        Says::Type(spelling) => spelling.of_type(row.grpc_type),
        Says::Service => &row.method.service,
        Says::Method => &row.method.method,
        Says::Code(spelling) => match of {
            Of::AllCalls => return None,
            Of::EndedWith(None) => "not_seen",
            Of::EndedWith(Some(code)) => spelling.of_code(code),
        },
    })
}

fn of_process(process: &ProcessLabel) -> Vec<Label<'_>> {
    process.labels.iter().map(|(name, value)| (*name, value.as_str())).collect()
}
